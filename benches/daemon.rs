//! WHAT THE WHOLE DAEMON COSTS, beside what its surroundings cost by themselves in the same run.
//! `cargo bench --bench daemon [-- start|idle|edge|commands|flood|disk …]`; needs mosquitto and mosquitto-clients.
//!
//! It starts a mosquitto on a free loopback port and the release `pinpost run --simulate` on files under `target`,
//! which should lie on a disk, not on a tmpfs. Every process it starts ends with it.

#![expect(clippy::disallowed_methods, reason = "what is measured is a span of time, and a feed at a given pace")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Inputs of the idle daemon: GPIO2 to GPIO21.
const PINS: std::ops::RangeInclusive<u8> = 2..=21;
/// One full round of everything periodic: two pings at 30 s, one `bridge/health` at 60 s.
const IDLE: Duration = Duration::from_secs(60);
const STARTS: usize = 11;
const EDGES: usize = 2000;
const COMMANDS: usize = 10_000;
/// Of two points each, while commands are asked and answered.
const COMMANDS_FRAMES: u32 = 500;
/// So that all messages are fewer than 65536: behind that `mosquitto_pub -l` ends before all were answered.
const FRAMES: u64 = 30_000;
/// A frame has 12 bytes, and 115200 baud carry 11520 a second.
const LINE_RATE: u64 = 960;
const LINE_FRAMES: u64 = 9600;
/// Points of a frame, each a message.
const POINTS: u64 = 2;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let want = |part: &str| wanted.is_empty() || wanted.iter().any(|w| w == part);
    let broker = Broker::start();
    if want("start") {
        start(&broker);
    }
    if want("idle") {
        idle(&broker);
    }
    if want("edge") {
        edge(&broker);
    }
    if want("commands") {
        commands(&broker);
    }
    if want("flood") {
        flood(&broker);
    }
    if want("disk") {
        disk(broker);
    }
}

fn line(what: &str, value: impl std::fmt::Display) {
    println!("{what:62} {value}");
}

// ---- the parts ----

/// From exec to the first message, and to the first reading of every input.
fn start(broker: &Broker) {
    println!("start, {} inputs, an empty queue directory each time, {STARTS} starts", PINS.count());
    let (mut first, mut all) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let mut sub = Wire::connect(broker.port);
        let name = Daemon::name();
        sub.subscribe(&format!("{name}/#"));
        let mut missing: BTreeSet<String> = PINS.map(|n| format!("{name}/in{n}")).collect();
        let began = Instant::now();
        let daemon = Daemon::start(name, broker.port, &inputs());
        let mut heard = None;
        while !missing.is_empty() {
            let (topic, ..) = sub.message();
            heard.get_or_insert_with(|| began.elapsed());
            missing.remove(&topic);
        }
        first.extend(heard.map(|d| d.as_secs_f64()));
        all.push(began.elapsed().as_secs_f64());
        daemon.stop();
    }
    line("  exec to the first publish at a subscriber, ms (p50, worst)", milli(&mut first, 0.5, 1.0));
    line("  exec to the first reading of all inputs, ms (p50, worst)", milli(&mut all, 0.5, 1.0));
}

/// Wake-ups, memory and disk of a daemon that has nothing to do.
fn idle(broker: &Broker) {
    println!("idle for {} s: {} inputs, keep_alive 30s, bridge/health every 60s", IDLE.as_secs(), PINS.count());
    let daemon = Daemon::start(Daemon::name(), broker.port, &inputs());
    daemon.settled(broker.port, &format!("in{}", PINS.end()));
    let (ours, theirs) = (switches(daemon.pid()), switches(broker.pid()));
    let (cpu_before, written, calls) = (cpu(daemon.pid()), io(daemon.pid(), "write_bytes"), io(daemon.pid(), "syscw"));
    thread::sleep(IDLE);
    let minutes = IDLE.as_secs_f64() / 60.0;
    let a_minute = |n: u64| format!("{:.1}", n as f64 / minutes);
    let mut total = 0;
    for (id, (name, count)) in switches(daemon.pid()) {
        let woken = count - ours.get(&id).map_or(0, |t| t.1);
        total += woken;
        line(&format!("  wake-ups a minute of thread `{name}`"), a_minute(woken));
    }
    line("  wake-ups a minute, all threads (voluntary context switches)", a_minute(total));
    println!("    two pings and their answers, one bridge/health and its answer; each timer in steps, as");
    println!("    tokio's wheel turns (60 s are three); the queue's thread for the record of bridge/health");
    let sum = |all: &BTreeMap<u32, (String, u64)>| all.values().map(|t| t.1).sum::<u64>();
    line("  mosquitto in the same time", a_minute(sum(&switches(broker.pid())) - sum(&theirs)));
    line("  CPU time a minute, ms", format!("{:.2}", (cpu(daemon.pid()) - cpu_before).as_secs_f64() * 1e3 / minutes));
    line("  write calls a minute (sockets too)", a_minute(io(daemon.pid(), "syscw") - calls));
    line("  bytes to the disk", io(daemon.pid(), "write_bytes") - written);
    line("  memory, kB (VmRSS; of it anonymous; VmHWM)", memory(daemon.pid()));
    line("  memory of mosquitto, kB", memory(broker.pid()));
    daemon.stop();
}

