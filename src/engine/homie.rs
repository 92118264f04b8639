//! Homie: what its controllers are told of the gateway and its devices, when, and what they set. Pure.
//!
//! At each connection everything is told anew, since the broker may have said that we were lost: state `init`, the
//! description, all values, state `ready`. A description that has changed has a higher version; what earlier runs have
//! told and is no more is taken off the broker. The `$target` of an output goes before every value of it, as the
//! convention wants it of whoever uses it at all; instruments have none, since theirs is not known here.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value as Json, json};

use crate::model::{
    Deliver, DeviceId, DeviceSpec, DeviceStatus, Incoming, Now, PointId, PointSpec, Qos, Quality, Value,
};
use crate::wire::Record;
use crate::wire::command::Wish;
use crate::wire::homie::{Child, Datatype, Property, Settings, Target, children, root};

use super::bridge::{lane, own};
use super::{Effect, Engine, Outgoing};

/// Keys in the memory begin so; the device's id follows.
const KEY: &str = "homie/";
/// The alert of a queue that is so full, percent, and taken back when it is so empty.
const FULL: u8 = 80;
const EMPTY: u8 = 60;

/// What is told.
#[derive(Default)]
pub(super) struct Homie {
    settings: Option<Settings>,
    name: String,
    children: Vec<Child>,
    /// Points by the topics of their readings.
    points: HashMap<String, PointId>,
    /// What was told of each device in this run or an earlier one: version, hash, retained topics.
    told: BTreeMap<String, Json>,
    /// The last target of each property, by its topic.
    targets: BTreeMap<String, Vec<u8>>,
    full: Option<u8>,
}

impl Homie {
    pub(super) fn new(
        settings: Option<Settings>,
        name: String,
        (devices, points): (&[DeviceSpec], &[PointSpec]),
        memory: &BTreeMap<String, Json>,
    ) -> Homie {
        let told = memory.iter().filter_map(|(key, value)| Some((key.strip_prefix(KEY)?.to_owned(), value.clone())));
        let told: BTreeMap<String, Json> = told.collect();
        let mut children = settings.as_ref().map(|s| children(s, devices, points)).unwrap_or_default();
        for child in &mut children {
            let types = told.get(&child.id).and_then(|t| t.get("types"));
            for property in child.properties.iter_mut().filter(|p| p.open) {
                let word = types.and_then(|t| t.get(&property.id)).and_then(Json::as_str);
                if let Some(datatype) = word.and_then(Datatype::of_word) {
                    (property.datatype, property.open) = (datatype, false);
                }
            }
        }
        Homie {
            children,
            points: points.iter().map(|p| (p.topic.clone(), p.id)).collect(),
            told,
            settings,
            name,
            ..Homie::default()
        }
    }

    fn property(&self, device: DeviceId, target: &Target) -> Option<(&Child, &Property)> {
        let child = self.children.iter().find(|c| c.device == device)?;
        Some((child, child.properties.iter().find(|p| p.target == *target)?))
    }

    /// What earlier runs have told and is no more: the state first, as the convention has it.
    fn take_back(&mut self, fx: &mut Vec<Effect>) {
        let here = |id: &String| {
            self.settings.as_ref().is_some_and(|s| s.root == *id) || self.children.iter().any(|c| c.id == *id)
        };
        let gone: Vec<String> = self.told.keys().filter(|id| !here(id)).cloned().collect();
        for id in gone {
            let topics = self.told.remove(&id).as_ref().map(topics_of).unwrap_or_default();
            fx.extend(topics.into_iter().rev().map(|topic| told(topic, Vec::new())));
            fx.push(Effect::Remember { key: format!("{KEY}{id}"), value: None, urgent: true });
        }
    }

    /// `$description`, with a version that rises when it changes; what it leaves out is taken off the broker.
    fn describe(&mut self, id: &str, mut map: Map<String, Json>, topics: Vec<String>, fx: &mut Vec<Effect>) {
        let Some(settings) = &self.settings else { return };
        let hash = lane(&Json::Object(map.clone()).to_string());
        let before = self.told.get(id);
        let version = before.and_then(|t| t.get("version")).and_then(Json::as_u64).unwrap_or(0);
        let same = before.and_then(|t| t.get("hash")).and_then(Json::as_u64) == Some(hash);
        let version = if same { version } else { version + 1 };
        if !same {
            let old = before.map(topics_of).unwrap_or_default();
            fx.extend(old.into_iter().filter(|t| !topics.contains(t)).map(|topic| told(topic, Vec::new())));
            let child = self.children.iter().find(|c| c.id == id);
            // what was learned of types, so that the next run need not guess again
            let types = child.into_iter().flat_map(|c| &c.properties).filter(|p| !p.open && !p.settable);
            let types: Map<String, Json> = types.map(|p| (p.id.clone(), json!(p.datatype.word()))).collect();
            let value = json!({ "version": version, "hash": hash, "topics": topics, "types": types });
            self.told.insert(id.to_owned(), value.clone());
            fx.push(Effect::Remember { key: format!("{KEY}{id}"), value: Some(value), urgent: true });
        }
        map.insert("version".into(), json!(version));
        let payload = Json::Object(map).to_string().into_bytes();
        fx.push(own(settings.attribute(id, "$description"), payload, true, Deliver::Latest, "application/json"));
    }

