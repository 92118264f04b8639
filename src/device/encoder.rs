//! `encoder`: a rotary encoder, a knob that counts. Two contacts, a quarter of a cycle apart.
//!
//! Every change of a contact is looked up in a table of the four states; the position moves when a cycle (or the part of
//! it that `resolution` says) is complete, so that a contact that bounces moves it there and back. A contact that
//! changes to what it already was has been missed in between: that is counted as an illegal move and moves nothing.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value as Json;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::config::Word;
use crate::config::raw::{Params, PointKeys};
use crate::config::scalar::{OnOff, Pin};
use crate::hal::{Edge, EdgeSender, EdgeSink, InputPin, Level, Pull};
use crate::model::{Action, Quality, Refusal, Takes, Value, VerbSpec};

use super::input::{self, Guard, PAUSE, PullKey};
use super::{Built, Context, Counters, Desk, DeviceError, Driver, Kind, Order, PointDraft, Task};

/// The word.
pub const KIND: Kind = Kind {
    word: Word {
        name: "encoder",
        summary: "a rotary encoder on two pins: a position",
        schema: |generator| generator.subschema_for::<Keys>(),
    },
    build,
};

/// More edges a second than any encoder that is turned gives.
const LIMIT: u32 = 25_000;
/// Edges that wait for their order: the two pins come from the kernel one by one, not together.
const WAITING: usize = 4096;
/// Edges of the two pins are with us, in whatever order, this long after they happened.
const ORDER: Duration = Duration::from_millis(5);
/// Time between two readings of a knob that is turned; the last position is always published.
const PACE: Duration = Duration::from_millis(50);
/// Where the position is remembered, for a restart and for a reload.
const KEY: &str = "position";
const KEY_OF_RUN: &str = "~position";

/// Keys of `encoder`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
struct Keys {
    /// The two contacts: `[a, b]`. A leads where the position is to count up.
    #[schemars(length(min = 2, max = 2))]
    pins: Vec<Pin>,
    /// Bias of both: up, down or off (default).
    pull: Option<PullKey>,
    /// Counts the other way; default no.
    inverted: Option<OnOff>,
    /// The least position; default: none.
    min: Option<f64>,
    /// The greatest position; default: none.
    max: Option<f64>,
    /// How far one move goes; default 1.
    step: Option<f64>,
    /// Moves in a cycle of the contacts: 1 (default), 2 or 4.
    #[schemars(range(min = 1, max = 4))]
    resolution: Option<u8>,
    /// Begins where it was before the restart; default no: at 0, or at the bound that is nearest to it.
    restore: Option<OnOff>,
    #[serde(flatten)]
    point: PointKeys,
}

fn build(params: &Params, desk: &mut Desk) -> Option<Built> {
    let keys: Keys = desk.read(params)?;
    for (i, pin) in keys.pins.iter().enumerate() {
        desk.claim_pin(pin.0, &["pins", &i.to_string()]);
    }
    let [a, b] = match keys.pins.as_slice() {
        [a, b] => [a.0, b.0],
        _ => {
            desk.error(&["pins"], "an encoder has two pins", "write pins: [5, 6]");
            return None;
        }
    };
    let step = keys.step.unwrap_or(1.0);
    if !(step > 0.0 && step.is_finite()) {
        desk.error(
            &["step"],
            format!("`step` of {step}"),
            "write a number above 0; `inverted: true` counts the other way",
        );
    }
    if let (Some(min), Some(max)) = (keys.min, keys.max)
        && min >= max
    {
        desk.error(&["max"], format!("`max` is not above `min` ({min})"), "give max a greater number");
    }
    let resolution = keys.resolution.unwrap_or(1);
    if !matches!(resolution, 1 | 2 | 4) {
        desk.error(&["resolution"], format!("`resolution` of {resolution}"), "write 1, 2 or 4 moves in a cycle");
    }
    let inverted = keys.inverted.unwrap_or_default().0;
    let pull = keys.pull.map_or(Pull::Off, Pull::from);
    let restore = keys.restore.unwrap_or_default().0;
    let bound = |n: Option<f64>| n.map_or("none".to_owned(), |n| n.to_string());
    let notes = vec![format!(
        "{}, step {step}, min {}, max {}{}",
        input::note(&keys.pins, pull, inverted),
        bound(keys.min),
        bound(keys.max),
        if restore { ", restored" } else { "" }
    )];
    let takes = Takes::Number { min: keys.min, max: keys.max };
    let set = VerbSpec { verb: "set".into(), point: Some(0), takes, time: Duration::ZERO };
    Some(Built {
        points: vec![PointDraft {
            name: "position".into(),
            keys: keys.point,
            path: vec![],
            values: "a number",
            stateful: true,
        }],
        point_verbs: vec!["get"],
        device_verbs: vec![],
        own_verbs: vec![set],
        output: None,
        safe: None,
        notes,
        driver: Box::new(Encoder {
            pins: [a, b],
            pull,
            inverted,
            min: keys.min.unwrap_or(f64::MIN),
            max: keys.max.unwrap_or(f64::MAX),
            step,
            resolution,
            restore,
        }),
    })
}

