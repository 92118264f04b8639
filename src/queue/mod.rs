//! STORE AND FORWARD. Opaque bodies, sequence numbers, and the order in which they leave.
//!
//! This is the queue's one door. Every message that pinpost publishes passes through it: [`Queue::append`] takes it
//! in, [`Queue::take`] hands it to the link, [`Queue::done`] forgets it once the broker has it. What was taken and
//! not done when the link breaks is taken again, in the old order ([`Queue::link_down`]).
//!
//! The room knows no other room: no topic, no payload, no broker.
//!
//! For now the queue lives in memory and is bounded by `max_bytes`. What it drops it counts and reports as a [`Gap`].

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Who goes first, who is dropped last; a greater rank is more important.
pub type Rank = u8;

/// What is kept of a lane while the link is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Keep {
    /// Every record.
    #[default]
    All,
    /// The latest record of the lane.
    Latest,
    /// Nothing.
    None,
}

/// A record to be kept until the broker has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry {
    /// Whether it is a reading and takes the next sequence number.
    pub reading: bool,
    /// Importance; greater leaves first and is dropped last.
    pub rank: Rank,
    /// Records of one lane never overtake each other (a hash of the point or topic).
    pub lane: u64,
    /// What is kept while the link is down.
    pub keep: Keep,
    /// Time since the daemon's start at which it is worth nothing; `None`: the queue's `max_age` alone decides.
    pub expires: Option<Duration>,
    /// A name for reports of loss: the point, `weather/temperature`.
    pub source: String,
    /// The message, opaque.
    pub body: Vec<u8>,
}

/// A record handed out to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Out {
    /// For [`Queue::done`].
    pub token: u64,
    /// Sequence number, for a reading.
    pub seq: Option<u64>,
    /// Waited while the link was down, or was sent before without an answer.
    pub replayed: bool,
    /// The message, opaque.
    pub body: Vec<u8>,
}

/// What becomes of records that do not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// The oldest of the least rank goes.
    #[default]
    DropOldest,
    /// The one that just came goes, unless something of a lesser rank can.
    DropNewest,
}

/// Limits of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that the waiting records may take together.
    pub max_bytes: u64,
    /// Age after which a record is worth nothing.
    pub max_age: Duration,
    /// Policy.
    pub when_full: WhenFull,
}

/// Readings that were lost, both ends included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// First sequence number lost.
    pub from: u64,
    /// Last sequence number lost.
    pub to: u64,
    /// How many readings.
    pub count: u64,
    /// `full`, `expired`, `corrupt` or `newest dropped`.
    pub reason: &'static str,
    /// Whose, where all are of one source.
    pub source: Option<String>,
}

/// Figures for `bridge/health`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Records waiting, those being sent included.
    pub waiting: u64,
    /// Bytes they take.
    pub bytes: u64,
    /// Records taken in since the start.
    pub accepted: u64,
    /// Records the broker has.
    pub delivered: u64,
    /// Readings dropped, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// The next reading's sequence number.
    pub next_seq: u64,
}

/// What a record costs beside its body, for the bound on memory.
const OVERHEAD: u64 = 96;

struct Record {
    token: u64,
    seq: Option<u64>,
    at: Duration,
    replayed: bool,
    entry: Entry,
}

impl Record {
    fn cost(&self) -> u64 {
        OVERHEAD + self.entry.body.len() as u64 + self.entry.source.len() as u64
    }
    fn expired(&self, now: Duration, max_age: Duration) -> bool {
        self.entry.expires.is_some_and(|e| e <= now) || now.saturating_sub(self.at) > max_age
    }
}

/// The queue. Not shared: the owner wraps it as it likes.
pub struct Queue {
    limits: Limits,
    next_seq: u64,
    next_token: u64,
    up: bool,
    /// Waiting, by rank; within a rank in order of arrival.
    waiting: BTreeMap<Rank, VecDeque<Record>>,
    /// Handed out and not yet done, by token.
    out: BTreeMap<u64, Record>,
    gaps: Vec<Gap>,
    stats: Stats,
}

