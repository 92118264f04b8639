//! `poll`, `commands` and shared ports with instruments that answer, on real ptys: a CO2 sensor, a supply with OK and
//! ERR, two of a kind on one line, one that thinks too long, one that is dead, one that takes no bytes.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::support::gateway::{Gateway, Home, Pty, Watch, publish, within};
use crate::support::mosquitto::Mosquitto;

/// What an instrument answers to what it has heard so far: it takes whole requests off the front, and says after how
/// long it sends what.
pub(crate) type Manners = dyn FnMut(&mut Vec<u8>) -> Vec<(u64, Vec<u8>)> + Send;

/// An instrument at the other end of a line. It insists on one speaker at a time.
pub(crate) struct Instrument {
    stop: Arc<AtomicBool>,
    /// Requests that came while it had still to answer.
    interrupted: Arc<AtomicU32>,
    thread: Option<JoinHandle<()>>,
    /// While it lives, reading from our end does not fail only because the daemon has not opened the other one yet.
    _open: File,
}

impl Instrument {
    pub(crate) fn on(pty: &Pty, mut manners: Box<Manners>) -> Instrument {
        let open = File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(pty.name()).unwrap();
        let (stop, interrupted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let mut line: File = pty.master();
        let (told, count) = (stop.clone(), interrupted.clone());
        let thread = std::thread::spawn(move || {
            let mut heard = Vec::new();
            let mut owed: Vec<(Instant, Vec<u8>)> = Vec::new();
            let mut buffer = [0; 512];
            while !told.load(Ordering::Relaxed) {
                owed.sort_by_key(|(at, _)| *at);
                let now = Instant::now();
                while owed.first().is_some_and(|(at, _)| *at <= now) {
                    line.write_all(&owed.remove(0).1).unwrap();
                }
                let wait = owed
                    .first()
                    .map_or(50, |(at, _)| (at.saturating_duration_since(now).as_millis() as u16 + 1).min(50));
                let mut fds = [PollFd::new(line.as_fd(), PollFlags::POLLIN)];
                if poll(&mut fds, PollTimeout::from(wait)).unwrap() == 0 {
                    continue;
                }
                let n = line.read(&mut buffer).unwrap();
                count.fetch_add(u32::from(!owed.is_empty()), Ordering::Relaxed);
                heard.extend_from_slice(&buffer[..n]);
                let now = Instant::now();
                owed.extend(
                    manners(&mut heard).into_iter().map(|(ms, bytes)| (now + Duration::from_millis(ms), bytes)),
                );
            }
        });
        Instrument { stop, interrupted, thread: Some(thread), _open: open }
    }
    /// One that answers lines.
    pub(crate) fn of_lines(
        pty: &Pty,
        mut answer: impl FnMut(&str) -> Option<(u64, String)> + Send + 'static,
    ) -> Instrument {
        Instrument::on(
            pty,
            Box::new(move |heard| {
                let mut answers = Vec::new();
                while let Some(end) = heard.iter().position(|b| *b == b'\n') {
                    let request: Vec<u8> = heard.drain(..=end).collect();
                    let request = String::from_utf8(request).unwrap();
                    answers.extend(answer(request.trim_end()).map(|(ms, text)| (ms, text.into_bytes())));
                }
                answers
            }),
        )
    }
    /// Ends it; nobody interrupted it.
    pub(crate) fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        assert_eq!(self.interrupted.load(Ordering::Relaxed), 0, "it was asked before it had answered");
    }
}

fn health(broker: &Mosquitto, all: &mut Watch, device: &str) -> serde_json::Value {
    publish(broker, "gw/bridge/request/health", "{}", &[]);
    all.next("gw/bridge/response/health").json()["devices"][device].clone()
}

fn begin(broker: &mut Mosquitto, home: &Home) -> (Watch, Gateway) {
    let mut all = Watch::on(broker, "gw/#");
    let gateway = home.online(&mut all);
    (all, gateway)
}

/// Answers as an MH-Z19 does, 401 ppm first and then one more each time; every third frame has a flipped bit.
pub(crate) fn co2() -> Box<Manners> {
    // bytes of the MH-Z19's data sheet: ff 86 HIGH LOW … CHECK
    let mut asked = 0u16;
    Box::new(move |heard| {
        let mut answers = Vec::new();
        while heard.len() >= 9 {
            let request: Vec<u8> = heard.drain(..9).collect();
            assert_eq!(request, [0xff, 1, 0x86, 0, 0, 0, 0, 0, 0x79]);
            asked += 1;
            let [high, low] = (400 + asked).to_be_bytes();
            let mut frame = vec![0xff, 0x86, high, low, 0x43, 0, 0, 0];
            let sum = frame[1..].iter().fold(0u8, |sum, b| sum.wrapping_add(*b));
            frame.push(sum.wrapping_neg());
            if asked % 3 == 2 {
                frame[3] ^= 0x40;
            }
            let (first, second) = frame.split_at(4);
            answers.extend([(5, first.to_vec()), (15, second.to_vec())]);
        }
        answers
    })
}

