//! Single cases of what outputs are held to; all others are in `judge`.

mod judge;

use super::*;
use crate::model::{OutputLimits, Value, Wall};
use std::collections::BTreeMap;

const ON: Setting = Setting::On(1.0);
const OFF: Setting = Setting::Off;

pub(super) fn device(id: u32, limits: OutputLimits) -> DeviceSpec {
    DeviceSpec {
        id: DeviceId(id),
        name: format!("d{id}"),
        kind: "digital_out",
        points: vec![],
        verbs: vec![],
        own: vec![],
        output: Some(limits),
    }
}
fn at(ms: u64) -> Now {
    Now { wall: Wall(1_800_000_000_000 + ms as i64), mono: Mono(Duration::from_millis(ms)), synced: true }
}
pub(super) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
fn outputs(list: &[DeviceSpec]) -> Outputs {
    Outputs::new(list, &BTreeMap::new(), Boot::default(), false, &at(0))
}
/// One output that is off.
fn one(limits: OutputLimits) -> (DeviceId, Outputs) {
    let mut o = outputs(&[device(0, limits)]);
    o.seen(DeviceId(0), OFF, &at(0));
    (DeviceId(0), o)
}
fn kind(v: Verdict) -> OutcomeKind {
    match v {
        Verdict::Answer(o) => o.kind,
        Verdict::Write(_) => OutcomeKind::Done,
    }
}
fn write(to: Setting) -> Verdict {
    Verdict::Write(Write { to, over: Duration::ZERO })
}

#[test]
fn an_interlock_refuses_while_the_other_is_on_and_is_busy_in_the_dead_time() {
    let limits = OutputLimits { interlock: Some("blind".into()), dead_time: ms(500), ..OutputLimits::default() };
    let mut o = outputs(&[device(0, limits.clone()), device(1, limits)]);
    let (up, down) = (DeviceId(0), DeviceId(1));
    o.seen(up, OFF, &at(0));
    o.seen(down, OFF, &at(0));
    assert_eq!(o.wish(up, Wish::On, &at(1000)), write(ON));
    assert_eq!(kind(o.wish(down, Wish::On, &at(1000))), OutcomeKind::Rejected);
    o.settled(up, Some(ON), &at(1001));
    assert_eq!(kind(o.wish(down, Wish::On, &at(1002))), OutcomeKind::Rejected);
    assert_eq!(o.wish(up, Wish::Be(OFF), &at(2000)), write(OFF));
    assert_eq!(kind(o.wish(down, Wish::On, &at(2000))), OutcomeKind::Busy);
    o.settled(up, Some(OFF), &at(2000));
    assert_eq!(kind(o.wish(down, Wish::On, &at(2400))), OutcomeKind::Busy);
    assert_eq!(o.wish(down, Wish::On, &at(2500)), write(ON));
}

#[test]
fn max_on_holds_whatever_is_wished() {
    let (id, mut o) = one(OutputLimits { max_on: Some(ms(1000)), ..Default::default() });
    assert_eq!(kind(o.wish(id, Wish::Pulse(ms(1500)), &at(0))), OutcomeKind::Rejected);
    o.wish(id, Wish::On, &at(10));
    o.settled(id, Some(ON), &at(12));
    assert_eq!(kind(o.wish(id, Wish::On, &at(900))), OutcomeKind::Unchanged);
    assert_eq!(kind(o.wish(id, Wish::Pulse(ms(900)), &at(900))), OutcomeKind::Done);
    assert_eq!(o.next_wake(), Some(at(1010).mono), "it counts from the order");
    assert!(o.due(&at(1009)).is_empty());
    assert!(o.due(&at(1010))[0].reason.contains("max_on"));
    o.settled(id, None, &at(1011));
    assert_eq!(o.next_wake(), Some(at(2011).mono), "a switching-off that failed is tried again");
}

#[test]
fn a_pulse_ends_by_itself_and_a_plain_on_ends_its_claim() {
    let (id, mut o) = one(OutputLimits::default());
    assert_eq!(o.wish(id, Wish::Pulse(ms(300)), &at(0)), write(ON));
    o.settled(id, Some(ON), &at(5));
    assert_eq!(o.next_wake(), Some(at(305).mono));
    o.wish(id, Wish::On, &at(100));
    assert_eq!(o.next_wake(), None);
}

#[test]
fn min_off_counts_from_the_start_and_safety_beats_min_on() {
    let (id, mut o) =
        one(OutputLimits { min_off: ms(100), min_on: ms(1000), on_stop: Some(OFF), ..Default::default() });
    assert_eq!(kind(o.wish(id, Wish::On, &at(50))), OutcomeKind::Rejected);
    o.wish(id, Wish::On, &at(150));
    o.settled(id, Some(ON), &at(150));
    assert_eq!(kind(o.wish(id, Wish::Toggle, &at(300))), OutcomeKind::Rejected);
    assert_eq!(o.stop(&[], &at(301)).len(), 1);
}