impl Queue {
    /// An empty queue whose first reading takes `next_seq`.
    pub fn new(limits: Limits, next_seq: u64) -> Queue {
        Queue {
            limits,
            next_seq,
            next_token: 1,
            up: false,
            waiting: BTreeMap::new(),
            out: BTreeMap::new(),
            gaps: Vec::new(),
            stats: Stats::default(),
        }
    }

    /// Takes a record in. Gives the sequence number if it is a reading, whether or not it could be kept: a reading
    /// that is dropped has its number in a [`Gap`].
    pub fn append(&mut self, entry: Entry, now: Duration) -> Option<u64> {
        self.stats.accepted += 1;
        let seq = entry.reading.then_some(self.next_seq);
        self.next_seq += u64::from(entry.reading);
        let record = Record { token: self.next_token, seq, at: now, replayed: !self.up, entry };
        self.next_token += 1;
        if !self.up {
            match record.entry.keep {
                Keep::All => {}
                Keep::None => return seq,
                Keep::Latest => {
                    let (lane, rank) = (record.entry.lane, record.entry.rank);
                    if let Some(list) = self.waiting.get_mut(&rank)
                        && let Some(i) = list.iter().position(|r| r.entry.lane == lane)
                        && let Some(old) = list.remove(i)
                    {
                        self.stats.bytes -= old.cost();
                    }
                }
            }
        }
        let cost = record.cost();
        while self.stats.bytes + cost > self.limits.max_bytes {
            match self.victim(record.entry.rank) {
                Some(old) => self.drop_record(old, "full"),
                None => {
                    self.gap(
                        &record,
                        if self.limits.when_full == WhenFull::DropNewest { "newest dropped" } else { "full" },
                    );
                    return seq;
                }
            }
        }
        self.stats.bytes += cost;
        self.waiting.entry(record.entry.rank).or_default().push_back(record);
        seq
    }

    /// The waiting record that goes when one of `rank` comes and there is no room.
    fn victim(&mut self, rank: Rank) -> Option<Record> {
        let (&least, list) = self.waiting.iter_mut().find(|(_, l)| !l.is_empty())?;
        let goes = match self.limits.when_full {
            WhenFull::DropOldest => least <= rank,
            WhenFull::DropNewest => least < rank,
        };
        if goes { list.pop_front() } else { None }
    }

    /// The next record to send, most important first; `None` when nothing waits.
    pub fn take(&mut self, now: Duration) -> Option<Out> {
        loop {
            let list = self.waiting.values_mut().rev().find(|l| !l.is_empty())?;
            let record = list.pop_front()?;
            if record.expired(now, self.limits.max_age) {
                self.drop_record(record, "expired");
                continue;
            }
            let out = Out {
                token: record.token,
                seq: record.seq,
                replayed: record.replayed,
                body: record.entry.body.clone(),
            };
            self.out.insert(record.token, record);
            return Some(out);
        }
    }

    /// The broker has it: forget it.
    pub fn done(&mut self, token: u64) {
        if let Some(record) = self.out.remove(&token) {
            self.stats.bytes -= record.cost();
            self.stats.delivered += 1;
        }
    }

    /// The link is up: from now on `keep` does not matter.
    pub fn link_up(&mut self) {
        self.up = true;
    }

    /// The link broke: whatever was handed out and not done waits again, ahead of the rest and in the old order.
    pub fn link_down(&mut self) {
        self.up = false;
        for (_, mut record) in std::mem::take(&mut self.out).into_iter().rev() {
            record.replayed = true;
            if record.entry.keep == Keep::None {
                self.stats.bytes -= record.cost();
                continue;
            }
            self.waiting.entry(record.entry.rank).or_default().push_front(record);
        }
        for list in self.waiting.values_mut() {
            for record in list.iter_mut() {
                record.replayed = true;
            }
        }
    }

    /// Reports of loss since the last call.
    pub fn take_gaps(&mut self) -> Vec<Gap> {
        std::mem::take(&mut self.gaps)
    }

    /// Figures.
    pub fn stats(&self) -> Stats {
        let waiting = self.waiting.values().map(|l| l.len() as u64).sum::<u64>() + self.out.len() as u64;
        Stats { waiting, next_seq: self.next_seq, ..self.stats.clone() }
    }

