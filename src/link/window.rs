//! Which packet id stands for which record. Pure.
//!
//! rumqttc gives a packet its id only when it writes it, and says so with an event, in the order in which packets were
//! handed to it. So a packet is first *handed*, then *written* under an id, then *answered*. Ids count from 1 to
//! `span` and start again; a packet may be answered before an older one. The window slides from the oldest unanswered
//! id, so that no id comes round while it is still in use: that is what makes rumqttc stall for ever.
//!
//! Promises: at most `limit` packets are handed or written and unanswered; never two of them under one id; an answer
//! is counted once; an answer to an id that is not in use counts for nothing.

use std::collections::VecDeque;

struct Handed<T> {
    what: T,
    answered: bool,
    bytes: usize,
}

struct Slot<T> {
    id: u16,
    /// Taken out when the answer comes; the slot stays until all older ones are answered.
    what: Option<T>,
    bytes: usize,
}

/// Packets on their way to the broker.
pub struct Window<T> {
    limit: usize,
    wide: usize,
    span: usize,
    max_bytes: usize,
    handed: VecDeque<Handed<T>>,
    flight: VecDeque<Slot<T>>,
    /// Handed or written, an answer due.
    waiting: usize,
    /// Handed, an answer due: they will take the next ids.
    coming: usize,
    bytes: usize,
    lost: usize,
}

/// The library's events and what was handed to it no longer agree; only a new connection helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfStep;

impl<T> Window<T> {
    /// At most `limit` unanswered packets of together about `max_bytes`, ids from 1 to `span`.
    pub fn new(limit: u16, span: u16, max_bytes: usize) -> Window<T> {
        let span = usize::from(span.max(1));
        // One less than the library's own limit: at its limit it would not send our acknowledgements either.
        let limit = usize::from(limit.max(1)).min((span - 1).max(1));
        Window {
            limit,
            wide: limit,
            span,
            max_bytes,
            handed: VecDeque::new(),
            flight: VecDeque::new(),
            waiting: 0,
            coming: 0,
            bytes: 0,
            lost: 0,
        }
    }

    /// Whether another packet may be handed over.
    pub fn room(&self) -> bool {
        self.waiting < self.limit
            && self.handed.len() < self.limit
            && self.flight.len() + self.coming + self.lost < self.span
            && (self.bytes < self.max_bytes)
    }

    /// From now on at most `limit` unanswered packets.
    pub fn narrow(&mut self, limit: usize) {
        self.limit = self.wide.min(limit.max(1));
    }

    /// As many as at first.
    pub fn widen(&mut self) {
        self.limit = self.wide;
    }

    /// A packet of `bytes` was handed to the library; `answered`: the broker will answer it.
    pub fn handed(&mut self, what: T, answered: bool, bytes: usize) {
        self.waiting += usize::from(answered);
        self.coming += usize::from(answered);
        self.bytes += bytes;
        self.handed.push_back(Handed { what, answered, bytes });
    }

    /// The library wrote the next packet under `id`; 0: one that gets no answer, which is given back.
    pub fn written(&mut self, id: u16) -> Result<Option<T>, OutOfStep> {
        match self.handed.front() {
            Some(next) if next.answered == (id != 0) => {}
            _ => return Err(OutOfStep),
        }
        if id != 0 && self.flight.iter().any(|s| s.id == id) {
            return Err(OutOfStep);
        }
        let Some(next) = self.handed.pop_front() else { return Err(OutOfStep) };
        if id == 0 {
            self.bytes -= next.bytes;
            return Ok(Some(next.what));
        }
        self.coming -= 1;
        self.flight.push_back(Slot { id, what: Some(next.what), bytes: next.bytes });
        Ok(None)
    }

    /// The broker answered `id`.
    pub fn answered(&mut self, id: u16) -> Option<T> {
        let slot = self.flight.iter_mut().find(|s| s.id == id)?;
        let what = slot.what.take()?;
        self.bytes -= slot.bytes;
        self.waiting -= 1;
        while self.flight.front().is_some_and(|s| s.what.is_none()) {
            self.flight.pop_front();
        }
        Some(what)
    }

    /// The library keeps counting a packet that was answered with a refusal: its own window is smaller by one for
    /// the rest of the connection. True when too little of it is left.
    pub fn shrink(&mut self) -> bool {
        self.lost += 1;
        self.wide = self.wide.min(self.span.saturating_sub(self.lost + 1).max(1));
        self.limit = self.limit.min(self.wide);
        self.lost * 2 >= self.span
    }

    /// The oldest written and unanswered packet.
    pub fn oldest(&self) -> Option<&T> {
        self.flight.iter().find_map(|s| s.what.as_ref())
    }

    /// Whether an answer is due.
    pub fn waiting(&self) -> bool {
        self.waiting > 0
    }

