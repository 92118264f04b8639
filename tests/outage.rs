//! A week without a broker, its time compressed: a queue full of readings, the real daemon that starts on it, a real
//! mosquitto, and alarms that come while it drains. All readings arrive, in order; the alarms are in time; memory and
//! start stay small.
//!
//! `OUTAGE_READINGS` (default 60,000; a week at ten a second is 6,048,000) and `OUTAGE_PROGRAM` (default: the program
//! of this build; `just week` and CI give the release's, which is what the figures are promised for).

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use pinpost::model::{PayloadFormat, Priority, Qos, Quality, Value};
use pinpost::queue::{Entry, Options, Queue, Stamp};
use pinpost::wire::Record;
use pinpost::wire::record::ReadingRecord;
use support::gateway::{Home, Pty};
use support::mosquitto::Mosquitto;
use support::program::Program;

const POINTS: [&str; 4] = ["weather/temperature", "weather/humidity", "meter/power", "tank/level"];
/// All but a little of `max_age`, so that nothing expires on the way.
const WEEK: Duration = Duration::from_secs(7 * 86_400 - 3600);
/// Between two alarms.
const ALARMS: Duration = Duration::from_millis(200);

/// Readings n of a week, through the queue itself: what a daemon of before has left.
fn fill(home: &Home, readings: u64) -> u64 {
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap() - WEEK;
    let clock = Stamp { wall: wall.as_millis() as i64, mono: 0, boot: 7, synced: true };
    let mut options = Options { clock, ..Options::new(home.path("state/queue")) };
    options.limits.max_bytes = 1 << 30;
    let (mut queue, mut log) = Queue::open(options, Duration::ZERO).unwrap();
    let mut now = Duration::ZERO;
    for n in 0..readings {
        now = WEEK.mul_f64(n as f64 / readings as f64);
        let point = POINTS[n as usize % POINTS.len()];
        let record = Record::Reading(Box::new(ReadingRecord {
            topic: format!("gw/{point}"),
            qos: Qos::AtLeastOnce,
            retain: false,
            format: PayloadFormat::Plain,
            words: ("ON".into(), "OFF".into()),
            value: Value::Number(n as f64),
            quality: Quality::Good,
            told: None,
            batch: None,
        }));
        let stamp = Stamp { wall: clock.wall + now.as_millis() as i64, mono: now.as_millis() as u64, ..clock };
        queue.append(
            Entry {
                reading: true,
                rank: Priority::Normal as u8,
                lane: n % POINTS.len() as u64,
                source: point.into(),
                stamp,
                body: record.encode(),
                ..Entry::default()
            },
            now,
        );
        if n % 4096 == 0 {
            while let Some(job) = queue.next_job(now) {
                let done = log.run(job);
                queue.finished(done, now);
            }
        }
    }
    queue.stop();
    while let Some(job) = queue.next_job(now) {
        let done = log.run(job);
        queue.finished(done, now);
    }
    assert_eq!(queue.stats().waiting, readings);
    queue.stats().bytes
}

/// What a subscriber gets, with the moment: QoS 0 on a bare socket, so that nothing but the broker is in between.
fn listen(port: u16) -> mpsc::Receiver<(String, String, Instant)> {
    let mut to = TcpStream::connect(("127.0.0.1", port)).unwrap();
    to.write_all(b"\x10\x10\x00\x04MQTT\x04\x02\x00\x00\x00\x04list\x82\x09\x00\x01\x00\x04gw/#\x00").unwrap();
    let mut from = BufReader::with_capacity(1 << 18, to);
    let (tell, told) = mpsc::channel();
    let mut packet = move || {
        let mut byte = [0];
        from.read_exact(&mut byte).ok()?;
        let head = byte[0];
        let (mut length, mut shift) = (0usize, 0);
        loop {
            from.read_exact(&mut byte).ok()?;
            length |= usize::from(byte[0] & 127) << shift;
            shift += 7;
            if byte[0] < 128 {
                break;
            }
        }
        let mut body = vec![0; length];
        from.read_exact(&mut body).ok()?;
        Some((head, body))
    };
    assert_eq!(packet().unwrap().0, 0x20);
    assert_eq!(packet().unwrap().0, 0x90);
    thread::spawn(move || {
        while let Some((head, body)) = packet() {
            if head >> 4 == 3 {
                let topic = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
                let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
                if tell.send((text(&body[2..topic]), text(&body[topic..]), Instant::now())).is_err() {
                    return;
                }
            }
        }
    });
    told
}

