//! Readings that go together: what was taken from the queue and waits for others before it goes to the link. Pure.
//!
//! To the queue each reading stays one of its own: accepted, numbered and written to disk as ever, on its way until the
//! broker has answered the batch. So nothing is lost here with a crash or a broken link; what was here waits in the
//! queue again.
//!
//! A batch leaves when it is full, when its first reading has waited long enough, or with a reading that may not wait.
//! One that the broker refuses is taken apart and its readings go one by one, so that no reading suffers for another.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::model::{Now, PayloadFormat, Value};
use crate::wire::ReadingRecord;
use crate::wire::batch;
use crate::wire::record::Sending;

/// About the most bytes of a batch: what brokers in the cloud take, and far below what is worth a message of its own.
const MOST_BYTES: usize = 64 * 1024;
/// What a reading's map takes besides its value and its names.
const MAP: usize = 112;
/// What has waited for the broker already waits no longer than this for others.
const LATE: Duration = Duration::from_secs(1);
/// MQTT 5, "packet too large"; the link's own word for it too.
const TOO_LARGE: u8 = 0x95;

/// A reading that was taken from the queue.
#[derive(Debug, PartialEq)]
pub(super) struct Held {
    /// The queue's name for it.
    pub token: u64,
    /// What goes.
    pub reading: Box<ReadingRecord>,
    /// As of the moment at which it came here.
    pub sending: Sending,
}

/// What may go in one message.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    topic: String,
    qos: u8,
    retain: bool,
    cbor: bool,
}

#[derive(Debug)]
struct Open {
    due: Duration,
    bytes: usize,
    held: Vec<Held>,
}

/// A batch that was handed to the link.
#[derive(Debug)]
struct Sent {
    tokens: Vec<u64>,
    bytes: usize,
}

/// All batches; see the file's own page.
#[derive(Debug)]
pub(super) struct Batches {
    open: BTreeMap<Key, Open>,
    ready: VecDeque<Open>,
    /// By the token of the first reading, which names the batch to the link.
    sent: BTreeMap<u64, Sent>,
    /// Of batches that were taken apart.
    alone: BTreeSet<u64>,
    most_bytes: usize,
    /// Nobody waits any more.
    flush: bool,
}

impl Default for Batches {
    fn default() -> Batches {
        Batches {
            open: BTreeMap::new(),
            ready: VecDeque::new(),
            sent: BTreeMap::new(),
            alone: BTreeSet::new(),
            most_bytes: MOST_BYTES,
            flush: false,
        }
    }
}

impl Batches {
    /// Puts a reading among those that it goes with. One that is not for a batch goes alone.
    pub fn add(&mut self, held: Held, now: Duration) {
        let alone = self.alone.remove(&held.token);
        let reading = &held.reading;
        let Some(batch) = reading.batch.as_deref() else { return };
        let bytes = MAP + held.reading_bytes();
        let key = Key {
            topic: batch.topic.clone(),
            qos: reading.qos.number(),
            retain: reading.retain,
            cbor: reading.format == PayloadFormat::Cbor,
        };
        let wait = if held.sending.replayed { batch.every.min(LATE) } else { batch.every };
        let (urgent, max) = (batch.urgent || self.flush, usize::from(batch.max));
        if alone {
            self.leave(&key);
            self.ready.push_back(Open { due: now, bytes, held: vec![held] });
            return;
        }
        if urgent {
            // what is older of the same topic goes first, whatever else it differs in
            let others: Vec<Key> =
                self.open.keys().filter(|k| k.topic == key.topic && **k != key).map(Key::clone).collect();
            others.iter().for_each(|other| self.leave(other));
        }
        if self.open.get(&key).is_some_and(|open| open.bytes + bytes > self.most_bytes) {
            self.leave(&key);
        }
        let last = key.clone();
        let open = self.open.entry(key).or_insert_with(|| Open { due: now + wait, bytes: 0, held: Vec::new() });
        open.bytes += bytes;
        open.held.push(held);
        if urgent || open.held.len() >= max.max(1) || open.bytes >= self.most_bytes {
            self.leave(&last);
        }
    }

    /// Lets those go that have waited long enough.
    pub fn ripen(&mut self, now: Duration) {
        while let Some(key) = self.open.iter().find(|(_, open)| open.due <= now || self.flush).map(|(k, _)| k.clone()) {
            self.leave(&key);
        }
    }