    fn drop_record(&mut self, record: Record, reason: &'static str) {
        self.stats.bytes -= record.cost();
        self.gap(&record, reason);
    }

    /// Reports a lost reading, together with the one before it if they adjoin.
    fn gap(&mut self, record: &Record, reason: &'static str) {
        let Some(seq) = record.seq else { return };
        *self.stats.dropped.entry(reason).or_default() += 1;
        let source = Some(record.entry.source.clone());
        if let Some(last) = self.gaps.iter_mut().rev().find(|g| g.reason == reason)
            && last.to + 1 == seq
        {
            last.to = seq;
            last.count += 1;
            if last.source != source {
                last.source = None;
            }
            return;
        }
        self.gaps.push(Gap { from: seq, to: seq, count: 1, reason, source });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Duration = Duration::ZERO;

    fn queue(max_bytes: u64, when_full: WhenFull) -> Queue {
        Queue::new(Limits { max_bytes, max_age: Duration::from_secs(60), when_full }, 1)
    }
    fn reading(lane: u64, body: &str) -> Entry {
        Entry { reading: true, rank: 1, lane, source: "a".into(), body: body.into(), ..Entry::default() }
    }
    fn drain(q: &mut Queue) -> Vec<String> {
        std::iter::from_fn(|| q.take(T0)).map(|o| String::from_utf8(o.body).unwrap()).collect()
    }

    #[test]
    fn what_was_taken_and_not_done_is_taken_again_in_order() {
        let mut q = queue(10_000, WhenFull::DropOldest);
        q.link_up();
        for b in ["1", "2", "3", "4"] {
            q.append(reading(1, b), T0);
        }
        let first = q.take(T0).unwrap();
        q.take(T0).unwrap();
        q.take(T0).unwrap();
        q.done(first.token);
        q.link_down();
        assert_eq!(drain(&mut q), ["2", "3", "4"]);
    }

    #[test]
    fn a_full_queue_drops_the_oldest_of_the_least_rank_and_names_it() {
        let mut q = queue(OVERHEAD * 3 + 6, WhenFull::DropOldest);
        q.append(Entry { rank: 2, ..reading(1, "x") }, T0);
        for b in ["1", "2", "3"] {
            q.append(reading(1, b), T0);
        }
        assert_eq!(drain(&mut q), ["x", "2", "3"]);
        assert_eq!(q.take_gaps(), [Gap { from: 2, to: 2, count: 1, reason: "full", source: Some("a".into()) }]);
        assert_eq!(q.stats().dropped["full"], 1);
    }

    #[test]
    fn drop_newest_keeps_what_waits() {
        let mut q = queue(OVERHEAD * 2 + 4, WhenFull::DropNewest);
        for b in ["1", "2", "3", "4"] {
            q.append(reading(1, b), T0);
        }
        assert_eq!(drain(&mut q), ["1", "2"]);
        let gaps = q.take_gaps();
        assert_eq!((gaps[0].from, gaps[0].to, gaps[0].reason), (3, 4, "newest dropped"));
    }

    #[test]
    fn latest_keeps_one_of_a_lane_while_the_link_is_down() {
        let mut q = queue(10_000, WhenFull::DropOldest);
        for (lane, b) in [(1, "a1"), (2, "b1"), (1, "a2"), (2, "b2")] {
            q.append(Entry { keep: Keep::Latest, ..reading(lane, b) }, T0);
        }
        q.append(Entry { keep: Keep::None, ..reading(3, "never") }, T0);
        assert_eq!(drain(&mut q), ["a2", "b2"]);
        assert!(q.take_gaps().is_empty());
    }

    #[test]
    fn an_old_record_expires_and_is_reported() {
        let mut q = queue(10_000, WhenFull::DropOldest);
        q.append(Entry { expires: Some(Duration::from_secs(5)), ..reading(1, "1") }, T0);
        q.append(reading(1, "2"), T0);
        let out = q.take(Duration::from_secs(6)).unwrap();
        assert_eq!((out.seq, out.replayed), (Some(2), true));
        assert_eq!(q.take_gaps()[0].reason, "expired");
        q.done(out.token);
        assert_eq!(q.stats().bytes, 0);
    }
}
