//! The Sparkplug edge node: what is told of the node and its devices and when, whether the primary host listens, and
//! what hosts command. Pure. The order of messages and their numbers are made where they leave
//! ([`crate::wire::sparkplug::Speaker`]).
//!
//! A host's command goes the way of every other: its limits are those of the output, its outcome is on `bridge/event`.
//! It is as old as its payload says, where the gateway's own clock can judge that.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value as Json;

use crate::model::{
    DeviceId, DeviceSpec, DeviceStatus, Incoming, Mono, Now, PointId, PointSpec, Quality, Takes, Value, Wall,
};
use crate::wire::command::Wish;
use crate::wire::sparkplug::{
    Birth, DataType, Device, Metric, REBIRTH, Settings, Told, Wished, Word, bd_seq, command, host_state,
};

use super::points::Points;
use super::{Effect, Engine};

/// Where the last connection's number is remembered.
pub const BD_SEQ: &str = "sparkplug/bd_seq";
/// What metrics of verbs begin with: `Command/heater`.
const COMMAND: &str = "Command/";
/// So long is waited for the primary host at one of several brokers.
const HOST_WITHIN: Duration = Duration::from_secs(30);

/// The `bdSeq` of the run before, as the durable memory has it.
pub fn last_bd_seq(memory: &BTreeMap<String, Json>) -> Option<u8> {
    memory.get(BD_SEQ).and_then(Json::as_u64).and_then(|n| u8::try_from(n).ok())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// No broker.
    Down,
    /// A broker, and no primary host; since when.
    Waiting(Mono),
    /// Everything is told.
    Born,
}

/// A metric that can be written.
#[derive(Debug, Clone, PartialEq)]
enum Target {
    Point(PointId),
    Verb(String),
}

/// The node.
pub(super) struct Node {
    settings: Option<Settings>,
    last: Option<u8>,
    /// Connections of this run.
    connection: u64,
    stage: Stage,
    /// The host's clock when it last spoke on this connection.
    host_time: u64,
    /// Readings that were lost in this run.
    lost: u64,
    /// What can be written: alias, device, name, target, type.
    verbs: Vec<(u64, DeviceId, String, DataType)>,
    lost_alias: u64,
}

impl Node {
    pub(super) fn new(settings: Option<Settings>, devices: &[DeviceSpec], memory: &BTreeMap<String, Json>) -> Node {
        let mut next = devices.iter().flat_map(|d| &d.points).map(alias).max().unwrap_or(0);
        let mut verbs = Vec::new();
        for device in devices {
            for own in device.own.iter().filter(|own| own.point.is_none()) {
                next += 1;
                let datatype = match own.takes {
                    Takes::Number { .. } => DataType::Double,
                    Takes::Bool | Takes::Nothing => DataType::Boolean,
                    Takes::Anything | Takes::Text { .. } | Takes::Choice(_) => DataType::String,
                };
                verbs.push((next, device.id, own.verb.clone(), datatype));
            }
        }
        Node {
            settings,
            last: last_bd_seq(memory),
            connection: 0,
            stage: Stage::Down,
            host_time: 0,
            lost: 0,
            verbs,
            lost_alias: next + 1,
        }
    }

    /// Gives points their places.
    pub(super) fn place(&self, devices: &[DeviceSpec], specs: &[PointSpec]) -> Vec<(PointId, Told)> {
        let told = |point: &PointSpec| {
            let device = devices.get(point.device.0 as usize)?.name.clone();
            Some((point.id, Told { device, metric: point.name.clone(), value: None }))
        };
        if self.settings.is_some() { specs.iter().filter_map(told).collect() } else { Vec::new() }
    }

    /// When the search for the host goes on.
    pub(super) fn next_wake(&self) -> Option<Mono> {
        match (self.stage, &self.settings) {
            (Stage::Waiting(since), Some(settings)) if settings.several => Some(since.after(HOST_WITHIN)),
            _ => None,
        }
    }

    fn lost_metric(&self, now: &Now) -> Metric {
        let lost = Value::Number(self.lost as f64);
        Metric { alias: Some(self.lost_alias), ..Metric::named("Readings Lost", DataType::UInt64, lost, now.wall) }
    }

