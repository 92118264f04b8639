//! `digital_in`: a switch, a contact, a motion detector.
//!
//! Edges come by interrupt. With `debounce` a new level is believed when it has held that long; whatever bounces in
//! between, the level at the end is published. Edges that the kernel could not keep are counted as errors and the pin
//! is read anew, so that the final level is never lost.

mod gesture;
mod group;

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use tokio::time::{Instant, sleep_until};

use crate::config::Word;
use crate::config::raw::{Params, PointKeys};
use crate::config::scalar::{OnOff, Pin, Span};
use crate::hal::{self, Bounce, EdgeReceiver, InputPin, Level, Pull};
use crate::model::{Quality, Value};

use super::input::{self, Debouncer, EDGE_DELAY, Guard, PAUSE, PullKey};
use super::{Built, Context, Counters, Desk, DeviceError, Driver, Kind, PointDraft, Task};
use gesture::{Gesture, Gestures, Told};
use group::Group;

/// No switch gives so many edges in a second, however it bounces.
const LIMIT: u32 = 2000;
/// The most pins of a group.
const WIDEST: usize = 28;

/// The word.
pub const KIND: Kind = Kind {
    word: Word {
        name: "digital_in",
        summary: "a switch or contact on a pin",
        schema: |generator| generator.subschema_for::<Keys>(),
    },
    build,
};

/// Keys of `digital_in`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
struct Keys {
    /// BCM number (17), GPIO17 or header:11.
    pin: Option<Pin>,
    /// Instead of `pin`: several pins as one number, bit 0 is the first.
    group: Option<Vec<Pin>>,
    /// Bias: up, down or off (default).
    pull: Option<PullKey>,
    /// ON is the low level; default no.
    inverted: Option<OnOff>,
    /// Time a level must hold to be believed; default 0ms, of a group 5ms. Or `{on: 30ms, off: 100ms}`.
    debounce: Option<Debounce>,
    /// What to tell of a push button: click, double, long; default: nothing.
    gestures: Option<Vec<Gesture>>,
    #[serde(flatten)]
    point: PointKeys,
}

/// One time for both ways, or one for each.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Debounce {
    /// Both ways.
    Both(Span),
    /// Each way.
    Each {
        /// Time ON must hold.
        on: Option<Span>,
        /// Time OFF must hold.
        off: Option<Span>,
    },
}

struct DigitalIn {
    pin: u8,
    pull: Pull,
    inverted: bool,
    hold_on: Duration,
    hold_off: Duration,
    gestures: Vec<Gesture>,
}