    /// A value of a property, behind its target.
    fn value(&mut self, child: usize, property: usize, value: &Value, fx: &mut Vec<Effect>) {
        let Some(settings) = &self.settings else { return };
        let Some(child) = self.children.get(child) else { return };
        let Some(property) = child.properties.get(property) else { return };
        let Some(payload) = property.datatype.write(value) else { return };
        let topic = child.topic(settings, property);
        if property.aims && self.targets.get(&topic) != Some(&payload) {
            self.targets.insert(topic.clone(), payload.clone());
            fx.push(told(format!("{topic}/$target"), payload.clone()));
        }
        match property.retained {
            true => fx.push(told(topic, payload)),
            false => fx.push(event(topic, payload)),
        }
    }

    fn state(&self, id: &str, state: &str) -> Option<Effect> {
        Some(told(self.settings.as_ref()?.attribute(id, "$state"), state.into()))
    }

    fn queue_alert(&self) -> Option<Effect> {
        let settings = self.settings.as_ref()?;
        let text = self.full.map_or(String::new(), |full| format!("the queue is more than {full} % full"));
        Some(told(settings.attribute(&settings.root, "$alert/queue"), text.into_bytes()))
    }

    /// The type that is described, where another was read: first what was read, then text for good.
    fn retype(&mut self, child: usize, property: usize, value: &Value) -> bool {
        let property = self.children.get_mut(child).and_then(|c| c.properties.get_mut(property));
        let Some(property) = property.filter(|p| !p.settable && p.retained) else { return false };
        if property.datatype.write(value).is_some() {
            property.open = false;
            return false;
        }
        let seen = match value {
            Value::Bool(_) => Datatype::Boolean,
            Value::Number(_) => Datatype::Float,
            Value::Text(_) => Datatype::String,
            Value::Bytes(_) => return false,
        };
        let before = std::mem::replace(&mut property.datatype, Datatype::String);
        if std::mem::replace(&mut property.open, false) {
            property.datatype = seen;
        }
        before != property.datatype
    }
}

/// Retained.
fn told(topic: String, payload: Vec<u8>) -> Effect {
    own(topic, payload, true, Deliver::Latest, "text/plain")
}

/// Not retained, and worth nothing later.
fn event(topic: String, payload: Vec<u8>) -> Effect {
    let mut effect = own(topic, payload, false, Deliver::None, "text/plain");
    if let Effect::Send(Outgoing { record: Record::Message(message), .. }) = &mut effect {
        message.qos = Qos::AtMostOnce;
    }
    effect
}

fn topics_of(told: &Json) -> Vec<String> {
    let list = told.get("topics").and_then(Json::as_array).into_iter().flatten();
    list.filter_map(|t| Some(t.as_str()?.to_owned())).collect()
}

impl Engine {
    /// Everything, from the beginning.
    pub(super) fn homie_introduce(&mut self, fx: &mut Vec<Effect>) {
        let Some(settings) = self.homie.settings.clone() else { return self.homie.take_back(fx) };
        fx.extend(self.homie.state(&settings.root, "init"));
        let topics = ["$description", "$state"].map(|a| settings.attribute(&settings.root, a)).into();
        let description = root(&self.homie.name, &self.homie.children);
        self.homie.describe(&settings.root, description, topics, fx);
        for child in 0..self.homie.children.len() {
            self.homie_child(child, fx);
        }
        fx.extend(self.homie.queue_alert());
        fx.extend(self.homie.state(&settings.root, "ready"));
        // behind the root's description, as the convention advises
        self.homie.take_back(fx);
    }

