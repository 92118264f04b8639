//! Points: their filters, their last value, and the messages made of their readings.

use crate::model::{Deliver, Mono, Now, PointId, PointSpec, Quality, Stamp, Value};
use crate::wire::{ReadingRecord, Record};

use super::bridge::lane;
use super::filters::Chain;
use super::{Effect, Outgoing};

struct Point {
    spec: PointSpec,
    source: String,
    chain: Chain,
    /// The last value that was published.
    last: Option<(Value, Quality, Stamp)>,
    /// When the device last reported, whatever the filters did with it.
    heard: Option<Stamp>,
    /// When it was last published.
    published: Mono,
}

/// All points.
pub struct Points {
    list: Vec<Point>,
}

impl Points {
    /// Points with their chains, in the order of their ids.
    pub fn new(specs: Vec<PointSpec>, sources: Vec<String>, chains: Vec<Chain>) -> Points {
        let list = specs
            .into_iter()
            .zip(sources)
            .zip(chains)
            .map(|((spec, source), chain)| Point {
                spec,
                source,
                chain,
                last: None,
                heard: None,
                published: Mono::default(),
            })
            .collect();
        Points { list }
    }

    /// The point of an id.
    pub fn spec(&self, id: PointId) -> Option<&PointSpec> {
        self.list.get(id.0 as usize).map(|p| &p.spec)
    }

    /// A reading from a device.
    pub fn reading(
        &mut self,
        id: PointId,
        value: Value,
        quality: Quality,
        taken: Stamp,
        now: &Now,
        fx: &mut Vec<Effect>,
    ) {
        let Some(point) = self.list.get_mut(id.0 as usize) else { return };
        point.heard = Some(taken);
        let passed = match quality {
            // filters compute; what is not of its type is passed on as it came, and marked
            Quality::Good => point.chain.apply(value, now.mono),
            Quality::Bad | Quality::Stale => Some(value),
        };
        if let Some(value) = passed {
            point.publish(value, quality, taken, now, fx);
        }
    }

    /// Publishes the present value again because somebody asked, however old it is; gives it, or `None` if nothing
    /// was ever read.
    pub fn again(&mut self, id: PointId, now: &Now, fx: &mut Vec<Effect>) -> Option<Value> {
        let point = self.list.get_mut(id.0 as usize)?;
        let (value, quality, taken) = point.last.clone()?;
        let taken = point.holds(now).unwrap_or(taken);
        point.publish_until(value.clone(), quality, taken, now.mono, now, fx);
        Some(value)
    }

    /// States that may be unknown to a broker that came back: those not published since `lost`, and those of which
    /// nothing was kept. Not those of a device that is offline: nobody knows whether they still hold.
    pub fn announce(&mut self, lost: Mono, now: &Now, fx: &mut Vec<Effect>) {
        for point in &mut self.list {
            if (point.published < lost || point.spec.deliver == Deliver::None)
                && let Some(taken) = point.holds(now)
                && let Some((value, quality, _)) = point.last.clone()
            {
                point.publish(value, quality, taken, now, fx);
            }
        }
    }

    /// A device went offline: what it said before is not repeated.
    pub fn hush(&mut self, id: PointId) {
        if let Some(point) = self.list.get_mut(id.0 as usize) {
            point.heard = None;
        }
    }

    /// When a filter wants to speak.
    pub fn next_wake(&self) -> Option<Mono> {
        self.list.iter().filter_map(|p| p.chain.next_wake()).min()
    }

    /// Lets the filters speak that are due.
    pub fn due(&mut self, now: &Now, fx: &mut Vec<Effect>) {
        for point in &mut self.list {
            if point.chain.next_wake().is_some_and(|t| t <= now.mono) {
                for value in point.chain.wake(now.mono) {
                    if let Some(taken) = point.holds(now).or(point.heard) {
                        point.publish(value, Quality::Good, taken, now, fx);
                    }
                }
            }
        }
    }
}

impl Point {
    /// A state holds until its device says otherwise: repeated, it is a reading of now.
    fn holds(&self, now: &Now) -> Option<Stamp> {
        (self.spec.stateful && self.heard.is_some()).then(|| now.stamp())
    }

    fn publish(&mut self, value: Value, quality: Quality, taken: Stamp, now: &Now, fx: &mut Vec<Effect>) {
        self.publish_until(value, quality, taken, taken.mono, now, fx);
    }

    /// `counts_from` is when its `expiry` begins.
    fn publish_until(
        &mut self,
        value: Value,
        quality: Quality,
        taken: Stamp,
        counts_from: Mono,
        now: &Now,
        fx: &mut Vec<Effect>,
    ) {
        let spec = &self.spec;
        self.last = Some((value.clone(), quality, taken));
        self.published = now.mono;
        let words = match value {
            Value::Bool(_) => (spec.payload_on.clone(), spec.payload_off.clone()),
            _ => Default::default(),
        };
        let record = Record::Reading(Box::new(ReadingRecord {
            topic: spec.topic.clone(),
            qos: spec.qos,
            retain: spec.retain,
            format: spec.payload,
            words,
            value,
            quality,
        }));
        fx.push(Effect::Send(Outgoing {
            reading: true,
            priority: spec.priority,
            lane: lane(&spec.topic),
            deliver: spec.deliver,
            expires: spec.expiry.map(|e| counts_from.after(e)),
            retain: spec.retain,
            taken: Some(taken),
            source: self.source.clone(),
            record,
        }));
    }
}