    /// When the next one goes of itself.
    pub fn due(&self) -> Option<Duration> {
        self.open.values().map(|open| open.due).min()
    }

    fn leave(&mut self, key: &Key) {
        self.ready.extend(self.open.remove(key));
    }

    /// The next batch to go: its name for the link, and its message.
    pub fn next(&mut self, now: &Now) -> Option<(u64, crate::model::Message)> {
        loop {
            let open = self.ready.pop_front()?;
            let readings: Vec<_> = open.held.iter().map(|held| (&*held.reading, held.sending_at(now))).collect();
            let (Some(message), Some(first)) = (batch::message(&readings), open.held.first()) else { continue };
            let (token, tokens) = (first.token, open.held.iter().map(|held| held.token).collect());
            self.sent.insert(token, Sent { tokens, bytes: open.bytes });
            return Some((token, message));
        }
    }

    /// The readings of a batch that the broker has, or that are to be sent again; `None`: the token is no batch's.
    pub fn done(&mut self, token: u64) -> Option<Vec<u64>> {
        self.sent.remove(&token).map(|sent| sent.tokens)
    }

    /// A batch that the broker does not take. Of several readings each is to be sent again, and goes alone; `None`:
    /// there is only the one.
    pub fn take_apart(&mut self, token: u64, code: u8) -> Option<Vec<u64>> {
        let sent = self.sent.remove(&token).filter(|sent| sent.tokens.len() > 1)?;
        if code == TOO_LARGE {
            self.most_bytes = (sent.bytes / 2).min(self.most_bytes);
        }
        self.alone.extend(&sent.tokens);
        Some(sent.tokens)
    }

    /// The link broke: all that was taken from the queue waits there again.
    pub fn clear(&mut self) {
        self.open.clear();
        self.ready.clear();
        self.sent.clear();
        self.alone.clear();
    }

    /// From now on nobody waits for others.
    pub fn flush(&mut self) {
        self.flush = true;
    }

    /// Whether there is a reading here that the broker has not answered.
    pub fn holds(&self) -> bool {
        !(self.open.is_empty() && self.ready.is_empty() && self.sent.is_empty())
    }
}

impl Held {
    fn reading_bytes(&self) -> usize {
        let value = match &self.reading.value {
            Value::Bool(b) => {
                if *b {
                    self.reading.words.0.len()
                } else {
                    self.reading.words.1.len()
                }
            }
            Value::Number(_) => 20,
            Value::Text(text) => text.len(),
            Value::Bytes(bytes) => bytes.len() * 2,
        };
        value + self.reading.batch.as_ref().map_or(0, |batch| batch.point.len())
    }

    /// As of the moment at which it goes.
    fn sending_at(&self, now: &Now) -> Sending {
        let waited = now.mono.since(self.sending.now.mono);
        let expires_in = self.sending.expires_in.map(|left| left.saturating_sub(waited));
        Sending { now: *now, expires_in, ..self.sending }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Mono, Qos, Quality, Stamp, Wall};
    use crate::wire::record::Batched;
    use serde_json::Value as Json;

    const S: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> Now {
        Now { wall: Wall(0), mono: Mono(S * seconds as u32), synced: true }
    }

    fn held(token: u64, seconds: u64) -> Held {
        let taken = Stamp { wall: Wall(0), mono: Mono(S * seconds as u32), synced: true };
        let now = at(seconds);
        let batch = Batched { topic: "t".into(), point: "p".into(), every: S * 10, max: 3, urgent: false };
        let reading = ReadingRecord {
            topic: "t/p".into(),
            qos: Qos::AtLeastOnce,
            retain: false,
            format: PayloadFormat::Json,
            words: Default::default(),
            value: Value::Number(token as f64),
            quality: Quality::Good,
            told: None,
            batch: Some(Box::new(batch)),
        };
        let sending = Sending { seq: Some(token), replayed: false, taken, ours: true, expires_in: None, now };
        Held { token, reading: Box::new(reading), sending }
    }

    /// The numbers in the batches that go now, in order.
    fn go(batches: &mut Batches, seconds: u64) -> Vec<Vec<u64>> {
        batches.ripen(S * seconds as u32);
        let mut all = Vec::new();
        while let Some((token, message)) = batches.next(&at(seconds)) {
            let list: Vec<Json> = serde_json::from_slice(&message.payload).unwrap();
            let seqs: Vec<u64> = list.iter().map(|map| map["seq"].as_u64().unwrap()).collect();
            assert_eq!(seqs[0], token);
            all.push(seqs);
        }
        all
    }

