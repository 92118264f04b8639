//! Points: their filters, their last value, and the messages made of their readings. What expressions see of them is
//! here too ([`View`]).

use crate::expr::{Expression, Lookup, Seen, Template, Zone};
use crate::model::{
    Deliver, Frame, Mono, Now, PayloadFormat, PointId, PointSpec, Priority, Qos, Quality, Stamp, Value,
};
use crate::wire::payload::time_text;
use crate::wire::record::Batched;
use crate::wire::sparkplug::Told;
use crate::wire::{ReadingRecord, Record};

use super::bridge::lane;
use super::filters::{At, Chain};
use super::{Effect, Outgoing};

/// How readings go while something holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Alarm {
    /// What must hold; `value` is the reading.
    pub when: Expression,
    /// Delivery while it holds.
    pub qos: Qos,
    /// Retained while it holds.
    pub retain: bool,
    /// Importance while it holds.
    pub priority: Priority,
}

/// An alarm has begun or ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    /// Of which point.
    pub point: PointId,
    /// Begun.
    pub on: bool,
    /// The reading that did it.
    pub value: Value,
}

/// Whether what a point said last still holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// Nothing was said since its device came.
    Unknown,
    Yes,
    Offline,
}

struct Point {
    spec: PointSpec,
    source: String,
    chain: Chain,
    alarm: Option<Alarm>,
    /// Whether the alarm holds.
    alarmed: bool,
    /// A payload of the user's own.
    payload: Option<Template>,
    /// Its place in Sparkplug.
    told: Option<Box<Told>>,
    /// The last value that was published.
    last: Option<(Value, Quality, Stamp)>,
    /// When the device last reported, whatever the filters did with it.
    heard: Option<Stamp>,
    /// The same, and not forgotten when the device goes offline.
    spoke: Option<Mono>,
    holds: Holds,
    /// When it was last published.
    published: Mono,
}

/// All points.
pub struct Points {
    list: Vec<Point>,
    zone: Zone,
    /// Of which something is new for expressions.
    changed: Vec<PointId>,
    turns: Vec<Turn>,
    /// Payloads that could not be written.
    unwritten: Vec<(PointId, String)>,
}

/// What expressions see.
pub struct View<'a> {
    points: &'a Points,
    now: &'a Now,
    fields: &'a [(String, Value)],
    value: Option<&'a Value>,
    words: &'a [(&'a str, &'a str)],
}

impl Lookup for View<'_> {
    fn now(&self) -> Now {
        *self.now
    }
    fn point(&self, id: PointId) -> Seen<'_> {
        let Some(point) = self.points.list.get(id.0 as usize) else { return Seen::UNKNOWN };
        let age = point.spoke.map(|spoke| self.now.mono.since(spoke));
        match (point.holds, &point.last) {
            (Holds::Offline, _) => Seen { value: None, quality: "offline", age },
            (Holds::Yes, Some((value, quality, _))) => {
                let good = *quality == Quality::Good;
                Seen { value: good.then_some(value), quality: quality.as_str(), age }
            }
            _ => Seen { age, ..Seen::UNKNOWN },
        }
    }
    fn value(&self) -> Option<&Value> {
        self.value
    }
    fn field(&self, name: &str) -> Option<&Value> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value)
    }
    fn word(&self, name: &str) -> Option<&str> {
        self.words.iter().find(|(word, _)| *word == name).map(|(_, text)| *text)
    }
    fn zone(&self) -> &Zone {
        &self.points.zone
    }
}

impl Points {
    /// Points with their chains, in the order of their ids.
    pub fn new(specs: Vec<PointSpec>, sources: Vec<String>, chains: Vec<Chain>, zone: Zone) -> Points {
        let list = specs
            .into_iter()
            .zip(sources)
            .zip(chains)
            .map(|((spec, source), chain)| Point {
                spec,
                source,
                chain,
                alarm: None,
                alarmed: false,
                payload: None,
                told: None,
                last: None,
                heard: None,
                spoke: None,
                holds: Holds::Unknown,
                published: Mono::default(),
            })
            .collect();
        Points { list, zone, changed: Vec::new(), turns: Vec::new(), unwritten: Vec::new() }
    }

    /// Gives a point an alarm.
    pub fn set_alarm(&mut self, id: PointId, alarm: Alarm) {
        if let Some(point) = self.list.get_mut(id.0 as usize) {
            point.alarm = Some(alarm);
        }
    }

    /// Gives a point a payload of the user's own.
    pub fn set_payload(&mut self, id: PointId, payload: Template) {
        if let Some(point) = self.list.get_mut(id.0 as usize) {
            point.payload = Some(payload);
        }
    }

    /// Gives a point its place in Sparkplug.
    pub fn set_told(&mut self, id: PointId, told: Told) {
        if let Some(point) = self.list.get_mut(id.0 as usize) {
            point.told = Some(Box::new(told));
        }
    }

