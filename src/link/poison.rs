//! Finding the one record that ends every connection, or is put off for ever, so that it cannot hold up the rest. Pure.
//!
//! Two kinds are known: mosquitto answers what is too large with 0x95, which rumqttc cannot read and takes for
//! garbage; and some brokers close the connection on a topic that is not allowed. The first suspect is the oldest
//! unanswered record; from then on records go out one at a time, so that the oldest is surely the one. The second
//! kind looks like any network trouble, so it takes many connections that were closed at once with nothing answered.
//!
//! A third kind is answered "not now" each time. While the broker puts off everything (a quota, a full disk) that is
//! no record's fault and all wait. It is the record's when others that were given out behind it pass, time after time.

use std::collections::BTreeMap;
use std::time::Duration;

use super::reason::{Cause, code_text};

/// Connections that end on an unreadable answer to the same record.
const STRANGE: u32 = 3;
/// Connections that the broker closes on the same record. With the growing pauses this takes minutes.
const CLOSED: u32 = 10;
/// So often a record is put off while another that was given out behind it passes.
const PASSED: u32 = 8;
/// So often it is put off in any case, unless the broker speaks of a quota. With the growing pauses half an hour.
const PUT_OFF: u32 = 32;
const QUOTA: u8 = 0x97;
/// Closed later than this after CONNACK it was not the record.
const AT_ONCE: Duration = Duration::from_secs(5);

/// A record to give up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Culprit {
    /// Which.
    pub token: u64,
    /// The broker's answer, or 0x80 where there was none.
    pub code: u8,
    /// In words.
    pub text: String,
}

/// The record under suspicion.
#[derive(Debug, Default)]
pub struct Poison {
    suspect: Option<(u64, u32)>,
    put_off: BTreeMap<u64, PutOff>,
}

/// A record that was answered "not now": at most as many as are on their way at a time.
#[derive(Debug, Default)]
struct PutOff {
    /// The how manieth it was when it was given out last.
    nth: u64,
    times: u32,
    /// In so many of these times one behind it passed.
    passed: u32,
    /// This time already.
    counted: bool,
}

impl Poison {
    /// Whether records are to be sent one at a time.
    pub fn careful(&self) -> bool {
        self.suspect.is_some()
    }

    /// A record was taken; it was the `nth` that was given out.
    pub fn answered(&mut self, token: u64, nth: u64) {
        if self.suspect.is_some_and(|(t, _)| t == token) {
            self.suspect = None;
        }
        if !self.put_off.is_empty() {
            self.put_off.remove(&token);
            for other in self.put_off.values_mut().filter(|o| o.nth < nth && !o.counted) {
                other.counted = true;
                other.passed += 1;
            }
        }
    }

    /// A record, the `nth` that was given out, was answered "not now".
    pub fn not_now(&mut self, token: u64, nth: u64, code: u8) -> Option<Culprit> {
        if self.put_off.len() > 4096 {
            // Left behind by connections whose records have expired since.
            self.put_off.clear();
        }
        let record = self.put_off.entry(token).or_default();
        (record.nth, record.counted) = (nth, false);
        record.times += 1;
        let times = record.times;
        if record.passed < PASSED && (code == QUOTA || times < PUT_OFF) {
            return None;
        }
        self.put_off.remove(&token);
        Some(Culprit {
            token,
            code,
            text: format!("each of {times} times the broker answered with {}", code_text(code)),
        })
    }

