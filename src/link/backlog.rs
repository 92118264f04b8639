//! Whether what comes in was stored by the broker while we were away. Pure.
//!
//! A broker with our kept session sends its store piece by piece, as we acknowledge, and marks nothing; live messages
//! come behind. So the store is empty only when all that came was acknowledged and a question asked after that was
//! answered with no message in between: MQTT answers in order.

/// The store of one connection.
#[derive(Debug, Default)]
pub struct Backlog {
    resumed: bool,
    subscribing: usize,
    unacked: usize,
    asked: bool,
    disturbed: bool,
}

impl Backlog {
    /// At CONNACK: whether the session was kept, and how many SUBACKs are to come.
    pub fn new(resumed: bool, subscribing: usize) -> Backlog {
        Backlog { resumed, subscribing, ..Backlog::default() }
    }

    /// A SUBACK came.
    pub fn subscribed(&mut self) {
        self.subscribing = self.subscribing.saturating_sub(1);
    }

    /// A message came; `ack`: it wants to be acknowledged. Gives whether it is out of the store.
    pub fn message(&mut self, ack: bool) -> bool {
        self.unacked += usize::from(ack);
        self.disturbed |= ack;
        self.resumed
    }

    /// A message was acknowledged.
    pub fn acked(&mut self) {
        self.unacked = self.unacked.saturating_sub(1);
    }

    /// Whether to ask now; true once for each question.
    pub fn ask(&mut self) -> bool {
        let ask = self.resumed && !self.asked && self.subscribing == 0 && self.unacked == 0;
        if ask {
            self.asked = true;
            self.disturbed = false;
        }
        ask
    }

    /// The question was answered.
    pub fn answered(&mut self) {
        self.asked = false;
        if !self.disturbed {
            self.resumed = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_session_has_no_store() {
        let mut b = Backlog::new(false, 1);
        assert!(!b.message(true) && !b.ask());
    }

    #[test]
    fn everything_is_stored_until_a_question_is_answered_in_silence() {
        let mut b = Backlog::new(true, 1);
        assert!(!b.ask(), "not before the subscriptions are back");
        assert!(b.message(true));
        b.subscribed();
        assert!(!b.ask(), "not before all is acknowledged");
        b.acked();
        assert!(b.ask() && !b.ask());
        assert!(b.message(true), "the next piece of the store");
        b.answered();
        assert!(!b.ask());
        b.acked();
        assert!(b.ask());
        b.answered();
        assert!(!b.message(true), "live");
        assert!(!b.ask());
    }
}