/// From an edge to its message, through the broker both ways, in turn with a bare relay that goes the same way.
fn edge(broker: &Broker) {
    println!("edge to message: P/sim/pin/17/set -> broker -> daemon -> broker -> P/in17, {EDGES} edges");
    let daemon = Daemon::start(Daemon::name(), broker.port, &inputs());
    daemon.settled(broker.port, &format!("in{}", PINS.end()));
    let (mut relay, mut sub, mut publish) =
        (Wire::connect(broker.port), Wire::connect(broker.port), Wire::connect(broker.port));
    relay.subscribe("bare/there");
    sub.subscribe("bare/back");
    let (drive, edge) = (daemon.topic("sim/pin/17/set"), daemon.topic("in17"));
    sub.subscribe(&edge);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let relaying = thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            let (_, payload) = relay.message();
            relay.publish("bare/back", &payload);
        }
    });
    let written = io(daemon.pid(), "write_bytes");
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    let mut one = |topic: &str, payload: &str, back: &str| {
        let began = Instant::now();
        publish.publish(topic, payload.as_bytes());
        while sub.message().0 != back {}
        began.elapsed().as_secs_f64()
    };
    for i in 0..EDGES {
        ours.push(one(&drive, if i % 2 == 0 { "1" } else { "0" }, &edge));
        bare.push(one("bare/there", "x", "bare/back"));
    }
    stop.store(true, Ordering::Relaxed);
    one("bare/there", "x", "bare/back");
    relaying.join().expect("the relay");
    line("  pinpost, ms (p50, p99)", milli(&mut ours, 0.5, 0.99));
    line("  bare relay on a socket, same broker and way, ms (p50, p99)", milli(&mut bare, 0.5, 0.99));
    line(
        "  ratio (p50, p99)",
        format!("{:.2}  {:.2}", at(&ours, 0.5) / at(&bare, 0.5), at(&ours, 0.99) / at(&bare, 0.99)),
    );
    let behind = |q| (at(&ours, q) - at(&bare, q)) * 1e3;
    line(
        "  behind the relay, ms (p50, p99; the goal for p99 is 1)",
        format!("{:.3}  {:.3}", behind(0.5), behind(0.99)),
    );
    line("  bytes to the disk meanwhile", io(daemon.pid(), "write_bytes") - written);
    daemon.stop();
}

