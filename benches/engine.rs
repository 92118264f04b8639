//! What one reading costs on its way from the device to the broker's client, without disk and socket, and how often it
//! allocates. `cargo bench --bench engine`.

use std::time::Duration;

use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher, black_box};
use pinpost::config::raw::Params;
use pinpost::engine::bridge::Info;
use pinpost::engine::filters::Chain;
use pinpost::engine::logic::{Computed, Logic};
use pinpost::engine::points::Alarm;
use pinpost::engine::rules::{Rule, Step, Trigger};
use pinpost::engine::{Effect, Engine, Event, Outgoing, Setup};
use pinpost::expr::{Expression, Given, Scope};
use pinpost::model::{DeviceId, DeviceSpec, Frame, Mono, Now, PointId, PointSpec, Qos, Quality, Stamp, Value, Wall};
use pinpost::queue::{Entry, Limits, Queue, WhenFull};
use pinpost::wire::Record;
use pinpost::wire::record::Sending;

#[global_allocator]
static ALLOC: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

/// Filters that let every reading pass, so that the whole way is gone each time.
const FILTERS: &str = r#"[{"scale": 1.8}, {"offset": 32}, {"round": 1}]"#;
const READINGS: usize = 1000;

fn now(ms: u64) -> Now {
    let mono = Duration::from_secs(60) + Duration::from_millis(ms);
    Now { wall: Wall(1_795_176_000_000 + ms as i64), mono: Mono(mono), synced: true }
}

fn point(id: u32) -> PointSpec {
    PointSpec {
        id: PointId(id),
        device: DeviceId(id),
        name: "temperature".into(),
        topic: format!("greenhouse/weather{id}/temperature"),
        qos: Qos::AtLeastOnce,
        retain: false,
        deliver: Default::default(),
        priority: Default::default(),
        expiry: None,
        payload: Default::default(),
        own_payload: false,
        batch: None,
        payload_on: "ON".into(),
        payload_off: "OFF".into(),
        unit: None,
        device_class: None,
        stateful: true,
    }
}

fn engine(points: u32, filters: &str) -> Engine {
    thinking(points, filters, Logic::default())
}

fn thinking(points: u32, filters: &str, logic: Logic) -> Engine {
    let device = |id| DeviceSpec {
        id: DeviceId(id),
        name: format!("weather{id}"),
        kind: "serial",
        points: vec![PointId(id)],
        verbs: vec!["get".into()],
        own: vec![],
        output: None,
    };
    let chain = |_| {
        let params: Vec<Params> = serde_json::from_str(filters).expect("filters");
        Chain::build(&params, &Scope::new()).unwrap_or_else(|_| panic!("filters"))
    };
    let setup = Setup {
        topics: pinpost::wire::Topics::new("greenhouse"),
        devices: (0..points).map(device).collect(),
        points: (0..points).map(point).collect(),
        chains: (0..points).map(chain).collect(),
        logic,
        info: Info::default(),
        home_assistant: None,
        sparkplug: None,
        homie: None,
        memory: Default::default(),
        boot: Default::default(),
        abnormal: false,
    };
    let mut engine = Engine::new(setup, &now(0));
    engine.handle(Event::LinkUp, &now(0), &mut Vec::new());
    engine
}

fn reading(i: usize, value: Value) -> Event {
    let taken: Stamp = now(i as u64).stamp();
    Event::Reading { point: PointId(0), value, quality: Quality::Good, taken, frame: Frame::default() }
}

fn number(i: usize) -> Value {
    Value::Number(20.0 + i as f64)
}

/// As `runtime` fills it.
fn entry(out: Outgoing) -> Entry {
    let taken = out.taken.unwrap_or_default();
    Entry {
        reading: out.reading,
        rank: out.priority as u8,
        lane: out.lane,
        stamp: pinpost::queue::Stamp {
            wall: taken.wall.0,
            mono: taken.mono.0.as_millis() as u64,
            boot: 7,
            synced: true,
        },
        source: out.source,
        body: out.record.encode(),
        ..Entry::default()
    }
}

