//! What the kinds that read pins share: their keys, the rule of debounce, and the guard against storms of edges.
//!
//! A pin that gives more edges than its kind can mean is let go for a second, read when it is taken again, and so on
//! until it is quiet: that costs the same whatever the pin does, and `bridge/health` says `flooding`.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::scalar::{Pin, Span};
use crate::hal::Pull;

use super::{Context, Counters};

/// An edge is with us this long after it happened, whatever the machine is doing.
pub(super) const EDGE_DELAY: Duration = Duration::from_millis(50);
/// How long a pin in a storm is let go.
pub(super) const PAUSE: Duration = Duration::from_secs(1);
/// The time in which the edges of a storm are counted.
const WINDOW: Duration = Duration::from_secs(1);

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

/// Pins with their bias, for `explain`.
pub(super) fn note(pins: &[Pin], pull: Pull, inverted: bool) -> String {
    let names: Vec<String> = pins.iter().map(Pin::to_string).collect();
    let pull = match pull {
        Pull::Up => ", pulled up",
        Pull::Down => ", pulled down",
        Pull::Off => "",
    };
    let word = if pins.len() == 1 { "pin" } else { "pins" };
    format!("{word} {}{pull}{}", names.join(" "), if inverted { ", inverted" } else { "" })
}

/// The longest time that a level may have to hold.
pub(super) const LONGEST_HOLD: Duration = Duration::from_secs(60);

/// A debounce key, if it is not too long.
pub(super) fn hold(key: Option<Span>) -> Option<Duration> {
    let time = key.map_or(Duration::ZERO, |s| s.0);
    (time <= LONGEST_HOLD).then_some(time)
}

/// A state that waits to be believed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub on: bool,
    /// When it began.
    pub since: Instant,
    /// When it is believed.
    pub due: Instant,
}

/// Debounce as a pure rule: fed with levels, it says when a new state is believed.
#[derive(Debug)]
pub(super) struct Debouncer {
    hold_on: Duration,
    hold_off: Duration,
    believed: bool,
    pub candidate: Option<Candidate>,
}

impl Debouncer {
    /// A state must hold so long to be believed; this one is.
    pub fn new(hold_on: Duration, hold_off: Duration, believed: bool) -> Debouncer {
        Debouncer { hold_on, hold_off, believed, candidate: None }
    }
    /// A level, and when it began. A new state that is believed at once.
    pub fn level(&mut self, on: bool, at: Instant) -> Option<(bool, Instant)> {
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
    pub fn expire(&mut self, now: Instant) -> Option<(bool, Instant)> {
        let c = self.candidate.filter(|c| c.due <= now)?;
        self.candidate = None;
        self.believed = c.on;
        Some((c.on, c.since))
    }
}

/// Counts edges and says when there are more than a pin may give.
#[derive(Debug)]
pub(super) struct Guard {
    limit: u32,
    since: Option<Instant>,
    count: u32,
}

impl Guard {
    /// So many edges a second are no storm yet.
    pub fn new(limit: u32) -> Guard {
        Guard { limit, since: None, count: 0 }
    }
    /// So many edges. True: these are too many.
    pub fn storms(&mut self, at: Instant, edges: u64) -> bool {
        if self.since.is_none_or(|since| at.saturating_duration_since(since) >= WINDOW) {
            self.since = Some(at);
            self.count = 0;
        }
        self.count = self.count.saturating_add(u32::try_from(edges).unwrap_or(u32::MAX));
        self.count > self.limit
    }
}

/// A storm has begun, or has ended.
pub(super) fn flooding(cx: &Context, is: bool, limit: u32) {
    let was = cx.counters.flooding.swap(is, Ordering::Relaxed);
    match (was, is) {
        (false, true) => {
            Counters::add(&cx.counters.storms, 1);
            log::warn!(device = cx.name.as_str();
                "more than {limit} edges a second: the pin is looked at once a second until it is quiet; \
                 an open input needs a `pull`");
        }
        (true, false) => log::info!(device = cx.name.as_str(); "the pin is quiet again"),
        _ => {}
    }
}

/// Edges that could not be kept.
pub(super) fn lost(cx: &Context, n: u64) {
    if n > 0 {
        Counters::add(&cx.counters.errors, n);
        let before = cx.counters.lost_edges.fetch_add(n, Ordering::Relaxed);
        // the first of them, and then each time they are ten times as many
        if (before.max(1)).ilog10() != (before + n).ilog10() || before == 0 {
            log::warn!(device = cx.name.as_str(), lost = before + n; "edges were lost");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn without_debounce_every_change_is_believed_at_once() {
        let t = Instant::now();
        let mut d = Debouncer::new(ms(0), ms(0), false);
        assert_eq!(d.level(true, t), Some((true, t)));
        assert_eq!(d.level(true, t + ms(1)), None);
        assert_eq!(d.level(false, t + ms(2)), Some((false, t + ms(2))));
    }

    #[test]
    fn a_bounce_shorter_than_the_window_is_not_believed() {
        let t = Instant::now();
        let mut d = Debouncer::new(ms(20), ms(50), false);
        d.level(true, t);
        d.level(false, t + ms(5));
        assert_eq!(d.candidate, None);
        d.level(true, t + ms(8));
        assert_eq!(d.expire(t + ms(27)), None);
        assert_eq!(d.expire(t + ms(28)), Some((true, t + ms(8))));
    }

    #[test]
    fn more_edges_than_the_limit_in_a_second_are_a_storm_and_fewer_are_none() {
        let t = Instant::now();
        let mut guard = Guard::new(100);
        assert!((0..1000).all(|i| !guard.storms(t + ms(i * 10), 1)), "100 a second");
        let t = t + ms(20_000);
        let first = (0..1000).position(|i| guard.storms(t + ms(i), 1));
        assert_eq!(first, Some(100));
    }

    proptest! {
        /// The reference: a state is believed when its level has held for its window, and only then. What is believed
        /// last is the final level, if it holds.
        #[test]
        fn bounces_agree_with_the_reference(
            gaps in proptest::collection::vec(0u64..60, 1..60), on in 0u64..40, off in 0u64..40, first: bool,
        ) {
            let t = Instant::now();
            let mut d = Debouncer::new(ms(on), ms(off), first);
            let (mut out, mut want) = (Vec::new(), Vec::new());
            let mut at = 0;
            let (mut level, mut believed) = (first, first);
            for gap in &gaps {
                level = !level;
                let since = t + ms(at);
                out.extend(d.level(level, since));
                // the next edge comes after `gap`: the timer fires before it if the window is over by then
                if let Some(c) = d.candidate && c.due <= t + ms(at + gap) { out.extend(d.expire(c.due)); }
                if *gap >= (if level { on } else { off }) && level != believed {
                    want.push((level, since));
                    believed = level;
                }
                at += gap;
            }
            prop_assert_eq!(&out, &want);
            // and the level at the end, however it got there, is what is believed in the end
            if let Some(c) = d.candidate { out.extend(d.expire(c.due)); }
            prop_assert_eq!(out.last().map_or(first, |(on, _)| *on), level);
        }
    }
}
