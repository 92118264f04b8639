//! A whole daemon on simulated pins, without a broker.

use super::*;
use crate::config::When;
use crate::hal::Level;
use crate::plan::{Ask, check};
use crate::queue::Options;

fn plan(dir: &std::path::Path, devices: &str) -> Plan {
    let text = format!(
        "version: 1\ngateway: {{ id: t }}\nmqtt: {{ url: \"mqtt://127.0.0.1:1\" }}\nqueue: {{ dir: queue }}\n{devices}"
    );
    let ask = Ask { env: &|_| None, base: dir, when: When::Run, simulate: true, host: "h", machine: "m" };
    let checked = check(text.as_bytes(), &ask);
    checked.plan.unwrap_or_else(|| panic!("{:#?}", checked.problems))
}

/// Pins that tell of every output's level.
fn pins() -> (Pins, SimBoard) {
    let pins = Pins::simulated();
    let sim = pins.sim.clone().unwrap();
    (pins, sim)
}

#[tokio::test]
async fn what_devices_have_said_when_it_stops_is_in_the_queue() {
    let dir = tempfile::tempdir().unwrap();
    let (pins, _) = pins();
    // a program that says more than the hub can take
    let devices = "ports: { y: { command: [yes] } }\ndevices: { flood: { kind: serial, port: y, points: { y: {} } } }";
    let plan = plan(dir.path(), devices);
    let options: Options = plan.queue.clone();
    let daemon = Daemon::start(plan, pins).unwrap();
    let counters = daemon.counters.clone();
    while counters[0].read().readings < 1000 {
        tokio::task::yield_now().await;
    }
    daemon.stop().await;
    let said = counters[0].read().readings;
    let (queue, _log) = Queue::open(options, Duration::ZERO).unwrap();
    // availability and the like are told when the broker is there, so that only readings wait
    assert_eq!(queue.stats().waiting, said);
}

#[tokio::test]
async fn after_an_end_without_order_outputs_start_safe() {
    let dir = tempfile::tempdir().unwrap();
    let devices = "devices: { pump: { kind: digital_out, pin: 27, initial: on } }";
    for (abandoned_before, level) in [(false, Level::High), (true, Level::Low)] {
        let (pins, sim) = pins();
        let daemon = Daemon::start(plan(dir.path(), devices), pins).unwrap();
        while daemon.counters[0].read().readings == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(sim.outputs(), [(27, level)], "abandoned before: {abandoned_before}");
        daemon.abandon();
    }
}