    #[test]
    fn a_batch_goes_when_it_is_full_or_its_first_reading_has_waited() {
        let mut b = Batches::default();
        for n in 1..=4 {
            b.add(held(n, 0), Duration::ZERO);
        }
        assert_eq!(go(&mut b, 0), [vec![1, 2, 3]]);
        b.add(held(5, 6), S * 6);
        assert_eq!(b.due(), Some(S * 10));
        assert!(go(&mut b, 9).is_empty());
        assert_eq!(go(&mut b, 10), [vec![4, 5]]);
        assert_eq!((b.due(), b.holds()), (None, true), "the broker has not answered yet");
        assert_eq!(b.done(1), Some(vec![1, 2, 3]));
        assert_eq!((b.done(4), b.done(9)), (Some(vec![4, 5]), None));
        assert!(!b.holds());
    }

    #[test]
    fn an_urgent_reading_goes_at_once_behind_all_that_is_older_on_its_topic() {
        let mut b = Batches::default();
        b.add(held(1, 0), Duration::ZERO);
        let mut other = held(2, 0);
        other.reading.retain = true;
        b.add(other, Duration::ZERO);
        let mut elsewhere = held(3, 0);
        elsewhere.reading.batch.as_mut().unwrap().topic = "u".into();
        b.add(elsewhere, Duration::ZERO);
        let mut alarm = held(4, 1);
        alarm.reading.batch.as_mut().unwrap().urgent = true;
        b.add(alarm, S);
        assert_eq!(go(&mut b, 1), [vec![2], vec![1, 4]]);
        b.flush();
        assert_eq!(go(&mut b, 1), [vec![3]], "at a stop nobody waits");
        b.add(held(5, 1), S);
        assert_eq!(go(&mut b, 1), [vec![5]]);
    }

    #[test]
    fn what_differs_in_qos_retain_or_format_does_not_go_together() {
        let mut b = Batches::default();
        let [mut qos, mut retain, mut format] = [held(1, 0), held(2, 0), held(3, 0)];
        qos.reading.qos = Qos::AtMostOnce;
        retain.reading.retain = true;
        format.reading.format = PayloadFormat::Json;
        [qos, retain, format].into_iter().for_each(|held| b.add(held, Duration::ZERO));
        assert_eq!(go(&mut b, 10), [vec![1], vec![3], vec![2]]);
    }

    #[test]
    fn what_waited_for_the_broker_does_not_wait_long_for_others() {
        let mut b = Batches::default();
        let mut late = held(1, 0);
        late.sending.replayed = true;
        b.add(late, Duration::ZERO);
        assert_eq!(b.due(), Some(S));
    }

    #[test]
    fn a_batch_that_is_refused_is_taken_apart_and_one_reading_is_not() {
        let mut b = Batches::default();
        (1..=3).for_each(|n| b.add(held(n, 0), Duration::ZERO));
        assert_eq!(go(&mut b, 0).len(), 1);
        assert_eq!(b.take_apart(1, 0x87), Some(vec![1, 2, 3]));
        (1..=3).for_each(|n| b.add(held(n, 0), Duration::ZERO));
        assert_eq!(go(&mut b, 0), [vec![1], vec![2], vec![3]]);
        assert_eq!(b.take_apart(2, 0x87), None);
        assert_eq!(b.done(1), Some(vec![1]));
        (4..=6).for_each(|n| b.add(held(n, 0), Duration::ZERO));
        assert_eq!(go(&mut b, 0), [vec![4, 5, 6]], "the next ones go together again");
        assert_eq!(b.take_apart(4, TOO_LARGE).map(|t| t.len()), Some(3));
        (7..=9).for_each(|n| b.add(held(n, 0), Duration::ZERO));
        assert_eq!(go(&mut b, 10), [vec![7], vec![8], vec![9]], "no batch is as large as the one that was too large");
    }

    #[test]
    fn a_batch_never_grows_beyond_its_bytes() {
        let mut b = Batches::default();
        for n in 1..=2 {
            let mut large = held(n, 0);
            large.reading.value = Value::Text("x".repeat(40_000));
            b.add(large, Duration::ZERO);
        }
        assert_eq!(go(&mut b, 0), [vec![1]]);
        b.clear();
        assert!(!b.holds() && b.due().is_none());
    }
}
