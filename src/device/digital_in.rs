//! `digital_in`: a switch, a contact, a motion detector.
//!
//! Edges come by interrupt. With `debounce` a new level is believed when it has held that long; whatever bounces in
//! between, the level at the end is published. Edges that the kernel could not keep are counted as errors and the pin
//! is read anew, so that the final level is never lost.

use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Deserialize;
use tokio::time::sleep_until;

use crate::config::Word;
use crate::config::raw::{Params, PointKeys};
use crate::config::scalar::{OnOff, Pin, Span};
use crate::hal::{self, Level, Pull};
use crate::model::{Quality, Value};

use super::{Built, Context, Counters, Desk, DeviceError, Driver, Kind, PointDraft, Task};

/// An edge is with us this long after it happened, whatever the machine is doing.
const EDGE_DELAY: Duration = Duration::from_millis(50);

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
    pin: Pin,
    /// Bias: up, down or off (default).
    pull: Option<PullKey>,
    /// ON is the low level; default no.
    inverted: Option<OnOff>,
    /// Time a level must hold to be believed; default 0ms. Or `{on: 30ms, off: 100ms}`.
    debounce: Option<Debounce>,
    #[serde(flatten)]
    point: PointKeys,
}

/// Bias of an input.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum PullKey {
    /// To 3.3 V.
    Up,
    /// To ground.
    Down,
    /// None.
    Off,
}

impl From<PullKey> for Pull {
    fn from(key: PullKey) -> Pull {
        match key {
            PullKey::Up => Pull::Up,
            PullKey::Down => Pull::Down,
            PullKey::Off => Pull::Off,
        }
    }
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
}

fn build(params: &Params, desk: &mut Desk) -> Option<Built> {
    let keys: Keys = desk.read(params)?;
    desk.claim_pin(keys.pin.0, &["pin"]);
    let zero = Span(Duration::ZERO);
    let (on, off) = match keys.debounce {
        None => (zero, zero),
        Some(Debounce::Both(d)) => (d, d),
        Some(Debounce::Each { on, off }) => (on.unwrap_or(zero), off.unwrap_or(zero)),
    };
    if on.0.max(off.0) > Duration::from_secs(60) {
        desk.error(&["debounce"], "a level that must hold for more than a minute", "write at most 60s");
    }
    let inverted = keys.inverted.unwrap_or_default().0;
    let pull = keys.pull.map_or(Pull::Off, Pull::from);
    let debounce = match (on, off) {
        (on, off) if on == off && on == zero => String::new(),
        (on, off) if on == off => format!(", debounce {on}"),
        (on, off) => format!(", debounce {on} on and {off} off"),
    };
    let notes = vec![format!(
        "pin {}{}{}{debounce}",
        keys.pin,
        match pull {
            Pull::Up => ", pulled up",
            Pull::Down => ", pulled down",
            Pull::Off => "",
        },
        if inverted { ", inverted" } else { "" }
    )];
    let driver = DigitalIn { pin: keys.pin.0, pull, inverted, hold_on: on.0, hold_off: off.0 };
    Some(Built {
        points: vec![PointDraft {
            name: "state".into(),
            keys: keys.point,
            path: vec![],
            values: "ON or OFF",
            stateful: true,
        }],
        point_verbs: vec!["get"],
        device_verbs: vec![],
        own_verbs: vec![],
        output: None,
        safe: None,
        notes,
        driver: Box::new(driver),
    })
}

/// A level that waits to be believed.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    on: bool,
    /// When it began.
    since: Instant,
    /// When it is believed.
    due: Instant,
}

/// Debounce as a pure rule: fed with levels, it says when a new state is believed.
#[derive(Debug)]
struct Debouncer {
    hold_on: Duration,
    hold_off: Duration,
    believed: bool,
    candidate: Option<Candidate>,
}

impl Debouncer {
    /// A level, and when it began. A new state that is believed at once.
    fn level(&mut self, on: bool, at: Instant) -> Option<(bool, Instant)> {
        // an edge may come later than the moment the level before it was to be believed
        let passed = self.expire(at);
        match self.candidate {
            Some(c) if c.on == on => {}
            _ if on == self.believed => self.candidate = None,
            _ => {
                let hold = if on { self.hold_on } else { self.hold_off };
                self.candidate = Some(Candidate { on, since: at, due: at + hold });
            }
        }
        let now = if passed.is_none() { self.expire(at) } else { None };
        passed.or(now)
    }
    /// The state that has held long enough by `now`, and when it began.
    fn expire(&mut self, now: Instant) -> Option<(bool, Instant)> {
        let c = self.candidate.filter(|c| c.due <= now)?;
        self.candidate = None;
        self.believed = c.on;
        Some((c.on, c.since))
    }
}

