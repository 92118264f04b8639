//! WHO GOES FIRST and how old a record is: small rules without state of their own.

use std::time::Duration;

use super::{Order, Rank, Replay, Stamp};

/// Microseconds since the daemon's start; negative before it.
pub fn us(t: Duration) -> i64 {
    i64::try_from(t.as_micros()).unwrap_or(i64::MAX)
}

/// The other way round; nothing is before the start.
pub fn duration(us: i64) -> Duration {
    Duration::from_micros(u64::try_from(us).unwrap_or(0))
}

/// What the clocks said at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct TimeBase {
    at: i64,
    stamp: Stamp,
    /// When the queue was opened.
    opened: i64,
}

impl TimeBase {
    /// The clocks at the opening.
    pub fn new(at: i64, stamp: Stamp) -> TimeBase {
        TimeBase { at, stamp, opened: at }
    }

    /// The clocks later; a clock that was set makes older stamps comparable.
    pub fn set(&mut self, at: i64, stamp: Stamp) {
        self.at = at;
        self.stamp = stamp;
    }

    /// A stamp for `now`.
    pub fn stamp(&self, now: i64) -> Stamp {
        let later = (now - self.at) / 1000;
        let mono = self.stamp.mono.saturating_add_signed(later);
        Stamp { wall: self.stamp.wall.saturating_add(later), mono, ..self.stamp }
    }

    /// When a record with this stamp came, as far as can be told. Of an earlier boot without a set clock nothing
    /// can be told: it counts as if it came when the queue was opened, so that nothing expires by mistake.
    pub fn at_of(&self, stamp: &Stamp) -> i64 {
        if stamp.boot == self.stamp.boot {
            let age = (self.stamp.mono as i64).saturating_sub(stamp.mono as i64);
            self.at.saturating_sub(age.saturating_mul(1000))
        } else if stamp.synced && self.stamp.synced {
            let age = self.stamp.wall.saturating_sub(stamp.wall).max(0);
            self.at.saturating_sub(age.saturating_mul(1000))
        } else {
            self.opened
        }
    }
}

/// Keeps the replay's order and rate.
#[derive(Debug, Clone, Copy)]
pub struct Replayer {
    rule: Replay,
    /// Records that may leave now, up to a tenth of a second's worth.
    tokens: f64,
    at: i64,
    /// The last one taken where ranks compete was live.
    live_had_it: bool,
}

/// Which of two may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The live one.
    Live,
    /// The one that waited.
    Backlog,
}

impl Replayer {
    /// By `rule`.
    pub fn new(rule: Replay) -> Replayer {
        Replayer { rule, tokens: 1.0, at: 0, live_had_it: false }
    }

    /// The rule.
    pub fn rule(&self) -> Replay {
        self.rule
    }

    /// Whether live ones wait for the backlog of their rank.
    pub fn backlog_first(&self) -> bool {
        self.rule.order == Order::BacklogFirst
    }

    fn burst(rate: f64) -> f64 {
        (rate / 10.0).max(1.0)
    }

    /// How long until one of the backlog may go; `None`: now.
    pub fn wait(&mut self, now: i64) -> Option<Duration> {
        let rate = self.rule.rate.filter(|r| *r > 0.0)?;
        let passed = now.saturating_sub(self.at).max(0) as f64 / 1e6;
        self.tokens = (self.tokens + passed * rate).min(Self::burst(rate));
        self.at = now.max(self.at);
        (self.tokens < 1.0).then(|| Duration::from_secs_f64(((1.0 - self.tokens) / rate).min(3600.0)))
    }

    /// One of the backlog went.
    pub fn took(&mut self) {
        self.tokens -= 1.0;
    }

    /// Whose turn it is when a live one of rank `live` and one of the backlog of rank `back` could go.
    pub fn turn(&mut self, live: Rank, back: Rank) -> Turn {
        match self.rule.order {
            Order::BacklogFirst if live > back => Turn::Live,
            Order::BacklogFirst => Turn::Backlog,
            Order::LiveFirst if live >= back => Turn::Live,
            Order::LiveFirst => {
                self.live_had_it = !self.live_had_it;
                if self.live_had_it { Turn::Live } else { Turn::Backlog }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_lets_so_many_go_in_a_second() {
        let mut r = Replayer::new(Replay { order: Order::LiveFirst, rate: Some(500.0) });
        let (mut now, mut sent) = (0, 0);
        while now < 10_000_000 {
            match r.wait(now) {
                None => {
                    r.took();
                    sent += 1;
                }
                Some(wait) => now += us(wait).max(1),
            }
        }
        assert!((4990..=5060).contains(&sent), "{sent}");
    }

    #[test]
    fn the_age_of_a_record_needs_a_clock_that_both_knew() {
        let now = Stamp { wall: 1_000_000, mono: 50_000, boot: 2, synced: true };
        let base = TimeBase::new(7_000_000, now);
        assert_eq!(base.at_of(&Stamp { mono: 49_000, ..now }), 6_000_000);
        assert_eq!(base.at_of(&Stamp { wall: 0, mono: 49_000, synced: false, ..now }), 6_000_000);
        assert_eq!(base.at_of(&Stamp { wall: 990_000, mono: 1, boot: 1, synced: true }), -3_000_000);
        assert_eq!(base.at_of(&Stamp { wall: 0, mono: 1, boot: 1, synced: false }), 7_000_000);
        assert_eq!(base.stamp(8_000_000).wall, 1_001_000);
    }

    #[test]
    fn ranks_decide_and_where_they_compete_they_take_turns() {
        let mut live = Replayer::new(Replay::default());
        assert_eq!([live.turn(2, 1), live.turn(1, 1)], [Turn::Live; 2]);
        assert_ne!(live.turn(1, 2), live.turn(1, 2));
        let mut back = Replayer::new(Replay { order: Order::BacklogFirst, rate: None });
        assert_eq!([back.turn(2, 1), back.turn(1, 1), back.turn(1, 2)], [Turn::Live, Turn::Backlog, Turn::Backlog]);
    }
}
