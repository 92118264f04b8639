//! Who may speak on a line: one at a time, commands before polls, among equals who asked first.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::oneshot;

/// How urgent a turn is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Somebody waits for what comes of it.
    Command,
    /// It comes round again.
    Poll,
}

/// The line's book of turns.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    /// Whose turn it is.
    held: Option<u64>,
    waiting: [VecDeque<(u64, oneshot::Sender<Turn>)>; 2],
}

/// The right to speak, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    /// `None`: it was never used, and is not given on.
    turns: Option<Arc<Turns>>,
}

impl Turns {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The member whose turn it is.
    pub(super) fn speaker(&self) -> Option<u64> {
        self.book().held
    }

    /// Waits for a turn. Cancel safe: who does not wait any more has no turn.
    pub(super) async fn wait(self: Arc<Turns>, member: u64, urgency: Urgency) -> Turn {
        let granted = {
            let mut book = self.book();
            if book.held.is_none() {
                book.held = Some(member);
                return Turn { turns: Some(self.clone()) };
            }
            let (grant, granted) = oneshot::channel();
            let line = match urgency {
                Urgency::Command => &mut book.waiting[0],
                Urgency::Poll => &mut book.waiting[1],
            };
            // who gave up is no longer counted
            line.retain(|(_, grant)| !grant.is_closed());
            line.push_back((member, grant));
            granted
        };
        match granted.await {
            Ok(turn) => turn,
            // the book lives as long as anybody waits in it
            Err(_) => std::future::pending().await,
        }
    }

    fn next(self: &Arc<Turns>) {
        loop {
            let grant = {
                let mut book = self.book();
                book.held = None;
                let [commands, polls] = &mut book.waiting;
                let Some(next) = commands.pop_front().or_else(|| polls.pop_front()) else { return };
                book.held = Some(next.0);
                next.1
            };
            match grant.send(Turn { turns: Some(self.clone()) }) {
                Ok(()) => return,
                // nobody waits there any more; this very loop gives it on
                Err(mut turn) => turn.turns = None,
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.turns.take() {
            turns.next();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    /// The turn, if it is there now.
    fn now(wait: Pin<&mut impl Future<Output = Turn>>) -> Option<Turn> {
        match wait.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(turn) => Some(turn),
            Poll::Pending => None,
        }
    }

    #[test]
    fn commands_go_before_polls_and_who_gave_up_is_passed_over() {
        let turns = Arc::new(Turns::default());
        let first = now(pin!(turns.clone().wait(1, Urgency::Poll))).expect("nobody has it");
        let mut poll = pin!(turns.clone().wait(2, Urgency::Poll));
        assert!(now(poll.as_mut()).is_none());
        let mut gave_up = Box::pin(turns.clone().wait(3, Urgency::Command));
        assert!(now(gave_up.as_mut()).is_none());
        let mut command = pin!(turns.clone().wait(4, Urgency::Command));
        assert!(now(command.as_mut()).is_none());
        drop(gave_up);
        assert_eq!(turns.speaker(), Some(1));
        drop(first);
        let fourth = now(command.as_mut()).expect("a command goes first");
        assert!(now(poll.as_mut()).is_none() && turns.speaker() == Some(4));
        drop(fourth);
        drop(now(poll.as_mut()).expect("then the poll"));
        assert_eq!(turns.speaker(), None);
    }

    #[test]
    fn a_turn_that_was_given_to_nobody_goes_on() {
        let turns = Arc::new(Turns::default());
        let first = now(pin!(turns.clone().wait(1, Urgency::Poll)));
        let mut second = Box::pin(turns.clone().wait(2, Urgency::Poll));
        let mut third = pin!(turns.clone().wait(3, Urgency::Poll));
        assert!(now(second.as_mut()).is_none() && now(third.as_mut()).is_none());
        drop(first);
        // granted, and never looked at
        drop(second);
        assert!(now(third.as_mut()).is_some());
    }
}