impl Driver for DigitalIn {
    fn run<'a>(&'a self, cx: &'a mut Context) -> Task<'a, Result<(), DeviceError>> {
        Box::pin(async move {
            let (tx, mut edges) = hal::edges();
            let pin = cx.board.input(self.pin, self.pull, tx)?;
            let logical = |level: Level| (level == Level::High) != self.inverted;
            let first = logical(pin.read()?);
            cx.online().await;
            cx.reading(0, Value::Bool(first), Quality::Good, Instant::now()).await;
            let mut debounce =
                Debouncer { hold_on: self.hold_on, hold_off: self.hold_off, believed: first, candidate: None };
            // edges were lost: when those that were kept are through, the pin itself is asked
            let mut missed = false;
            // the pin did not read as its last edge said: the edge between may still be on its way
            let mut doubt: Option<Instant> = None;
            loop {
                let due = doubt.or(debounce.candidate.map(|c| c.due));
                let believed = tokio::select! {
                    biased;
                    // an input obeys no verb; a closed channel means that the daemon is done with it
                    order = cx.orders.recv() => match order {
                        Some(order) => {
                            cx.acted(order.ticket, Err("an input cannot be set".into())).await;
                            None
                        }
                        None => return Ok(()),
                    },
                    edge = edges.next() => {
                        let edge = edge.ok_or_else(|| DeviceError(format!("the board gave GPIO{} up", self.pin)))?;
                        let lost = edges.take_lost();
                        if lost > 0 {
                            missed = true;
                            Counters::add(&cx.counters.errors, lost);
                            log::warn!(device = cx.name.as_str(), lost; "edges were lost; the pin is read anew");
                        }
                        doubt = None;
                        debounce.level(logical(edge.level), edge.at)
                    }
                    () = std::future::ready(()), if missed && edges.is_empty() => {
                        missed = false;
                        debounce.level(logical(pin.read()?), Instant::now())
                    }
                    () = async { sleep_until(due.unwrap_or_else(Instant::now).into()).await }, if due.is_some() => {
                        let now = Instant::now();
                        match debounce.candidate {
                            Some(c) if logical(pin.read()?) != c.on => {
                                if doubt.take().is_some() {
                                    // no edge came: it was lost, and the level did not hold
                                    debounce.candidate = None;
                                } else {
                                    doubt = Some(now + EDGE_DELAY);
                                }
                                None
                            }
                            _ => {
                                doubt = None;
                                debounce.expire(now)
                            }
                        }
                    }
                };
                if let Some((on, at)) = believed {
                    cx.reading(0, Value::Bool(on), Quality::Good, at).await;
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
    use crate::hal::{Board, Edge, EdgeSender, HalError, HalErrorKind, InputPin, OutputPin, Start};
    use proptest::prelude::*;
    use std::sync::{Arc, Mutex};
    use tokio::sync::watch;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn without_debounce_every_change_is_believed_at_once() {
        let t = Instant::now();
        let mut d = Debouncer { hold_on: ms(0), hold_off: ms(0), believed: false, candidate: None };
        assert_eq!(d.level(true, t), Some((true, t)));
        assert_eq!(d.level(true, t + ms(1)), None);
        assert_eq!(d.level(false, t + ms(2)), Some((false, t + ms(2))));
    }

    #[test]
    fn a_bounce_shorter_than_the_window_is_not_believed() {
        let t = Instant::now();
        let mut d = Debouncer { hold_on: ms(20), hold_off: ms(50), believed: false, candidate: None };
        d.level(true, t);
        d.level(false, t + ms(5));
        assert_eq!(d.candidate, None);
        d.level(true, t + ms(8));
        assert_eq!(d.expire(t + ms(27)), None);
        assert_eq!(d.expire(t + ms(28)), Some((true, t + ms(8))));
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
        DigitalIn { pin: 17, pull: Pull::Off, inverted: false, hold_on: hold, hold_off: hold }
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

    proptest! {
        /// The reference: a state is believed when its level has held for the window, and only then.
        #[test]
        fn bounces_agree_with_the_reference(gaps in proptest::collection::vec(1u64..60, 1..60), hold in 0u64..40) {
            let t = Instant::now();
            let mut d = Debouncer { hold_on: ms(hold), hold_off: ms(hold), believed: false, candidate: None };
            let (mut out, mut want) = (Vec::new(), Vec::new());
            let mut at = 0;
            let (mut level, mut believed) = (false, false);
            for gap in &gaps {
                level = !level;
                out.extend(d.level(level, t + ms(at)).map(|(on, _)| on));
                // the next edge comes after `gap`: the timer fires before it if the window is over by then
                if let Some(c) = d.candidate && c.due <= t + ms(at + gap) { out.extend(d.expire(c.due).map(|(on, _)| on)); }
                if *gap >= hold && level != believed { want.push(level); believed = level; }
                at += gap;
            }
            prop_assert_eq!(out, want);
        }
    }
}
