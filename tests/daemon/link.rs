//! The broker: absent, killed, frozen; what waits meanwhile; passwords, certificates, MQTT 3.1.1, the embedded one.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::gateway::{Door, Gateway, Got, Home, Pty, Watch, publish, within};
use crate::support::mosquitto::{Mosquitto, free_port};

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

/// Until `/get` is refused or answered, the daemon has taken every byte written before: `/send` is in turn behind them.
fn taken(watch: &mut Watch, numbers: std::ops::Range<u32>) -> Vec<Got> {
    numbers.map(|n| watch.expect("gw/probe", &n.to_string())).collect()
}

#[track_caller]
fn in_order(got: &[Got]) {
    assert!(got.windows(2).all(|w| w[0].seq() < w[1].seq() && w[0].user["time"] <= w[1].user["time"]), "{got:#?}");
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
    frames(&mut pty, 0..1);
    pty.write(b"\n");
    frames(&mut pty, 1..200);
    on_disk(&home, 199);
    let before = jiff::Timestamp::now();
    door.open();
    all.online(&mut gateway);
    let got = taken(&mut all, 1..200);
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

/// Waits until so many readings are in the daemon's queue on disk; its own tool says so.
fn on_disk(home: &Home, readings: u64) {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let mut bytes = 0;
        for entry in std::fs::read_dir(home.path("state/queue")).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|e| e == "seg") {
                bytes += entry.metadata().map_or(0, |m| std::os::unix::fs::MetadataExt::blocks(&m) * 0 + m.len());
            }
        }
        if bytes >= readings * 20 {
            return;
        }
        assert!(Instant::now() < until, "only {bytes} bytes are on disk");
        std::thread::yield_now();
    }
}