#[test]
fn the_loss_of_the_broker_acts_once() {
    let mut o = outputs(&[device(0, OutputLimits { on_broker_loss: Some((ms(60), Some(OFF))), ..Default::default() })]);
    let id = DeviceId(0);
    o.broker(true, at(0).mono);
    o.seen(id, ON, &at(0));
    assert_eq!(o.next_wake(), None);
    o.broker(false, at(100).mono);
    assert_eq!(o.next_wake(), Some(at(160).mono));
    assert_eq!(o.due(&at(160)).len(), 1);
    o.settled(id, Some(OFF), &at(160));
    assert_eq!(o.next_wake(), None);
}

#[test]
fn a_blink_goes_on_as_often_as_was_said_and_any_command_ends_it() {
    let (id, mut o) = one(OutputLimits { min_off: ms(50), ..Default::default() });
    let blink = Blink { on: ms(100), off: ms(200), times: Some(2) };
    let short = Wish::Blink(Blink { off: ms(20), ..blink });
    assert_eq!(kind(o.wish(id, short, &at(1000))), OutcomeKind::Rejected);
    assert_eq!(o.wish(id, Wish::Blink(blink), &at(1000)), write(ON));
    let mut said = Vec::new();
    let mut is = ON;
    o.settled(id, Some(ON), &at(1000));
    while let Some(wake) = o.next_wake() {
        let now = Now { mono: wake, ..at(0) };
        for forced in o.due(&now) {
            assert!(forced.quiet && forced.to != is);
            is = forced.to;
            said.push(wake.0.as_millis());
            o.settled(id, Some(forced.to), &now);
        }
    }
    assert_eq!((said, is), (vec![1100, 1300, 1400], OFF));
    o.wish(id, Wish::Blink(Blink { times: None, ..blink }), &at(2000));
    o.settled(id, Some(ON), &at(2000));
    assert_eq!(kind(o.wish(id, Wish::On, &at(2010))), OutcomeKind::Unchanged);
    assert_eq!(o.next_wake(), None);
}