/// Quarters of a cycle from one state (A is the higher bit) to another; nothing where both contacts would have changed.
/// A leads B: 00 → 10 → 11 → 01 → 00 counts up.
const MOVES: [[Option<i8>; 4]; 4] = [
    [Some(0), Some(-1), Some(1), None],
    [Some(1), Some(0), None, Some(-1)],
    [Some(-1), None, Some(0), Some(1)],
    [None, Some(1), Some(-1), Some(0)],
];

/// Where a move ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Rest {
    /// At one state of the cycle.
    At(usize),
    /// At this one and its opposite.
    Half(usize),
    /// At every state.
    Quarter,
}

/// The two contacts. Pure.
#[derive(Debug)]
struct Quadrature {
    state: usize,
    rest: Rest,
    /// Quarters since the last rest.
    quarters: i32,
    illegal: u64,
}

impl Quadrature {
    /// Between two rests lie so many quarters; one of them may have been missed.
    fn cycle(&self) -> i32 {
        match self.rest {
            Rest::At(_) => 4,
            Rest::Half(_) => 2,
            Rest::Quarter => 1,
        }
    }

    /// A contact (0: A, 1: B) has this level now. The moves that are complete.
    fn contact(&mut self, contact: usize, high: bool) -> i32 {
        let bit = if contact == 0 { 2 } else { 1 };
        let next = if high { self.state | bit } else { self.state & !bit };
        if next == self.state {
            self.illegal += 1;
            return 0;
        }
        self.enter(next)
    }

    /// The contacts were looked at, since edges were lost.
    fn look(&mut self, next: usize) -> i32 {
        self.enter(next & 3)
    }

    fn enter(&mut self, next: usize) -> i32 {
        let quarters = MOVES.get(self.state).and_then(|row| row.get(next)).copied().flatten();
        self.state = next;
        match quarters {
            Some(quarters) => self.quarters += i32::from(quarters),
            None => self.illegal += 1,
        }
        let rests = match self.rest {
            Rest::At(state) => next == state,
            Rest::Half(state) => next == state || next == 3 - state,
            Rest::Quarter => true,
        };
        if !rests {
            return 0;
        }
        let cycle = self.cycle();
        let moves = (self.quarters + self.quarters.signum() * (cycle / 2)) / cycle;
        self.quarters = 0;
        moves
    }
}

#[derive(Default)]
struct Inbox {
    edges: Vec<(usize, Edge)>,
    seen: u64,
    lost: u64,
    guard: Option<Guard>,
    storm: bool,
    gone: bool,
}

/// Where the edges of both contacts come together.
struct Contacts {
    inbox: Mutex<Inbox>,
    notify: Notify,
}