/// From a request with a response topic to its answer, in turn with a bare rumqttc client that echoes, while readings
/// flow.
fn commands(broker: &Broker) {
    println!(
        "command to answer, MQTT 5, QoS 1, {COMMANDS} of each, {} readings a second meanwhile",
        2 * COMMANDS_FRAMES
    );
    let (line_port, mut pty) = pty();
    let devices = meter(&line_port) + "  pump: { kind: digital_out, pin: 27 }\n";
    let daemon = Daemon::start(Daemon::name(), broker.port, &devices);
    daemon.settled(broker.port, "pump");
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let feeding = thread::spawn(move || {
        pty.write_all(b"\n").expect("the pty");
        let (began, mut count) = (Instant::now(), 0);
        while stopped.recv_timeout(Duration::from_millis(1)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            while began.elapsed() >= Duration::from_secs(1) * count / COMMANDS_FRAMES {
                pty.write_all(format!("T={}.5;H={}\n", count % 40, count % 100).as_bytes()).expect("the pty");
                count += 1;
            }
        }
        (pty, f64::from(2 * count) / began.elapsed().as_secs_f64())
    });
    let (_echo, mut asker) = (Asker::echo(broker.port), Asker::start(broker.port));
    let (set, before) = (daemon.topic("pump/set"), cpu(daemon.pid()));
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for n in 0..COMMANDS {
        let (took, answer) = asker.ask(&set, n);
        assert!(answer.contains("\"done\""), "{answer}");
        ours.push(took.as_secs_f64());
        bare.push(asker.ask("bare/ask", n).0.as_secs_f64());
    }
    drop(stop);
    let (_pty, rate) = feeding.join().expect("the feeder");
    line("  pinpost, ms (p50, p99)", milli(&mut ours, 0.5, 0.99));
    line("  bare rumqttc echo, same broker and way, ms (p50, p99)", milli(&mut bare, 0.5, 0.99));
    line("  p99 behind the echo's, ms", format!("{:.2}", (at(&ours, 0.99) - at(&bare, 0.99)) * 1e3));
    line("  readings a second meanwhile", format!("{rate:.0}"));
    line("  CPU time of pinpost, s", format!("{:.2}", (cpu(daemon.pid()) - before).as_secs_f64()));
    daemon.stop();
}

/// A rumqttc client with its own loop.
struct Asker {
    client: rumqttc::v5::AsyncClient,
    events: rumqttc::v5::EventLoop,
    runtime: tokio::runtime::Runtime,
}

impl Asker {
    fn connect(port: u16, filter: &str) -> Asker {
        use rumqttc::v5::mqttbytes::{QoS, v5::Packet};
        let mut options = rumqttc::v5::MqttOptions::new(format!("a{:08x}", fastrand::u32(..)), "127.0.0.1", port);
        let mut network = options.network_options();
        network.set_tcp_nodelay(true);
        options.set_network_options(network);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (client, mut events) = rumqttc::v5::AsyncClient::new(options, 16);
        client.try_subscribe(filter, QoS::AtLeastOnce).expect("room");
        runtime.block_on(async {
            while !matches!(events.poll().await, Ok(rumqttc::v5::Event::Incoming(Packet::SubAck(_)))) {}
        });
        Asker { client, events, runtime }
    }
    fn start(port: u16) -> Asker {
        Asker::connect(port, "bare/answer")
    }
    /// Answers everything on `bare/ask` until the broker ends.
    fn echo(port: u16) -> thread::JoinHandle<()> {
        let mut echo = Asker::connect(port, "bare/ask");
        thread::spawn(move || {
            echo.runtime.block_on(async {
                while let Ok(event) = echo.events.poll().await {
                    let Some((properties, payload)) = message(event) else { continue };
                    let Some(to) = properties.response_topic.clone() else { continue };
                    answer(&echo.client, to, payload, properties.correlation_data);
                }
            });
        })
    }
    /// A request and its answer.
    fn ask(&mut self, topic: &str, n: usize) -> (Duration, String) {
        let properties = rumqttc::v5::mqttbytes::v5::PublishProperties {
            response_topic: Some("bare/answer".into()),
            correlation_data: Some(n.to_string().into()),
            ..Default::default()
        };
        let qos = rumqttc::v5::mqttbytes::QoS::AtLeastOnce;
        let began = Instant::now();
        self.client.try_publish_with_properties(topic, qos, false, "TOGGLE", properties).expect("room");
        let events = &mut self.events;
        let (properties, payload) = self.runtime.block_on(async {
            loop {
                if let Some(got) = message(events.poll().await.expect("the broker")) {
                    return got;
                }
            }
        });
        assert_eq!(properties.correlation_data.as_deref(), Some(n.to_string().as_bytes()), "answered once, in order");
        (began.elapsed(), String::from_utf8_lossy(&payload).into_owned())
    }
}

fn message(event: rumqttc::v5::Event) -> Option<(rumqttc::v5::mqttbytes::v5::PublishProperties, bytes::Bytes)> {
    match event {
        rumqttc::v5::Event::Incoming(rumqttc::v5::mqttbytes::v5::Packet::Publish(p)) => {
            Some((p.properties.unwrap_or_default(), p.payload))
        }
        _ => None,
    }
}