    /// Whether everything handed over was written and answered.
    pub fn is_empty(&self) -> bool {
        self.waiting == 0 && self.handed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fill(w: &mut Window<u32>, count: u32) {
        for n in 0..count {
            assert!(w.room());
            w.handed(n, true, 1);
        }
    }

    #[test]
    fn packets_take_ids_in_the_order_in_which_they_were_handed_over() {
        let mut w = Window::new(8, 16, 1000);
        fill(&mut w, 3);
        for id in 1..=3 {
            assert_eq!(w.written(id), Ok(None));
        }
        assert_eq!(w.oldest(), Some(&0));
        assert_eq!((w.answered(2), w.answered(1), w.answered(3)), (Some(1), Some(0), Some(2)));
        assert!(w.is_empty());
    }

    #[test]
    fn an_answer_counts_once_and_only_for_an_id_in_use() {
        let mut w = Window::new(8, 16, 1000);
        fill(&mut w, 2);
        w.written(1).unwrap();
        w.written(2).unwrap();
        assert_eq!(w.answered(2), Some(1));
        assert_eq!((w.answered(2), w.answered(9)), (None, None));
        assert!(w.waiting());
    }

    #[test]
    fn no_more_than_the_limit_is_on_its_way() {
        let mut w = Window::new(4, 100, 1000);
        fill(&mut w, 4);
        assert!(!w.room());
        w.written(1).unwrap();
        assert!(!w.room());
        w.answered(1).unwrap();
        assert!(w.room());
    }

    #[test]
    fn the_oldest_unanswered_id_holds_the_window_before_ids_come_round() {
        let mut w = Window::new(4, 8, 1000);
        w.handed(0, true, 1);
        w.written(1).unwrap();
        for id in 2..=8 {
            assert!(w.room(), "id {id}");
            w.handed(u32::from(id), true, 1);
            w.written(id).unwrap();
            w.answered(id).unwrap();
        }
        assert!(!w.room(), "the next id would be 1, which is in use");
        w.answered(1).unwrap();
        assert!(w.room());
    }

    #[test]
    fn a_narrowed_window_becomes_wide_again() {
        let mut w = Window::new(4, 8, 1000);
        w.narrow(1);
        fill(&mut w, 1);
        assert!(!w.room());
        w.widen();
        fill(&mut w, 3);
        assert!(!w.room());
    }

    #[test]
    fn a_packet_without_an_answer_is_given_back_when_written() {
        let mut w = Window::new(2, 4, 1000);
        w.handed("qos 0", false, 1);
        assert_eq!(w.written(0), Ok(Some("qos 0")));
        assert!(w.is_empty() && !w.waiting());
    }

    #[test]
    fn events_that_do_not_fit_are_noticed() {
        let mut w = Window::new(4, 8, 1000);
        assert_eq!(w.written(1), Err(OutOfStep));
        w.handed(1, false, 1);
        assert_eq!(w.written(5), Err(OutOfStep));
        w.written(0).unwrap();
        w.handed(2, true, 1);
        w.handed(3, true, 1);
        w.written(1).unwrap();
        assert_eq!(w.written(1), Err(OutOfStep));
    }

    #[test]
    fn large_packets_close_the_window_early() {
        let mut w = Window::new(64, 128, 1000);
        w.handed(1, true, 900);
        assert!(w.room());
        w.handed(2, true, 900);
        assert!(!w.room());
        w.written(1).unwrap();
        w.answered(1).unwrap();
        assert!(w.room());
    }

    #[test]
    fn a_broker_that_allows_one_packet_gets_one_at_a_time() {
        let mut w = Window::new(64, 1, 1000);
        w.handed(1, true, 1);
        assert!(!w.room());
        w.written(1).unwrap();
        assert!(!w.room());
        w.answered(1).unwrap();
        assert!(w.room());
    }

    #[test]
    fn refusals_that_the_library_forgets_to_count_shrink_the_window() {
        let mut w = Window::<u32>::new(4, 8, 1000);
        assert!(!w.shrink() && !w.shrink() && !w.shrink());
        assert!(w.shrink());
        fill(&mut w, 3);
        assert!(!w.room());
    }

    proptest! {
        /// Against a model of the library: ids go round from 1 to the span, answers come in any order.
        #[test]
        fn no_id_is_ever_in_use_twice(limit in 1u16..20, extra in 0u16..20, steps in proptest::collection::vec(any::<u16>(), 1..400)) {
            let span = limit + extra;
            let mut w = Window::new(limit, span, usize::MAX);
            let (mut last, mut next, mut library, mut in_use) = (0u16, 0u64, VecDeque::new(), Vec::new());
            for step in steps {
                match step % 3 {
                    0 => while w.room() {
                        w.handed(next, true, 1);
                        library.push_back(next);
                        next += 1;
                    },
                    1 => if let Some(token) = library.pop_front() {
                        last = if last == span { 1 } else { last + 1 };
                        prop_assert!(!in_use.iter().any(|(id, _)| *id == last));
                        prop_assert_eq!(w.written(last), Ok(None));
                        in_use.push((last, token));
                        prop_assert!(in_use.len() <= usize::from(limit));
                    },
                    _ => if !in_use.is_empty() {
                        let (id, token) = in_use.remove(usize::from(step / 3) % in_use.len());
                        prop_assert_eq!(w.answered(id), Some(token));
                    },
                }
            }
        }
    }
}
