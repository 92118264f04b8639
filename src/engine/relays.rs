//! Relays: messages of topics and readings of points, passed on to a topic or to an output. Pure.
//!
//! What is passed on goes through the queue like a reading, so it is kept while the broker is away; the payload's bytes
//! stay as they are unless the relay says otherwise, and so do the MQTT 5 properties. An output is wished as by any
//! command. What is not known (`when`, a template) passes nothing on, and is told.
//!
//! Loops are cut: with MQTT 5 each relay adds itself to the user properties (`via`) and passes nothing on that carries
//! its own name or [`FAR`] of them; without properties, the same message [`OFTEN`] times within [`SPAN`] is one.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use crate::expr::{Expression, Lookup, Seen, Template, Zone};
use crate::model::{Deliver, DeviceId, Incoming, Message, Mono, Now, PointId, Priority, Qos, Value};
use crate::wire::Record;
use crate::wire::topics::{check_topic, matches};

use super::bridge::lane;
use super::points::View;
use super::{Effect, Engine, Outgoing};

/// The user property that names the relays a message has passed, one each.
pub const VIA: &str = "via";
/// Through so many relays at most.
pub const FAR: usize = 16;
/// Without MQTT 5, so often the same message
pub const OFTEN: usize = 100;
/// within this time is a loop.
pub const SPAN: Duration = Duration::from_secs(10);
/// How many messages are remembered to see that.
const REMEMBERED: usize = 512;

/// A relay, complete.
#[derive(Debug, Clone)]
pub struct Relay {
    /// Its name.
    pub name: String,
    /// Where it takes from.
    pub from: From,
    /// Where it gives to.
    pub to: To,
    /// What goes out; `None`: the bytes as they came.
    pub payload: Option<Template>,
    /// What must hold.
    pub when: Option<Expression>,
    /// Delivery.
    pub qos: Qos,
    /// Whether the broker keeps it.
    pub retain: bool,
}

/// Where a relay takes from.
#[derive(Debug, Clone, PartialEq)]
pub enum From {
    /// A filter.
    Topic(String),
    /// What a point says on its topic.
    Point(PointId, String),
}

/// Where a relay gives to.
#[derive(Debug, Clone, PartialEq)]
pub enum To {
    /// A topic.
    Topic(Template),
    /// An output or a writable point.
    Set(DeviceId, Option<PointId>),
}

/// The relays of a plan.
#[derive(Debug, Default)]
pub struct Plan {
    /// In the order of the file.
    pub relays: Vec<Relay>,
    /// Whether messages carry properties (MQTT 5).
    pub properties: bool,
}

/// The relays and what they remember.
#[derive(Default)]
pub(super) struct Relays {
    plan: Plan,
    /// Whether one takes from a point.
    points: bool,
    seen: VecDeque<(Mono, u64)>,
}

impl Relays {
    pub(super) fn new(plan: Plan) -> Relays {
        let points = plan.relays.iter().any(|r| matches!(r.from, From::Point(..)));
        Relays { plan, points, seen: VecDeque::new() }
    }

    /// Whether this message goes round.
    fn goes_round(&mut self, relay: usize, message: &Incoming, now: Mono) -> bool {
        while self.seen.front().is_some_and(|(t, _)| now.since(*t) >= SPAN) || self.seen.len() >= REMEMBERED {
            self.seen.pop_front();
        }
        let mut hasher = DefaultHasher::new();
        (relay, &message.topic, &message.payload).hash(&mut hasher);
        let hash = hasher.finish();
        self.seen.push_back((now, hash));
        self.seen.iter().filter(|(_, h)| *h == hash).count() > OFTEN
    }
}

/// Points, and the words of one occasion.
pub(super) struct Passing<'a> {
    pub(super) view: View<'a>,
    pub(super) value: Option<&'a Value>,
    pub(super) words: &'a [(&'a str, &'a str)],
}

impl Lookup for Passing<'_> {
    fn now(&self) -> Now {
        self.view.now()
    }
    fn point(&self, id: PointId) -> Seen<'_> {
        self.view.point(id)
    }
    fn value(&self) -> Option<&Value> {
        self.value
    }
    fn word(&self, name: &str) -> Option<&str> {
        self.words.iter().find(|(word, _)| *word == name).map(|(_, text)| *text)
    }
    fn zone(&self) -> &Zone {
        self.view.zone()
    }
}

impl Engine {
    /// Passes a message on to all whom it concerns.
    pub(super) fn relay(&mut self, message: &Incoming, now: &Now, fx: &mut Vec<Effect>) {
        for i in 0..self.relays.plan.relays.len() {
            let Some(relay) = self.relays.plan.relays.get(i) else { return };
            if matches!(&relay.from, From::Topic(filter) if matches(filter, &message.topic)) {
                self.pass(i, message, None, now, fx);
            }
        }
    }

