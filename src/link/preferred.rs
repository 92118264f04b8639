//! The way back: whether the first broker of the list answers again while a lower one serves.
//!
//! Every while a second client, with an id of its own and no will, connects to the first broker. When it is let in, or
//! sent away for what only it is, the link takes nothing more from the outbox, waits until all that is on its way is
//! answered, and moves. The connection to the lower broker is cut and not closed, so that its `offline` goes out there.
//! A move that fails costs a moment, and doubles the pause to the next look; nothing is lost by it.

use std::time::Duration;

use tokio::time::Instant;

use super::reason::Cause;
use super::session::{Heard, Report, Session};

/// Longest pause between two looks.
const SELDOM: Duration = Duration::from_secs(3600);
/// So long is waited for what the owner has not acknowledged yet, before the move.
const OWED: Duration = Duration::from_secs(2);

/// The state of one connection to a lower broker.
pub(super) struct Preferred {
    every: Duration,
    /// When to look next, or when to give up the look that is under way.
    at: Instant,
    look: Option<Session>,
    answered: Option<Instant>,
}

impl Preferred {
    /// The first look comes after `every`.
    pub fn new(every: Duration) -> Preferred {
        Preferred { every, at: Instant::now() + every, look: None, answered: None }
    }

    /// When [`Preferred::turn`] wants to be called, if nothing comes before.
    pub fn due(&self) -> Option<Instant> {
        match self.answered {
            None => Some(self.at),
            // Behind that it is the answers to what is on its way that are waited for.
            Some(since) => Some(since + OWED).filter(|at| *at > Instant::now()),
        }
    }

    /// Begins a look, or gives up one that takes too long.
    pub fn turn(&mut self, now: Instant, patience: Duration, open: impl FnOnce() -> Option<Session>) {
        if self.answered.is_some() || now < self.at {
            return;
        }
        self.look = match self.look.take() {
            Some(_) => None,
            None => open(),
        };
        self.at = now + if self.look.is_some() { patience } else { self.every };
    }

    /// Ready when the look has ended; never without one. Gives whether the broker is there. May be dropped half-way.
    pub async fn looked(&mut self) -> bool {
        let Some(look) = &mut self.look else { return std::future::pending().await };
        loop {
            match look.reports.recv().await {
                Some(Report::Heard(batch)) if batch.iter().any(|h| matches!(h, Heard::Up(_))) => return true,
                Some(Report::Heard(_)) => {}
                // Sent away with this id; whether with ours too can only be tried.
                Some(Report::Ended(ended)) => return ended.cause == Cause::Refused,
                None => return false,
            }
        }
    }

    /// What [`Preferred::looked`] gave.
    pub fn ended(&mut self, there: bool) {
        let now = Instant::now();
        if let Some(look) = self.look.take() {
            look.client.disconnect();
        }
        self.at = now + self.every;
        self.answered = there.then_some(now);
    }

    /// Whether the link is to take nothing more.
    pub fn leaving(&self) -> bool {
        self.answered.is_some()
    }

    /// Whether to move now; `owed`: the owner has still to acknowledge something.
    pub fn moves(&self, owed: bool) -> bool {
        self.answered.is_some_and(|since| !owed || since.elapsed() >= OWED)
    }
}

/// The pause after a move that did not hold.
pub(super) fn longer(every: Duration) -> Duration {
    (every * 2).min(SELDOM.max(every))
}
