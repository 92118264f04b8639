//! A whole daemon on simulated pins, without a broker.

use super::*;
use crate::config::When;
use crate::plan::{Ask, check};
use crate::queue::{self, Options};

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

/// A reading that an earlier process of this boot, or of another, took five seconds before this one began.
fn sent_as(boot: impl Fn(u64) -> u64) -> Vec<(String, String)> {
    let clock = Arc::new(crate::clock::Clock::new());
    let limits = queue::Limits {
        max_bytes: 1 << 20,
        max_age: Duration::from_secs(600),
        when_full: queue::WhenFull::DropOldest,
    };
    let shared = Shared::new(Queue::new(limits, 1), clock.start());
    let record = crate::wire::ReadingRecord {
        topic: "t/x".into(),
        qos: crate::model::Qos::AtLeastOnce,
        retain: false,
        format: crate::model::PayloadFormat::Plain,
        words: Default::default(),
        value: crate::model::Value::Number(1.0),
        quality: crate::model::Quality::Good,
    };
    let mono = clock.boot().start.saturating_sub(5000);
    shared.lock().append(
        queue::Entry {
            reading: true,
            stamp: queue::Stamp { wall: 7_000, mono, boot: boot(clock.boot().id), synced: false },
            body: crate::wire::Record::Reading(Box::new(record)).encode(),
            ..Default::default()
        },
        Duration::ZERO,
    );
    let outbox = outbox::QueueOutbox::new(shared, clock, Arc::default());
    crate::link::Outbox::take(&*outbox).unwrap().message.properties.user
}

#[tokio::test]
async fn what_an_earlier_process_of_this_boot_took_before_the_clock_was_set_is_put_right() {
    let user = sent_as(|boot| boot);
    let time: jiff::Timestamp = user.iter().find(|u| u.0 == "time").unwrap().1.parse().unwrap();
    let age = jiff::Timestamp::now().as_millisecond() - time.as_millisecond();
    assert!((5_000..65_000).contains(&age), "{age}");
    assert!(!user.iter().any(|u| u.0 == "clock"), "{user:?}");
    let user = sent_as(|boot| boot ^ 1);
    assert!(user.contains(&("time".into(), "1970-01-01T00:00:07.000Z".into())), "{user:?}");
    assert!(user.contains(&("clock".into(), "unsynced".into())));
}
