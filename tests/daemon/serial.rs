//! `serial`: frames from a real pty, in order and complete; formats, filters, a port that goes and comes.

use std::time::Duration;

use crate::support::gateway::{Home, Pty, Watch, publish, within};
use crate::support::mosquitto::Mosquitto;

/// A broker that keeps as much for a slow subscriber as a flood brings.
fn roomy() -> Mosquitto {
    Mosquitto::with(|port, _| format!("listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n"))
}

#[test]
fn ten_thousand_frames_written_flat_out_arrive_complete_and_in_order_in_bounded_memory() {
    let mut broker = roomy();
    let home = Home::simple(&broker, "");
    let mut pty = Pty::new(home.path("meter"));
    let home = Home::simple(
        &broker,
        &format!(
            "ports:\n  meter: {{ path: {}, baud_rate: 115200 }}
devices:
  probe: {{ kind: serial, port: meter, decode: {{ type: keyvalue, pair: \";\", assign: \"=\" }}, points: {{ n: {{ field: N }} }} }}
",
            pty.name().display()
        ),
    );
    let mut states = Watch::on(&mut broker, "gw/+/availability");
    let mut frames = Watch::on(&mut broker, "gw/probe");
    let gateway = home.start();
    states.expect("gw/probe/availability", "online");
    pty.write(b"the end of a line\n");

    let mut last = 0;
    let mut memory = Vec::new();
    let mut check = |from: u32, to: u32, pty: &mut Pty| {
        let text: String = (from..to).map(|n| format!("N={n};T=21.5;H=40\n")).collect();
        pty.write(text.as_bytes());
        for n in from..to {
            let got = frames.next("gw/probe");
            assert_eq!(got.payload, n.to_string(), "{got:?}");
            assert_eq!(got.qos, 1);
            assert!(got.seq() > last, "seq {} after {last}", got.seq());
            last = got.seq();
        }
        memory.push(gateway.figure("status", "VmHWM"));
    };
    check(0, 10_000, &mut pty);
    check(10_000, 20_000, &mut pty);
    assert!(memory[1] < memory[0] + 4_096, "peak memory grew from {} to {} KiB", memory[0], memory[1]);
    gateway.stop();
}

#[test]
fn every_format_and_filter_makes_its_readings_and_bad_frames_are_counted() {
    let mut broker = Mosquitto::start();
    let dir = tempfile::tempdir().unwrap();
    let names = ["csv", "json", "regex", "text", "raw", "kv"];
    let mut ptys = names.map(|n| Pty::new(dir.path().join(n)));
    let ports: String =
        ptys.iter().zip(names).map(|(p, n)| format!("  {n}: {{ path: {} }}\n", p.name().display())).collect();
    let home = Home::simple(
        &broker,
        &format!(
            r#"ports:
{ports}devices:
  dcsv: {{ kind: serial, port: csv, decode: {{ type: csv, columns: [time, t, h] }}, points: {{ t: {{ field: t }}, h: {{ field: h, payload: json, qos: 0, retain: true, topic: house/humidity }} }} }}
  djson: {{ kind: serial, port: json, decode: {{ type: json }}, points: {{ t: {{ field: a.b }}, word: {{ field: w }} }} }}
  dregex: {{ kind: serial, port: regex, decode: {{ type: regex, pattern: "temp (?<t>-?[0-9.]+) C" }}, points: {{ t: {{ field: t, filters: [ {{ scale: 2 }}, {{ offset: -1 }}, {{ round: 1 }} ] }} }} }}
  dtext: {{ kind: serial, port: text, points: {{ line: {{}} }} }}
  draw: {{ kind: serial, port: raw, frame: {{ length: 3 }}, decode: {{ type: raw }}, points: {{ bytes: {{ payload: json }} }} }}
  dkv:
    kind: serial
    port: kv
    decode: {{ type: keyvalue, pair: ";", assign: "=" }}
    points:
      t: {{ field: T, filters: [ {{ delta: 0.5 }} ] }}
      slow: {{ field: S, filters: [ {{ throttle: 1h }} ] }}
      beat: {{ field: B, filters: [ {{ heartbeat: 100ms }} ] }}
      mark: {{ field: M }}
"#
        ),
    );
    let mut all = Watch::on(&mut broker, "#");
    let gateway = home.online(&mut all);
    for n in names {
        all.expect(&format!("gw/d{n}/availability"), "online");
    }
    let [csv, json, regex, text, raw, kv] = &mut ptys;
    csv.write(b"rest\n1,21.5,40\r\nrubbish\n2,22.5,41\n");
    all.expect("gw/dcsv/t", "21.5");
    all.expect("gw/dcsv/t", "22.5");
    let humid = all.next("house/humidity");
    assert_eq!((humid.json()["value"].as_f64(), humid.qos), (Some(40.0), 0));

    json.write(b"rest\n{\"a\":{\"b\":1.5},\"w\":\"up\"}\n{broken\n{\"a\":{\"b\":-2}}\n");
    all.expect("gw/djson/t", "1.5");
    all.expect("gw/djson/word", "up");
    all.expect("gw/djson/t", "-2");

    regex.write(b"rest\ntemp 20.26 C\nnothing\ntemp -1 C\n");
    all.expect("gw/dregex", "39.5");
    all.expect("gw/dregex", "-3");

    text.write("rest\nhello wörld\r\n".as_bytes());
    all.expect("gw/dtext", "hello wörld");

    raw.write(&[0xff, 0x00, 0x0a, 1, 2, 3]);
    assert_eq!(all.next("gw/draw").json()["value"], "ff000a");
    assert_eq!(all.next("gw/draw").json()["value"], "010203");

    kv.write(b"rest\nT=1;S=1\nT=1.2;S=2\nT=1.6;S=3;M=1\n");
    all.expect("gw/dkv/t", "1");
    all.expect("gw/dkv/t", "1.6");
    all.expect("gw/dkv/slow", "1");
    all.expect("gw/dkv/mark", "1");
    assert!(all.left("gw/dkv/slow").is_empty());
    kv.write(b"B=7\n");
    let first = all.expect("gw/dkv/beat", "7");
    let again = all.expect("gw/dkv/beat", "7");
    assert!(again.seq() > first.seq(), "a heartbeat is a reading of its own");

    // bad frames are in the figures, and nowhere else
    publish(&broker, "gw/bridge/request/health", "{}", &[]);
    let health = all.next("gw/bridge/response/health").json();
    for name in ["dcsv", "djson", "dregex"] {
        let device = &health["devices"][name];
        assert_eq!((&device["bad_frames"], &device["frames"]), (&1.into(), &2.into()), "{name}: {health}");
    }
    assert!(all.left("gw/dcsv/t").is_empty() && all.left("gw/djson/t").is_empty() && all.left("gw/dregex").is_empty());

    let mut later = Watch::on(&mut broker, "house/#");
    assert!(later.next("house/humidity").retain);
    gateway.stop();
}

#[test]
fn bytes_that_are_sent_reach_the_instrument() {
    let mut broker = Mosquitto::start();
    let home = Home::simple(&broker, "");
    let mut pty = Pty::new(home.path("port"));
    let home = Home::simple(
        &broker,
        &format!(
            "ports: {{ p: {{ path: {} }} }}\ndevices: {{ meter: {{ kind: serial, port: p, points: {{ line: {{}} }} }} }}\n",
            pty.name().display()
        ),
    );
    let mut all = Watch::on(&mut broker, "gw/#");
    let gateway = home.online(&mut all);
    all.expect("gw/meter/availability", "online");
    publish(&broker, "gw/meter/send", "SET 21\r\n", &[]);
    assert_eq!(pty.read(8), b"SET 21\r\n");
    assert_eq!(all.next("gw/meter/result").json()["outcome"], "done");
    let raw = [0x00, 0xff, 0x0a, 0x0d, 0x11, 0x13, 0x03, 0x04, 0x1a, 0x7f];
    let file = home.path("bytes");
    std::fs::write(&file, raw).unwrap();
    publish_file(&broker, "gw/meter/send", file.to_str().unwrap());
    assert_eq!(pty.read(raw.len()), raw);
    assert_eq!(all.next("gw/meter/result").json()["outcome"], "done");
    // a retained one is old news, live and from the broker's store
    publish(&broker, "gw/meter/send", "old", &["-r"]);
    assert_eq!(all.next("gw/meter/result").json()["outcome"], "rejected");
    gateway.stop();
    let gateway = home.online(&mut all);
    assert_eq!(all.next("gw/meter/result").json()["outcome"], "rejected");
    publish(&broker, "gw/meter/send", "new", &[]);
    assert_eq!(pty.read(3), b"new");
    gateway.stop();
}

fn publish_file(broker: &Mosquitto, topic: &str, file: &str) {
    let mut command = std::process::Command::new("mosquitto_pub");
    command.args(["-h", "127.0.0.1", "-p", &broker.port().to_string(), "-q", "1", "-t", topic, "-f", file]);
    crate::support::program::run(&mut command, b"").with(0);
}

#[test]
fn a_port_that_is_pulled_is_offline_at_once_and_online_again_with_its_name() {
    let mut broker = Mosquitto::start();
    let home = Home::simple(&broker, "");
    let mut pty = Pty::new(home.path("port"));
    let home = Home::simple(
        &broker,
        &format!(
            "ports: {{ p: {{ path: {} }}, absent: {{ path: /dev/there-is-no-such-port }} }}
devices:
  meter: {{ kind: serial, port: p, points: {{ line: {{}} }} }}
  other: {{ kind: serial, port: absent, points: {{ line: {{}} }} }}
  door: {{ kind: digital_in, pin: 17 }}
",
            pty.name().display()
        ),
    );
    let mut all = Watch::on(&mut broker, "gw/#");
    let mut gateway = home.online(&mut all);
    all.expect("gw/meter/availability", "online");
    // a missing port is that device's trouble alone
    all.expect("gw/other/availability", "offline");
    all.expect("gw/door/availability", "online");
    gateway.log("there-is-no-such-port");
    pty.write(b"x\nhalf a li");
    pty.write(b"ne\nbefore\n");
    all.expect("gw/meter", "half a line");
    all.expect("gw/meter", "before");
    pty.write(b"cut off in the mid");
    for round in 0..3 {
        within(Duration::from_secs(5), "offline", || {
            pty.unplug();
            all.expect("gw/meter/availability", "offline");
        });
        publish(&broker, "gw/meter/send", "x", &[]);
        assert_eq!(all.next("gw/meter/result").json()["outcome"], "failed");
        within(Duration::from_secs(10), "online", || {
            pty.plug();
            all.expect("gw/meter/availability", "online");
        });
        // nothing of the old line is joined with the new one
        pty.write(format!("dle\nafter {round}\n").as_bytes());
        all.expect("gw/meter", &format!("after {round}"));
    }
    gateway.stop();
}