    fn device(&self, device: &DeviceSpec, points: &Points, alive: bool, now: &Now) -> Device {
        let settings = self.settings.as_ref();
        let of_point = |id: &PointId| {
            let spec = points.spec(*id)?;
            let last = points.last(*id);
            let quality = last.map_or(Quality::Stale, |(_, quality, _)| quality);
            // a picture is told when there is a new one
            let value = last.map(|(value, ..)| value.clone()).filter(|value| !matches!(value, Value::Bytes(_)));
            Some(Metric {
                name: spec.name.clone(),
                alias: Some(alias(id)),
                datatype: settings.and_then(|s| s.guesses.get(id.0 as usize)).copied().unwrap_or(DataType::Double),
                value,
                time: last.map_or(now.wall, |(_, _, taken)| taken.resolve(now).0),
                quality: if alive { quality } else { Quality::Stale },
                unit: spec.unit.clone(),
            })
        };
        let of_verb = |(alias, _, verb, datatype): &(u64, DeviceId, String, DataType)| Metric {
            name: format!("{COMMAND}{verb}"),
            alias: Some(*alias),
            datatype: *datatype,
            value: None,
            time: now.wall,
            quality: Quality::Good,
            unit: None,
        };
        let verbs = self.verbs.iter().filter(|(_, of, ..)| *of == device.id).map(of_verb);
        let metrics = device.points.iter().filter_map(of_point).chain(verbs).collect();
        Device { name: device.name.clone(), metrics, alive }
    }

    /// What a metric of a command is about.
    fn target(&self, device: &DeviceSpec, points: &Points, wished: &Wished) -> Option<Target> {
        let mut verbs = self.verbs.iter().filter(|(_, of, ..)| *of == device.id);
        let found = match (&wished.name, wished.alias) {
            (Some(name), _) => match name.strip_prefix(COMMAND) {
                Some(verb) => verbs.find(|(_, _, own, _)| own == verb).map(|v| Target::Verb(v.2.clone())),
                None => None,
            },
            (None, Some(alias)) => verbs.find(|(own, ..)| *own == alias).map(|v| Target::Verb(v.2.clone())),
            (None, None) => None,
        };
        let is_meant = |id: &&PointId| match (&wished.name, wished.alias) {
            (Some(name), _) => points.spec(**id).is_some_and(|p| p.name == *name),
            (None, wanted) => wanted == Some(alias(id)),
        };
        found.or_else(|| device.points.iter().find(is_meant).map(|id| Target::Point(*id)))
    }
}

/// Unique within the node, and the same as long as the file is.
fn alias(point: &PointId) -> u64 {
    u64::from(point.0) + 1
}

impl Engine {
    /// A broker let us in.
    pub(super) fn spark_up(&mut self, now: &Now, fx: &mut Vec<Effect>) {
        let Some(settings) = &self.node.settings else { return };
        self.node.connection += 1;
        self.node.host_time = 0;
        let number = bd_seq(self.node.last, self.node.connection);
        fx.push(Effect::Remember { key: BD_SEQ.into(), value: Some(number.into()), urgent: true });
        if settings.primary_host.is_some() {
            self.node.stage = Stage::Waiting(now.mono);
        } else {
            self.spark_born(now, fx);
        }
    }

    /// The broker is gone.
    pub(super) fn spark_down(&mut self) {
        self.node.stage = Stage::Down;
    }

    fn spark_born(&mut self, now: &Now, fx: &mut Vec<Effect>) {
        self.node.stage = Stage::Born;
        let devices = self.devices.iter().map(|device| self.spark_device(device, now)).collect();
        let text = |n: u64, name: &str, text: &str| {
            let metric = Metric::named(name, DataType::String, Value::Text(text.to_owned()), now.wall);
            Metric { alias: Some(self.node.lost_alias + n), ..metric }
        };
        let info = self.bridge.info();
        let node = vec![
            text(1, "Properties/Software", &format!("pinpost {}", info.version)),
            text(2, "Properties/Hardware", &info.board),
            self.node.lost_metric(now),
        ];
        let (connection, bd_seq) = (self.node.connection, bd_seq(self.node.last, self.node.connection));
        fx.push(Effect::Sparkplug(Word::Born(Birth { connection, bd_seq, node, devices })));
    }

    fn spark_device(&self, device: &DeviceSpec, now: &Now) -> Device {
        // what is computed has no task that could say so
        let alive = device.kind == "computed" || self.bridge.status_of(device.id) == Some(&DeviceStatus::Online);
        self.node.device(device, &self.points, alive, now)
    }

    /// A device's status is another one, or was unknown.
    pub(super) fn spark_status(&self, device: DeviceId, now: &Now, fx: &mut Vec<Effect>) {
        let Some(spec) = self.devices.get(device.0 as usize).filter(|_| self.node.stage == Stage::Born) else { return };
        let word = match self.spark_device(spec, now) {
            device if device.alive => Word::Device(device),
            device => Word::Dead(device.name),
        };
        fx.push(Effect::Sparkplug(word));
    }

    /// Readings were lost.
    pub(super) fn spark_lost(&mut self, count: u64, now: &Now, fx: &mut Vec<Effect>) {
        self.node.lost = self.node.lost.saturating_add(count);
        if self.node.stage == Stage::Born {
            fx.push(Effect::Sparkplug(Word::Node(vec![self.node.lost_metric(now)])));
        }
    }

