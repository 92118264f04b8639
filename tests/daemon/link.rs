//! The broker: absent, killed, frozen; what waits meanwhile; passwords, certificates, MQTT 3.1.1, the embedded one.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::gateway::{Door, Gateway, Got, Home, Pty, Watch, publish, within};
use crate::support::mosquitto::{Mosquitto, free_port};
use crate::support::program::{PATIENCE, run};
use pinpost::model::Value;
use pinpost::queue::{Inspector, Kept};
use pinpost::wire::Record;

/// A counter on a pty: `N=…` becomes `gw/probe`.
fn probe(url: &str, mqtt: &str, queue: &str) -> (Home, Pty) {
    let home = Home::new(url, mqtt, queue, "");
    let pty = Pty::new(home.path("port"));
    let rest = format!(
        "ports: {{ p: {{ path: {} }} }}
devices:
  probe: {{ kind: serial, port: p, decode: {{ type: keyvalue }}, points: {{ n: {{ field: N }} }} }}
  pump: {{ kind: digital_out, pin: 27 }}
",
        pty.name().display()
    );
    let text = std::fs::read_to_string(home.file()).unwrap() + &rest;
    home.write(&text);
    (home, pty)
}

fn frames(pty: &mut Pty, numbers: std::ops::Range<u32>) {
    pty.write(numbers.map(|n| format!("N={n}\n")).collect::<String>().as_bytes());
}

/// These numbers, one after the other.
fn taken(watch: &mut Watch, numbers: std::ops::Range<u32>) -> Vec<Got> {
    numbers.map(|n| watch.expect("gw/probe", &n.to_string())).collect()
}

#[track_caller]
fn in_order(got: &[Got]) {
    for w in got.windows(2) {
        assert!(w[0].seq() < w[1].seq() && w[0].user["time"] <= w[1].user["time"], "{w:#?}");
    }
}

/// A command works.
fn obeys(broker: &Mosquitto, all: &mut Watch) {
    publish(broker, "gw/pump/set", "TOGGLE", &[]);
    assert_eq!(all.until("gw/pump/result", |_| true).json()["outcome"], "done");
}

#[test]
fn what_is_read_before_the_broker_is_there_arrives_when_it_comes() {
    let mut broker = Mosquitto::start();
    let door = Door::to(broker.port());
    let (home, mut pty) = probe(&door.url(), "", "");
    let mut all = Watch::on(&mut broker, "gw/#");
    let mut gateway = home.start();
    gateway.log("not connected");
    // until the port is open nobody reads; the pump's state is the first reading on disk
    while kept(&home) < 2 {
        frames(&mut pty, 0..1);
        std::thread::yield_now();
    }
    frames(&mut pty, 1..200);
    wait_until("199 is on disk", || holds(&home, 199.0));
    let before = jiff::Timestamp::now();
    door.open();
    all.online(&mut gateway);
    let first = all.until_payload("gw/probe", "1");
    let got: Vec<Got> = std::iter::once(first).chain(taken(&mut all, 2..200)).collect();
    in_order(&got);
    for got in &got {
        assert_eq!(got.user.get("replayed").map(String::as_str), Some("1"), "{got:?}");
        assert!(got.user["time"].parse::<jiff::Timestamp>().unwrap() <= before, "the time is that of the reading");
    }
    frames(&mut pty, 200..201);
    let live = taken(&mut all, 200..201);
    assert!(!live[0].user.contains_key("replayed"));
    obeys(&broker, &mut all);
    gateway.stop();
}

/// Readings on the daemon's disk.
fn kept(home: &Home) -> usize {
    Inspector::open(&home.path("state/queue")).map_or(0, |i| i.filter(|k| k.seq.is_some()).count())
}

/// Whether this value is on the daemon's disk.
fn holds(home: &Home, value: f64) -> bool {
    let is = |k: Kept| matches!(Record::decode(&k.body), Ok(Record::Reading(r)) if r.value == Value::Number(value));
    Inspector::open(&home.path("state/queue")).is_ok_and(|mut i| i.any(is))
}

/// Waits until so many readings are on the daemon's disk.
fn on_disk(home: &Home, readings: usize) {
    wait_until(&format!("{readings} readings are on disk"), || kept(home) >= readings);
}