    /// Passes on what points have just said: the readings among `fx` from `start` on.
    pub(super) fn relay_readings(&mut self, start: usize, now: &Now, fx: &mut Vec<Effect>) {
        if !self.relays.points {
            return;
        }
        let readings: Vec<_> = fx
            .iter()
            .skip(start)
            .filter_map(|effect| match effect {
                Effect::Send(Outgoing { record: Record::Reading(reading), .. }) => Some((**reading).clone()),
                _ => None,
            })
            .collect();
        for reading in readings {
            for i in 0..self.relays.plan.relays.len() {
                let Some(relay) = self.relays.plan.relays.get(i) else { return };
                if matches!(&relay.from, From::Point(_, topic) if *topic == reading.topic) {
                    let (on, off) = (&reading.words.0, &reading.words.1);
                    let bytes = match &reading.value {
                        Value::Bytes(bytes) => bytes.clone(),
                        Value::Bool(true) => on.clone().into_bytes(),
                        Value::Bool(false) => off.clone().into_bytes(),
                        other => other.to_string().into_bytes(),
                    };
                    let message = Incoming { topic: reading.topic.clone(), payload: bytes, ..Incoming::default() };
                    self.pass(i, &message, Some(&reading.value), now, fx);
                }
            }
        }
    }

    fn pass(&mut self, i: usize, message: &Incoming, value: Option<&Value>, now: &Now, fx: &mut Vec<Effect>) {
        let Some(relay) = self.relays.plan.relays.get(i).cloned() else { return };
        let me = format!("{}/{}", self.topics.prefix(), relay.name);
        let mut via = message.properties.user.iter().filter(|(key, _)| key == VIA);
        let round = via.clone().any(|(_, name)| *name == me) || via.by_ref().count() >= FAR;
        if round || (!self.relays.plan.properties && self.relays.goes_round(i, message, now.mono)) {
            let text = format!("relay {}: {} goes round in a loop; it is not passed on", relay.name, message.topic);
            return self.bridge.problem(&self.topics, &text, now, fx);
        }
        let text = std::str::from_utf8(&message.payload).ok();
        let parsed = value.cloned().or_else(|| text.map(Value::parse));
        let words: Vec<(&str, &str)> =
            [("topic", message.topic.as_str())].into_iter().chain(text.map(|text| ("payload", text))).collect();
        let at = Passing { view: self.points.view(now), value: parsed.as_ref(), words: &words };
        let made = (|| {
            if let Some(when) = &relay.when
                && !when.decide(&at)?
            {
                return Ok(None);
            }
            let payload = match &relay.payload {
                Some(template) => template.render(&at)?.into_bytes(),
                None => message.payload.clone(),
            };
            let topic = match &relay.to {
                To::Topic(template) => Some(template.render(&at)?),
                To::Set(..) => None,
            };
            Ok(Some((payload, topic)))
        })();
        match (made, &relay.to) {
            (Ok(None), _) => {}
            (Ok(Some((payload, _))), To::Set(device, point)) => {
                // as it came: what is retained or comes out of the broker's store is judged as old news
                let wish = Incoming { payload, ack: 0, ..message.clone() };
                self.wish_from(format!("relay {}", relay.name), *device, *point, &wish, now, fx);
            }
            (Ok(Some((payload, topic))), To::Topic(_)) => {
                let topic = topic.unwrap_or_default();
                if let Err(why) = check_topic(&topic) {
                    let text = format!("relay {}: {why}", relay.name);
                    return self.bridge.problem(&self.topics, &text, now, fx);
                }
                let mut properties = message.properties.clone();
                let expires = properties.expiry.map(|left| now.mono.after(left));
                properties.user.push((VIA.into(), me));
                let (qos, retain) = (relay.qos, relay.retain);
                fx.push(passed(Message { topic, payload, qos, retain, properties }, expires, &relay.name));
            }
            (Err(blank), _) => {
                let why: crate::expr::Blank = blank;
                let why = why.say(|id| self.points.source(id).to_owned());
                let text = format!("relay {}: {} is not passed on: {why}", relay.name, message.topic);
                self.bridge.problem(&self.topics, &text, now, fx);
            }
        }
    }
}

fn passed(message: Message, expires: Option<Mono>, relay: &str) -> Effect {
    Effect::Send(Outgoing {
        reading: false,
        priority: Priority::Normal,
        lane: lane(&message.topic),
        deliver: Deliver::All,
        expires,
        retain: message.retain,
        taken: None,
        source: format!("relay {relay}"),
        record: Record::Message(Box::new(message)),
    })
}
