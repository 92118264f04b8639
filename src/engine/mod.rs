//! DECISIONS. Everything between a reading and its message, between a message and a pin, in one place without I/O:
//! [`Engine::handle`] takes an [`Event`] and the present moment and gives [`Effect`]s.
//!
//! This file only asks each part in turn: [`points`] (filters, last values, readings to messages), [`outputs`] (what
//! may move), [`commands`] (who may wish what, and the answers), [`bridge`] (what the gateway says of itself),
//! [`logic`] (what it does by itself: computed points, alarms, [`rules`] and their [`schedule`]), [`relays`] (what it
//! passes on), [`sessions`] (whom it enrols with, and whom it enrols).

pub mod answers;
pub mod bridge;
pub mod commands;
mod discovery;
pub mod filters;
mod homie;
pub mod logic;
pub mod outputs;
pub mod points;
pub mod relays;
pub mod requests;
pub mod rules;
pub mod schedule;
mod seen;
pub mod sessions;
pub mod sparkplug;
mod verbs;

use std::collections::BTreeMap;

use crate::expr::Zone;
use crate::model::{
    Action, Begin, Boot, Deliver, DeviceId, DeviceSpec, DeviceStatus, Frame, Incoming, Mono, Now, PointId, PointSpec,
    Priority, Qos, Quality, Refusal, Setting, Stamp, Ticket, Value,
};
use crate::wire::home_assistant::Settings;
use crate::wire::homie::Settings as HomieSettings;
use crate::wire::sparkplug as spb;
use crate::wire::{Record, Topics, payload};

use bridge::Bridge;
use commands::Commands;
use discovery::Discovery;
use filters::Chain;
use logic::{Logic, Reactions};
use outputs::{Forced, Outputs};
use points::Points;

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A device read something.
    Reading {
        /// Which point.
        point: PointId,
        /// What.
        value: Value,
        /// Whether to believe it.
        quality: Quality,
        /// When.
        taken: Stamp,
        /// What came with it.
        frame: Frame,
    },
    /// A device works, or no longer.
    Device(DeviceId, DeviceStatus),
    /// A device has done what [`Effect::Act`] asked, and read this back; or why not.
    Acted(Ticket, Result<Option<Value>, Refusal>),
    /// A subscription brought this.
    Incoming(Incoming),
    /// The broker is there.
    LinkUp,
    /// The broker is gone.
    LinkDown,
    /// The level of a simulated output: 1, 0, or the share of pulses.
    SimLevel(u8, f64),
    /// Readings that were lost, as [`bridge`] reports them.
    Gap(bridge::GapReport),
    /// Something a person should know and mend.
    Problem(String),
    /// The time given by [`Engine::next_wake`] has come.
    Wake,
    /// Something to be said on `bridge/event`.
    Say(serde_json::Value),
    /// How full the queue is, percent.
    QueueFill(u8),
    /// The daemon stops in order: outputs take their `on_stop`, but not these, which the next one takes over at once.
    Stop(Vec<DeviceId>),
}

/// What is to be done about it.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Through the queue to the broker.
    Send(Outgoing),
    /// A device is to act and to answer with [`Event::Acted`].
    Act(DeviceId, Ticket, Action),
    /// A message was acted on or refused: acknowledge it to the broker.
    Ack(u64),
    /// An input pin of the simulated board is to be driven.
    DriveSim(u8, bool),
    /// A value is to survive a restart; `None`: it need not any more. It comes back in [`Setup::memory`].
    Remember {
        /// Under this key; those that begin with `device/` are the devices'.
        key: String,
        /// What.
        value: Option<serde_json::Value>,
        /// Whether it is begun to be written at once, or with the next of the kind, within a minute at the latest.
        urgent: bool,
    },
    /// `bridge/health` is to be collected and sent; with a topic, an answer is wanted there as well.
    Health(Option<commands::Reply>),
    /// Something is asked of the daemon itself; it answers.
    Daemon(requests::Request, commands::Reply),
    /// For the log: an output was moved though nobody wished it now.
    Log(String),
    /// A filter is to be listened to as well, from now on and at every connection.
    Listen(String, Qos),
    /// It need not be any more.
    Hush(String),
    /// The program is to end in order, with 0, when what is said has been heard: why.
    Exit(String),
    /// Something is said in Sparkplug, before all that waits.
    Sparkplug(spb::Word),
    /// This connection (from 1) is to be left in order, and another one made, at the next broker of the list.
    Leave {
        /// Which one.
        connection: u64,
        /// Why, for people.
        why: String,
    },
}