impl Contacts {
    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// One of them.
struct Contact(usize, Arc<Contacts>);

impl EdgeSink for Contact {
    fn edge(&self, edge: Edge) {
        let mut inbox = self.1.lock();
        inbox.seen += 1;
        if inbox.guard.get_or_insert_with(|| Guard::new(LIMIT)).storms(edge.at, 1) {
            inbox.storm = true;
        } else if inbox.edges.len() < WAITING {
            inbox.edges.push((self.0, edge));
        } else {
            inbox.lost += 1;
        }
        let call = inbox.edges.len() == 1 || inbox.storm;
        drop(inbox);
        if call {
            self.1.notify.notify_one();
        }
    }
    fn lost(&self, n: u64) {
        self.1.lock().lost += n;
        self.1.notify.notify_one();
    }
    fn storm(&self) {
        self.1.lock().storm = true;
        self.1.notify.notify_one();
    }
    fn gone(&self) {
        self.1.lock().gone = true;
        self.1.notify.notify_one();
    }
}

struct Encoder {
    pins: [u8; 2],
    pull: Pull,
    inverted: bool,
    min: f64,
    max: f64,
    step: f64,
    resolution: u8,
    restore: bool,
}

struct Taken {
    contacts: Arc<Contacts>,
    pins: Vec<Box<dyn InputPin>>,
    quadrature: Quadrature,
}

fn state(pins: &[Box<dyn InputPin>]) -> Result<usize, DeviceError> {
    let mut state = 0;
    for pin in pins {
        state = state << 1 | usize::from(pin.read()? == Level::High);
    }
    Ok(state)
}

impl Encoder {
    fn take(&self, cx: &Context) -> Result<Taken, DeviceError> {
        let contacts = Arc::new(Contacts { inbox: Mutex::default(), notify: Notify::new() });
        let mut pins = Vec::new();
        for (i, pin) in self.pins.iter().enumerate() {
            let sink = Arc::new(Contact(i, contacts.clone()));
            pins.push(cx.board.input(*pin, self.pull, EdgeSender::to(sink))?);
        }
        let found = state(&pins)?;
        // an edge that came while they were taken is in what was found
        contacts.lock().edges.clear();
        // between two clicks of a knob both contacts are open
        let rest = match self.pull {
            Pull::Up => 3,
            Pull::Down => 0,
            Pull::Off => found,
        };
        let rest = match self.resolution {
            1 => Rest::At(rest),
            2 => Rest::Half(rest),
            _ => Rest::Quarter,
        };
        Ok(Taken { contacts, pins, quadrature: Quadrature { state: found, rest, quarters: 0, illegal: 0 } })
    }

    fn moved(&self, position: f64, moves: i32) -> f64 {
        let moves = if self.inverted { -moves } else { moves };
        let position = position + f64::from(moves) * self.step;
        // steps of 0.1 add up to 0.3, not to 0.30000000000000004
        ((position * 1e9).round() / 1e9).clamp(self.min, self.max)
    }

    async fn obey(&self, cx: &mut Context, position: &mut f64, order: Order) {
        let (ticket, action) = match order.in_time() {
            Ok(in_time) => in_time,
            Err((ticket, why)) => return cx.acted(ticket, Err(why)).await,
        };
        match action {
            Action::Verb { value: Value::Number(n), .. } => {
                *position = n.clamp(self.min, self.max);
                self.keep(cx, *position).await;
                cx.reading(0, Value::Number(*position), Quality::Good, Instant::now()).await;
                cx.acted(ticket, Ok(Some(Value::Number(*position)))).await;
            }
            _ => cx.acted(ticket, Err(Refusal::from("only its position can be set"))).await,
        }
    }