fn build(params: &Params, desk: &mut Desk) -> Option<Built> {
    let keys: Keys = desk.read(params)?;
    if let Some(pin) = keys.pin {
        desk.claim_pin(pin.0, &["pin"]);
    }
    for (i, pin) in keys.group.iter().flatten().enumerate() {
        desk.claim_pin(pin.0, &["group", &i.to_string()]);
    }
    let (on, off) = match keys.debounce {
        None => (None, None),
        Some(Debounce::Both(d)) => (Some(d), Some(d)),
        Some(Debounce::Each { on, off }) => (on, off),
    };
    if input::hold(on.max(off)).is_none() {
        desk.error(&["debounce"], "a level that must hold for more than a minute", "write at most 60s");
    }
    let inverted = keys.inverted.unwrap_or_default().0;
    let pull = keys.pull.map_or(Pull::Off, Pull::from);
    let mut point = PointDraft {
        name: "state".into(),
        keys: keys.point.clone(),
        path: vec![],
        values: "ON or OFF",
        stateful: true,
    };
    let driver: Box<dyn Driver>;
    let (mut notes, mut points) = (Vec::new(), Vec::new());
    match (keys.pin, keys.group) {
        (Some(_), Some(_)) => {
            desk.error(&["group"], "`pin` and `group`", "keep one of the two: a group is a number of several pins");
            return None;
        }
        (None, None) => {
            // what was left out as wrong may have been the pin
            if !desk.places.dropped(&["devices", desk.name]) {
                desk.error(&[], "the key `pin` is missing", "write `pin: 17`, or `group: [17, 18]` for several as one");
            }
            return None;
        }
        (Some(pin), None) => {
            let (hold_on, hold_off) = (on.map_or(Duration::ZERO, |s| s.0), off.map_or(Duration::ZERO, |s| s.0));
            let debounce = match (Span(hold_on), Span(hold_off)) {
                (on, off) if on == off && hold_on.is_zero() => String::new(),
                (on, off) if on == off => format!(", debounce {on}"),
                (on, off) => format!(", debounce {on} on and {off} off"),
            };
            notes.push(format!("{}{debounce}", input::note(&[pin], pull, inverted)));
            let gestures = keys.gestures.unwrap_or_default();
            points.push(point);
            if !gestures.is_empty() {
                let words: Vec<_> = gestures.iter().map(|g| g.word()).collect();
                notes.push(format!("gestures {}", words.join(", ")));
                points.push(gesture_point(keys.point));
            }
            driver = Box::new(DigitalIn { pin: pin.0, pull, inverted, hold_on, hold_off, gestures });
        }
        (None, Some(pins)) => {
            if let Some(Debounce::Each { .. }) = keys.debounce {
                let help = "write one time for the whole word: debounce: 20ms";
                desk.error(&["debounce"], "a word is neither ON nor OFF", help);
            }
            let hold = on.map_or(group::SETTLE, |s| s.0);
            if hold.is_zero() {
                let help = "write at least 1ms, or remove it for 5ms";
                desk.error(&["debounce"], "a group needs time: its pins never move at the same moment", help);
            }
            if keys.gestures.is_some() {
                desk.error(&["gestures"], "gestures are of a single pin", "make the button a device of its own");
            }
            if pins.is_empty() || pins.len() > WIDEST {
                desk.error(&["group"], "a group has 1 to 28 pins", "write group: [17, 18]");
            }
            notes.push(format!("{}, settles in {}", input::note(&pins, pull, inverted), Span(hold)));
            point.values = "a number";
            points.push(point);
            driver = Box::new(Group { pins: pins.iter().map(|p| p.0).collect(), pull, inverted, hold });
        }
    }
    Some(Built {
        points,
        point_verbs: vec!["get"],
        device_verbs: vec![],
        own_verbs: vec![],
        output: None,
        safe: None,
        notes,
        driver,
    })
}

/// A gesture is an event: nothing to keep at the broker, to filter or to write as ON and OFF.
fn gesture_point(state: PointKeys) -> PointDraft {
    let keys = PointKeys {
        qos: state.qos,
        deliver: state.deliver,
        priority: state.priority,
        expiry: state.expiry,
        payload: state.payload,
        retain: Some(OnOff(false)),
        ..PointKeys::default()
    };
    PointDraft { name: "gesture".into(), keys, path: vec![], values: "click, double or long", stateful: false }
}

/// Waits, and refuses orders meanwhile. False: the daemon is done with this device.
async fn pause(cx: &mut Context, time: Duration) -> bool {
    let until = Instant::now() + time;
    loop {
        tokio::select! {
            () = sleep_until(until) => return true,
            order = cx.orders.recv() => match order {
                Some(order) => cx.acted(order.ticket, Err("an input cannot be set".into())).await,
                None => return false,
            },
        }
    }
}

/// Why a pin is no longer watched.
enum Ended {
    /// The daemon is done with it.
    Over,
    /// It gives too many edges.
    Storm,
}

/// A pin as it is watched.
struct Watch {
    debounce: Debouncer,
    gestures: Gestures,
    /// Whether the kernel may keep bounces back; after a storm it must not, since then nobody would count them.
    calm: bool,
}

impl DigitalIn {
    fn logical(&self, level: Level) -> bool {
        (level == Level::High) != self.inverted
    }

