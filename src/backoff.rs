//! When to try again. Pure: it is told how long something held, it answers how long to wait; it reads no clock.
//!
//! Promise: waits double from `first` to `cap`, each up to 20 % shorter or longer so that a street full of gateways
//! does not come back in the same second, and start again from `first` after a time that held.

use std::time::Duration;

/// Growing waits.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    floor: Duration,
    failures: u32,
    random: fastrand::Rng,
}

impl Backoff {
    /// Waits from `first` to `cap`, and 20 % either way.
    pub fn new(first: Duration, cap: Duration) -> Backoff {
        Backoff::with_random(first, cap, fastrand::Rng::new())
    }

    /// The same with given dice.
    pub fn with_random(first: Duration, cap: Duration, random: fastrand::Rng) -> Backoff {
        Backoff { first, cap, floor: Duration::ZERO, failures: 0, random }
    }

    /// It failed again: how long to wait before the next try.
    pub fn failed(&mut self) -> Duration {
        let doubled = self.first.saturating_mul(2u32.saturating_pow(self.failures.min(30)));
        self.failures = self.failures.saturating_add(1);
        let wait = doubled.max(self.floor).min(self.cap.max(self.floor));
        wait.mul_f64(0.8 + 0.4 * self.random.f64())
    }

    /// From now on no wait is shorter than `floor` (give or take 20 %), until [`Backoff::held`].
    pub fn at_least(&mut self, floor: Duration) {
        self.floor = floor;
    }

    /// It held for a while: the next failure waits `first` again.
    pub fn held(&mut self) {
        self.failures = 0;
        self.floor = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dice(seed: u64) -> Backoff {
        Backoff::with_random(Duration::from_millis(500), Duration::from_secs(60), fastrand::Rng::with_seed(seed))
    }
    fn near(wait: Duration, seconds: f64) -> bool {
        let w = wait.as_secs_f64();
        w >= seconds * 0.8 - 1e-9 && w <= seconds * 1.2 + 1e-9
    }

    #[test]
    fn waits_double_to_the_cap_within_a_fifth() {
        for seed in 0..200 {
            let mut b = dice(seed);
            for expected in [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0] {
                let wait = b.failed();
                assert!(near(wait, expected), "{wait:?} for {expected}");
            }
        }
    }

    #[test]
    fn a_time_that_held_starts_from_the_beginning() {
        let mut b = dice(1);
        for _ in 0..9 {
            b.failed();
        }
        b.held();
        assert!(near(b.failed(), 0.5));
    }

    #[test]
    fn a_floor_holds_until_something_held() {
        let mut b = dice(2);
        b.at_least(Duration::from_secs(5));
        assert!(near(b.failed(), 5.0));
        b.held();
        assert!(near(b.failed(), 0.5));
    }

    #[test]
    fn two_gateways_do_not_wait_alike() {
        let (mut a, mut b) = (dice(3), dice(4));
        assert_ne!(a.failed(), b.failed());
    }

    #[test]
    fn a_year_of_failures_neither_overflows_nor_passes_the_cap() {
        let mut b = dice(5);
        b.failures = u32::MAX - 1;
        for _ in 0..3 {
            assert!(near(b.failed(), 60.0));
        }
    }
}