fn answer(client: &rumqttc::v5::AsyncClient, to: String, payload: bytes::Bytes, correlation: Option<bytes::Bytes>) {
    let properties =
        rumqttc::v5::mqttbytes::v5::PublishProperties { correlation_data: correlation, ..Default::default() };
    let qos = rumqttc::v5::mqttbytes::QoS::AtLeastOnce;
    client.try_publish_with_properties(to, qos, false, payload, properties).expect("room");
}

/// A port as fast as it is read, beside bare publishers; and a port at the speed of a line.
fn flood(broker: &Broker) {
    let messages = FRAMES * POINTS;
    println!("flood: {FRAMES} frames `T=20.5;H=51` into a pty as fast as they are read, {POINTS} points each");
    let ours = frames(broker, FRAMES, None);
    let port = broker.port.to_string();
    let bare = ["-h", "127.0.0.1", "-p", &port, "-t", "bare/x", "-q", "1", "-l", "-V", "5"];
    let mosquitto = bare_loop(broker, Command::new("mosquitto_pub").args(bare), messages);
    line("  bare: mosquitto_pub -l -q 1, messages a second, µs CPU", format!("{:.0}  {:.1}", mosquitto.0, mosquitto.1));
    let own = bare_loop(broker, Command::new(PINPOST).arg("pub").args(&bare[..9]), messages);
    line("  bare: pinpost pub -l -q 1 (rumqttc), messages a second, µs CPU", format!("{:.0}  {:.1}", own.0, own.1));
    let ratios = format!("{:.2}  {:.2}", ours.0 / mosquitto.0, ours.0 / own.0);
    line("  ratio of rates, daemon to bare (mosquitto_pub, rumqttc)", ratios);
    line("  ratio of CPU time a message, likewise", format!("{:.2}  {:.2}", ours.1 / mosquitto.1, ours.1 / own.1));
    println!("line: {LINE_FRAMES} frames at the {LINE_RATE} a second that 115200 baud carry");
    frames(broker, LINE_FRAMES, Some(LINE_RATE));
}

/// Sends frames through the daemon; gives messages a second and CPU time for each in µs.
fn frames(broker: &Broker, frames: u64, rate: Option<u64>) -> (f64, f64) {
    let messages = frames * POINTS;
    let (port, mut pty) = pty();
    let daemon = Daemon::start(Daemon::name(), broker.port, &meter(&port));
    daemon.settled(broker.port, "meter");
    let mut count = Count::start(broker.port, &daemon.topic("meter/+"));
    let (before, cpu_before, written) = (rss(daemon.pid()), cpu(daemon.pid()), io(daemon.pid(), "write_bytes"));
    let peak = Peak::watch(daemon.pid());
    let began = Instant::now();
    let feeding = thread::spawn(move || {
        // what stands before the first line end may be half a frame
        pty.write_all(b"\n").expect("the pty");
        for i in 0..frames {
            if let Some(rate) = rate {
                thread::sleep(
                    (began + Duration::from_secs(1) * i as u32 / rate as u32).saturating_duration_since(Instant::now()),
                );
            }
            pty.write_all(format!("T={}.5;H={}\n", i % 40, i % 100).as_bytes()).expect("the pty");
        }
        (pty, began.elapsed())
    });
    let (got, took) = count.until(messages, began);
    let (_pty, fed) = feeding.join().expect("the feeder");
    let result =
        (got as f64 / took.as_secs_f64(), (cpu(daemon.pid()) - cpu_before).as_secs_f64() * 1e6 / got.max(1) as f64);
    line(
        "  frames a second, from the port; end to end",
        format!("{:.0}  {:.0}", frames as f64 / fed.as_secs_f64(), result.0 / POINTS as f64),
    );
    line("  messages a second, end to end", format!("{:.0}", result.0));
    line("  CPU time of pinpost, µs a message", format!("{:.1}", result.1));
    line(
        "  messages dropped, as bridge/health says; missing",
        format!("{}  {}", daemon.dropped(broker.port), messages - got),
    );
    let peak = peak.end();
    line("  memory, kB (VmRSS before; highest; at the end)", format!("{before}  {peak}  {}", rss(daemon.pid())));
    line("  bytes to the disk meanwhile", io(daemon.pid(), "write_bytes") - written);
    daemon.stop();
    result
}