fn queue() -> Queue {
    let limits = Limits { max_bytes: 64 << 20, max_age: Duration::from_secs(86_400), when_full: WhenFull::DropOldest };
    let mut queue = Queue::new(limits, 1);
    queue.link_up();
    queue
}

fn record(fx: &mut Vec<Effect>) -> Outgoing {
    match fx.pop() {
        Some(Effect::Send(out)) => out,
        other => panic!("no message but {other:?}"),
    }
}

#[divan::bench]
fn a_number_through_three_filters(bencher: Bencher) {
    let (mut engine, mut fx) = (engine(20, FILTERS), Vec::new());
    bencher.counter(ItemsCount::new(READINGS)).bench_local(|| {
        for i in 0..READINGS {
            engine.handle(reading(i, number(i)), &now(i as u64), &mut fx);
            black_box(fx.pop());
        }
    });
}

#[divan::bench]
fn a_switch_without_filters(bencher: Bencher) {
    let (mut engine, mut fx) = (engine(20, "[]"), Vec::new());
    bencher.counter(ItemsCount::new(READINGS)).bench_local(|| {
        for i in 0..READINGS {
            engine.handle(reading(i, Value::Bool(i % 2 == 0)), &now(i as u64), &mut fx);
            black_box(fx.pop());
        }
    });
}

#[divan::bench]
fn a_record_is_encoded(bencher: Bencher) {
    let (mut engine, mut fx) = (engine(1, FILTERS), Vec::new());
    engine.handle(reading(0, number(0)), &now(0), &mut fx);
    let out = record(&mut fx);
    bencher.counter(ItemsCount::new(READINGS)).bench_local(|| {
        for _ in 0..READINGS {
            black_box(black_box(&out).record.encode());
        }
    });
}

#[divan::bench]
fn a_record_is_read_and_written_as_a_message(bencher: Bencher) {
    let (mut engine, mut fx) = (engine(1, FILTERS), Vec::new());
    engine.handle(reading(0, number(0)), &now(0), &mut fx);
    let body = record(&mut fx).record.encode();
    bencher.counter(ItemsCount::new(READINGS)).bench_local(|| {
        for i in 0..READINGS {
            black_box(message(&body, i));
        }
    });
}

fn message(body: &[u8], i: usize) -> pinpost::model::Message {
    let now = now(i as u64);
    let sending =
        Sending { seq: Some(i as u64), replayed: false, taken: now.stamp(), ours: true, expires_in: None, now };
    Record::decode(body).expect("a record").into_message(&sending)
}

/// Names of so many points, as the plan gives them.
fn names(points: u32) -> Scope {
    (0..points).fold(Scope::new(), |s, i| s.device(&format!("weather{i}"), [("temperature", PointId(i))]))
}

/// Three filters and ten rules that all read the point; none of them fires.
#[divan::bench]
fn three_filters_and_ten_rules(bencher: Bencher) {
    let scope = names(20);
    let rule = |i: usize| {
        let text = match i % 3 {
            0 => format!("weather0 > {} and not weather1", 10_000 + i),
            1 => format!("weather0 * 1.8 + 32 > {} or weather0 in [1, 2, 3]", 100_000 + i),
            _ => format!("weather0 > {} and weather0.quality == 'good'", 10_000 + i),
        };
        Rule {
            name: format!("r{i}"),
            trigger: Trigger::Change,
            when: Some(Expression::compile(&text, &scope).expect("a good expression")),
            until: None,
            hold: Duration::ZERO,
            then: vec![Step::Delay(Duration::from_secs(1))].into(),
            otherwise: [].into(),
        }
    };
    let logic = Logic { rules: (0..10).map(rule).collect(), ..Logic::default() };
    let (mut engine, mut fx) = (thinking(20, FILTERS, logic), Vec::new());
    bencher.counter(ItemsCount::new(READINGS)).bench_local(|| {
        for i in 0..READINGS {
            fx.clear();
            engine.handle(reading(i, number(i)), &now(i as u64), &mut fx);
            black_box(&fx);
        }
    });
}

