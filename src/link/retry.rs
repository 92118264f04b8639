//! Which broker next, and when. Pure: it is told how each connection ended.
//!
//! One that cannot be reached gives way to the next at once; a pause comes when all were tried. One that let us in is
//! tried again first, unless it was left because the first of the list answers again. After a connection that held, the first retry comes without a pause.

use std::time::Duration;

use super::reason::Cause;
use crate::backoff::Backoff;

/// A connection that lived this long clears the past.
const HELD: Duration = Duration::from_secs(30);
/// A connection closed by the broker within this time, three times in a row, looks like two clients with one id.
const QUICK: Duration = Duration::from_secs(5);
const QUICK_CLOSES: u32 = 3;

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next {
    /// Index of the broker.
    pub url: usize,
    /// Pause before it.
    pub wait: Duration,
    /// It looks as if another client used our client id.
    pub taken_over: bool,
}

/// The memory of failures.
pub struct Retry {
    urls: usize,
    at: usize,
    round: usize,
    quick: u32,
    backoff: Backoff,
    /// Shortest pause where another client seems to use our id.
    way: Duration,
}

impl Retry {
    /// For so many brokers; `way`: the shortest pause where another client seems to use our id.
    pub fn new(urls: usize, backoff: Backoff, way: Duration) -> Retry {
        Retry { urls: urls.max(1), at: 0, round: 0, quick: 0, backoff, way }
    }

    /// The connection ended; `up_for`: how long after CONNACK, `None` without one.
    pub fn ended(&mut self, cause: Cause, up_for: Option<Duration>) -> Next {
        let Some(up_for) = up_for else {
            self.at = (self.at + 1) % self.urls;
            self.round += 1;
            let wait = if self.round.is_multiple_of(self.urls) { self.backoff.failed() } else { Duration::ZERO };
            return Next { url: self.at, wait, taken_over: false };
        };
        self.round = 0;
        if cause == Cause::GoBack {
            (self.at, self.quick) = (0, 0);
            return Next { url: 0, wait: Duration::ZERO, taken_over: false };
        }
        // two that take an id from each other in turns hold longer the longer they wait: that clears nothing
        let held = up_for >= HELD && cause != Cause::TakenOver;
        if held {
            self.backoff.held();
        }
        if cause == Cause::Left {
            (self.at, self.quick) = ((self.at + 1) % self.urls, 0);
            return Next { url: self.at, wait: self.backoff.failed(), taken_over: false };
        }
        if cause == Cause::Broken && up_for < QUICK {
            self.quick += 1;
        } else if cause != Cause::TakenOver {
            self.quick = 0;
        }
        let taken_over = cause == Cause::TakenOver || self.quick >= QUICK_CLOSES;
        if taken_over {
            self.backoff.at_least(self.way);
        }
        if self.quick >= QUICK_CLOSES {
            self.at = (self.at + 1) % self.urls;
        }
        let wait = if held && !taken_over { Duration::ZERO } else { self.backoff.failed() };
        Next { url: self.at, wait, taken_over }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry(urls: usize) -> Retry {
        let dice = fastrand::Rng::with_seed(7);
        let backoff = Backoff::with_random(Duration::from_millis(500), Duration::from_secs(60), dice);
        Retry::new(urls, backoff, Duration::from_secs(5))
    }
    const SHORT: Option<Duration> = Some(Duration::from_secs(1));
    const LONG: Option<Duration> = Some(Duration::from_secs(3600));

    #[test]
    fn all_brokers_are_tried_before_a_pause() {
        let mut r = retry(3);
        let tries: Vec<_> = (0..6).map(|_| r.ended(Cause::Unreachable, None)).collect();
        assert_eq!(tries.iter().map(|n| n.url).collect::<Vec<_>>(), [1, 2, 0, 1, 2, 0]);
        let pauses: Vec<_> = tries.iter().map(|n| !n.wait.is_zero()).collect();
        assert_eq!(pauses, [false, false, true, false, false, true]);
        assert!(tries[5].wait > tries[2].wait);
    }

    #[test]
    fn a_broker_that_held_is_tried_again_at_once() {
        let mut r = retry(2);
        let broker = r.ended(Cause::Unreachable, None).url;
        let next = r.ended(Cause::Broken, LONG);
        assert_eq!(next, Next { url: broker, wait: Duration::ZERO, taken_over: false });
    }

    #[test]
    fn quick_drops_are_paused_for_longer_each_time_until_a_connection_holds() {
        let mut r = retry(1);
        let some = Some(Duration::from_secs(20));
        let waits: Vec<_> = (0..6).map(|_| r.ended(Cause::Broken, some).wait.as_secs_f64()).collect();
        assert!(waits.windows(2).all(|w| w[1] > w[0]) && waits[5] > 12.0, "{waits:?}");
        assert_eq!(r.ended(Cause::Broken, Some(HELD)).wait, Duration::ZERO);
        let first = r.ended(Cause::Unreachable, None).wait;
        assert!(first < Duration::from_millis(700), "{first:?}");
    }

    #[test]
    fn clients_that_take_an_id_from_each_other_do_not_come_faster_again() {
        let mut r = retry(1);
        for _ in 0..9 {
            r.ended(Cause::TakenOver, LONG);
        }
        assert!(r.ended(Cause::TakenOver, LONG).wait > Duration::from_secs(40));
    }

    #[test]
    fn a_takeover_waits_at_least_four_seconds_even_after_a_long_time() {
        let next = retry(1).ended(Cause::TakenOver, LONG);
        assert!(next.taken_over && next.wait >= Duration::from_secs(4), "{next:?}");
    }

    #[test]
    fn three_closes_right_after_the_welcome_look_like_a_takeover() {
        let mut r = retry(1);
        assert!(!r.ended(Cause::Broken, SHORT).taken_over);
        assert!(!r.ended(Cause::Broken, SHORT).taken_over);
        let third = r.ended(Cause::Broken, SHORT);
        assert!(third.taken_over && third.wait >= Duration::from_secs(4));
        assert!(!r.ended(Cause::GaveUp, LONG).taken_over);
    }

    #[test]
    fn the_way_back_to_the_first_has_no_pause_and_neither_has_its_failure() {
        let mut r = retry(3);
        assert_eq!(r.ended(Cause::Unreachable, None).url, 1);
        let back = r.ended(Cause::GoBack, SHORT);
        assert_eq!(back, Next { url: 0, wait: Duration::ZERO, taken_over: false });
        let on = r.ended(Cause::Refused, None);
        assert_eq!(on, Next { url: 1, wait: Duration::ZERO, taken_over: false });
    }

    #[test]
    fn what_the_owner_left_is_followed_by_the_next_after_a_pause() {
        let mut r = retry(2);
        let next = r.ended(Cause::Left, LONG);
        assert!(next.url == 1 && !next.wait.is_zero() && !next.taken_over, "{next:?}");
        assert_eq!(r.ended(Cause::Left, SHORT).url, 0);
    }

    #[test]
    fn our_own_reasons_to_hang_up_are_no_takeover() {
        let mut r = retry(1);
        for _ in 0..9 {
            assert!(!r.ended(Cause::StrangeAnswer(0x95), SHORT).taken_over);
        }
    }
}