    /// A connection ended, `up_for` after CONNACK, with this record the oldest unanswered; `careful`: it was alone.
    pub fn ended(&mut self, cause: Cause, up_for: Duration, oldest: Option<u64>, careful: bool) -> Option<Culprit> {
        let most = match cause {
            Cause::StrangeAnswer(_) => STRANGE,
            Cause::Broken if up_for < AT_ONCE => CLOSED,
            _ => return None,
        };
        let token = oldest?;
        let strikes = match self.suspect {
            Some((t, strikes)) if t == token && careful => strikes + 1,
            _ => 1,
        };
        if strikes < most {
            self.suspect = Some((token, strikes));
            return None;
        }
        self.suspect = None;
        Some(match cause {
            Cause::StrangeAnswer(code) => {
                let text = format!("each time it is sent the broker answers with {}", code_text(code));
                Culprit { token, code, text }
            }
            _ => Culprit {
                token,
                code: 0x80,
                text: format!(
                    "the broker closed the connection each of {most} times when it was sent; may this client publish on its topic?"
                ),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_millis(10);
    const STRANGE_SIZE: Cause = Cause::StrangeAnswer(0x95);

    #[test]
    fn the_third_unreadable_answer_to_one_record_is_its_end() {
        let mut p = Poison::default();
        assert!(p.ended(STRANGE_SIZE, NOW, Some(7), false).is_none() && p.careful());
        assert!(p.ended(STRANGE_SIZE, NOW, Some(7), true).is_none());
        let culprit = p.ended(STRANGE_SIZE, NOW, Some(7), true).unwrap();
        assert_eq!((culprit.token, culprit.code), (7, 0x95));
        assert!(!p.careful());
    }

    #[test]
    fn an_innocent_suspect_is_cleared_and_the_next_starts_from_one() {
        let mut p = Poison::default();
        p.ended(STRANGE_SIZE, NOW, Some(7), false);
        p.ended(STRANGE_SIZE, NOW, Some(7), true);
        p.answered(7, 1);
        assert!(!p.careful());
        assert!(p.ended(STRANGE_SIZE, NOW, Some(8), true).is_none());
        assert!(p.ended(STRANGE_SIZE, NOW, Some(8), true).is_none());
        assert_eq!(p.ended(STRANGE_SIZE, NOW, Some(8), true).unwrap().token, 8);
    }

    #[test]
    fn a_record_dies_of_closed_connections_only_after_ten_and_never_of_silence() {
        let mut p = Poison::default();
        for _ in 0..9 {
            assert!(p.ended(Cause::Broken, NOW, Some(1), true).is_none());
            assert!(p.ended(Cause::GaveUp, NOW, Some(1), true).is_none());
            assert!(p.ended(Cause::Broken, Duration::from_secs(6), Some(1), true).is_none());
            assert!(p.ended(Cause::Broken, NOW, None, true).is_none());
        }
        assert!(p.ended(Cause::Broken, NOW, Some(1), true).is_some());
    }

    #[test]
    fn a_record_that_is_put_off_while_later_ones_pass_is_given_up() {
        let mut p = Poison::default();
        let mut nth = 0;
        let last = loop {
            nth += 2;
            match p.not_now(1, nth, 0x97) {
                None => p.answered(100 + nth, nth + 1),
                Some(culprit) => break culprit,
            }
            assert!(nth < 100);
        };
        assert_eq!((last.token, last.code, nth), (1, 0x97, 18), "the ninth time");
        assert!(p.put_off.is_empty());
    }

    #[test]
    fn a_quota_for_everyone_makes_all_wait_and_none_a_culprit() {
        let mut p = Poison::default();
        // each round the first passes, and those behind it do not
        for round in 0..500u64 {
            p.answered(round, round * 100);
            for behind in 1..8 {
                assert!(p.not_now(round + behind, round * 100 + behind, 0x97).is_none());
            }
        }
        assert!(p.put_off.len() <= 8, "bounded by what is on its way");
    }

    #[test]
    fn an_error_without_a_name_is_borne_for_long_and_not_for_ever() {
        let mut p = Poison::default();
        let borne = (1..).find(|n| p.not_now(1, *n, 0x80).is_some());
        assert_eq!(borne, Some(u64::from(PUT_OFF)));
    }

    #[test]
    fn a_record_that_was_not_alone_is_never_given_up() {
        let mut p = Poison::default();
        for _ in 0..50 {
            assert!(p.ended(Cause::Broken, NOW, Some(1), false).is_none());
        }
    }
}