/// Messages a second of a program that publishes the lines of its stdin, and its CPU time for each in µs.
fn bare_loop(broker: &Broker, command: &mut Command, messages: u64) -> (f64, f64) {
    let mut count = Count::start(broker.port, "bare/x");
    let cpu_before = children();
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().expect("apt install mosquitto-clients");
    let mut stdin = std::io::BufWriter::new(child.stdin.take().expect("stdin"));
    let began = Instant::now();
    let feeding = thread::spawn(move || {
        for i in 0..messages {
            writeln!(stdin, "{}.5", i % 40).expect("stdin");
        }
    });
    let (got, took) = count.until(messages, began);
    feeding.join().expect("the feeder");
    child.wait().expect("the publisher");
    assert_eq!(got, messages, "the bare loop lost messages");
    (got as f64 / took.as_secs_f64(), (children() - cpu_before).as_secs_f64() * 1e6 / messages as f64)
}

/// A reading every tenth of a second with the broker, then without: the second shows that the first is no blindness.
fn disk(broker: Broker) {
    println!("disk: 50 frames in 5 s with the broker, then 50 without it");
    let (port, mut pty) = pty();
    let daemon = Daemon::start(Daemon::name(), broker.port, &meter(&port));
    daemon.settled(broker.port, "meter");
    let mut feed = || {
        for i in 0..=50 {
            writeln!(pty, "T={i}.5;H={i}").expect("the pty");
            thread::sleep(Duration::from_millis(100));
        }
        thread::sleep(Duration::from_secs(2));
    };
    let before = io(daemon.pid(), "write_bytes");
    feed();
    let healthy = io(daemon.pid(), "write_bytes");
    line("  bytes to the disk with the broker", healthy - before);
    drop(broker);
    feed();
    line("  bytes to the disk without it", io(daemon.pid(), "write_bytes") - healthy);
    daemon.stop();
}

// ---- processes ----

const PINPOST: &str = env!("CARGO_BIN_EXE_pinpost");

/// A child that is killed when it is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Broker {
    process: Process,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Broker {
    fn start() -> Broker {
        let dir = dir();
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let file = dir.path().join("mosquitto.conf");
        let text = format!(
            "user root\nlistener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nlog_type none\n\
             max_queued_messages 0\nmax_inflight_messages 0\n"
        );
        fs::write(&file, text).expect("a file");
        let binary = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "/opt/homebrew/sbin/mosquitto"];
        let binary = binary.iter().find(|p| Path::new(p).exists()).expect("apt install mosquitto mosquitto-clients");
        let child = Command::new(binary).arg("-c").arg(&file).stderr(Stdio::null()).spawn().expect("mosquitto");
        let broker = Broker { process: Process(child), port, _dir: dir };
        until("mosquitto listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        broker
    }
    fn pid(&self) -> u32 {
        self.process.0.id()
    }
}

/// The daemon; each has a name of its own, and so topics on which no other has left anything.
struct Daemon {
    process: Process,
    name: String,
    _dir: tempfile::TempDir,
}