    async fn keep(&self, cx: &mut Context, position: f64) {
        let key = if self.restore { KEY } else { KEY_OF_RUN };
        cx.remember(key, Some(Json::from(position))).await;
    }
}

impl Driver for Encoder {
    fn run<'a>(&'a self, cx: &'a mut Context) -> Task<'a, Result<(), DeviceError>> {
        Box::pin(async move {
            let mut taken = self.take(cx)?;
            let kept = cx.recall(KEY_OF_RUN).or(if self.restore { cx.recall(KEY) } else { None });
            let mut position = kept.and_then(Json::as_f64).unwrap_or(0.0).clamp(self.min, self.max);
            let mut published = position;
            let mut moved_at = Instant::now();
            cx.counters.flooding.store(false, Ordering::Relaxed);
            cx.online().await;
            cx.reading(0, Value::Number(position), Quality::Good, Instant::now()).await;
            if self.restore {
                cx.remember(KEY_OF_RUN, None).await;
            }
            // when edges that wait are old enough; when a position may be published; when a storm is over
            let (mut ripe, mut calm): (Option<Instant>, Option<Instant>) = (None, None);
            let mut next = Instant::now();
            loop {
                let publish = (position != published).then_some(next);
                tokio::select! {
                    biased;
                    order = cx.orders.recv() => match order {
                        Some(order) => {
                            self.obey(cx, &mut position, order).await;
                            published = position;
                        }
                        None => return Ok(()),
                    },
                    () = taken.contacts.notify.notified() => {
                        let (storm, gone, lost, seen) = {
                            let mut inbox = taken.contacts.lock();
                            (inbox.storm, inbox.gone, std::mem::take(&mut inbox.lost), std::mem::take(&mut inbox.seen))
                        };
                        Counters::add(&cx.counters.edges, seen);
                        input::lost(cx, lost);
                        if gone {
                            return Err(DeviceError("the board gave a pin of the encoder up".into()));
                        }
                        if storm {
                            taken.pins.clear();
                            input::flooding(cx, true, LIMIT);
                            let until = Instant::now() + PAUSE;
                            loop {
                                tokio::select! {
                                    () = sleep_until(until) => break,
                                    order = cx.orders.recv() => match order {
                                        Some(order) => self.obey(cx, &mut position, order).await,
                                        None => return Ok(()),
                                    },
                                }
                            }
                            taken = self.take(cx)?;
                            calm = Some(Instant::now() + PAUSE);
                            continue;
                        }
                        if lost > 0 {
                            taken.contacts.lock().edges.clear();
                            let found = state(&taken.pins)?;
                            position = self.moved(position, taken.quadrature.look(found));
                        }
                        ripe = ripe.or_else(|| Some(Instant::now() + ORDER));
                    }
                    () = async { sleep_until(ripe.unwrap_or(next)).await }, if ripe.is_some() => {
                        let old = Instant::now().checked_sub(ORDER).unwrap_or_else(Instant::now);
                        let mut edges = {
                            let mut inbox = taken.contacts.lock();
                            Counters::add(&cx.counters.edges, std::mem::take(&mut inbox.seen));
                            std::mem::take(&mut inbox.edges)
                        };
                        edges.sort_by_key(|(_, edge)| edge.at);
                        let young = edges.split_off(edges.partition_point(|(_, edge)| edge.at <= old));
                        ripe = young.first().map(|(_, edge)| edge.at + ORDER);
                        // what came meanwhile is younger still, and sorted in with them the next time
                        let mut inbox = taken.contacts.lock();
                        inbox.edges.splice(0..0, young);
                        if ripe.is_none() && !inbox.edges.is_empty() {
                            ripe = Some(Instant::now() + ORDER);
                        }
                        drop(inbox);
                        let illegal = taken.quadrature.illegal;
                        for (contact, edge) in edges {
                            let moves = taken.quadrature.contact(contact, edge.level == Level::High);
                            if moves != 0 {
                                position = self.moved(position, moves);
                                moved_at = edge.at;
                            }
                        }
                        Counters::add(&cx.counters.illegal_moves, taken.quadrature.illegal - illegal);
                    }
                    () = async { sleep_until(publish.unwrap_or(next)).await }, if publish.is_some() => {
                        published = position;
                        next = Instant::now() + PACE;
                        cx.reading(0, Value::Number(position), Quality::Good, moved_at).await;
                        self.keep(cx, position).await;
                    }
                    () = async { sleep_until(calm.unwrap_or(next)).await }, if calm.is_some() => {
                        calm = None;
                        input::flooding(cx, false, LIMIT);
                    }
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Report;
    use crate::device::testing::Bench;
    use crate::hal::sim::SimBoard;
    use proptest::prelude::*;

    fn quadrature(state: usize, rest: Rest) -> Quadrature {
        Quadrature { state, rest, quarters: 0, illegal: 0 }
    }

    /// Walks through these states, one contact at a time.
    fn walk(q: &mut Quadrature, states: &[usize]) -> i32 {
        let mut moves = 0;
        for next in states {
            let changed = q.state ^ next;
            assert!(changed == 1 || changed == 2, "{} to {next}", q.state);
            moves += q.contact(usize::from(changed == 1), next & changed != 0);
        }
        moves
    }

    const UP: [usize; 4] = [2, 3, 1, 0];
    const DOWN: [usize; 4] = [1, 3, 2, 0];

    #[test]
    fn a_cycle_is_one_move_two_or_four() {
        for (rest, want) in [(Rest::At(0), 1), (Rest::Half(0), 2), (Rest::Quarter, 4)] {
            let mut q = quadrature(0, rest);
            assert_eq!((walk(&mut q, &UP), walk(&mut q, &DOWN), q.illegal), (want, -want, 0), "{rest:?}");
        }
    }

    #[test]
    fn a_contact_that_bounces_moves_it_there_and_back() {
        let mut q = quadrature(0, Rest::At(0));
        assert_eq!(walk(&mut q, &[2, 0, 2, 0, 2, 3, 2, 3, 1, 3, 1, 0, 1, 0]), 1);
        assert_eq!(walk(&mut q, &[2, 3, 2, 0]), 0, "half a turn and back");
    }

    #[test]
    fn a_missed_edge_is_counted_and_the_next_cycle_is_right_again() {
        let mut q = quadrature(0, Rest::At(0));
        q.contact(0, true);
        // the rise of B is missed
        assert_eq!(q.contact(0, false), 0);
        assert_eq!(q.contact(1, false), 0);
        assert_eq!(q.illegal, 1);
        assert_eq!(walk(&mut q, &UP), 1);
        assert_eq!(q.look(3), 0);
        assert_eq!(q.illegal, 2, "both at once");
    }

    proptest! {
        /// The reference: whole cycles between the position at the beginning and at the end.
        #[test]
        fn the_position_is_that_of_the_contacts(turns in proptest::collection::vec(any::<bool>(), 0..400)) {
            let mut q = quadrature(0, Rest::Quarter);
            let mut full = quadrature(0, Rest::At(0));
            let cycle = [0, 2, 3, 1];
            let (mut at, mut sum, mut moves) = (0i32, 0, 0);
            for up in turns {
                at += if up { 1 } else { -1 };
                let state = cycle[at.rem_euclid(4) as usize];
                sum += walk(&mut q, &[state]);
                moves += walk(&mut full, &[state]);
            }
            prop_assert_eq!((sum, q.illegal), (at, 0));
            prop_assert!((moves - at / 4).abs() <= 1, "{moves} of {at} quarters");
            if at % 4 == 0 { prop_assert_eq!(moves, at / 4); }
        }
    }

    #[tokio::test]
    async fn a_knob_moves_within_its_bounds_and_its_position_comes_back() {
        let board = SimBoard::new();
        let mut bench = Bench::new(Arc::new(board.clone()));
        let driver = Encoder {
            pins: [5, 6],
            pull: Pull::Up,
            inverted: false,
            min: -1.0,
            max: 2.0,
            step: 0.5,
            resolution: 1,
            restore: true,
        };
        let set = Action::Verb { point: Some(0), verb: "set".into(), value: Value::Number(1.0) };
        bench.order(1, set);
        // online, 0, what is kept, 1, the answer; then as it is turned: 2 and no further
        let hand = board.clone();
        let turn = move || {
            for _ in 0..5 {
                for (pin, level) in [(5, Level::Low), (6, Level::Low), (5, Level::High), (6, Level::High)] {
                    hand.drive(pin, level).unwrap();
                }
            }
        };
        let reports = bench.run_while(&driver, 7, 5, turn).await;
        let positions: Vec<f64> = reports
            .iter()
            .filter_map(|r| match r {
                Report::Reading { value: Value::Number(n), .. } => Some(*n),
                _ => None,
            })
            .collect();
        assert_eq!(positions, [0.0, 1.0, 2.0]);
        let reports = bench.run(&driver, 2).await;
        assert!(matches!(&reports[1], Report::Reading { value: Value::Number(n), .. } if *n == 2.0), "{reports:?}");
        assert_eq!(bench.counters().illegal_moves, 0);
    }
}
