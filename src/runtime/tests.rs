//! A whole daemon on simulated pins, without a broker.

use super::*;
use crate::config::When;
use crate::device::Report;
use crate::hal::Level;
use crate::link::LinkEvent;
use crate::model::{Action, Incoming, PointId, Value};
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
    let limits =
        queue::Limits { max_bytes: 1 << 20, max_age: Duration::from_secs(600), when_full: queue::WhenFull::DropOldest };
    let shared = Shared::new(Queue::new(limits, 1), clock.start().into_std());
    let record = crate::wire::ReadingRecord {
        topic: "t/x".into(),
        qos: crate::model::Qos::AtLeastOnce,
        retain: false,
        format: crate::model::PayloadFormat::Plain,
        words: Default::default(),
        value: crate::model::Value::Number(1.0),
        quality: crate::model::Quality::Good,
        told: None,
        batch: None,
    };
    let mono = clock.epoch().start.saturating_sub(5000);
    shared.lock().append(
        queue::Entry {
            reading: true,
            stamp: queue::Stamp { wall: 7_000, mono, boot: boot(clock.epoch().id), synced: false },
            body: crate::wire::Record::Reading(Box::new(record)).encode(),
            ..Default::default()
        },
        Duration::ZERO,
    );
    let outbox = outbox::QueueOutbox::new(shared, clock, Arc::default(), None);
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

/// A hub whose queue is full and whose link takes nothing, with one output `pump`.
fn pressed_hub(dir: &std::path::Path) -> (Hub, hub::Ears, Hands) {
    let plan = plan(dir, "devices: { pump: { kind: digital_out, pin: 27 }, door: { kind: digital_in, pin: 17 } }");
    let clock = Arc::new(Clock::new());
    let options = Options { memory: 4096, ..Options::new(dir.join("queue")) };
    let (queue, _log) = Queue::open(options, Duration::ZERO).unwrap();
    let queue = Shared::new(queue, clock.start().into_std());
    queue.lock().link_up();
    while !queue.lock().pressed() {
        queue.lock().append(crate::queue::Entry { body: vec![0; 100], ..Default::default() }, Duration::ZERO);
    }
    let wake = Arc::new(Notify::new());
    let outbox = QueueOutbox::new(queue.clone(), clock.clone(), wake.clone(), None);
    let (link_tx, link) = mpsc::channel(LINK_EVENTS);
    let (_, handle) = Link::new(plan.link, outbox.clone(), link_tx.clone());
    let devices: Vec<_> = plan.devices.iter().map(|d| d.spec.clone()).collect();
    let (orders_tx, orders) = mpsc::channel(ORDERS);
    let part = |orders| Part {
        name: "pump".into(),
        orders,
        counters: Arc::default(),
        task: tokio::spawn(std::future::pending()),
    };
    let setup = Setup {
        topics: plan.topics,
        devices,
        points: plan.points,
        chains: plan.chains,
        logic: Default::default(),
        info: Default::default(),
        home_assistant: None,
        sparkplug: None,
        homie: None,
        memory: Default::default(),
        boot: Default::default(),
        abnormal: false,
    };
    let hub = Hub {
        engine: Engine::new(setup, &clock.now()),
        clock,
        queue,
        outbox,
        link: handle,
        parts: vec![part(orders_tx)],
        sim: None,
        memory: Memory::open(dir.join("memory"), || ()),
        status: Default::default(),
        wanted: mpsc::channel(1).0,
        level_timer: Default::default(),
        disk_fails: false,
        health_topic: "t/bridge/health".into(),
    };
    let (reports_tx, reports) = mpsc::channel(REPORTS);
    let (answers_tx, answers) = mpsc::channel(REPORTS);
    let (asks_tx, asks) = mpsc::channel(8);
    let ears = hub::Ears { reports, answers, link, levels: mpsc::unbounded_channel().1, asks, wake };
    (hub, ears, Hands { reports: reports_tx, answers: answers_tx, link: link_tx, orders, _asks: asks_tx })
}

/// What happens to a hub.
struct Hands {
    reports: mpsc::Sender<Report>,
    answers: mpsc::Sender<Report>,
    link: mpsc::Sender<LinkEvent>,
    orders: mpsc::Receiver<crate::device::Order>,
    _asks: mpsc::Sender<super::Ask>,
}

#[tokio::test]
async fn an_answer_is_heard_while_devices_are_held_back() {
    let dir = tempfile::tempdir().unwrap();
    let (hub, ears, mut hands) = pressed_hub(dir.path());
    let reading = |point: u32, on: bool| Report::Reading {
        point: PointId(point),
        value: Value::Bool(on),
        quality: Default::default(),
        taken: Default::default(),
        frame: Default::default(),
    };
    // outputs are heard on the way of the answers
    hands.answers.send(reading(0, false)).await.unwrap();
    while hands.reports.try_send(reading(1, true)).is_ok() {}
    let hub = tokio::spawn(hub.run(ears));
    let story = async {
        // before the hub knows the pin's state it refuses what is wished of it
        while hands.answers.capacity() < REPORTS {
            tokio::task::yield_now().await;
        }
        for value in ["ON", "OFF"] {
            let topic = "t/pump/set".to_owned();
            let message = Incoming { topic, payload: value.into(), ..Incoming::default() };
            hands.link.send(LinkEvent::Incoming(message)).await.unwrap();
        }
        let first = hands.orders.recv().await.unwrap();
        hands.answers.send(Report::Acted(first.ticket, Ok(Some(Value::Bool(true))))).await.unwrap();
        // OFF has waited for ON
        let second = hands.orders.recv().await.unwrap();
        assert_eq!(second.action, Action::Set(Value::Bool(false)));
    };
    tokio::time::timeout(Duration::from_secs(30), story).await.expect("the answer waited behind the readings");
    assert!(hands.reports.capacity() < REPORTS / 2, "the devices were not held back");
    hub.abort();
}

#[tokio::test]
async fn what_waits_of_a_point_is_not_replaced_by_another_one_of_the_next_file() {
    let dir = tempfile::tempdir().unwrap();
    for (name, waits) in [("old", 1), ("new", 2)] {
        let devices = format!(
            "ports: {{ p: {{ command: [sh, -c, 'echo {name}; exec sleep 100'] }} }}\n\
             devices: {{ {name}: {{ kind: serial, port: p, points: {{ text: {{ deliver: latest }} }} }} }}"
        );
        let plan = plan(dir.path(), &devices);
        let options = plan.queue.clone();
        let daemon = Daemon::start(plan, pins().0).unwrap();
        while daemon.counters[0].read().readings == 0 {
            tokio::task::yield_now().await;
        }
        daemon.stop().await;
        let (queue, _log) = Queue::open(options, Duration::ZERO).unwrap();
        assert_eq!(queue.stats().waiting, waits, "after {name}");
    }
}