    /// The last value of a point that was published, and whether it still holds.
    pub fn last(&self, id: PointId) -> Option<(&Value, Quality, Stamp)> {
        let point = self.list.get(id.0 as usize)?;
        let (value, quality, taken) = point.last.as_ref()?;
        let quality = if point.holds == Holds::Yes { *quality } else { Quality::Stale };
        Some((value, quality, *taken))
    }

    /// The point of an id.
    pub fn spec(&self, id: PointId) -> Option<&PointSpec> {
        self.list.get(id.0 as usize).map(|p| &p.spec)
    }

    /// How reports name it: `door`, `weather/temperature`.
    pub fn source(&self, id: PointId) -> &str {
        self.list.get(id.0 as usize).map_or("", |p| &p.source)
    }

    /// What expressions see at this moment.
    pub fn view<'a>(&'a self, now: &'a Now) -> View<'a> {
        View { points: self, now, fields: &[], value: None, words: &[] }
    }

    /// Takes the points of which expressions may see something new into `into`.
    pub fn take_changed(&mut self, into: &mut Vec<PointId>) {
        into.append(&mut self.changed);
    }

    /// Alarms that began or ended.
    pub fn take_turns(&mut self) -> Vec<Turn> {
        std::mem::take(&mut self.turns)
    }

    /// Readings whose payload could not be written, and why.
    pub fn take_unwritten(&mut self) -> Vec<(PointId, String)> {
        std::mem::take(&mut self.unwritten)
    }

    /// A reading from a device.
    #[expect(clippy::too_many_arguments, reason = "a reading has so many parts")]
    pub fn reading(
        &mut self,
        id: PointId,
        value: Value,
        quality: Quality,
        taken: Stamp,
        frame: &Frame,
        now: &Now,
        fx: &mut Vec<Effect>,
    ) {
        let Some(point) = self.list.get_mut(id.0 as usize) else { return };
        point.heard = Some(taken);
        point.spoke = Some(taken.mono);
        let passed = match quality {
            // filters compute; what is not of its type is passed on as it came, and marked
            Quality::Good if point.chain.is_empty() => Some(value),
            Quality::Good => {
                let mut chain = std::mem::take(&mut point.chain);
                let view = View { points: self, now, fields: frame.fields(), value: None, words: &[] };
                let passed = chain.apply(value, &At { now: now.mono, lookup: &view });
                if let Some(point) = self.list.get_mut(id.0 as usize) {
                    point.chain = chain;
                }
                passed
            }
            Quality::Bad | Quality::Stale => {
                point.chain.pass_by();
                Some(value)
            }
        };
        if let Some(value) = passed {
            // read anew, also where it is the same
            self.changed.push(id);
            self.publish(id, value, quality, taken, taken.mono, frame, now, fx);
        }
    }

    /// Publishes the present value again because somebody asked, however old it is; gives it, or `None` if nothing
    /// was ever read.
    pub fn again(&mut self, id: PointId, now: &Now, fx: &mut Vec<Effect>) -> Option<Value> {
        let point = self.list.get(id.0 as usize)?;
        let (value, quality, taken) = point.last.clone()?;
        let taken = point.holds(now).unwrap_or(taken);
        self.publish(id, value.clone(), quality, taken, now.mono, &Frame::default(), now, fx);
        // whoever asked waits for it
        if let Some(Effect::Send(Outgoing { record: Record::Reading(reading), .. })) = fx.last_mut()
            && let Some(batch) = &mut reading.batch
        {
            batch.urgent = true;
        }
        Some(value)
    }

    /// States that may be unknown to a broker that came back: those not published since `lost`, and those of which
    /// nothing was kept. Not those of a device that is offline: nobody knows whether they still hold.
    pub fn announce(&mut self, lost: Mono, now: &Now, fx: &mut Vec<Effect>) {
        for id in (0..self.list.len() as u32).map(PointId) {
            let Some(point) = self.list.get(id.0 as usize) else { continue };
            if (point.published < lost || point.spec.deliver == Deliver::None)
                && let Some(taken) = point.holds(now)
                && let Some((value, quality, _)) = point.last.clone()
            {
                self.publish(id, value, quality, taken, taken.mono, &Frame::default(), now, fx);
            }
        }
    }

    /// A device went offline: what it said before is not repeated.
    pub fn hush(&mut self, id: PointId) {
        if let Some(point) = self.list.get_mut(id.0 as usize) {
            point.heard = None;
            if point.holds != Holds::Offline {
                // the first that it says again is news, however little it has moved
                point.chain.pass_by();
                point.holds = Holds::Offline;
                self.changed.push(id);
            }
        }
    }

    /// A device is back: what it said before holds no more, and nothing is known yet.
    pub fn back(&mut self, id: PointId) {
        if let Some(point) = self.list.get_mut(id.0 as usize)
            && point.holds == Holds::Offline
        {
            point.holds = Holds::Unknown;
            self.changed.push(id);
        }
    }

    /// When a filter wants to speak.
    pub fn next_wake(&self) -> Option<Mono> {
        self.list.iter().filter_map(|p| p.chain.next_wake()).min()
    }