    async fn tell(cx: &Context, told: Told) {
        for (gesture, at) in told {
            cx.reading(1, Value::Text(gesture.word().into()), Quality::Good, at).await;
        }
    }

    async fn believe(cx: &Context, watch: &mut Watch, believed: Option<(bool, Instant)>) {
        if let Some((on, at)) = believed {
            cx.reading(0, Value::Bool(on), Quality::Good, at).await;
            DigitalIn::tell(cx, watch.gestures.moved(on, at)).await;
        }
    }

    async fn watch(
        &self,
        cx: &mut Context,
        pin: Box<dyn InputPin>,
        edges: &mut EdgeReceiver,
        watch: &mut Watch,
    ) -> Result<Ended, DeviceError> {
        let mut guard = Guard::new(LIMIT);
        let calm = Instant::now() + PAUSE;
        // an edge is with us this long after it happened
        let delay = EDGE_DELAY + pin.lag();
        let storm = edges.storm();
        // edges were lost: when those that were kept are through, the pin itself is asked
        let mut missed = false;
        // the pin did not read as its last edge said: the edge between may still be on its way
        let mut doubt: Option<Instant> = None;
        loop {
            let due = doubt.or(watch.debounce.candidate.map(|c| c.due));
            // a move that began before a gesture was due, or is on its way to us, comes first
            let gesture = watch.gestures.due().filter(|g| watch.debounce.candidate.is_none_or(|c| c.since > *g));
            let gesture = gesture.map(|g| g + delay);
            let flooding = cx.counters.flooding.load(std::sync::atomic::Ordering::Relaxed);
            let believed = tokio::select! {
                biased;
                // an input obeys no verb; a closed channel means that the daemon is done with it
                order = cx.orders.recv() => match order {
                    Some(order) => {
                        cx.acted(order.ticket, Err("an input cannot be set".into())).await;
                        None
                    }
                    None => return Ok(Ended::Over),
                },
                edge = edges.next() => {
                    let edge = edge.ok_or_else(|| DeviceError(format!("the board gave GPIO{} up", self.pin)))?;
                    Counters::add(&cx.counters.edges, 1);
                    let lost = edges.take_lost();
                    missed |= lost > 0;
                    input::lost(cx, lost);
                    if guard.storms(edge.at, 1 + lost) {
                        return Ok(Ended::Storm);
                    }
                    doubt = None;
                    watch.debounce.level(self.logical(edge.level), edge.at)
                }
                () = storm.notified() => return Ok(Ended::Storm),
                () = std::future::ready(()), if missed && edges.is_empty() => {
                    missed = false;
                    watch.debounce.level(self.logical(pin.read()?), Instant::now())
                }
                () = async { sleep_until(due.unwrap_or_else(Instant::now)).await }, if due.is_some() => {
                    let now = Instant::now();
                    match watch.debounce.candidate {
                        Some(c) if self.logical(pin.read()?) != c.on => {
                            if doubt.take().is_some() {
                                // no edge came: it was lost, and the level did not hold
                                watch.debounce.candidate = None;
                            } else {
                                doubt = Some(now + EDGE_DELAY);
                            }
                            None
                        }
                        _ => {
                            doubt = None;
                            watch.debounce.expire(now)
                        }
                    }
                }
                () = async { sleep_until(gesture.unwrap_or_else(Instant::now)).await }, if gesture.is_some() => {
                    DigitalIn::tell(cx, watch.gestures.expire(Instant::now())).await;
                    None
                }
                () = sleep_until(calm), if flooding => {
                    input::flooding(cx, false, LIMIT);
                    None
                }
            };
            DigitalIn::believe(cx, watch, believed).await;
        }
    }
}

