//! What waits in the queue: a message that is complete, or a reading that becomes one when it is sent.
//!
//! A reading is written only when it leaves, because its time may be put right and its number is given by the queue.
//! The bytes (version 1): version, kind, then the fields in order; numbers little-endian, texts with a u32 length.
//! Foreign bytes give an error, never a panic.

use std::time::Duration;

use crate::model::{Message, Now, PayloadFormat, Properties, Qos, Quality, Stamp, Value, Wall};

use super::payload::{self, About};
use super::sparkplug::Told;

const VERSION: u8 = 1;
/// Kinds: a reading, a message, a reading with its place in Sparkplug, one with its batch, one with both.
const READING: u8 = 0;
const MESSAGE: u8 = 1;
const TOLD: u8 = 2;
const BATCHED: u8 = 3;
const TOLD_AND_BATCHED: u8 = 4;

/// A reading on its way.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadingRecord {
    /// Full topic.
    pub topic: String,
    /// Delivery.
    pub qos: Qos,
    /// Retain flag.
    pub retain: bool,
    /// How it will be written.
    pub format: PayloadFormat,
    /// The words for ON and OFF.
    pub words: (String, String),
    /// The value.
    pub value: Value,
    /// Whether to believe it.
    pub quality: Quality,
    /// Its place in Sparkplug, where that is spoken.
    pub told: Option<Box<Told>>,
    /// Where it goes together with others.
    pub batch: Option<Box<Batched>>,
}

/// How a reading goes together with others. It stands in the record, so that what waits goes as it was meant when it
/// was read, whatever the file says by then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batched {
    /// The topic of the batch.
    pub topic: String,
    /// The name of the reading's point there.
    pub point: String,
    /// How long it may wait for others.
    pub every: Duration,
    /// With how many it goes at once.
    pub max: u16,
    /// It waits for nobody, and takes along who waits.
    pub urgent: bool,
}

impl ReadingRecord {
    /// What is said of it when it leaves.
    pub(super) fn about(&self, sending: &Sending) -> About {
        let (time, synced) = sending.time();
        About { time, synced, seq: sending.seq, quality: self.quality }
    }
}

/// One record.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// Written when it is sent.
    Reading(Box<ReadingRecord>),
    /// Written already.
    Message(Box<Message>),
}

/// What the queue and the clock know when a record is sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sending {
    /// The reading's number.
    pub seq: Option<u64>,
    /// Whether it waited for the broker.
    pub replayed: bool,
    /// When it was taken.
    pub taken: Stamp,
    /// Whether this run of the daemon took it: only then can its time be put right.
    pub ours: bool,
    /// What is left of its life, where it has an end.
    pub expires_in: Option<Duration>,
    /// The moment.
    pub now: Now,
}

impl Sending {
    /// When it was taken, as known now, and whether that can be trusted.
    pub fn time(&self) -> (Wall, bool) {
        if self.ours { self.taken.resolve(&self.now) } else { (self.taken.wall, self.taken.synced) }
    }
}