impl Daemon {
    fn name() -> String {
        format!("bench{:08x}", fastrand::u32(..))
    }
    fn topic(&self, rest: &str) -> String {
        format!("{}/{rest}", self.name)
    }
    fn start(name: String, port: u16, devices: &str) -> Daemon {
        let dir = dir();
        let file = dir.path().join("config.yaml");
        let queue = dir.path().join("state/queue");
        let text = format!(
            "version: 1\ngateway: {{ id: {name} }}\nmqtt: {{ url: 'mqtt://127.0.0.1:{port}', keep_alive: 30s }}\n\
             queue: {{ dir: '{}' }}\n{devices}",
            queue.display()
        );
        fs::write(&file, text).expect("a file");
        let mut command = Command::new(PINPOST);
        command.args(["run", "--simulate", "-c"]).arg(&file).env_remove("NOTIFY_SOCKET").env_remove("PINPOST_LOG");
        let log = fs::File::create(dir.path().join("log")).expect("a file");
        let child = command.stderr(log).stdin(Stdio::null()).spawn().expect("pinpost");
        Daemon { process: Process(child), name, _dir: dir }
    }
    fn pid(&self) -> u32 {
        self.process.0.id()
    }
    /// Waits until it has said its health and its last device is online, and until what that set off has ended.
    fn settled(&self, port: u16, device: &str) {
        let mut sub = Wire::connect(port);
        let (health, online) = (self.topic("bridge/health"), self.topic(&format!("{device}/availability")));
        sub.subscribe(&health);
        sub.subscribe(&online);
        let mut missing = BTreeSet::from([health, online]);
        while !missing.is_empty() {
            let (topic, payload) = sub.message();
            if payload != b"offline" {
                missing.remove(&topic);
            }
        }
        thread::sleep(Duration::from_secs(3));
    }
    /// What its queue has dropped.
    fn dropped(&self, port: u16) -> u64 {
        let mut wire = Wire::connect(port);
        wire.subscribe(&self.topic("bridge/response/health"));
        wire.publish(&self.topic("bridge/request/health"), b"");
        let health: serde_json::Value = serde_json::from_slice(&wire.message().1).expect("health");
        health["queue"]["dropped_total"].as_u64().expect("a number")
    }
    /// Stops it in order.
    fn stop(mut self) {
        let pid = nix::unistd::Pid::from_raw(self.pid() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it runs");
        let status = self.process.0.wait().expect("it ends");
        assert!(status.success(), "pinpost ended with {status}");
    }
}

fn dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

fn inputs() -> String {
    PINS.fold("devices:\n".to_owned(), |text, n| {
        text + &format!("  in{n}: {{ kind: digital_in, pin: {n}, debounce: 0ms }}\n")
    })
}

fn meter(port: &Path) -> String {
    format!(
        "ports: {{ line: {{ path: '{}', baud_rate: 115200 }} }}\ndevices:\n  meter:\n    kind: serial\n    port: line\n    \
         frame: {{ delimiter: \"\\n\" }}\n    decode: {{ type: keyvalue, pair: \";\", assign: \"=\" }}\n    \
         points: {{ temperature: {{ field: T }}, humidity: {{ field: H }} }}\n",
        port.display()
    )
}

/// A pty: the name of the daemon's end, and ours. The daemon's end is held open here too, so that it survives.
fn pty() -> (PathBuf, fs::File) {
    let pty = nix::pty::openpty(None, None).expect("a pty");
    let mut modes = nix::sys::termios::tcgetattr(pty.slave.as_fd()).expect("modes");
    nix::sys::termios::cfmakeraw(&mut modes);
    nix::sys::termios::tcsetattr(pty.slave.as_fd(), nix::sys::termios::SetArg::TCSANOW, &modes).expect("modes");
    let name = nix::unistd::ttyname(pty.slave.as_fd()).expect("a name");
    std::mem::forget(pty.slave);
    (name, fs::File::from(pty.master))
}

fn until(what: &str, mut there: impl FnMut() -> bool) {
    let began = Instant::now();
    while !there() {
        assert!(began.elapsed() < Duration::from_secs(10), "waited in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

// ---- figures ----

fn field(path: &str, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let value = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')?.split_whitespace().next());
    value.and_then(|v| v.parse().ok()).unwrap_or_else(|| panic!("{path} has no {name}"))
}

fn io(pid: u32, name: &str) -> u64 {
    field(&format!("/proc/{pid}/io"), name)
}

fn rss(pid: u32) -> u64 {
    field(&format!("/proc/{pid}/status"), "VmRSS")
}

fn memory(pid: u32) -> String {
    let get = |name| field(&format!("/proc/{pid}/status"), name);
    format!("{}  {}  {}", get("VmRSS"), get("RssAnon"), get("VmHWM"))
}

fn tasks(pid: u32) -> Vec<(u32, PathBuf)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten();
    tasks.filter_map(|t| Some((t.file_name().to_str()?.parse().ok()?, t.path()))).collect()
}

/// Name and voluntary context switches of every thread, by its id.
fn switches(pid: u32) -> BTreeMap<u32, (String, u64)> {
    let one = |(id, path): (u32, PathBuf)| {
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default().trim().to_owned();
        (id, (name, field(&path.join("status").to_string_lossy(), "voluntary_ctxt_switches")))
    };
    tasks(pid).into_iter().map(one).collect()
}

/// CPU time of all threads.
fn cpu(pid: u32) -> Duration {
    let one = |(_, path): (u32, PathBuf)| -> u64 {
        let text = fs::read_to_string(path.join("schedstat")).unwrap_or_default();
        text.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    Duration::from_nanos(tasks(pid).into_iter().map(one).sum())
}

/// CPU time of children that have ended.
fn children() -> Duration {
    // SAFETY: getrusage fills the structure it is given.
    let mut used: libc::rusage = unsafe { std::mem::zeroed() };
    unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &mut used) };
    let time = |t: libc::timeval| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1000);
    time(used.ru_utime) + time(used.ru_stime)
}

/// The value below which this part of them lies; sorted.
fn at(sorted: &[f64], part: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * part).round() as usize]
}