fn figure(pid: u32, file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let line = text.lines().find(|l| l.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Time at work of all threads.
fn cpu(pid: u32) -> Duration {
    let one = |task: fs::DirEntry| -> u64 {
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        text.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    Duration::from_nanos(fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten().map(one).sum())
}

#[test]
fn a_week_without_a_broker_is_delivered_in_order_and_alarms_are_in_time() {
    let readings: u64 = std::env::var("OUTAGE_READINGS").map_or(60_000, |n| n.parse().unwrap());
    let program = std::env::var("OUTAGE_PROGRAM").ok();
    let broker = Mosquitto::with(|port, _| {
        format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nlog_type error\nmax_queued_messages 0\nmax_inflight_messages 0\n"
        )
    });
    let home = Home::new(&broker.url(), "", "max_size: 1GiB, max_age: 7d", "");
    let mut pty = Pty::new(home.path("port"));
    let rest = format!(
        "ports: {{ p: {{ path: {} }} }}
devices:
  probe: {{ kind: serial, port: p, decode: {{ type: keyvalue }}, points: {{ n: {{ field: N, priority: alarm }} }} }}
",
        pty.name().display()
    );
    home.write(&(fs::read_to_string(home.file()).unwrap() + &rest));
    let began = Instant::now();
    let bytes = fill(&home, readings);
    println!("{readings} readings of a week in {bytes} bytes on disk, made in {:.1?}", began.elapsed());
    let messages = listen(broker.port());

    let mut command = home.command();
    if let Some(program) = &program {
        let like = home.command();
        command = Command::new(program);
        command.args(like.get_args());
        for (name, value) in like.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
    }
    let began = Instant::now();
    let mut daemon = Program::start(&mut command);
    let next = || messages.recv_timeout(Duration::from_secs(60)).expect("the daemon says nothing more");
    while next().0 != "gw/bridge/state" {}
    let started = began.elapsed();
    let read = figure(daemon.pid(), "io", "rchar:");
    let worked = cpu(daemon.pid());

    // Alarms, as long as it drains.
    let (stop, stopped) = mpsc::channel::<()>();
    let alarms = thread::spawn(move || {
        let mut sent = Vec::new();
        pty.write(b"\n");
        while let Err(mpsc::RecvTimeoutError::Timeout) = stopped.recv_timeout(ALARMS) {
            sent.push(Instant::now());
            pty.write(format!("N={}\n", sent.len() - 1).as_bytes());
        }
        (sent, pty)
    });
    let (mut last, mut count, mut heard) = (BTreeMap::<String, u64>::new(), 0, BTreeMap::<usize, Instant>::new());
    let began = Instant::now();
    while count < readings {
        let (topic, payload, at) = next();
        if topic == "gw/probe" {
            heard.entry(payload.parse().unwrap()).or_insert(at);
        } else if POINTS.iter().any(|p| topic.ends_with(p)) {
            let n: u64 = payload.parse().unwrap();
            let before = last.insert(topic.clone(), n);
            let due = before.map_or(n % POINTS.len() as u64, |b| b + POINTS.len() as u64);
            assert_eq!(n, due, "{topic} is not in order, or lost one");
            count += 1;
        }
    }
    let took = began.elapsed();
    drop(stop);
    let (sent, _pty) = alarms.join().unwrap();
    // Those of before the port was open are nobody's; all behind the first that was heard must come.
    let first = heard.keys().next().copied().unwrap_or(sent.len());
    while heard.len() < sent.len() - first {
        let (topic, payload, at) = next();
        if topic == "gw/probe" {
            heard.entry(payload.parse().unwrap()).or_insert(at);
        }
    }
    let late = heard.iter().map(|(n, at)| at.saturating_duration_since(sent[*n])).max().unwrap_or_default();
    let (peak, anonymous) = (figure(daemon.pid(), "status", "VmHWM:"), figure(daemon.pid(), "status", "RssAnon:"));
    println!("exec to `online`: {started:.1?}, of it at work {worked:.1?}; {read} bytes read by then");
    println!("drained in {took:.1?}: {:.0} readings a second", readings as f64 / took.as_secs_f64());
    println!("{} alarms meanwhile, the latest {late:.1?} late", heard.len());
    println!("memory, kB: highest {peak}, of its own at the end {anonymous}");
    // What others do on this machine is not its own: so its own time is what must be short.
    assert!(worked < Duration::from_millis(500) && started < Duration::from_secs(10), "{worked:?} of {started:?}");
    assert!(read < bytes / 2 + 2_000_000, "{read} of {bytes} bytes read before it was online");
    assert!(heard.len() >= 3 && late < Duration::from_secs(2), "{} alarms, {late:?} late", heard.len());
    assert!(anonymous < 16 * 1024, "{anonymous} kB");
    if program.is_some() {
        assert!(peak < 24 * 1024, "{peak} kB");
    }
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    daemon.end().with(0);
}