impl Record {
    /// As bytes for the queue.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer(Vec::with_capacity(self.room()));
        w.u8(VERSION);
        match self {
            Record::Reading(r) => {
                w.u8(match (&r.told, &r.batch) {
                    (None, None) => READING,
                    (Some(_), None) => TOLD,
                    (None, Some(_)) => BATCHED,
                    (Some(_), Some(_)) => TOLD_AND_BATCHED,
                });
                w.text(&r.topic);
                w.u8(r.qos.number());
                w.u8(u8::from(r.retain));
                w.u8(match r.format {
                    PayloadFormat::Plain => 0,
                    PayloadFormat::Json => 1,
                    PayloadFormat::Cbor => 2,
                });
                w.u8(match r.quality {
                    Quality::Good => 0,
                    Quality::Bad => 1,
                    Quality::Stale => 2,
                });
                w.value(&r.value, (&r.words.0, &r.words.1));
                if let Some(told) = &r.told {
                    w.text(&told.device);
                    w.text(&told.metric);
                    w.u8(u8::from(told.value.is_some()));
                    if let Some(value) = &told.value {
                        w.value(value, ("", ""));
                    }
                }
                if let Some(batch) = &r.batch {
                    w.text(&batch.topic);
                    w.text(&batch.point);
                    w.u32(u32::try_from(batch.every.as_millis()).unwrap_or(u32::MAX));
                    w.u32(u32::from(batch.max));
                    w.u8(u8::from(batch.urgent));
                }
            }
            Record::Message(m) => {
                w.u8(MESSAGE);
                w.text(&m.topic);
                w.u8(m.qos.number());
                w.u8(u8::from(m.retain));
                w.bytes(&m.payload);
                let p = &m.properties;
                w.optional(p.response_topic.as_ref().map(String::as_bytes));
                w.optional(p.correlation.as_deref());
                w.optional(p.content_type.as_ref().map(String::as_bytes));
                w.u64(p.expiry.map_or(0, |e| e.as_millis() as u64));
                w.u32(p.user.len() as u32);
                for (k, v) in &p.user {
                    w.text(k);
                    w.text(v);
                }
            }
        }
        w.0
    }

    /// About the length of [`Record::encode`], not less for a reading: thousands may wait, and none shall hold more
    /// memory than it fills.
    fn room(&self) -> usize {
        match self {
            Record::Reading(r) => {
                let value = |value: &Value, words: usize| match value {
                    Value::Bool(_) => 8 + words,
                    Value::Number(_) => 8,
                    Value::Text(t) => 4 + t.len(),
                    Value::Bytes(b) => 4 + b.len(),
                };
                let told = r.told.as_ref().map_or(0, |told| {
                    let own = told.value.as_ref().map_or(0, |v| 1 + value(v, 0));
                    9 + told.device.len() + told.metric.len() + own
                });
                let batch = r.batch.as_ref().map_or(0, |b| 17 + b.topic.len() + b.point.len());
                11 + r.topic.len() + value(&r.value, r.words.0.len() + r.words.1.len()) + told + batch
            }
            Record::Message(m) => 64 + m.topic.len() + m.payload.len(),
        }
    }

    /// From the queue's bytes.
    pub fn decode(bytes: &[u8]) -> Result<Record, &'static str> {
        let mut r = Reader(bytes);
        if r.u8()? != VERSION {
            return Err("a record of another version");
        }
        let record = match r.u8()? {
            kind @ (READING | TOLD | BATCHED | TOLD_AND_BATCHED) => {
                let topic = r.text()?;
                let qos = Qos::from_number(r.u8()?).ok_or("qos")?;
                let retain = r.u8()? != 0;
                let format = match r.u8()? {
                    1 => PayloadFormat::Json,
                    2 => PayloadFormat::Cbor,
                    _ => PayloadFormat::Plain,
                };
                let quality = match r.u8()? {
                    0 => Quality::Good,
                    1 => Quality::Bad,
                    _ => Quality::Stale,
                };
                let (value, words) = r.value()?;
                let told = match kind {
                    READING | BATCHED => None,
                    _ => {
                        let (device, metric) = (r.text()?, r.text()?);
                        let value = if r.u8()? == 0 { None } else { Some(r.value()?.0) };
                        Some(Box::new(Told { device, metric, value }))
                    }
                };
                let batch = match kind {
                    BATCHED | TOLD_AND_BATCHED => Some(Box::new(Batched {
                        topic: r.text()?,
                        point: r.text()?,
                        every: Duration::from_millis(u64::from(r.u32()?)),
                        max: u16::try_from(r.u32()?).map_err(|_| "batch")?,
                        urgent: r.u8()? != 0,
                    })),
                    _ => None,
                };
                Record::Reading(Box::new(ReadingRecord {
                    topic,
                    qos,
                    retain,
                    format,
                    words,
                    value,
                    quality,
                    told,
                    batch,
                }))
            }
            MESSAGE => {
                let topic = r.text()?;
                let qos = Qos::from_number(r.u8()?).ok_or("qos")?;
                let retain = r.u8()? != 0;
                let payload = r.bytes()?.to_vec();
                let response_topic = r.optional_text()?;
                let correlation = r.optional()?.map(<[u8]>::to_vec);
                let content_type = r.optional_text()?;
                let expiry = Some(r.u64()?).filter(|e| *e > 0).map(Duration::from_millis);
                let mut user = Vec::new();
                for _ in 0..r.u32()? {
                    user.push((r.text()?, r.text()?));
                }
                let properties = Properties { response_topic, correlation, content_type, expiry, user };
                Record::Message(Box::new(Message { topic, payload, qos, retain, properties }))
            }
            _ => return Err("kind of record"),
        };
        if r.0.is_empty() { Ok(record) } else { Err("bytes behind the record") }
    }

    /// The message to send.
    pub fn into_message(self, sending: &Sending) -> Message {
        match self {
            Record::Message(m) => *m,
            Record::Reading(r) => {
                let about = r.about(sending);
                let (time, synced) = (about.time, about.synced);
                let (payload, kind) = payload::reading(&r.value, &r.words.0, &r.words.1, r.format, &about);
                let mut user = Vec::with_capacity(5);
                user.push(("time".to_owned(), payload::time_text(time)));
                if let Some(seq) = sending.seq {
                    user.push(("seq".to_owned(), seq.to_string()));
                }
                if r.quality != Quality::Good {
                    user.push(("quality".to_owned(), r.quality.as_str().to_owned()));
                }
                if !synced {
                    user.push(("clock".to_owned(), "unsynced".to_owned()));
                }
                if sending.replayed {
                    user.push(("replayed".to_owned(), "1".to_owned()));
                }
                let properties = Properties {
                    content_type: Some(kind.to_owned()),
                    expiry: sending.expires_in.map(|e| e.max(Duration::from_secs(1))),
                    user,
                    ..Properties::default()
                };
                Message { topic: r.topic, payload, qos: r.qos, retain: r.retain, properties }
            }
        }
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn u8(&mut self, v: u8) {
        self.0.push(v);
    }
    fn u32(&mut self, v: u32) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    fn u64(&mut self, v: u64) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    fn bytes(&mut self, v: &[u8]) {
        self.u32(v.len() as u32);
        self.0.extend_from_slice(v);
    }
    fn text(&mut self, v: &str) {
        self.bytes(v.as_bytes());
    }
    /// `words`: for ON and OFF.
    fn value(&mut self, v: &Value, words: (&str, &str)) {
        match v {
            Value::Bool(b) => {
                self.u8(u8::from(*b));
                self.text(words.0);
                self.text(words.1);
            }
            Value::Number(n) => {
                self.u8(2);
                self.u64(n.to_bits());
            }
            Value::Text(t) => {
                self.u8(3);
                self.text(t);
            }
            Value::Bytes(b) => {
                self.u8(4);
                self.bytes(b);
            }
        }
    }
    fn optional(&mut self, v: Option<&[u8]>) {
        self.u8(u8::from(v.is_some()));
        if let Some(v) = v {
            self.bytes(v);
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], &'static str> {
        let (head, rest) = self.0.split_at_checked(n).ok_or("cut short")?;
        self.0 = rest;
        Ok(head)
    }
    fn u8(&mut self) -> Result<u8, &'static str> {
        Ok(self.take(1)?[0])
    }
    fn u32(&mut self) -> Result<u32, &'static str> {
        self.take(4)?.try_into().map(u32::from_le_bytes).map_err(|_| "cut short")
    }
    fn u64(&mut self) -> Result<u64, &'static str> {
        self.take(8)?.try_into().map(u64::from_le_bytes).map_err(|_| "cut short")
    }
    fn bytes(&mut self) -> Result<&'a [u8], &'static str> {
        let n = self.u32()? as usize;
        self.take(n)
    }
    fn text(&mut self) -> Result<String, &'static str> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| "UTF-8")
    }
    fn value(&mut self) -> Result<(Value, (String, String)), &'static str> {
        let value = match self.u8()? {
            b @ (0 | 1) => return Ok((Value::Bool(b == 1), (self.text()?, self.text()?))),
            2 => Value::Number(f64::from_bits(self.u64()?)),
            3 => Value::Text(self.text()?),
            4 => Value::Bytes(self.bytes()?.to_vec()),
            _ => return Err("kind of value"),
        };
        Ok((value, Default::default()))
    }
    fn optional(&mut self) -> Result<Option<&'a [u8]>, &'static str> {
        if self.u8()? == 0 { Ok(None) } else { self.bytes().map(Some) }
    }
    fn optional_text(&mut self) -> Result<Option<String>, &'static str> {
        if self.u8()? == 0 { Ok(None) } else { self.text().map(Some) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Mono;
    use proptest::prelude::*;

    fn reading(value: Value) -> ReadingRecord {
        ReadingRecord {
            topic: "shed/door".into(),
            qos: Qos::AtLeastOnce,
            retain: true,
            format: PayloadFormat::Json,
            words: ("ON".into(), "OFF".into()),
            value,
            quality: Quality::Good,
            told: None,
            batch: None,
        }
    }
    fn sending(ours: bool) -> Sending {
        let now = Now { wall: Wall(1_800_000_010_000), mono: Mono(Duration::from_secs(15)), synced: true };
        let taken = Stamp { wall: Wall(5000), mono: Mono(Duration::from_secs(5)), synced: false };
        Sending { seq: Some(3), replayed: true, taken, ours, expires_in: Some(Duration::from_secs(50)), now }
    }

    #[test]
    fn a_record_reads_back_equal() {
        let message = Message {
            topic: "a/b".into(),
            payload: vec![0, 255],
            qos: Qos::ExactlyOnce,
            retain: false,
            properties: Properties {
                response_topic: None,
                correlation: Some(vec![1, 2]),
                content_type: Some("x/y".into()),
                expiry: Some(Duration::from_secs(2)),
                user: vec![("k".into(), "v".into())],
            },
        };
        let mut all = vec![Record::Message(Box::new(message))];
        for v in [Value::Bool(true), Value::Text("x".into()), Value::Bytes(vec![1])] {
            let words = if matches!(v, Value::Bool(_)) { reading(v.clone()).words } else { Default::default() };
            all.push(Record::Reading(Box::new(ReadingRecord { words, ..reading(v) })));
        }
        for format in [PayloadFormat::Plain, PayloadFormat::Cbor] {
            let words = Default::default();
            all.push(Record::Reading(Box::new(ReadingRecord { words, format, ..reading(Value::Number(1.0)) })));
        }
        for value in [None, Some(Value::Number(2.0)), Some(Value::Bool(true)), Some(Value::Text("x".into()))] {
            let told = Some(Box::new(Told { device: "weather".into(), metric: "temperature".into(), value }));
            all.push(Record::Reading(Box::new(ReadingRecord { told, ..reading(Value::Bool(true)) })));
        }
        let batch = Batched {
            topic: "shed".into(),
            point: "door".into(),
            every: Duration::from_millis(1500),
            max: 1000,
            urgent: true,
        };
        let told = Told { device: "shed".into(), metric: "door".into(), value: Some(Value::Number(2.0)) };
        for told in [None, Some(Box::new(told))] {
            let batch = Some(Box::new(batch.clone()));
            all.push(Record::Reading(Box::new(ReadingRecord { told, batch, ..reading(Value::Bool(true)) })));
        }
        for record in all {
            let bytes = record.encode();
            if let Record::Reading(_) = record {
                assert_eq!(bytes.capacity(), bytes.len(), "{record:?}");
            }
            assert_eq!(Record::decode(&bytes), Ok(record));
        }
    }

    #[test]
    fn a_waiting_reading_gets_its_true_time_once_the_clock_is_set() {
        let m = Record::Reading(Box::new(reading(Value::Bool(true)))).into_message(&sending(true));
        assert!(m.properties.user.contains(&("time".into(), "2027-01-15T08:00:00.000Z".into())));
        assert!(m.properties.user.contains(&("replayed".into(), "1".into())));
        assert!(!m.properties.user.iter().any(|(k, _)| k == "clock"));
        assert_eq!(m.properties.expiry, Some(Duration::from_secs(50)));
        let of_another_run = Record::Reading(Box::new(reading(Value::Bool(true)))).into_message(&sending(false));
        assert!(of_another_run.properties.user.contains(&("clock".into(), "unsynced".into())));
    }

    proptest! {
        #[test]
        fn any_number_survives(n in any::<f64>().prop_filter("finite", |n| n.is_finite())) {
            let mut r = reading(Value::Number(n));
            r.words = Default::default();
            let r = Record::Reading(Box::new(r));
            prop_assert_eq!(Record::decode(&r.encode()), Ok(r));
        }
        #[test]
        fn foreign_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), first in 0u8..4) {
            if let Some(b) = bytes.first_mut() { *b = first; }
            let _ = Record::decode(&bytes);
        }
    }
}
