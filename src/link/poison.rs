//! Finding the one record that ends every connection, so that it cannot hold up the rest for ever. Pure.
//!
//! Two kinds are known: mosquitto answers what is too large with 0x95, which rumqttc cannot read and takes for
//! garbage; and some brokers close the connection on a topic that is not allowed. The first suspect is the oldest
//! unanswered record; from then on records go out one at a time, so that the oldest is surely the one. The second
//! kind looks like any network trouble, so it takes many connections that were closed at once with nothing answered.

use std::time::Duration;

use super::reason::{Cause, code_text};

/// Connections that end on an unreadable answer to the same record.
const STRANGE: u32 = 3;
/// Connections that the broker closes on the same record. With the growing pauses this takes minutes.
const CLOSED: u32 = 10;
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
}

impl Poison {
    /// Whether records are to be sent one at a time.
    pub fn careful(&self) -> bool {
        self.suspect.is_some()
    }

    /// A record was answered.
    pub fn answered(&mut self, token: u64) {
        if self.suspect.is_some_and(|(t, _)| t == token) {
            self.suspect = None;
        }
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
        p.answered(7);
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
    fn a_record_that_was_not_alone_is_never_given_up() {
        let mut p = Poison::default();
        for _ in 0..50 {
            assert!(p.ended(Cause::Broken, NOW, Some(1), false).is_none());
        }
    }
}
