//! Gestures of a push button, from its debounced states. Pure.
//!
//! `long`: held for a second, said while it is still held. `double`: pressed again within 400 ms of being released.
//! `click`: any other press; where `double` is wanted too it is said only when a second press can no longer come.

use std::time::Duration;

use tokio::time::Instant;

use schemars::JsonSchema;
use serde::Deserialize;

/// Held so long it is a long press.
const LONG: Duration = Duration::from_secs(1);
/// Pressed again so soon it is a double click.
const AGAIN: Duration = Duration::from_millis(400);

/// A gesture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Gesture {
    /// Pressed and released.
    Click,
    /// Twice in a row.
    Double,
    /// Held.
    Long,
}

impl Gesture {
    /// As it is published.
    pub fn word(self) -> &'static str {
        match self {
            Gesture::Click => "click",
            Gesture::Double => "double",
            Gesture::Long => "long",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    /// Nothing, or a press that is over and told.
    Idle,
    /// Pressed; whether it is the second press.
    Down(Instant, bool),
    /// Released once; a second press may come.
    Up(Instant),
}

/// What has been told, and when.
pub(super) type Told = Vec<(Gesture, Instant)>;

/// Watches one button.
#[derive(Debug)]
pub(super) struct Gestures {
    wanted: Vec<Gesture>,
    state: State,
}

impl Gestures {
    /// For these gestures; a button that is pressed now is waited for.
    pub fn new(wanted: &[Gesture]) -> Gestures {
        Gestures { wanted: wanted.to_vec(), state: State::Idle }
    }

    fn wants(&self, gesture: Gesture) -> bool {
        self.wanted.contains(&gesture)
    }

    fn tell(&self, gesture: Gesture, at: Instant) -> Option<(Gesture, Instant)> {
        self.wants(gesture).then_some((gesture, at))
    }

    /// Forgets what was begun.
    pub fn reset(&mut self) {
        self.state = State::Idle;
    }

    /// When [`Gestures::expire`] has something to say, unless the button moves before.
    pub fn due(&self) -> Option<Instant> {
        match self.state {
            State::Down(since, _) => self.wants(Gesture::Long).then(|| since + LONG),
            State::Up(since) => Some(since + AGAIN),
            State::Idle => None,
        }
    }

    /// Time has passed without a move.
    pub fn expire(&mut self, now: Instant) -> Told {
        let Some(due) = self.due().filter(|due| *due <= now) else { return Vec::new() };
        let told: [_; 2] = match self.state {
            State::Down(since, second) => {
                // the press before it was no half of a double
                [if second { self.tell(Gesture::Click, since) } else { None }, self.tell(Gesture::Long, due)]
            }
            State::Up(_) => [self.tell(Gesture::Click, due), None],
            State::Idle => [None, None],
        };
        self.state = State::Idle;
        told.into_iter().flatten().collect()
    }

    /// The button was pressed or released.
    pub fn moved(&mut self, down: bool, at: Instant) -> Told {
        let mut told = self.expire(at);
        self.state = match (self.state, down) {
            (State::Up(_), true) => State::Down(at, true),
            (_, true) => State::Down(at, false),
            (State::Down(_, true), false) => {
                told.extend(self.tell(Gesture::Double, at));
                State::Idle
            }
            (State::Down(_, false), false) if self.wants(Gesture::Double) => State::Up(at),
            (State::Down(_, false), false) => {
                told.extend(self.tell(Gesture::Click, at));
                State::Idle
            }
            (state, false) => state,
        };
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Gesture::{Click, Double, Long};
    use proptest::prelude::*;

    /// Presses and pauses in turn, in ms; what is told by the end of the last pause.
    fn told(wanted: &[Gesture], times: &[u64]) -> Vec<&'static str> {
        let mut gestures = Gestures::new(wanted);
        let mut at = Instant::now();
        let mut words = Vec::new();
        let mut down = false;
        for ms in times {
            down = !down;
            words.extend(gestures.moved(down, at));
            at += Duration::from_millis(*ms);
            while let Some(due) = gestures.due().filter(|due| *due < at) {
                words.extend(gestures.expire(due));
            }
        }
        words.into_iter().map(|(gesture, _)| gesture.word()).collect()
    }

    #[test]
    fn presses_become_gestures() {
        let all = [Click, Double, Long];
        for (wanted, times, want) in [
            (&all[..], &[80, 2000][..], &["click"][..]),
            (&all, &[80, 100, 80, 2000], &["double"]),
            (&all, &[80, 500, 80, 2000], &["click", "click"]),
            (&all, &[80, 100, 80, 100, 80, 2000], &["double", "click"]),
            (&all, &[1500, 2000], &["long"]),
            (&all, &[999, 2000], &["click"]),
            (&all, &[80, 100, 1500, 2000], &["click", "long"]),
            // without double a click is told at once; without long every press is one
            (&[Click], &[80, 1], &["click"]),
            (&[Click], &[5000, 1], &["click"]),
            (&[Double, Long], &[80, 2000, 80, 80, 80, 2000], &["double"]),
            (&[Long], &[80, 2000, 1001], &["long"]),
        ] {
            assert_eq!(told(wanted, times), want, "{wanted:?} {times:?}");
        }
    }

    #[test]
    fn a_button_that_is_held_at_the_start_says_nothing() {
        let mut gestures = Gestures::new(&[Click, Long]);
        assert_eq!((gestures.due(), gestures.moved(false, Instant::now())), (None, vec![]));
    }

    proptest! {
        /// No press is lost: a double is two of them, every other gesture one.
        #[test]
        fn every_press_is_told_once(times in proptest::collection::vec(1u64..2000, 0..40)) {
            let mut times = times;
            times.truncate(times.len() / 2 * 2);
            times.extend([50, 5000]);
            let presses: usize =
                told(&[Click, Double, Long], &times).iter().map(|word| if *word == "double" { 2 } else { 1 }).sum();
            prop_assert_eq!(presses, times.len() / 2);
        }
    }
}