#[test]
fn a_duty_is_within_its_bounds_and_on_means_as_before() {
    let scale = Scale::Duty { min: 20.0, max: 80.0 };
    let (id, mut o) = one(OutputLimits { scale, ..Default::default() });
    for bad in [10.0, 80.1] {
        assert_eq!(kind(o.wish(id, Wish::Be(Setting::On(bad)), &at(0))), OutcomeKind::Rejected);
    }
    assert_eq!(o.wish(id, Wish::On, &at(0)), write(Setting::On(80.0)));
    o.settled(id, Some(Setting::On(80.0)), &at(0));
    assert_eq!(o.wish(id, Wish::Be(Setting::On(40.0)), &at(1)), write(Setting::On(40.0)));
    o.settled(id, Some(Setting::On(40.0)), &at(1));
    assert_eq!(o.wish(id, Wish::Toggle, &at(2)), write(OFF));
    o.settled(id, Some(OFF), &at(2));
    assert_eq!(o.wish(id, Wish::Toggle, &at(3)), write(Setting::On(40.0)));
    o.settled(id, Some(Setting::On(40.0)), &at(3));
    let down = Wish::Fade { to: OFF, over: ms(500) };
    assert_eq!(o.wish(id, down, &at(4)), Verdict::Write(Write { to: OFF, over: ms(500) }));
    o.settled(id, Some(Setting::On(39.9)), &at(5));
    assert_eq!(o.next_wake(), Some(at(1505).mono), "a fade that does not end is ended");
    o.seen(id, OFF, &at(505));
    assert_eq!(o.next_wake(), None);
    match o.wish(id, Wish::Be(OFF), &at(600)) {
        Verdict::Answer(o) => assert_eq!(o.value, Some(Value::Number(0.0))),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_it_requires_takes_it_down_and_keeps_it_down() {
    let (id, mut o) = one(OutputLimits { requires: Some("lid".into()), ..Default::default() });
    assert_eq!(kind(o.wish(id, Wish::On, &at(0))), OutcomeKind::Rejected, "nothing is known yet");
    assert!(o.requirement(id, Ok(()), &at(1)).is_empty());
    o.wish(id, Wish::On, &at(2));
    o.settled(id, Some(ON), &at(2));
    let forced = o.requirement(id, Err("not without the lid".into()), &at(3));
    assert_eq!((forced[0].to, forced[0].reason.as_str()), (OFF, "not without the lid"));
    o.settled(id, Some(OFF), &at(3));
    match o.wish(id, Wish::On, &at(4)) {
        Verdict::Answer(o) => assert_eq!(o.reason.as_deref(), Some("not without the lid")),
        other => panic!("{other:?}"),
    }
}

/// What the next run is told, and how the output begins in it.
fn next_run(
    o: &mut Outputs,
    memory: &mut BTreeMap<String, Json>,
    list: &[DeviceSpec],
    boot: &Boot,
    abnormal: bool,
    now: &Now,
) -> Begin {
    for (key, value) in o.take_notes() {
        match value {
            Some(value) => drop(memory.insert(key, value)),
            None => drop(memory.remove(&key)),
        }
    }
    *o = Outputs::new(list, memory, boot.clone(), abnormal, now);
    o.begin(DeviceId(0), abnormal, false)
}

#[test]
fn the_time_off_is_remembered_after_a_stop_in_order_only() {
    let boot = Boot { id: "b".into(), offset: ms(10_000) };
    for (abnormal, want) in [(false, OutcomeKind::Done), (true, OutcomeKind::Rejected)] {
        let list = [device(0, OutputLimits { min_off: ms(1000), on_stop: Some(OFF), ..Default::default() })];
        let (id, mut o) = (DeviceId(0), outputs(&list));
        let mut memory = BTreeMap::new();
        next_run(&mut o, &mut memory, &list, &boot, false, &at(0));
        o.seen(id, OFF, &at(0));
        o.stop(&[], &at(600));
        // the same boot, 400 ms later; the daemon's own clock begins anew
        let later = Boot { offset: ms(11_000), ..boot.clone() };
        next_run(&mut o, &mut memory, &list, &later, abnormal, &at(0));
        o.seen(id, OFF, &at(0));
        assert_eq!(kind(o.wish(id, Wish::On, &at(10))), want);
        // what was true of that stop is not said of the next end
        next_run(&mut o, &mut memory, &list, &later, false, &at(20));
        assert_eq!(memory.len(), 0);
    }
}

#[test]
fn a_switching_off_that_failed_at_the_stop_is_no_time_off() {
    let boot = Boot { id: "b".into(), offset: ms(10_000) };
    let list = [device(0, OutputLimits { min_off: ms(1000), on_stop: Some(OFF), ..Default::default() })];
    let (id, mut o, mut memory) = (DeviceId(0), outputs(&list), BTreeMap::new());
    o.seen(id, OFF, &at(0));
    assert_eq!(o.wish(id, Wish::On, &at(2000)), write(ON));
    assert_eq!(o.stop(&[], &at(2001)).len(), 1);
    o.settled(id, Some(ON), &at(2002));
    o.settled(id, None, &at(2003));
    next_run(&mut o, &mut memory, &list, &boot, false, &at(0));
    o.seen(id, OFF, &at(0));
    assert_eq!(kind(o.wish(id, Wish::On, &at(900))), OutcomeKind::Rejected);
}

#[test]
fn restore_brings_back_what_was_wished_once_and_for_what_is_left_of_its_time() {
    let boot = Boot { id: "b".into(), offset: ms(0) };
    let list =
        [device(0, OutputLimits { restore: true, max_on: Some(ms(5000)), on_stop: Some(OFF), ..Default::default() })];
    let (id, mut memory, mut o) = (DeviceId(0), BTreeMap::new(), outputs(&list));
    assert_eq!(next_run(&mut o, &mut memory, &list, &boot, false, &at(0)), Begin::Safe, "nothing is remembered");
    o.seen(id, OFF, &at(0));
    o.wish(id, Wish::On, &at(1000));
    o.settled(id, Some(ON), &at(1000));
    assert_eq!(next_run(&mut o, &mut memory, &list, &boot, true, &at(2000)), Begin::At(ON));
    o.seen(id, ON, &at(2000));
    assert_eq!(o.next_wake(), Some(at(5998).mono));
    // a second crash without a command in between: it may be the cause
    assert_eq!(next_run(&mut o, &mut memory, &list, &boot, true, &at(2500)), Begin::At(OFF));
    o.seen(id, OFF, &at(2500));
    o.wish(id, Wish::On, &at(3000));
    o.settled(id, Some(ON), &at(3000));
    for forced in o.stop(&[], &at(4000)) {
        o.settled(id, Some(forced.to), &at(4000));
    }
    assert_eq!(next_run(&mut o, &mut memory, &list, &boot, false, &at(5000)), Begin::At(ON), "not what the stop did");
    o.seen(id, ON, &at(5000));
    assert_eq!(next_run(&mut o, &mut memory, &list, &boot, true, &at(8001)), Begin::At(OFF), "its time is over");
    o.seen(id, OFF, &at(8001));
    let other = Boot { id: "c".into(), offset: ms(0) };
    o.wish(id, Wish::On, &at(9000));
    o.settled(id, Some(ON), &at(9000));
    let unset = Now { synced: false, ..at(9500) };
    assert_eq!(next_run(&mut o, &mut memory, &list, &other, true, &unset), Begin::At(OFF), "nobody knows how long");
}

proptest::proptest! {
    #[test]
    fn foreign_memory_never_panics(text in r#"\{("(level|on|since|on_from|tries)":(1e300|-7|true|null|\{"up":-9223372036854775808,"boot":"b"\}),?){0,5}"on":true\}"#) {
        let json: Json = serde_json::from_str(&text).unwrap_or_default();
        let list = [device(0, OutputLimits { restore: true, max_on: Some(ms(5)), ..Default::default() })];
        let boot = Boot { id: "b".into(), offset: ms(1) };
        let mut o = Outputs::new(&list, &[("output/d0".to_owned(), json)].into(), boot, true, &at(0));
        o.seen(DeviceId(0), ON, &at(1));
        o.stop(&[], &at(2));
    }
}