/// A message on its way to the queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Outgoing {
    /// Whether it is a reading and takes a number.
    pub reading: bool,
    /// Importance.
    pub priority: Priority,
    /// Messages of one lane keep their order.
    pub lane: u64,
    /// What is kept while the broker is away.
    pub deliver: Deliver,
    /// When it is worth nothing.
    pub expires: Option<Mono>,
    /// Whether its topic is retained: its last message must be the newest.
    pub retain: bool,
    /// When it was taken; `None`: now.
    pub taken: Option<Stamp>,
    /// Whose, for reports of loss.
    pub source: String,
    /// The message.
    pub record: Record,
}

/// What the engine is made of.
pub struct Setup {
    /// The gateway's topics and what it listens to.
    pub topics: Topics,
    /// Devices, in the order of their ids.
    pub devices: Vec<DeviceSpec>,
    /// Points, in the order of their ids.
    pub points: Vec<PointSpec>,
    /// Filters, in the order of the points.
    pub chains: Vec<Chain>,
    /// What it does by itself.
    pub logic: Logic,
    /// What `bridge/info` says.
    pub info: bridge::Info,
    /// What Home Assistant is told, where it is.
    pub home_assistant: Option<Settings>,
    /// The Sparkplug edge node, where it is one.
    pub sparkplug: Option<spb::Settings>,
    /// The Homie device, where it is one.
    pub homie: Option<HomieSettings>,
    /// What runs before this one asked to have kept ([`Effect::Remember`]), by key.
    pub memory: BTreeMap<String, serde_json::Value>,
    /// This run of the machine, and where [`Mono`] began in it.
    pub boot: Boot,
    /// Whether the run before ended without order.
    pub abnormal: bool,
}

/// The engine.
pub struct Engine {
    topics: Topics,
    devices: Vec<DeviceSpec>,
    names: BTreeMap<String, DeviceId>,
    points: Points,
    outputs: Outputs,
    commands: Commands,
    bridge: Bridge,
    discovery: Discovery,
    reactions: Reactions,
    relays: relays::Relays,
    sessions: sessions::Sessions,
    node: sparkplug::Node,
    homie: homie::Homie,
    up: bool,
    lost: Mono,
    /// After [`Event::Stop`] nothing is wished any more.
    stopping: bool,
    /// Whether the run before ended without order.
    abnormal: bool,
}

impl Engine {
    /// An engine for a plan.
    pub fn new(setup: Setup, now: &Now) -> Engine {
        let sources: Vec<String> = setup.points.iter().map(|p| source(&setup.devices, p)).collect();
        let discovery = Discovery::new(
            setup.home_assistant.as_ref(),
            &setup.info,
            &setup.topics,
            (&setup.devices, &setup.points),
            &setup.memory,
        );
        let node = sparkplug::Node::new(setup.sparkplug, &setup.devices, &setup.memory);
        let name = setup.info.name.clone().unwrap_or_else(|| setup.info.id.clone());
        let homie = homie::Homie::new(setup.homie, name, (&setup.devices, &setup.points), &setup.memory);
        let told = node.place(&setup.devices, &setup.points);
        let Logic { zone, alarms, payloads, computed, rules, requires, relays, sessions } = setup.logic;
        let reactions = Reactions::new(computed, requires, rules, sources.len(), now.mono);
        let mut points = Points::new(setup.points, sources, setup.chains, zone.unwrap_or(Zone::UTC));
        alarms.into_iter().for_each(|(id, alarm)| points.set_alarm(id, alarm));
        payloads.into_iter().for_each(|(id, payload)| points.set_payload(id, payload));
        told.into_iter().for_each(|(id, told)| points.set_told(id, told));
        Engine {
            names: setup.devices.iter().map(|d| (d.name.clone(), d.id)).collect(),
            outputs: Outputs::new(&setup.devices, &setup.memory, setup.boot, setup.abnormal, now),
            bridge: Bridge::new(setup.info, setup.devices.len(), now.mono),
            discovery,
            points,
            reactions,
            relays: relays::Relays::new(relays),
            sessions: sessions::Sessions::new(sessions),
            node,
            homie,
            commands: Commands::recall(&setup.memory),
            topics: setup.topics,
            devices: setup.devices,
            up: false,
            lost: now.mono,
            stopping: false,
            abnormal: setup.abnormal,
        }
    }