    /// The primary host may be at another broker.
    pub(super) fn spark_due(&mut self, now: &Now, fx: &mut Vec<Effect>) {
        if self.node.next_wake().is_some_and(|t| t <= now.mono) {
            self.spark_leave("the primary host is not there", now, fx);
        }
    }

    fn spark_leave(&mut self, why: &str, now: &Now, fx: &mut Vec<Effect>) {
        // not twice: the link may take a moment
        self.node.stage = Stage::Waiting(now.mono);
        let host = self.node.settings.as_ref().and_then(|s| s.primary_host.clone()).unwrap_or_default();
        let why = format!("{why} (sparkplug: {{ primary_host: {host} }})");
        fx.push(Effect::Leave { connection: self.node.connection, why });
    }

    /// The primary host says whether it is there.
    pub(super) fn spark_host(&mut self, message: &Incoming, now: &Now, fx: &mut Vec<Effect>) {
        fx.push(Effect::Ack(message.ack));
        let state = match host_state(&message.payload) {
            Ok(state) => state,
            Err(text) => {
                let text = format!("{}: {text}", message.topic);
                return self.bridge.problem(&self.topics, &text, now, fx);
            }
        };
        if state.time < self.node.host_time {
            return;
        }
        self.node.host_time = state.time;
        match (self.node.stage, state.online) {
            (Stage::Waiting(_), true) => self.spark_born(now, fx),
            (Stage::Born, false) => self.spark_leave("the primary host has gone", now, fx),
            (Stage::Waiting(_), false) if self.node.settings.as_ref().is_some_and(|s| s.several) => {
                self.spark_leave("the primary host is not there", now, fx);
            }
            _ => {}
        }
    }

    /// A host commands the node, or a device.
    pub(super) fn spark_command(
        &mut self,
        device: Option<DeviceId>,
        message: &Incoming,
        now: &Now,
        fx: &mut Vec<Effect>,
    ) {
        let (time, metrics) = match command(&message.payload) {
            Ok(read) => read,
            Err(text) => {
                fx.push(Effect::Ack(message.ack));
                let text = format!("{}: {text}", message.topic);
                return self.bridge.problem(&self.topics, &text, now, fx);
            }
        };
        let Some(device) = device.and_then(|d| self.devices.get(d.0 as usize)).cloned() else {
            return self.spark_node_command(&metrics, message, now, fx);
        };
        let mut wishes = Vec::new();
        for wished in metrics.into_iter().filter(|w| !w.historical) {
            match self.node.target(&device, &self.points, &wished) {
                Some(target) => wishes.push((target, wished.value)),
                None => {
                    let text = format!("{}: {} has no metric {}", message.topic, device.name, called(&wished));
                    self.bridge.problem(&self.topics, &text, now, fx);
                }
            }
        }
        // the message is acknowledged with the last of its wishes
        let last = wishes.len().checked_sub(1);
        if last.is_none() {
            fx.push(Effect::Ack(message.ack));
        }
        for (i, (target, value)) in wishes.into_iter().enumerate() {
            let ack = if Some(i) == last { message.ack } else { 0 };
            let envelope = Incoming { payload: Vec::new(), ack, ..message.clone() };
            // without a clock of our own its age cannot be judged
            let time = time.filter(|t| now.synced && *t > Wall(0));
            let wish = Wish { value: value.unwrap_or(Value::Text(String::new())), id: None, ttl: None, time };
            let (point, verb) = match target {
                Target::Point(id) => (Some(id), "set".to_owned()),
                Target::Verb(verb) => (None, verb),
            };
            self.wish_in("sparkplug", (device.id, point, &verb), wish, &envelope, now, fx);
        }
    }

    fn spark_node_command(&mut self, metrics: &[Wished], message: &Incoming, now: &Now, fx: &mut Vec<Effect>) {
        fx.push(Effect::Ack(message.ack));
        if message.retain {
            return;
        }
        for wished in metrics.iter().filter(|w| !w.historical) {
            match (wished.name.as_deref(), &wished.value) {
                (Some(REBIRTH), Some(Value::Bool(true))) => {
                    if self.node.stage == Stage::Born {
                        self.spark_born(now, fx);
                    }
                }
                (Some(REBIRTH), _) => {}
                _ => {
                    let text = format!("{}: the node has no metric {} to write", message.topic, called(wished));
                    self.bridge.problem(&self.topics, &text, now, fx);
                }
            }
        }
    }
}

/// A foreign name, cut short.
fn called(wished: &Wished) -> String {
    match (&wished.name, wished.alias) {
        (Some(name), _) => format!("`{}`", name.chars().filter(|c| !c.is_control()).take(40).collect::<String>()),
        (None, Some(alias)) => format!("with the alias {alias}"),
        (None, None) => "without name and alias".into(),
    }
}