/// Three filters, an alarm, and a point computed from this one, which has no filters.
#[divan::bench]
fn three_filters_an_alarm_and_a_computed_point(bencher: Bencher) {
    let scope = names(2);
    let compile = |text: &str, scope: &Scope| Expression::compile(text, scope).expect("a good expression");
    let when = compile("value > 100000", &scope.clone().with_value());
    let alarm = Alarm { when, qos: Qos::AtLeastOnce, retain: true, priority: Default::default() };
    let value = compile("(weather0 - 32) / 1.8", &scope);
    let computed = Computed { device: DeviceId(1), point: PointId(1), value };
    let logic = Logic { alarms: vec![(PointId(0), alarm)], computed: vec![computed], ..Logic::default() };
    let (mut engine, mut fx) = (thinking(2, FILTERS, logic), Vec::new());
    bencher.counter(ItemsCount::new(READINGS)).bench_local(|| {
        for i in 0..READINGS {
            fx.clear();
            engine.handle(reading(i, number(i)), &now(i as u64), &mut fx);
            black_box(&fx);
        }
    });
}

/// One expression, by itself.
#[divan::bench(args = ["value > 38", "value * 1.8 + 32", "value > 25 and value < 30 or value in [1, 2, 3]", "value | round(1)"])]
fn an_expression(bencher: Bencher, text: &str) {
    let expression = Expression::compile(text, &Scope::new().with_value()).expect("a good expression");
    let value = Value::Number(21.55);
    let at = Given { now: now(1), value: Some(&value), words: &[] };
    bencher.bench_local(|| black_box(black_box(&expression).value(black_box(&at))));
}

#[divan::bench]
fn the_queue_takes_gives_and_forgets(bencher: Bencher) {
    let (mut engine, mut fx, mut queue) = (engine(1, FILTERS), Vec::new(), queue());
    engine.handle(reading(0, number(0)), &now(0), &mut fx);
    let out = record(&mut fx);
    let mut ms = 0;
    bencher
        .counter(ItemsCount::new(READINGS))
        .with_inputs(|| (0..READINGS).map(|_| entry(out.clone())).collect::<Vec<_>>())
        .bench_local_values(|entries| {
            for entry in entries {
                ms += 1;
                queue.append(entry, now(ms).mono.0);
                let out = queue.take(now(ms).mono.0).expect("it was just appended");
                queue.done(out.token);
                black_box(out);
            }
        });
}

/// Filters, record, queue, message: all that a reading costs between device and client but the socket.
#[divan::bench]
fn the_whole_way(bencher: Bencher) {
    let (mut engine, mut fx, mut queue) = (engine(20, FILTERS), Vec::new(), queue());
    let mut ms = 0;
    bencher.counter(ItemsCount::new(READINGS)).bench_local(|| {
        for i in 0..READINGS {
            ms += 1;
            let now = now(ms);
            engine.handle(reading(i, number(i)), &now, &mut fx);
            queue.append(entry(record(&mut fx)), now.mono.0);
            let out = queue.take(now.mono.0).expect("it was just appended");
            black_box(message(&out.body, i));
            queue.done(out.token);
            black_box(engine.next_wake());
        }
    });
}

/// The hub asks this at every turn of its loop.
#[divan::bench(args = [20, 200])]
fn next_wake_of_so_many_points(bencher: Bencher, points: u32) {
    let heartbeat = r#"[{"scale": 1.8}, {"round": 1}, {"heartbeat": "5m"}]"#;
    let mut engine = engine(points, heartbeat);
    for id in 0..points {
        let event = Event::Reading {
            point: PointId(id),
            value: number(1),
            quality: Quality::Good,
            taken: now(1).stamp(),
            frame: Frame::default(),
        };
        engine.handle(event, &now(1), &mut Vec::new());
    }
    bencher.bench_local(|| black_box(black_box(&engine).next_wake()));
}