    /// How a device begins that takes its pin for the first time; `kept`: it is ours already, from before a reload.
    pub fn begin(&mut self, device: DeviceId, kept: bool) -> Begin {
        self.outputs.begin(device, self.abnormal, kept)
    }

    /// What is to be remembered before anything happens.
    pub fn prepare(&mut self, fx: &mut Vec<Effect>) {
        let notes = self.outputs.take_notes().into_iter();
        fx.extend(notes.map(|(key, value)| Effect::Remember { key, value, urgent: true }));
    }

    /// Decides.
    pub fn handle(&mut self, event: Event, now: &Now, fx: &mut Vec<Effect>) {
        let start = fx.len();
        let came = event == Event::LinkUp;
        self.decide_on(event, now, fx);
        match came {
            true => self.homie_introduce(fx),
            false => self.homie_readings(start, fx),
        }
        self.relay_readings(start, now, fx);
        for (device, text) in self.outputs.take_told() {
            let about = serde_json::json!({ "event": "limit", "device": self.device_name(device), "reason": text });
            self.bridge.event(&self.topics, about, now, fx);
        }
        self.prepare(fx);
    }

    fn decide_on(&mut self, event: Event, now: &Now, fx: &mut Vec<Effect>) {
        // halves of a frame are nothing to react to
        let whole = !matches!(&event, Event::Reading { frame, .. } if frame.more);
        match event {
            Event::Reading { point, value, quality, taken, frame } => {
                self.reading(point, value, quality, taken, &frame, now, fx);
            }
            Event::Device(device, status) => self.status(device, status, now, fx),
            Event::Acted(ticket, result) => self.acted(ticket, result, now, fx),
            Event::Incoming(message) => {
                self.sessions_hear(&message, now, fx);
                self.incoming(message, now, fx);
            }
            Event::LinkUp => {
                self.up = true;
                self.outputs.broker(true, now.mono);
                self.spark_up(now, fx);
                self.introduce(now, fx);
                self.points.announce(self.lost, now, fx);
                self.sessions_broker(true, now, fx);
            }
            Event::LinkDown => {
                if self.up {
                    self.lost = now.mono;
                }
                self.up = false;
                self.spark_down();
                self.bridge.broker_lost();
                self.sessions_broker(false, now, fx);
                self.outputs.broker(false, now.mono);
            }
            Event::SimLevel(pin, high) => self.bridge.sim_level(&self.topics, pin, high, fx),
            Event::Gap(gap) => {
                self.bridge.gap(&self.topics, &gap, now, fx);
                self.spark_lost(gap.count, now, fx);
            }
            Event::Problem(text) => self.bridge.problem(&self.topics, &text, now, fx),
            Event::Say(about) => self.bridge.event(&self.topics, about, now, fx),
            Event::Wake => self.wake(now, fx),
            Event::QueueFill(percent) => self.homie_fill(percent, fx),
            Event::Stop(keep) => {
                self.stopping = true;
                let writes = self.outputs.stop(&keep, now);
                self.force(writes, false, now, fx);
            }
        }
        if whole {
            self.react(now, fx);
        }
    }