    /// Lets the filters speak that are due.
    pub fn due(&mut self, now: &Now, fx: &mut Vec<Effect>) {
        for id in (0..self.list.len() as u32).map(PointId) {
            let Some(point) = self.list.get_mut(id.0 as usize) else { continue };
            if point.chain.next_wake().is_none_or(|t| t > now.mono) {
                continue;
            }
            let mut chain = std::mem::take(&mut point.chain);
            let said = chain.wake(&At { now: now.mono, lookup: &self.view(now) });
            let Some(point) = self.list.get_mut(id.0 as usize) else { continue };
            point.chain = chain;
            let (holds, heard) = (point.holds(now), point.heard);
            for (value, quality) in said {
                // a state that is repeated is of now; what is stale is as old as it is
                let taken = if quality == Quality::Good { holds.or(heard) } else { heard };
                if let Some(taken) = taken {
                    self.publish(id, value, quality, taken, taken.mono, &Frame::default(), now, fx);
                }
            }
        }
    }

    /// `counts_from` is when its `expiry` begins.
    #[expect(clippy::too_many_arguments, reason = "a reading has so many parts")]
    fn publish(
        &mut self,
        id: PointId,
        value: Value,
        quality: Quality,
        taken: Stamp,
        counts_from: Mono,
        frame: &Frame,
        now: &Now,
        fx: &mut Vec<Effect>,
    ) {
        let Some(point) = self.list.get(id.0 as usize) else { return };
        let view = View { points: self, now, fields: frame.fields(), value: Some(&value), words: &[] };
        // no decision: the alarm stays as it was
        let alarmed = match &point.alarm {
            Some(alarm) if quality == Quality::Good => alarm.when.decide(&view).unwrap_or(point.alarmed),
            _ => point.alarmed,
        };
        let written = point.payload.as_ref().map(|template| {
            let spec = &point.spec;
            let payload = match &value {
                Value::Bool(true) => spec.payload_on.clone(),
                Value::Bool(false) => spec.payload_off.clone(),
                Value::Bytes(_) => String::new(),
                other => other.to_string(),
            };
            let time = time_text(taken.resolve(now).0);
            let words =
                [("payload", &*payload), ("topic", &spec.topic), ("quality", quality.as_str()), ("time", &time)];
            template.render(&View { words: &words, ..view })
        });
        let Some(point) = self.list.get_mut(id.0 as usize) else { return };
        if self.changed.last() != Some(&id) && point.last.as_ref().is_none_or(|(v, q, _)| (v, *q) != (&value, quality))
        {
            self.changed.push(id);
        }
        if alarmed != point.alarmed {
            point.alarmed = alarmed;
            self.turns.push(Turn { point: id, on: alarmed, value: value.clone() });
        }
        point.holds = Holds::Yes;
        point.published = now.mono;
        match (&mut point.last, &value) {
            // a number costs no memory
            (Some((last, q, t)), Value::Number(n)) => (*last, *q, *t) = (Value::Number(*n), quality, taken),
            (last, _) => *last = Some((value.clone(), quality, taken)),
        }
        let mut told = point.told.clone();
        let (value, format) = match written {
            None => (value, point.spec.payload),
            Some(Ok(text)) => {
                if let Some(told) = &mut told {
                    told.value = Some(value);
                }
                (Value::Text(text), PayloadFormat::Plain)
            }
            Some(Err(blank)) => {
                let why = blank.say(|other| self.source(other).to_owned());
                self.unwritten.push((id, why));
                return;
            }
        };
        let spec = &point.spec;
        let (qos, retain, priority) = match &point.alarm {
            Some(alarm) if alarmed => (alarm.qos, alarm.retain, alarm.priority),
            _ => (spec.qos, spec.retain, spec.priority),
        };
        let words = match value {
            Value::Bool(_) => (spec.payload_on.clone(), spec.payload_off.clone()),
            _ => Default::default(),
        };
        let batch = spec.batch.as_ref().map(|batch| {
            let (topic, point) = (batch.topic.clone(), spec.name.clone());
            Box::new(Batched { topic, point, every: batch.every, max: batch.max, urgent: priority == Priority::Alarm })
        });
        let record = Record::Reading(Box::new(ReadingRecord {
            topic: spec.topic.clone(),
            qos,
            retain,
            format,
            words,
            value,
            quality,
            told,
            batch,
        }));
        fx.push(Effect::Send(Outgoing {
            reading: true,
            priority,
            lane: lane(&spec.topic),
            deliver: spec.deliver,
            expires: spec.expiry.map(|e| counts_from.after(e)),
            retain,
            taken: Some(taken),
            source: point.source.clone(),
            record,
        }));
    }
}

impl Point {
    /// A state holds until its device says otherwise: repeated, it is a reading of now.
    fn holds(&self, now: &Now) -> Option<Stamp> {
        (self.spec.stateful && self.heard.is_some()).then(|| now.stamp())
    }
}