fn milli(values: &mut [f64], low: f64, high: f64) -> String {
    values.sort_by(f64::total_cmp);
    format!("{:.2}  {:.2}", at(values, low) * 1e3, at(values, high) * 1e3)
}

/// The highest memory of a process until [`Peak::end`].
struct Peak {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<u64>,
}

impl Peak {
    fn watch(pid: u32) -> Peak {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let mut peak = 0;
            while !stopped.load(Ordering::Relaxed) {
                peak = peak.max(rss(pid));
                thread::sleep(Duration::from_millis(20));
            }
            peak
        });
        Peak { stop, thread }
    }
    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the watcher")
    }
}

/// Counts the messages of a topic on a connection and thread of its own.
struct Count {
    got: Arc<AtomicU64>,
    last: Instant,
}

impl Count {
    fn start(port: u16, filter: &str) -> Count {
        let mut sub = Wire::connect(port);
        sub.subscribe(filter);
        let got = Arc::new(AtomicU64::new(0));
        let counted = got.clone();
        thread::spawn(move || {
            while let Some((head, _)) = sub.packet() {
                // not what was retained from before
                counted.fetch_add(u64::from(head & 0xf1 == 0x30), Ordering::Relaxed);
            }
        });
        Count { got, last: Instant::now() }
    }
    /// How many came and how long that took: until all are there, or none has come for ten seconds.
    fn until(&mut self, all: u64, began: Instant) -> (u64, Duration) {
        let mut before = 0;
        loop {
            let got = self.got.load(Ordering::Relaxed);
            if got != before {
                (before, self.last) = (got, Instant::now());
            }
            if got >= all || self.last.elapsed() > Duration::from_secs(10) {
                return (got, self.last - began);
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// MQTT 3.1.1 on a bare socket: nothing between the measurement and the broker.
struct Wire {
    from: BufReader<TcpStream>,
    to: TcpStream,
}

impl Wire {
    fn connect(port: u16) -> Wire {
        let to = TcpStream::connect(("127.0.0.1", port)).expect("the broker");
        to.set_nodelay(true).expect("a socket");
        let from = BufReader::with_capacity(1 << 16, to.try_clone().expect("a socket"));
        let mut wire = Wire { from, to };
        let id = format!("w{:08x}", fastrand::u32(..));
        wire.send(0x10, &[b"\0\x04MQTT\x04\x02\0\0", &text(&id)[..]].concat());
        assert_eq!(wire.packet().expect("CONNACK").1.get(1), Some(&0));
        wire
    }
    fn subscribe(&mut self, filter: &str) {
        self.send(0x82, &[&[0, 1], &text(filter)[..], &[0]].concat());
        while self.packet().expect("SUBACK").0 != 0x90 {}
    }
    fn publish(&mut self, topic: &str, payload: &[u8]) {
        self.send(0x30, &[&text(topic)[..], payload].concat());
    }
    fn send(&mut self, head: u8, body: &[u8]) {
        let (low, high) = (body.len() % 128, body.len() / 128);
        assert!(high < 128, "long packets are not needed here");
        let length = if high == 0 { vec![low as u8] } else { vec![low as u8 | 128, high as u8] };
        self.to.write_all(&[&[head], &length[..], body].concat()).expect("the broker");
    }
    fn packet(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut byte = [0; 1];
        self.from.read_exact(&mut byte).ok()?;
        let head = byte[0];
        let (mut length, mut shift) = (0usize, 0);
        loop {
            self.from.read_exact(&mut byte).ok()?;
            length |= usize::from(byte[0] & 127) << shift;
            shift += 7;
            if byte[0] < 128 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.from.read_exact(&mut body).ok()?;
        Some((head, body))
    }
    /// The next message: topic and payload.
    fn message(&mut self) -> (String, Vec<u8>) {
        loop {
            let (head, body) = self.packet().expect("the broker");
            if head >> 4 == 3 {
                let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
                return (String::from_utf8_lossy(&body[2..2 + topic]).into_owned(), body[2 + topic..].to_vec());
            }
        }
    }
}

fn text(s: &str) -> Vec<u8> {
    [&(s.len() as u16).to_be_bytes()[..], s.as_bytes()].concat()
}