    /// When to send [`Event::Wake`].
    pub fn next_wake(&self) -> Option<Mono> {
        let bridge = self.up.then(|| self.bridge.next_wake());
        [
            self.points.next_wake(),
            self.outputs.next_wake(),
            self.commands.next_wake(),
            self.reactions.next_wake(),
            self.sessions.next_wake(),
            self.node.next_wake(),
            self.up.then(|| self.discovery.next_wake()).flatten(),
            bridge,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether devices still owe answers.
    pub fn busy(&self) -> bool {
        self.commands.pending() > 0
    }

    fn wake(&mut self, now: &Now, fx: &mut Vec<Effect>) {
        self.points.due(now, fx);
        let forced = self.outputs.due(now);
        self.force(forced, true, now, fx);
        self.overdue(now, fx);
        self.sessions_due(now, fx);
        self.spark_due(now, fx);
        if self.up {
            self.bridge.due(&self.topics, &self.devices, now, fx);
            if self.discovery.due(now.mono) {
                self.repeat_states(now, fx);
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a reading has so many parts")]
    fn reading(
        &mut self,
        point: PointId,
        value: Value,
        quality: Quality,
        taken: Stamp,
        frame: &Frame,
        now: &Now,
        fx: &mut Vec<Effect>,
    ) {
        let device = self.points.spec(point).map(|p| p.device);
        if let Some(device) = device
            && let Some(read) = self.outputs.scale(device).and_then(|scale| scale.setting(&value))
        {
            let forced = self.outputs.seen(device, read, now);
            self.force(forced, true, now, fx);
            if self.outputs.scale(device).is_some_and(|scale| scale.reading(read).is_none()) {
                return;
            }
        }
        self.points.reading(point, value, quality, taken, frame, now, fx);
    }

    fn status(&mut self, device: DeviceId, status: DeviceStatus, now: &Now, fx: &mut Vec<Effect>) {
        if status != DeviceStatus::Online {
            for point in self.devices.get(device.0 as usize).into_iter().flat_map(|d| &d.points) {
                self.points.hush(*point);
            }
        } else {
            for point in self.devices.get(device.0 as usize).into_iter().flat_map(|d| &d.points) {
                self.points.back(*point);
            }
        }
        if let DeviceStatus::Offline(_) = status {
            self.outputs.lost(device);
            let reason = format!("{} went offline", self.device_name(device));
            for ticket in self.commands.of_device(device) {
                self.acted(ticket, Err(reason.clone().into()), now, fx);
            }
        }
        let before = self.bridge.status_of(device).map(DeviceStatus::word);
        let changed = before != Some(status.word());
        self.bridge.status(&self.topics, &self.devices, device, status, now, fx);
        if changed {
            self.spark_status(device, now, fx);
            self.homie_state(device, fx);
        }
    }

    /// Carries out writes that nobody wished, and says so.
    fn force(&mut self, writes: impl IntoIterator<Item = Forced>, tell: bool, now: &Now, fx: &mut Vec<Effect>) {
        for write in writes {
            let value = self.outputs.scale(write.device).unwrap_or_default().value(write.to);
            if tell && !write.quiet {
                let to = payload::to_json(&value, "ON", "OFF");
                self.bridge.limit(&self.topics, self.device_name(write.device), to, &write.reason, now, fx);
            }
            let to = match write.to {
                Setting::On(n) if value != Value::Bool(true) => format!("to {n}"),
                to => if to.is_on() { "on" } else { "off" }.to_owned(),
            };
            if !write.quiet {
                fx.push(Effect::Log(format!("{} goes {to}: {}", self.device_name(write.device), write.reason)));
            }
            let ticket = self.commands.forced(write.device, now.mono);
            fx.push(Effect::Act(write.device, ticket, Action::Set(value)));
        }
    }

    fn device_name(&self, device: DeviceId) -> &str {
        self.devices.get(device.0 as usize).map_or("", |d| &d.name)
    }
}

/// How reports of loss name a point: `door`, or `weather/temperature` where the device has several.
fn source(devices: &[DeviceSpec], point: &PointSpec) -> String {
    match devices.get(point.device.0 as usize) {
        Some(device) if device.points.len() > 1 => format!("{}/{}", device.name, point.name),
        Some(device) => device.name.clone(),
        None => point.name.clone(),
    }
}

#[cfg(test)]
mod tests;
