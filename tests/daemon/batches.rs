//! Several readings in one message, and payloads of the user's own, through a real mosquitto.

use std::time::{Duration, Instant};

use serde_json::Value as Json;

use crate::support::gateway::{Door, Got, Home, Watch, publish};
use crate::support::mosquitto::Mosquitto;

/// A program that says so many lines at once and then nothing.
fn lines(n: u32) -> String {
    format!(
        "ports:
  m: {{ command: [sh, -c, 'i=0; while [ $i -lt {n} ]; do i=$((i+1)); echo \"T=$i;H=$((i+1000))\"; done; exec sleep 1000'] }}
"
    )
}

const WEATHER: &str = "kind: serial, port: m, frame: { delimiter: \"\\n\", max: 64 }, decode: { type: keyvalue, pair: \";\", assign: \"=\" }";

fn items(got: &Got) -> Vec<Json> {
    let list = got.json();
    let list = list.as_array().unwrap_or_else(|| panic!("{got:?}")).clone();
    assert_eq!(got.user["batch"], list.len().to_string());
    list
}

/// Every number once, none missing: of `n` readings.
fn complete(mut seqs: Vec<u64>, n: usize) {
    seqs.sort_unstable();
    seqs.dedup();
    assert_eq!(seqs.len(), n);
    let (first, last) = (seqs[0], *seqs.last().unwrap());
    assert_eq!(last - first + 1, n as u64, "{first} to {last}");
}

fn collect(all: &mut Watch, n: usize) -> (Vec<Json>, usize) {
    let (mut readings, mut messages) = (Vec::new(), 0);
    while readings.len() < n {
        readings.extend(items(&all.next("gw/weather")));
        messages += 1;
    }
    (readings, messages)
}

#[test]
fn readings_of_a_device_go_together_with_their_times_and_numbers() {
    let mut broker = Mosquitto::start();
    let home = Home::simple(
        &broker,
        &format!(
            "{}devices: {{ weather: {{ {WEATHER}, batch: {{ every: 1s, max: 30 }}, points: {{ t: {{ field: T }}, h: {{ field: H }} }} }} }}",
            lines(50)
        ),
    );
    let mut all = Watch::on(&mut broker, "gw/#");
    let gateway = home.start();
    let (readings, messages) = collect(&mut all, 100);
    assert_eq!(messages, 4, "three full ones and the rest");
    let seqs: Vec<u64> = readings.iter().map(|r| r["seq"].as_u64().unwrap()).collect();
    assert!(seqs.is_sorted());
    complete(seqs, 100);
    for (i, reading) in readings.iter().enumerate() {
        let (point, value) = if i % 2 == 0 { ("t", i / 2 + 1) } else { ("h", i / 2 + 1001) };
        assert_eq!((&reading["point"], &reading["value"]), (&point.into(), &value.into()), "{reading}");
        assert!(reading["time"].as_str().unwrap().ends_with('Z') && reading["quality"] == "good", "{reading}");
    }
    gateway.stop();
    assert!(all.left("gw/weather/t").is_empty());
}

#[test]
fn an_alarm_and_what_somebody_asks_for_do_not_wait_and_an_orderly_stop_sends_the_rest() {
    let mut broker = Mosquitto::start();
    let home = Home::simple(
        &broker,
        "devices:
  door: { kind: digital_in, pin: 17, batch: { every: 1h }, alarm: { when: value } }
",
    );
    let mut all = Watch::on(&mut broker, "gw/#");
    let gateway = home.online(&mut all);
    publish(&broker, "gw/sim/pin/17/set", "1", &[]);
    // OFF at the start waits; ON is an alarm
    let first = items(&all.next("gw/door"));
    assert_eq!(first.iter().map(|r| r["value"].as_str().unwrap()).collect::<Vec<_>>(), ["OFF", "ON"]);
    publish(&broker, "gw/sim/pin/17/set", "0", &[]);
    all.until("gw/bridge/event", |got| got.json()["state"] == "OFF");
    publish(&broker, "gw/door/get", "", &[]);
    let second = items(&all.next("gw/door"));
    assert_eq!(second.iter().map(|r| r["value"].as_str().unwrap()).collect::<Vec<_>>(), ["OFF", "OFF"]);
    publish(&broker, "gw/sim/pin/17/set", "1", &[]);
    items(&all.next("gw/door"));
    publish(&broker, "gw/sim/pin/17/set", "0", &[]);
    all.until("gw/bridge/event", |got| got.json()["state"] == "OFF");
    let begun = Instant::now();
    gateway.stop();
    assert!(begun.elapsed() < Duration::from_secs(10));
    let last = items(&all.next("gw/door"));
    assert_eq!(last.len(), 1, "{last:?}");
    assert_eq!(last[0]["value"], "OFF");
}

