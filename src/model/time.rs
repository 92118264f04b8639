//! Time as the rooms without a clock see it: they are told what time it is.

use std::time::Duration;

/// Time since the daemon started, from a clock that never jumps. Timers and ages use only this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mono(pub Duration);

impl Mono {
    /// The moment `d` later.
    pub fn after(self, d: Duration) -> Mono {
        Mono(self.0.saturating_add(d))
    }
    /// How long ago `earlier` was; zero if it is still to come.
    pub fn since(self, earlier: Mono) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// Milliseconds since 1970-01-01 UTC by the system's clock, which may be wrong or jump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Wall(pub i64);

/// A run of the machine, from power to power: within one, moments can be compared across restarts of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Boot {
    /// The kernel's id of it; empty if that is not known.
    pub id: String,
    /// How long it had run when [`Mono`] was zero.
    pub offset: Duration,
}

/// The present moment, as handed to the engine and the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// By the system's clock.
    pub wall: Wall,
    /// By the clock that never jumps.
    pub mono: Mono,
    /// Whether the system's clock has been set (by NTP or an RTC).
    pub synced: bool,
}

/// When a reading was taken. Enough to put the time right later, if the clock is set while it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    /// Wall time then.
    pub wall: Wall,
    /// Time since the daemon's start then.
    pub mono: Mono,
    /// Whether the clock was set then.
    pub synced: bool,
}

impl Stamp {
    /// The wall time of this stamp as known at `now`, and whether it can be trusted.
    ///
    /// Only for stamps of this run of the daemon: a stamp taken before the clock was set is put right by the
    /// time that has passed since.
    pub fn resolve(&self, now: &Now) -> (Wall, bool) {
        if self.synced || !now.synced {
            return (self.wall, self.synced);
        }
        let age = now.mono.since(self.mono).as_millis() as i64;
        (Wall(now.wall.0.saturating_sub(age)), true)
    }
}

impl Now {
    /// A stamp for something that happens now.
    pub fn stamp(&self) -> Stamp {
        Stamp { wall: self.wall, mono: self.mono, synced: self.synced }
    }
}

/// A time as people say it, rounded up: `0.2 s`, `5.1 s`, `31 s`, `7 min`, `2 h 11 min`, `3 d 4 h`.
pub fn rough(time: Duration) -> String {
    let tenths = time.as_millis().div_ceil(100);
    let s = time.as_millis().div_ceil(1000);
    match s {
        0..=10 if !tenths.is_multiple_of(10) => format!("{}.{} s", tenths / 10, tenths % 10),
        0..=119 => format!("{s} s"),
        120..=7199 => format!("{} min", s.div_ceil(60)),
        7200..=172_799 => format!("{} h {} min", s / 3600, s / 60 % 60),
        _ => format!("{} d {} h", s / 86_400, s / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_said_in_one_or_two_figures() {
        let said =
            [0, 150, 5001, 9999, 31_000, 400_000, 7_200_000, 300_000_000].map(|ms| rough(Duration::from_millis(ms)));
        assert_eq!(said, ["0 s", "0.2 s", "5.1 s", "10 s", "31 s", "7 min", "2 h 0 min", "3 d 11 h"]);
    }

    #[test]
    fn a_stamp_from_before_the_clock_was_set_is_put_right() {
        let early = Stamp { wall: Wall(5_000), mono: Mono(Duration::from_secs(5)), synced: false };
        let later = Now { wall: Wall(1_800_000_000_000), mono: Mono(Duration::from_secs(65)), synced: true };
        assert_eq!(early.resolve(&later), (Wall(1_799_999_940_000), true));
        let unset = Now { synced: false, ..later };
        assert_eq!(early.resolve(&unset), (Wall(5_000), false));
    }
}