#[test]
fn a_co2_sensor_is_asked_at_its_pace_and_a_flipped_bit_gives_no_reading() {
    let mut broker = Mosquitto::start();
    let home = Home::simple(&broker, "");
    let mut pty = Pty::new(home.path("co2"));
    let instrument = Instrument::on(&pty, co2());
    let home = Home::simple(
        &broker,
        &format!(
            "ports: {{ p: {{ path: {} }} }}
devices:
  co2:
    kind: serial
    port: p
    frame: {{ start: \"ff 86\", length: 9 }}
    check: {{ sum: u8, over: [1, -1], then: negate }}
    decode: {{ type: binary }}
    poll: {{ every: 100ms, send: {{ hex: \"ff 01 86 00 00 00 00 00\", check: append }}, timeout: 100ms }}
    points: {{ ppm: {{ at: 2, as: u16be }} }}
",
            pty.name().display()
        ),
    );
    let (mut all, gateway) = begin(&mut broker, &home);
    for n in [1, 3, 4] {
        all.expect("gw/co2", &(400 + n).to_string());
    }
    all.expect("gw/co2/availability", "online");
    let figures = health(&broker, &mut all, "co2");
    assert!(figures["missed"] == 1 && figures["bad_frames"] == 1 && figures["late"] == 0, "{figures}");
    instrument.end();
    // pulled and plugged again it is asked at once
    within(Duration::from_secs(5), "offline", || {
        pty.unplug();
        all.expect("gw/co2/availability", "offline");
    });
    all.forget();
    pty.plug();
    let instrument = Instrument::on(&pty, co2());
    within(Duration::from_secs(10), "asked again", || {
        all.until_payload("gw/co2/availability", "online");
        all.expect("gw/co2", "401");
    });
    gateway.stop();
    instrument.end();
}

#[test]
fn commands_with_values_are_judged_written_and_answered_while_the_instrument_is_polled() {
    let mut broker = Mosquitto::start();
    let home = Home::simple(&broker, "");
    let pty = Pty::new(home.path("psu"));
    let mut volts = "5".to_owned();
    let instrument = Instrument::of_lines(&pty, move |request| {
        let answer = match request.split_once(' ') {
            Some(("VOLT", "13")) => "ERR -222,\"Data out of range\"\r\n".to_owned(),
            Some(("VOLT", value)) => {
                volts = value.to_owned();
                "OK\r\n".to_owned()
            }
            Some(("NAME" | "OUTP" | "MODE", value)) => format!("OK {value}\r\n"),
            None if request == "VOLT?" => format!("V={volts}\r\n"),
            None if request == "CAL" => return None,
            None if request == "*IDN?" => "ACME,PS-1,0,1.2\r\n".to_owned(),
            _ => panic!("{request:?}"),
        };
        Some((10, answer))
    });
    let home = Home::simple(
        &broker,
        &format!(
            "ports: {{ p: {{ path: {}, baud_rate: 115200 }} }}
devices:
  psu:
    kind: serial
    port: p
    decode: {{ type: keyvalue }}
    poll: {{ every: 50ms, send: \"VOLT?\\r\\n\", timeout: 300ms }}
    points: {{ volts: {{ field: V, filters: [ {{ delta: 0.1 }} ] }} }}
    commands:
      volt: {{ type: number, min: 0, max: 15, send: \"VOLT {{{{ value }}}}\\r\\n\", expect: '^OK', timeout: 500ms }}
      name: {{ type: text, max: 8, send: 'NAME {{{{ value }}}}\\r\\n', expect: '^OK (.*)' }}
      out: {{ type: bool, send: \"OUTP {{{{ 1 if value else 0 }}}}\\r\\n\", expect: '^OK (.*)' }}
      mode: {{ type: choice, choices: [cc, cv], send: \"MODE {{{{ value | upper }}}}\\r\\n\", expect: '^OK (.*)' }}
      cal: {{ type: button, send: \"CAL\\r\\n\", expect: '^OK', timeout: 200ms }}
      idn: {{ send: \"*IDN?\\r\\n\", expect: '^[^,]*,([^,]*)' }}
",
            pty.name().display()
        ),
    );
    let (mut all, gateway) = begin(&mut broker, &home);
    all.expect("gw/psu", "5");
    let wish = |all: &mut Watch, name: &str, value: &str| {
        publish(&broker, &format!("gw/psu/{name}"), value, &[]);
        let answer = all.next("gw/psu/result").json();
        let text = |key: &str| match &answer[key] {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Null => String::new(),
            other => other.to_string(),
        };
        format!("{} {}{}", text("outcome"), text("value"), text("reason"))
    };
    assert_eq!(wish(&mut all, "volt", "12.5"), "done ");
    all.expect("gw/psu", "12.5");
    assert_eq!(wish(&mut all, "volt", r#"{"value": 13}"#), "failed it answered `ERR -222,\"Data out of range\"`");
    assert_eq!(wish(&mut all, "volt", "16"), "rejected `16` is not a number from 0 to 15");
    assert_eq!(wish(&mut all, "name", "Bench"), "done Bench");
    assert!(wish(&mut all, "name", "a\r\nCAL").starts_with("rejected the text holds control characters"));
    assert_eq!(wish(&mut all, "name", r"a\r"), r"done a\r");
    assert_eq!(wish(&mut all, "out", "ON"), "done 1");
    assert_eq!(wish(&mut all, "mode", "cv"), "done CV");
    assert_eq!(wish(&mut all, "mode", "CV"), "rejected `CV` is not one of cc, cv");
    assert_eq!(wish(&mut all, "idn", ""), "done PS-1");
    assert_eq!(wish(&mut all, "cal", "PRESS"), "timeout no answer within 200ms");
    // by request, and after the answer that is still owed
    let request = r#"{"device":"psu","verb":"volt","value":7,"transaction":"t1"}"#;
    publish(&broker, "gw/bridge/request/command", request, &[]);
    let answer = all.next("gw/bridge/response/command").json();
    assert_eq!((&answer["outcome"], &answer["transaction"]), (&"done".into(), &"t1".into()), "{answer}");
    publish(&broker, "gw/bridge/request/command", r#"{"device":"psu","verb":"idn"}"#, &[]);
    assert_eq!(all.next("gw/bridge/response/command").json()["value"], "PS-1");
    all.expect("gw/psu", "7");
    let figures = health(&broker, &mut all, "psu");
    assert!(figures["bad_frames"] == 0 && figures["missed"] == 1, "{figures}");
    gateway.stop();
    instrument.end();
}

#[test]
fn devices_on_one_line_take_turns_and_a_dead_one_does_not_stall_the_others() {
    let mut broker = Mosquitto::start();
    let home = Home::simple(&broker, "");
    let pty = Pty::new(home.path("bus"));
    let awake = Arc::new(AtomicBool::new(false));
    let waking = awake.clone();
    let (mut warm, mut damp) = (0, 0);
    let instrument = Instrument::of_lines(&pty, move |request| match request {
        "1?" => {
            warm += 1;
            Some((20, format!("id=1;v={warm}\r\n")))
        }
        "2?" => {
            damp += 1;
            // every fourth answer is broken
            Some((20, if damp % 4 == 0 { "id=2;v=9".into() } else { format!("noise\nid=2;v={}\r\n", 1000 + damp) }))
        }
        "3?" => waking.load(Ordering::Relaxed).then(|| (20, "id=3;v=3\r\n".to_owned())),
        other => panic!("{other:?}"),
    });
    let device = |n: u32| {
        format!(
            "  d{n}:
    kind: serial
    port: p
    decode: {{ type: keyvalue, match: {{ field: id, is: {n} }} }}
    poll: {{ every: 100ms, send: \"{n}?\\r\\n\", timeout: 150ms }}
    points: {{ v: {{ type: number }} }}
"
        )
    };
    let home = Home::simple(
        &broker,
        &format!(
            "ports: {{ p: {{ path: {}, baud_rate: 115200 }} }}\ndevices:\n{}{}{}",
            pty.name().display(),
            device(1),
            device(2),
            device(3)
        ),
    );
    let (mut all, gateway) = begin(&mut broker, &home);
    let begun = Instant::now();
    for n in 1..=60 {
        all.expect("gw/d1", &n.to_string());
    }
    // asked every 100 ms; the dead one costs the line 300 ms each time in the first seconds, and then 150 ms
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    all.until_payload("gw/d3/availability", "offline");
    let silent = all.until("gw/bridge/event", |g| g.payload.contains("d3"));
    assert!(silent.payload.contains("no answer within 150ms to 3 requests in a row"), "{silent:?}");
    for got in all.left("gw/d2") {
        let value: u32 = got.payload.parse().unwrap();
        assert!(value > 1000 && !value.is_multiple_of(4), "{got:?}");
    }
    assert!(all.left("gw/d2").len() > 4 && all.left("gw/d3").is_empty());
    awake.store(true, Ordering::Relaxed);
    within(Duration::from_secs(12), "the return", || {
        all.until_payload("gw/d3/availability", "online");
    });
    all.expect("gw/d3", "3");
    let figures = health(&broker, &mut all, "d3");
    assert!(figures["missed"].as_u64().unwrap() >= 3 && figures["frames"].as_u64().unwrap() >= 1, "{figures}");
    let figures = health(&broker, &mut all, "d1");
    assert_eq!(figures["missed"], 0, "{figures}");
    gateway.stop();
    instrument.end();
}

#[test]
fn an_answer_that_comes_too_late_is_nobodys() {
    let mut broker = Mosquitto::start();
    let home = Home::simple(&broker, "");
    let pty = Pty::new(home.path("slow"));
    let mut n = 0;
    // nothing in the answers tells them apart
    let instrument = Instrument::of_lines(&pty, move |request| {
        n += 1;
        let late = if n % 3 == 0 { 500 } else { 10 };
        Some((late, if request == "T?" { format!("2{n}.5\r\n") } else { format!("-{n}\r\n") }))
    });
    let home = Home::simple(
        &broker,
        &format!(
            "ports: {{ p: {{ path: {}, baud_rate: 115200 }} }}
devices:
  probe:
    kind: serial
    port: p
    poll:
      - {{ every: 100ms, send: \"T?\\r\\n\", timeout: 200ms, points: [t] }}
      - {{ every: 100ms, send: \"H?\\r\\n\", timeout: 200ms, points: [h] }}
    points: {{ t: {{ type: number }}, h: {{ type: number }} }}
",
            pty.name().display()
        ),
    );
    let (mut all, gateway) = begin(&mut broker, &home);
    for _ in 0..8 {
        let t: f64 = all.next("gw/probe/t").payload.parse().unwrap();
        let h: f64 = all.next("gw/probe/h").payload.parse().unwrap();
        assert!(t > 0.0 && h < 0.0, "{t} {h}");
    }
    let figures = health(&broker, &mut all, "probe");
    let count = |key: &str| figures[key].as_u64().unwrap();
    assert!(
        count("late") >= 3 && count("late") <= count("missed") && count("missed") <= count("late") + 1,
        "{figures}"
    );
    gateway.stop();
    instrument.end();
}

#[test]
fn silence_makes_offline_and_a_stuck_write_does_not_stop_the_reading() {
    let mut broker = Mosquitto::start();
    let home = Home::simple(&broker, "");
    let mut pty = Pty::new(home.path("scale"));
    let home = Home::simple(
        &broker,
        &format!(
            "ports: {{ p: {{ path: {} }} }}
devices: {{ scale: {{ kind: serial, port: p, offline_after: 1s, points: {{ line: {{}} }} }} }}
",
            pty.name().display()
        ),
    );
    let (mut all, gateway) = begin(&mut broker, &home);
    all.expect("gw/scale/availability", "online");
    pty.write(b"rest\n1\n");
    all.expect("gw/scale", "1");
    all.expect("gw/scale/availability", "offline");
    let why = all.until("gw/bridge/event", |g| g.payload.contains("offline"));
    assert!(why.payload.contains("nothing was heard for 1s"), "{why:?}");
    pty.write(b"2\n");
    all.expect("gw/scale", "2");
    all.expect("gw/scale/availability", "online");
    // nobody takes this: a pty keeps a few thousand bytes, and the write is given up after four seconds
    publish(&broker, "gw/scale/send", &"x".repeat(100_000), &[]);
    let begun = Instant::now();
    for n in 10..40 {
        pty.write(format!("{n}\n").as_bytes());
        all.expect("gw/scale", &n.to_string());
    }
    assert!(begun.elapsed() < Duration::from_secs(3), "the reading waited for the write: {:?}", begun.elapsed());
    let answer = all.next("gw/scale/result").json();
    assert_eq!(answer["outcome"], "failed");
    assert!(answer["reason"].as_str().unwrap().contains("of 100000 bytes in time"), "{answer}");
    gateway.stop();
}
