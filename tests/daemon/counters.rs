//! `counter` and `encoder`: what they count, what survives, what may be set.

use super::inputs::lines;
use crate::support::gateway::{Home, Watch, publish};
use crate::support::mosquitto::Mosquitto;

const METER: &str = "devices:
  water: { kind: counter, pin: 22, pull: up, edge: falling, per_unit: 1000, every: 200ms, unit: m³, rate_unit: h, filters: [ { delta: 0.0001 } ] }
";

/// The next total that is this.
fn total(all: &mut Watch, total: &str) {
    all.until_payload("gw/water/total", total);
}

#[test]
fn a_total_counts_every_pulse_and_survives_a_stop_and_a_crash() {
    let mut broker = Mosquitto::start();
    let home = Home::simple(&broker, METER);
    let mut all = Watch::on(&mut broker, "gw/#");
    let gateway = home.online(&mut all);
    all.expect("gw/water/total", "0");
    all.expect("gw/water/rate", "0");

    // as many at a time as mosquitto keeps for a subscriber
    for sum in ["0.4", "0.8", "1.2", "1.6", "2"] {
        lines(&broker, "gw/sim/pin/22/set", &"0\n1\n".repeat(400));
        total(&mut all, sum);
    }
    all.until("gw/water/rate", |g| g.payload.parse::<f64>().unwrap() > 0.0);
    // then a silence, and the rate is none
    all.until_payload("gw/water/rate", "0");

    gateway.stop();
    all.forget();
    let gateway = home.online(&mut all);
    all.expect("gw/water/total", "2");

    publish(&broker, "gw/water/total/set", "1234.567", &[]);
    assert_eq!(all.next("gw/water/total/result").json()["outcome"], "done");
    total(&mut all, "1234.567");
    for bad in ["-1", "much"] {
        publish(&broker, "gw/water/total/set", bad, &[]);
        let answer = all.next("gw/water/total/result").json();
        assert_eq!(answer["outcome"], "rejected", "{answer}");
    }
    // what was set is written at once; the file is there when it was
    let memory = home.path("state/queue.state/memory");
    let begun = std::time::Instant::now();
    while !std::fs::read_to_string(&memory).is_ok_and(|text| text.contains("1234567")) {
        assert!(
            begun.elapsed() < crate::support::program::PATIENCE,
            "{} has no total: {:?}",
            memory.display(),
            std::fs::read_to_string(&memory)
        );
        std::thread::yield_now();
    }
    gateway.kill();
    all.forget();
    let gateway = home.online(&mut all);
    all.expect("gw/water/total", "1234.567");
    gateway.stop();
}

#[test]
fn a_knob_is_turned_and_set() {
    let mut broker = Mosquitto::start();
    let knob = "devices:\n  knob: { kind: encoder, pins: [20, 21], pull: up, max: 10, step: 5, restore: yes }\n";
    let home = Home::simple(&broker, knob);
    let mut all = Watch::on(&mut broker, "gw/#");
    let gateway = home.online(&mut all);
    all.expect("gw/knob", "0");
    for (pin, level) in [(20, "0"), (21, "0"), (20, "1"), (21, "1")] {
        publish(&broker, &format!("gw/sim/pin/{pin}/set"), level, &[]);
    }
    all.expect("gw/knob", "5");
    publish(&broker, "gw/knob/set", "7.5", &[]);
    assert_eq!(all.next("gw/knob/result").json()["outcome"], "done");
    all.expect("gw/knob", "7.5");
    publish(&broker, "gw/knob/set", "11", &[]);
    assert_eq!(all.next("gw/knob/result").json()["outcome"], "rejected");
    gateway.stop();
    all.forget();
    let gateway = home.online(&mut all);
    all.expect("gw/knob", "7.5");
    gateway.stop();
}