#[test]
fn what_waits_in_a_batch_is_not_lost_by_a_kill_and_is_replayed_with_its_own_times() {
    let mut broker = Mosquitto::start();
    let text = format!(
        "{}devices: {{ weather: {{ {WEATHER}, batch: {{ every: 1h, max: 1000 }}, points: {{ t: {{ field: T }} }} }} }}",
        lines(200)
    );
    let home = Home::new(&broker.url(), "", "sync: 100ms", &text);
    let mut all = Watch::on(&mut broker, "gw/#");
    let gateway = home.online(&mut all);
    let figures = |home: &Home| -> Json {
        let file = home.file().display().to_string();
        let ended = crate::support::program::run(&mut home.pinpost(&["queue", "status", "--json", "-c", &file]), b"");
        serde_json::from_slice(&ended.out).unwrap_or_default()
    };
    let begun = Instant::now();
    loop {
        let figures = figures(&home);
        // all of them are with the link, and on disk
        if figures["waiting"] == 200 && figures["unsynced"] == 0 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{figures}");
    }
    gateway.kill();
    assert!(all.left("gw/weather").is_empty());
    let killed = jiff::Timestamp::now();
    // the next run has nothing more to say
    home.write(&std::fs::read_to_string(home.file()).unwrap().replace("-lt 200", "-lt 0"));
    let gateway = home.start();
    let (readings, _) = collect(&mut all, 200);
    complete(readings.iter().map(|r| r["seq"].as_u64().unwrap()).collect(), 200);
    for reading in &readings {
        assert!(reading["time"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap() < killed, "{reading}");
        assert_eq!(reading["replayed"], true);
    }
    gateway.stop();
}

#[test]
fn the_broker_that_goes_away_under_batches_gets_every_reading() {
    let mut broker = Mosquitto::start();
    let door = Door::to(broker.port());
    let program = "i=0; while [ $i -lt 600 ]; do i=$((i+1)); echo \"T=$i\"; sleep 0.002; done; exec sleep 1000";
    let home = Home::new(
        &door.url(),
        "",
        "",
        &format!(
            "ports: {{ m: {{ command: [sh, -c, '{program}'] }} }}
devices: {{ weather: {{ {WEATHER}, batch: {{ every: 200ms, max: 20 }}, points: {{ t: {{ field: T }} }} }} }}"
        ),
    );
    let mut all = Watch::on(&mut broker, "gw/#");
    door.open();
    let gateway = home.start();
    let mut seqs = Vec::new();
    for _ in 0..2 {
        seqs.extend(items(&all.next("gw/weather")).iter().map(|r| r["seq"].as_u64().unwrap()));
        door.close();
        door.open();
    }
    let begun = Instant::now();
    while seqs.iter().collect::<std::collections::BTreeSet<_>>().len() < 600 {
        seqs.extend(items(&all.next("gw/weather")).iter().map(|r| r["seq"].as_u64().unwrap()));
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
    complete(seqs, 600);
    assert!(all.left("gw/bridge/event").iter().all(|got| got.json()["event"] != "gap"));
    gateway.stop();
}

#[test]
fn a_payload_is_written_as_its_template_says() {
    let mut broker = Mosquitto::start();
    let home = Home::simple(
        &broker,
        &format!(
            "{}devices:
  door: {{ kind: digital_in, pin: 17, payload_on: open, payload: '{{{{ payload }}}} at {{{{ topic }}}}' }}
  weather: {{ {WEATHER}, points: {{ t: {{ field: T, payload: '{{\"t\": {{{{ value + 0.5 }}}}, \"h\": {{{{ fields.H }}}}}}' }} }} }}
",
            lines(1)
        ),
    );
    let mut all = Watch::on(&mut broker, "gw/#");
    let gateway = home.start();
    let got = all.next("gw/weather");
    assert_eq!(got.json(), serde_json::json!({ "t": 1.5, "h": 1001 }));
    assert!(got.user.contains_key("time") && got.seq() > 0);
    all.expect("gw/door", "OFF at gw/door");
    publish(&broker, "gw/sim/pin/17/set", "1", &[]);
    all.expect("gw/door", "open at gw/door");
    gateway.stop();
}