    fn homie_child(&mut self, at: usize, fx: &mut Vec<Effect>) {
        let (Some(settings), Some(child)) = (self.homie.settings.clone(), self.homie.children.get(at)) else { return };
        // what was read before may be of another type than was guessed
        let values: Vec<(usize, Value)> = (0..)
            .zip(&child.properties)
            .filter_map(|(i, property)| match property.target {
                Target::Point(id) if property.retained => Some((i, id)),
                _ => None,
            })
            .filter_map(|(i, id)| {
                let (value, quality, _) = self.points.last(id)?;
                (quality == Quality::Good).then(|| (i, value.clone()))
            })
            .collect();
        for (i, value) in &values {
            self.homie.retype(at, *i, value);
        }
        let Some(child) = self.homie.children.get(at).cloned() else { return };
        fx.extend(self.homie.state(&child.id, "init"));
        self.homie.describe(&child.id, child.description(&settings), child.topics(&settings), fx);
        for (i, value) in &values {
            self.homie.value(at, *i, value, fx);
        }
        self.homie_state(child.device, fx);
    }

    /// A device's state, and the alert that goes with it.
    pub(super) fn homie_state(&self, device: DeviceId, fx: &mut Vec<Effect>) {
        let (true, Some(settings)) = (self.up, &self.homie.settings) else { return };
        let Some(child) = self.homie.children.iter().find(|c| c.device == device) else { return };
        let (state, alert) = match self.bridge.status_of(device) {
            Some(DeviceStatus::Online) => ("ready", ""),
            // it has no task that could say so
            None if child.kind == "computed" => ("ready", ""),
            None => ("init", ""),
            Some(DeviceStatus::Offline(why) | DeviceStatus::Silent(why)) => ("lost", why.as_str()),
        };
        fx.extend(self.homie.state(&child.id, state));
        fx.push(told(settings.attribute(&child.id, "$alert/offline"), alert.as_bytes().to_vec()));
    }

    /// What points have just said: the readings among `fx` from `start` on.
    pub(super) fn homie_readings(&mut self, start: usize, fx: &mut Vec<Effect>) {
        if self.homie.settings.is_none() || !self.up {
            return;
        }
        let mut read: Vec<PointId> = Vec::new();
        for effect in fx.iter().skip(start) {
            if let Effect::Send(Outgoing { record: Record::Reading(reading), .. }) = effect
                && reading.quality == Quality::Good
                && let Some(id) = self.homie.points.get(&reading.topic)
                && !read.contains(id)
            {
                read.push(*id);
            }
        }
        for id in read {
            let Some((value, ..)) = self.points.last(id) else { continue };
            let (value, target) = (value.clone(), Target::Point(id));
            let at = (0..)
                .zip(&self.homie.children)
                .find_map(|(at, child)| Some((at, child.properties.iter().position(|p| p.target == target)?)));
            let Some((at, i)) = at else { continue };
            // with another type the child is described anew, and its values with it
            match self.homie.retype(at, i, &value) {
                true => self.homie_child(at, fx),
                false => self.homie.value(at, i, &value, fx),
            }
        }
    }

    /// How full the queue is, percent.
    pub(super) fn homie_fill(&mut self, percent: u8, fx: &mut Vec<Effect>) {
        let full = match self.homie.full {
            Some(told) if percent > EMPTY => Some(told.max(percent / 10 * 10)),
            _ => Some(percent / 10 * 10).filter(|_| percent >= FULL),
        };
        if std::mem::replace(&mut self.homie.full, full) != full && self.up {
            fx.extend(self.homie.queue_alert());
        }
    }

    /// A controller sets a property.
    pub(super) fn homie_set(
        &mut self,
        device: DeviceId,
        target: Target,
        message: &Incoming,
        now: &Now,
        fx: &mut Vec<Effect>,
    ) {
        let (Some(settings), Some((child, property))) = (&self.homie.settings, self.homie.property(device, &target))
        else {
            return fx.push(Effect::Ack(message.ack));
        };
        let value = match property.datatype.read(&message.payload) {
            Ok(value) => value,
            Err(text) => {
                fx.push(Effect::Ack(message.ack));
                let text = format!("{}: {text}", message.topic);
                return self.bridge.problem(&self.topics, &text, now, fx);
            }
        };
        let aim = property.aims.then(|| child.topic(settings, property));
        let wish = Wish { value, id: None, ttl: None, time: None };
        let (point, verb) = match target {
            Target::Point(id) => (Some(id), "set".to_owned()),
            Target::Verb(verb) => (None, verb),
        };
        let start = fx.len();
        self.wish_in("homie", (device, point, &verb), wish, message, now, fx);
        // accepted: it is on its way
        if let Some(topic) = aim
            && fx.iter().skip(start).any(|e| matches!(e, Effect::Act(..)))
        {
            self.homie.targets.insert(topic.clone(), message.payload.clone());
            fx.push(told(format!("{topic}/$target"), message.payload.clone()));
        }
    }
}