/// The disk gives no sign: it is looked at until something is there.
fn wait_until(what: &str, there: impl Fn() -> bool) {
    let begun = Instant::now();
    while !there() {
        assert!(begun.elapsed() < PATIENCE, "in vain: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_broker_that_is_killed_and_comes_back_gets_what_it_missed() {
    let mut broker = Mosquitto::start();
    let door = Door::to(broker.port());
    door.open();
    let (home, mut pty) = probe(&door.url(), "", "sync: 100ms");
    let mut all = Watch::on(&mut broker, "gw/#");
    let mut gateway = home.online(&mut all);
    all.expect("gw/probe/availability", "online");
    pty.write(b"\n");
    frames(&mut pty, 0..50);
    let mut got = taken(&mut all, 0..50);
    for round in 1..3 {
        drop(all);
        broker.kill();
        gateway.log("not connected");
        door.close();
        frames(&mut pty, round * 50..(round + 1) * 50);
        on_disk(&home, 50);
        broker.restart();
        all = Watch::on(&mut broker, "gw/#");
        door.open();
        all.online(&mut gateway);
        // a fresh broker is told everything again
        all.expect("gw/probe/availability", "online");
        all.expect("gw/sim/pin/27", if round == 1 { "0" } else { "1" });
        let missed = taken(&mut all, round * 50..(round + 1) * 50);
        assert!(missed.iter().all(|g| g.user["replayed"] == "1"));
        got.extend(missed);
        in_order(&got);
        obeys(&broker, &mut all);
    }
    gateway.stop();
}

#[test]
fn a_broker_that_is_frozen_is_noticed_and_gets_everything_when_it_thaws() {
    let mut broker = Mosquitto::start();
    let (home, mut pty) = probe(&broker.url(), "keep_alive: 5s", "");
    let mut all = Watch::on(&mut broker, "gw/#");
    let mut gateway = home.online(&mut all);
    all.expect("gw/probe/availability", "online");
    pty.write(b"\n");
    frames(&mut pty, 0..10);
    let mut got = taken(&mut all, 0..10);
    broker.pause();
    frames(&mut pty, 10..300);
    within(Duration::from_secs(15), "noticing a frozen broker", || gateway.log("not connected"));
    frames(&mut pty, 300..310);
    on_disk(&home, 300);
    broker.resume();
    gateway.log("INFO  runtime: connected");
    // what was sent into the frozen socket may come twice; by its number a receiver drops it
    let mut next = 10;
    while next < 310 {
        let one = all.next("gw/probe");
        let n: u32 = one.payload.parse().unwrap();
        assert!(n <= next, "{n} came before {next}");
        if n == next {
            got.push(one);
            next += 1;
        }
    }
    in_order(&got);
    obeys(&broker, &mut all);
    gateway.stop();
}

#[test]
fn readings_survive_the_death_of_the_daemon_while_the_broker_is_away() {
    let mut broker = Mosquitto::start();
    let door = Door::to(broker.port());
    door.open();
    let (home, mut pty) = probe(&door.url(), "", "sync: 100ms");
    let mut all = Watch::on(&mut broker, "gw/#");
    let mut gateway = home.online(&mut all);
    all.expect("gw/probe/availability", "online");
    door.close();
    gateway.log("not connected");
    pty.write(b"\n");
    frames(&mut pty, 0..100);
    on_disk(&home, 100);
    all.until_payload("gw/bridge/state", "offline");
    all.forget();

    // the queue has one owner, which is named
    let second = run(&mut home.command(), b"").with(1);
    assert!(second.err.contains(&gateway.pid().to_string()), "{}", second.err);

    gateway.kill();
    let dead = jiff::Timestamp::now();
    door.open();
    let gateway = home.online(&mut all);
    let got = taken(&mut all, 0..100);
    in_order(&got);
    assert!(got.iter().all(|g| g.user["replayed"] == "1" && g.user["time"].parse::<jiff::Timestamp>().unwrap() < dead));
    all.expect("gw/probe/availability", "online");
    pty.write(b"\n");
    frames(&mut pty, 100..101);
    let live = taken(&mut all, 100..101);
    assert!(live[0].seq() > got[99].seq(), "a number was used twice");

    gateway.kill();
    // nobody says goodbye but the will
    all.expect("gw/bridge/state", "offline");
    assert!(all.left("gw/bridge/event").iter().all(|g| g.json()["event"] != "gap"));
}

#[test]
fn the_exit_code_says_what_is_wrong() {
    let mut broker = Mosquitto::start();
    let home = Home::simple(&broker, "devices:\n  door: { kind: digital_in, pin: 17, debonce: 20ms }\n");
    let wrong = run(&mut home.command(), b"").with(78);
    assert!(wrong.err.contains("gateway.yaml:6:") && wrong.err.contains("did you mean `debounce`?"), "{}", wrong.err);
    let missing = run(&mut home.pinpost(&["run", "-c", "/no/such/file"]), b"").with(78);
    assert!(missing.err.contains("/no/such/file"), "{}", missing.err);
    // SIGINT is as good as SIGTERM
    let home = Home::simple(&broker, "");
    let mut all = Watch::on(&mut broker, "gw/#");
    let mut gateway = home.online(&mut all);
    gateway.program.signal(nix::sys::signal::Signal::SIGINT);
    gateway.program.end().with(0);
    assert!(all.expect("gw/bridge/state", "offline").qos == 1);
}

#[test]
fn everything_works_with_mqtt_3_1_1() {
    let mut broker = Mosquitto::start();
    let (home, mut pty) = probe(&broker.url(), "protocol: 3.1.1", "");
    let mut all = Watch::with(&mut broker, "gw/#", &["-V", "mqttv311"]);
    let mut gateway = home.online(&mut all);
    assert!(broker.log().contains("as pinpost-gw-") && broker.log().contains("(p2, c1, k30"), "{}", broker.log());
    all.expect("gw/probe/availability", "online");
    pty.write(b"\n");
    frames(&mut pty, 0..500);
    taken(&mut all, 0..500);
    obeys(&broker, &mut all);
    publish(&broker, "gw/pump/set", "{\"value\":\"OFF\",\"id\":\"x\"}", &[]);
    assert_eq!(all.next("gw/pump/result").json()["id"], "x");
    drop(all);
    broker.kill();
    gateway.log("not connected");
    frames(&mut pty, 500..520);
    on_disk(&home, 20);
    broker.restart();
    gateway.log("INFO  runtime: connected");
    let mut all = Watch::with(&mut broker, "gw/#", &["-V", "mqttv311"]);
    obeys(&broker, &mut all);
    gateway.stop();
    all.until_payload("gw/bridge/state", "offline");
}

#[test]
fn a_password_is_used_and_shown_nowhere() {
    const CANARY: &str = "c4n4ry-hunter2";
    let mut broker = Mosquitto::with(|port, dir| {
        let file = dir.join("passwords");
        let made = Command::new("mosquitto_passwd").arg("-b").arg("-c").arg(&file).args(["shed", CANARY]).status();
        assert!(made.unwrap().success());
        format!("listener {port} 127.0.0.1\npassword_file {}\n", file.display())
    });
    let mut all = Watch::with(&mut broker, "#", &["-V", "mqttv5", "-u", "shed", "-P", CANARY]);
    let rest = "devices:\n  door: { kind: digital_in, pin: 17 }\n";
    for (mqtt, url) in [
        (format!("username: shed, password: {CANARY}"), broker.url()),
        ("username: shed, password_file: secret".to_owned(), broker.url()),
        (String::new(), broker.url().replace("//", &format!("//shed:{CANARY}@"))),
    ] {
        let home = Home::new(&url, &mqtt, "", rest).with_env("PINPOST_LOG", "debug");
        std::fs::write(home.path("secret"), format!("{CANARY}\n")).unwrap();
        let gateway = home.online(&mut all);
        let ended = gateway.stop();
        all.expect("gw/bridge/state", "offline");
        let explained = run(&mut home.pinpost(&["explain", home.file().to_str().unwrap()]), b"").with(0);
        for said in [&ended.err, &ended.text(), &explained.text(), &explained.err] {
            assert!(!said.contains(CANARY), "{said}");
        }
        all.forget();
    }
    for protocol in ["5", "3.1.1"] {
        let mqtt = format!("protocol: {protocol}, username: shed, password: wrong-{CANARY}");
        let home = Home::new(&broker.url(), &mqtt, "", rest).with_env("PINPOST_LOG", "debug");
        let mut gateway: Gateway = home.start();
        gateway.log("not connected");
        gateway.log("not connected");
        let ended = gateway.stop();
        assert!(ended.err.to_lowercase().contains("password"), "it is not said why: {}", ended.err);
        assert!(!ended.err.contains(CANARY), "{}", ended.err);
    }
    assert!(all.lines.iter().all(|l| !l.contains(CANARY)), "a topic or payload holds the password");
}

#[test]
fn tls_with_an_authority_of_one_s_own_works_and_a_stranger_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let openssl = |line: &str| {
        let words: Vec<String> =
            line.split(' ').map(|w| w.replace("@", &format!("{}/", dir.path().display()))).collect();
        let made = Command::new("openssl").args(&words).output().expect("openssl is installed");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    };
    let key = "-nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256";
    for ca in ["ca", "stranger"] {
        openssl(&format!("req -x509 {key} -keyout @{ca}.key -out @{ca}.pem -subj /CN={ca} -days 30"));
    }
    std::fs::write(at("san"), "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n").unwrap();
    openssl(&format!("req {key} -keyout @server.key -out @request -subj /CN=server"));
    openssl(
        "x509 -req -CAcreateserial -days 30 -in @request -CA @ca.pem -CAkey @ca.key -extfile @san -out @server.pem",
    );
    let plain = free_port();
    let (ca, cert, key) = (at("ca.pem"), at("server.pem"), at("server.key"));
    let mut broker = Mosquitto::with(move |port, _| {
        format!(
            "allow_anonymous true\nlistener {plain} 127.0.0.1\nlistener {port} 127.0.0.1\ncafile {ca}\ncertfile {cert}\nkeyfile {key}\n"
        )
    });
    let url = format!("mqtts://localhost:{}", broker.port());
    let rest = "devices:\n  door: { kind: digital_in, pin: 17 }\n";
    let home = Home::new(&url, &format!("tls: {{ ca_file: {} }}", at("stranger.pem")), "", rest);
    let mut gateway = home.start();
    gateway.log("not connected");
    assert!(gateway.stop().err.contains("certificate"));
    let home = Home::new(&url, &format!("tls: {{ ca_file: {} }}", at("ca.pem")), "", rest);
    let mut all = Watch::with(&mut broker, "gw/#", &["-V", "mqttv5", "-h", "localhost", "--cafile", &at("ca.pem")]);
    let gateway = home.online(&mut all);
    all.expect("gw/door", "OFF");
    gateway.stop();
    all.expect("gw/bridge/state", "offline");
}

#[test]
fn the_daemon_can_be_its_own_broker() {
    let port = free_port();
    let url = format!("mqtt://127.0.0.1:{port}");
    let home = Home::new(
        &url,
        "",
        "",
        &format!("broker: {{ listen: 127.0.0.1:{port} }}\ndevices:\n  pump: {{ kind: digital_out, pin: 27 }}\n"),
    );
    let mut gateway = home.start();
    gateway.log("INFO  runtime: connected");
    let port = port.to_string();
    let mut ask = Command::new("mosquitto_rr");
    ask.args([
        "-h",
        "127.0.0.1",
        "-p",
        &port,
        "-q",
        "1",
        "-W",
        "20",
        "-t",
        "gw/pump/set",
        "-m",
        "ON",
        "-e",
        "me/answer",
    ]);
    assert!(run(&mut ask, b"").with(0).text().contains("\"outcome\":\"done\""));
    gateway.stop();
}

#[test]
fn a_healthy_link_writes_nothing_to_the_disk() {
    let mut broker = Mosquitto::start();
    let (home, mut pty) = probe(&broker.url(), "", "");
    let mut all = Watch::on(&mut broker, "gw/#");
    let gateway = home.online(&mut all);
    all.expect("gw/probe/availability", "online");
    pty.write(b"\n");
    frames(&mut pty, 0..10);
    taken(&mut all, 0..10);
    let before = gateway.figure("io", "write_bytes");
    for n in 10..510 {
        frames(&mut pty, n..n + 1);
        taken(&mut all, n..n + 1);
    }
    assert_eq!(gateway.figure("io", "write_bytes") - before, 0, "bytes written while 500 readings flowed");
    gateway.stop();
}