impl Driver for DigitalIn {
    fn run<'a>(&'a self, cx: &'a mut Context) -> Task<'a, Result<(), DeviceError>> {
        Box::pin(async move {
            let mut watch: Option<Watch> = None;
            loop {
                let (tx, mut edges) = hal::edges();
                let pin = match &watch {
                    Some(Watch { calm: false, .. }) => cx.board.input(self.pin, self.pull, tx)?,
                    _ => {
                        let bounce = Bounce { hold: self.hold_on.min(self.hold_off), limit: LIMIT };
                        cx.board.contact(self.pin, self.pull, bounce, tx)?
                    }
                };
                let level = self.logical(pin.read()?);
                let watch = match &mut watch {
                    Some(watch) => {
                        let believed = watch.debounce.level(level, Instant::now());
                        DigitalIn::believe(cx, watch, believed).await;
                        watch
                    }
                    None => {
                        cx.online().await;
                        cx.reading(0, Value::Bool(level), Quality::Good, Instant::now()).await;
                        let debounce = Debouncer::new(self.hold_on, self.hold_off, level);
                        watch.insert(Watch { debounce, gestures: Gestures::new(&self.gestures), calm: true })
                    }
                };
                match self.watch(cx, pin, &mut edges, watch).await? {
                    Ended::Over => return Ok(()),
                    Ended::Storm => {
                        input::flooding(cx, true, LIMIT);
                        // what waits in the channel was not believed; nobody knows what came behind it
                        watch.debounce.candidate = None;
                        watch.gestures.reset();
                        watch.calm = false;
                        if !pause(cx, PAUSE).await {
                            return Ok(());
                        }
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
    use crate::hal::{Board, Edge, EdgeSender, HalError, HalErrorKind, InputPin, OutputPin, Start};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};
    use tokio::sync::watch;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// A pin whose level is set by the test, and whose edges are sent by it.
    #[derive(Clone)]
    struct Hand(Arc<Mutex<(Level, Option<EdgeSender>)>>, Arc<watch::Sender<u32>>);
    impl Hand {
        fn new() -> Hand {
            Hand(Arc::new(Mutex::new((Level::Low, None))), Arc::new(watch::Sender::new(0)))
        }
        async fn read_times(&self, n: u32) {
            self.1.subscribe().wait_for(|reads| *reads >= n).await.unwrap();
        }
        fn edge(&self, level: Level) {
            self.0.lock().unwrap().1.as_ref().unwrap().push(Edge { level, at: Instant::now() });
        }
    }
    impl InputPin for Hand {
        fn read(&self) -> Result<Level, HalError> {
            self.1.send_modify(|reads| *reads += 1);
            Ok(self.0.lock().unwrap().0)
        }
    }
    impl Board for Hand {
        fn describe(&self) -> String {
            "by hand".into()
        }
        fn input(&self, _: u8, _: Pull, edges: EdgeSender) -> Result<Box<dyn InputPin>, HalError> {
            self.0.lock().unwrap().1 = Some(edges);
            Ok(Box::new(self.clone()))
        }
        fn output(&self, _: u8, _: Start) -> Result<Box<dyn OutputPin>, HalError> {
            Err(HalError::new(HalErrorKind::Unsupported, "no outputs"))
        }
    }
    fn driver(hold: Duration) -> DigitalIn {
        DigitalIn { pin: 17, pull: Pull::Off, inverted: false, hold_on: hold, hold_off: hold, gestures: Vec::new() }
    }

    #[tokio::test]
    async fn after_a_flood_that_nobody_could_keep_the_final_level_is_published() {
        let hand = Hand::new();
        let mut bench = Bench::new(Arc::new(hand.clone()));
        let driver = driver(ms(0));
        let flood = async {
            hand.read_times(1).await;
            // one more than the channel holds, and the last of them is lost
            let mut level = Level::Low;
            for _ in 0..1025 {
                level = !level;
                hand.edge(level);
            }
            hand.0.lock().unwrap().0 = level;
        };
        let (reports, ()) = tokio::join!(bench.run(&driver, 2 + 1025), flood);
        let last = reports.last();
        assert!(matches!(last, Some(Report::Reading { value: Value::Bool(true), .. })), "{last:?}");
        assert_eq!(bench.counters().errors, 1);
    }

    #[tokio::test]
    async fn a_level_whose_end_was_missed_is_not_believed() {
        let hand = Hand::new();
        let mut bench = Bench::new(Arc::new(hand.clone()));
        let clock = bench.clock();
        let driver = driver(ms(5));
        let missed = async {
            hand.read_times(1).await;
            // high for a moment; the edge back is lost
            hand.edge(Level::High);
            // asked when the time was over, and again when the edge back could be here
            hand.read_times(3).await;
            hand.0.lock().unwrap().0 = Level::High;
            let again = clock.mono(Instant::now());
            hand.edge(Level::High);
            again
        };
        let (reports, again) = tokio::join!(bench.run(&driver, 3), missed);
        match reports.last() {
            Some(Report::Reading { value: Value::Bool(true), taken, .. }) => assert!(taken.mono >= again),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_storm_costs_a_bounded_number_of_edges_and_the_final_level_is_published() {
        let board = SimBoard::new();
        let bench = Bench::new(Arc::new(board.clone()));
        let driver = driver(ms(5));
        let over = Arc::new(AtomicBool::new(false));
        let (stop, hand) = (over.clone(), board.clone());
        let storm = std::thread::spawn(move || {
            let mut driven = 0u64;
            while !stop.load(Ordering::Relaxed) {
                for level in [Level::High, Level::Low] {
                    hand.drive(17, level).unwrap();
                    driven += 1;
                }
            }
            hand.drive(17, Level::High).unwrap();
            driven
        });
        let counters = bench.counters_now();
        let watched = async {
            let mut tick = tokio::time::interval(ms(20));
            while !counters.read().flooding {
                tick.tick().await;
            }
            // one pause and one look at the pin between two
            tokio::time::sleep(ms(2500)).await;
            let seen = counters.read();
            over.store(true, Ordering::Relaxed);
            while counters.read().flooding {
                tick.tick().await;
            }
            seen
        };
        let (seen, reports) = {
            let (context, orders, mut reports) = bench.taken_apart();
            let mut context = context;
            let mut got = Vec::new();
            let mut run = Box::pin(driver.run(&mut context));
            let mut watched = std::pin::pin!(watched);
            let seen = loop {
                tokio::select! {
                    seen = &mut watched => break seen,
                    report = reports.recv() => got.extend(report),
                    _ = &mut run => panic!("it ended"),
                }
            };
            drop(orders);
            run.await.unwrap();
            while let Ok(report) = reports.try_recv() {
                got.push(report);
            }
            (seen, got)
        };
        let driven = storm.join().unwrap();
        assert!(driven > 20_000, "{driven} edges are no storm");
        assert!(seen.storms == 1 && seen.edges < 4 * u64::from(LIMIT), "{seen:?}");
        let last = reports.iter().rev().find(|r| matches!(r, Report::Reading { .. }));
        assert!(matches!(last, Some(Report::Reading { value: Value::Bool(true), .. })), "{last:?}");
    }

    #[tokio::test]
    async fn a_button_tells_its_states_and_its_gestures() {
        let board = SimBoard::new();
        let mut bench = Bench::new(Arc::new(board.clone()));
        let driver = DigitalIn { gestures: vec![Gesture::Click, Gesture::Double], ..driver(ms(10)) };
        let hand = async {
            let mut tick = tokio::time::interval(ms(50));
            tick.tick().await;
            for level in [Level::High, Level::Low, Level::High, Level::Low] {
                tick.tick().await;
                board.drive(17, level).unwrap();
            }
        };
        let (reports, ()) = tokio::join!(bench.run(&driver, 7), hand);
        match &reports[6] {
            Report::Reading { point, value: Value::Text(word), .. } => {
                assert_eq!((point.0, word.as_str()), (1, "double"))
            }
            other => panic!("{other:?}"),
        }
    }
}
