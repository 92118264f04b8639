//! Commands: who may wish what, and the answers.
//!
//! A command is judged in this order: understood, not retained, not old news, not a duplicate, known and allowed; then
//! its output's limits are asked. It is acknowledged to the broker when it was acted on or refused, and answered once.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use serde_json::{Map, Value as Json, json};

use crate::model::{
    Action, DeviceId, DeviceStatus, Incoming, Mono, Now, Outcome, OutcomeKind, PointId, Refusal, Takes, Ticket, Value,
    Wall, rough,
};
use crate::wire::command::{self, Switch};
use crate::wire::topics::REQUESTS;
use crate::wire::{Route, Topics};

use super::answers::About;
use super::logic::By;
use super::outputs::{self, Verdict};
use super::seen::Seen;
use super::{Effect, Engine, verbs};

/// How long a device may take to act. What it has not begun by then it must not begin.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How many commands wait for a write that is on its way.
const PARKED: usize = 64;
/// How many further askers wait for the outcome of one command.
const ALSO: usize = 8;
/// How long a command holds that says when it was wished but not how long, where no `command_ttl` says so.
const HOLDS: Duration = Duration::from_secs(30);

/// Where an answer goes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Reply {
    /// Topic; `None`: nobody wants it.
    pub topic: Option<String>,
    /// MQTT 5 correlation data.
    pub correlation: Option<Vec<u8>>,
    /// The sender's id, as it came.
    pub id: Option<Json>,
    /// `transaction` of a request, echoed.
    pub transaction: Option<Json>,
    /// Who wished it, where it was nobody outside.
    pub by: Option<By>,
}

/// A command that a device is carrying out.
struct Pending {
    device: DeviceId,
    /// `None`: it was answered as overdue; the device still owes what became of it.
    deadline: Option<Mono>,
    /// `None`: nobody wished it, or nobody waits any more.
    wished: Option<Wished>,
}

struct Wished {
    verb: String,
    value: Option<Value>,
    /// Whether only this very value, read back, means that it was done.
    exact: bool,
    reply: Reply,
    ack: u64,
    key: Option<String>,
    /// Others who asked for the same by the same id.
    also: Vec<(Reply, u64)>,
}

/// What is being carried out, and what was.
#[derive(Default)]
pub struct Commands {
    next: u64,
    pending: HashMap<Ticket, Pending>,
    /// Commands that came while the write before them was on its way, in order.
    parked: VecDeque<(Asked, Incoming)>,
    /// Ids with their outcomes.
    seen: Seen,
}

impl Commands {
    /// With the ids that an earlier run has left.
    pub fn recall(memory: &BTreeMap<String, Json>) -> Commands {
        Commands { seen: Seen::recall(memory), ..Commands::default() }
    }
    /// A ticket for a write that nobody wished.
    pub fn forced(&mut self, device: DeviceId, now: Mono) -> Ticket {
        self.enter(device, now.after(PATIENCE), None)
    }
    fn enter(&mut self, device: DeviceId, deadline: Mono, wished: Option<Wished>) -> Ticket {
        self.next += 1;
        let ticket = Ticket(self.next);
        self.pending.insert(ticket, Pending { device, deadline: Some(deadline), wished });
        ticket
    }
    /// How many are being carried out and not overdue.
    pub fn pending(&self) -> usize {
        self.pending.values().filter(|p| p.deadline.is_some()).count()
    }
    /// When the first of them is overdue.
    pub fn next_wake(&self) -> Option<Mono> {
        self.pending.values().filter_map(|p| p.deadline).min()
    }
    /// Those that are overdue.
    pub fn overdue(&self, now: Mono) -> Vec<Ticket> {
        self.tickets(|p| p.deadline.is_some_and(|t| t <= now))
    }
    /// Those of a device.
    pub fn of_device(&self, device: DeviceId) -> Vec<Ticket> {
        self.tickets(|p| p.device == device)
    }
    /// Whether a command may wait for a write that is on its way: not behind a device that does not answer.
    fn may_park(&self) -> bool {
        self.parked.len() < PARKED && self.pending.values().all(|p| p.deadline.is_some())
    }
    fn tickets(&self, which: impl Fn(&Pending) -> bool) -> Vec<Ticket> {
        let mut all: Vec<_> = self.pending.iter().filter(|(_, p)| which(p)).map(|(t, _)| *t).collect();
        all.sort();
        all
    }
}

/// A command taken apart, with all that its judgement needs.
struct Asked {
    device: DeviceId,
    point: Option<PointId>,
    verb: String,
    wish: command::Wish,
    reply: Reply,
    came: Mono,
}

impl Engine {
    /// A message came in.
    pub(super) fn incoming(&mut self, message: Incoming, now: &Now, fx: &mut Vec<Effect>) {
        self.relay(&message, now, fx);
        if message.retain && message.payload.is_empty() {
            // somebody takes a retained command off the broker: that is no command
            fx.push(Effect::Ack(message.ack));
            return;
        }
        let asked = || self.topics.asked(&message.topic).map(|verb| Route::Request(verb.to_owned()));
        let Some(route) = self.topics.route(&message.topic).cloned().or_else(asked) else {
            // a subscription that an earlier configuration left at the broker
            fx.push(Effect::Ack(message.ack));
            return;
        };
        match route {
            Route::SimPin(pin) => {
                match command::switch(&Value::Text(String::from_utf8_lossy(&message.payload).into()), "high", "low") {
                    Some(Switch::On) => fx.push(Effect::DriveSim(pin, true)),
                    Some(Switch::Off) => fx.push(Effect::DriveSim(pin, false)),
                    _ => {
                        let text = format!("{}: write 1 or 0 to drive a simulated pin", message.topic);
                        self.bridge.problem(&self.topics, &text, now, fx);
                    }
                }
                fx.push(Effect::Ack(message.ack));
            }
            Route::HomeAssistant => self.home_assistant(&message, now, fx),
            Route::Sparkplug(device) => self.spark_command(device, &message, now, fx),
            Route::SparkplugHost => self.spark_host(&message, now, fx),
            Route::Homie(device, target) => self.homie_set(device, target, &message, now, fx),
            Route::Request(verb) => self.request(&verb, &message, now, fx),
            Route::Device { device, point, verb } => {
                let reply = self.reply_to(&message, Topics::result_of(&message.topic));
                match command::parse(&message) {
                    Ok(wish) => {
                        let reply = Reply { id: wish.id.clone(), ..reply };
                        self.command(Asked { device, point, verb, wish, reply, came: now.mono }, &message, now, fx);
                    }
                    Err(text) => {
                        let reply = Reply { id: command::id_of(&message), ..reply };
                        let outcome = Outcome::because(OutcomeKind::Rejected, text);
                        self.answer(About::verb(device, &verb), &reply, &outcome, now, fx);
                        fx.push(Effect::Ack(message.ack));
                    }
                }
            }
        }
    }

    fn reply_to(&self, message: &Incoming, otherwise: String) -> Reply {
        let topic = match &message.properties.response_topic {
            // one that cannot be published on is as good as none
            Some(topic) if crate::wire::topics::can_answer_on(topic) => topic.clone(),
            _ => otherwise,
        };
        Reply { topic: Some(topic), correlation: message.properties.correlation.clone(), ..Reply::default() }
    }

    /// `bridge/request/<verb>`.
    fn request(&mut self, verb: &str, message: &Incoming, now: &Now, fx: &mut Vec<Effect>) {
        let mut reply = self.reply_to(message, self.topics.response(verb));
        let body: Json = match message.payload.as_slice() {
            [] => json!({}),
            bytes => serde_json::from_slice(bytes).unwrap_or(Json::Null),
        };
        let refuse = |engine: &Engine, reply: &Reply, text: String, fx: &mut Vec<Effect>| {
            engine.answer_request(verb, reply, &Outcome::because(OutcomeKind::Rejected, text), now, fx);
            fx.push(Effect::Ack(message.ack));
        };
        let Json::Object(map) = body else {
            return refuse(self, &reply, "a request is a JSON object".into(), fx);
        };
        reply.transaction = map.get("transaction").cloned();
        reply.id = command::id_of(message);
        if message.retain {
            return refuse(
                self,
                &reply,
                "a retained request is old news; publish it without the retain flag".into(),
                fx,
            );
        }
        if !REQUESTS.contains(&verb) {
            let known = REQUESTS.join(", ");
            return refuse(
                self,
                &reply,
                format!("there is no request `{}`; there are {known}", verb.chars().take(64).collect::<String>()),
                fx,
            );
        }
        match self.gateway_request(verb, &map, &reply, now, fx) {
            Ok(true) => return fx.push(Effect::Ack(message.ack)),
            Ok(false) => {}
            Err(text) => return refuse(self, &reply, text, fx),
        }
        let text = |key: &str| map.get(key).and_then(Json::as_str);
        let Some(name) = text("device") else {
            return refuse(self, &reply, "`device` is missing: {\"device\":\"pump\",\"value\":\"ON\"}".into(), fx);
        };
        let Some(&device) = self.names.get(name) else {
            let known = self.names.keys().take(20).cloned().collect::<Vec<_>>().join(", ");
            return refuse(self, &reply, format!("there is no device `{name}`; there are {known}"), fx);
        };
        let point = match text("point") {
            None => None,
            Some(wanted) => match self.point_named(device, wanted) {
                Some(id) => Some(id),
                None => return refuse(self, &reply, format!("{name} has no point `{wanted}`"), fx),
            },
        };
        let verb_wanted = text("verb").unwrap_or("set").to_owned();
        let needs_none = verb_wanted == "get" || self.takes_nothing(device, point, &verb_wanted);
        let Some(value) = map.get("value").cloned().or_else(|| needs_none.then_some(Json::Null)) else {
            return refuse(self, &reply, "`value` is missing: {\"device\":\"pump\",\"value\":\"ON\"}".into(), fx);
        };
        // the same envelope as on a device's own topic
        let mut envelope: Map<String, Json> = map
            .iter()
            .filter(|(k, _)| matches!(k.as_str(), "id" | "ttl" | "time"))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        envelope.insert("value".into(), value);
        let inner = Incoming { payload: Json::Object(envelope).to_string().into_bytes(), ..message.clone() };
        match command::parse(&inner) {
            Ok(wish) => {
                let reply = Reply { id: wish.id.clone(), ..reply };
                self.command(Asked { device, point, verb: verb_wanted, wish, reply, came: now.mono }, message, now, fx);
            }
            Err(text) => refuse(self, &reply, text, fx),
        }
    }

    fn takes_nothing(&self, device: DeviceId, point: Option<PointId>, verb: &str) -> bool {
        let device = self.devices.get(device.0 as usize);
        let own = device.and_then(|device| verbs::find(device, point, verb).ok().flatten());
        own.is_some_and(|own| own.takes == Takes::Nothing)
    }

    fn point_named(&self, device: DeviceId, name: &str) -> Option<PointId> {
        let points = &self.devices.get(device.0 as usize)?.points;
        points.iter().copied().find(|p| self.points.spec(*p).is_some_and(|s| s.name == name))
    }

    /// A wish from within, judged as any other; its sender is named in the event.
    #[expect(clippy::too_many_arguments, reason = "a wish has so many parts")]
    pub(super) fn wish_by(
        &mut self,
        by: By,
        device: DeviceId,
        point: Option<PointId>,
        verb: &str,
        value: Value,
        now: &Now,
        fx: &mut Vec<Effect>,
    ) {
        let wish = command::Wish { value, id: None, ttl: None, time: None };
        let reply = Reply { by: Some(by), ..Reply::default() };
        let asked = Asked { device, point, verb: verb.to_owned(), wish, reply, came: now.mono };
        self.command(asked, &Incoming::default(), now, fx);
    }

    /// A wish of another dialect, judged with the age and flags of its message.
    pub(super) fn wish_in(
        &mut self,
        sender: &str,
        (device, point, verb): (DeviceId, Option<PointId>, &str),
        wish: command::Wish,
        message: &Incoming,
        now: &Now,
        fx: &mut Vec<Effect>,
    ) {
        let by = By { sender: sender.to_owned(), step: None, session: None };
        let reply = Reply { by: Some(by), ..Reply::default() };
        self.command(Asked { device, point, verb: verb.to_owned(), wish, reply, came: now.mono }, message, now, fx);
    }

    /// A wish that a relay takes from a message: judged with its age, as if it had come on the device's own topic.
    pub(super) fn wish_from(
        &mut self,
        sender: String,
        device: DeviceId,
        point: Option<PointId>,
        message: &Incoming,
        now: &Now,
        fx: &mut Vec<Effect>,
    ) {
        let reply = Reply { by: Some(By { sender, step: None, session: None }), ..Reply::default() };
        match command::parse(message) {
            Ok(wish) => {
                let reply = Reply { id: wish.id.clone(), ..reply };
                self.command(
                    Asked { device, point, verb: "set".into(), wish, reply, came: now.mono },
                    message,
                    now,
                    fx,
                );
            }
            Err(text) => {
                let outcome = Outcome::because(OutcomeKind::Rejected, text);
                self.answer(About::verb(device, "set"), &reply, &outcome, now, fx);
            }
        }
    }

    /// Judges a command and has it carried out or refused.
    fn command(&mut self, asked: Asked, message: &Incoming, now: &Now, fx: &mut Vec<Effect>) {
        // asking for a value twice is no duplicate
        let id = asked.wish.id.as_ref().filter(|_| asked.verb != "get");
        let key = id.map(|id| {
            let point = asked.point.and_then(|p| self.points.spec(p)).map_or("", |p| p.name.as_str());
            // 7 and "7" are one id
            let id = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
            format!("{}/{point}/{}/{id}", self.device_name(asked.device), asked.verb)
        });
        if let Some(key) = &key
            && let Some(outcome) = self.commands.seen.get(key)
        {
            // executed once; the sender who asks again is told again what came of it
            match outcome.clone() {
                // what was refused may come true when it is wished again, but not when it is only delivered again
                Some(outcome) if message.dup || executed(outcome.kind) => {
                    self.answer(About::verb(asked.device, &asked.verb), &asked.reply, &outcome, now, fx);
                    fx.push(Effect::Ack(message.ack));
                    return;
                }
                Some(_) => {}
                None => {
                    let same = |p: &&mut Pending| p.wished.as_ref().is_some_and(|w| w.key.as_ref() == Some(key));
                    let wished = self.commands.pending.values_mut().find(same).and_then(|p| p.wished.as_mut());
                    match wished {
                        Some(wished) if wished.also.len() < ALSO => wished.also.push((asked.reply, message.ack)),
                        _ => fx.push(Effect::Ack(message.ack)),
                    }
                    return;
                }
            }
        }
        let waits =
            self.outputs.unsettled(asked.device) || self.commands.parked.iter().any(|(a, ..)| a.device == asked.device);
        if waits && self.outputs.has(asked.device) && self.commands.may_park() {
            self.commands.parked.push_back((asked, message.clone()));
            return;
        }
        let verdict = match self.refusal(&asked, message, now) {
            Some(outcome) => Err(outcome),
            None => self.decide(&asked, now, fx),
        };
        match verdict {
            Ok((action, time)) => {
                let (value, exact) = match &action {
                    Action::Set(value) => (Some(value.clone()), true),
                    Action::Verb { value, .. } | Action::Fade { to: value, .. } => (Some(value.clone()), false),
                    Action::Send(_) => (None, false),
                };
                if let Some(key) = &key {
                    // twice on is once on, but not so for a toggle: that is remembered over a restart
                    let lasts = !idempotent(&asked.verb, &asked.wish.value);
                    fx.extend(self.commands.seen.remember(key, None, lasts));
                }
                let (reply, ack) = (asked.reply, message.ack);
                let wished = Wished { verb: asked.verb, value, exact, reply, ack, key, also: Vec::new() };
                let ticket = self.commands.enter(asked.device, now.mono.after(PATIENCE + time), Some(wished));
                fx.push(Effect::Act(asked.device, ticket, action));
            }
            Err(outcome) => {
                if let Some(key) = key {
                    fx.extend(self.commands.seen.remember(&key, Some(outcome.clone()), false));
                }
                self.answer(About::verb(asked.device, &asked.verb), &asked.reply, &outcome, now, fx);
                self.came_of(&asked.reply, &asked.verb, &outcome, now, fx);
                fx.push(Effect::Ack(message.ack));
            }
        }
    }

    /// Why a command is not even looked at.
    fn refusal(&self, asked: &Asked, message: &Incoming, now: &Now) -> Option<Outcome> {
        let device = self.devices.get(asked.device.0 as usize)?;
        let limits = device.output.as_ref();
        if asked.verb == "get" {
            return None;
        }
        if self.stopping {
            return Some(Outcome::because(OutcomeKind::Rejected, "the gateway is being stopped"));
        }
        if message.retain && !limits.is_some_and(|l| l.accept_retained) {
            let text =
                "a retained command is old news; publish it without the retain flag (or set accept_retained: true)";
            return Some(Outcome::because(OutcomeKind::Rejected, text));
        }
        let wish = &asked.wish;
        if message.backlog && wish.ttl.is_none() && wish.time.is_none() && message.properties.expiry.is_none() {
            let text = "the broker kept it while the gateway was away; give it a ttl, a time or a message expiry";
            return Some(Outcome::because(OutcomeKind::Expired, text));
        }
        if let Some(time) = wish.time {
            if !now.synced {
                let text = "the gateway's clock is not set yet, so the age of the command is unknown";
                return Some(Outcome::because(OutcomeKind::Rejected, text));
            }
            let holds = wish.ttl.or(limits.map(|l| l.command_ttl)).unwrap_or(HOLDS);
            if age(time, now) > holds {
                let text = format!("it was wished {} ago and holds for {}", rough(age(time, now)), rough(holds));
                return Some(Outcome::because(OutcomeKind::Expired, text));
            }
        } else if message.backlog && wish.ttl.is_some() && message.properties.expiry.is_none() {
            let text = "the broker kept it while the gateway was away, and without a `time` its ttl cannot be judged";
            return Some(Outcome::because(OutcomeKind::Expired, text));
        }
        if message.dup && wish.id.is_none() && !idempotent(&asked.verb, &wish.value) {
            let text = "it was delivered before and has no id, so it may have been executed; send it with an id";
            return Some(Outcome::because(OutcomeKind::Rejected, text));
        }
        None
    }

    /// What a command comes to: an action and the time it may take once it was begun, or the answer at once.
    fn decide(&mut self, asked: &Asked, now: &Now, fx: &mut Vec<Effect>) -> Result<(Action, Duration), Outcome> {
        let rejected = |text: String| Outcome::because(OutcomeKind::Rejected, text);
        let no = |text: String| Err(rejected(text));
        let Some(device) = self.devices.get(asked.device.0 as usize) else {
            return no("there is no such device".into());
        };
        if !device.verbs.contains(&asked.verb) {
            return no(format!("{} does not know `{}`; it knows {}", device.name, asked.verb, device.verbs.join(", ")));
        }
        if asked.verb != "get"
            && let Some(DeviceStatus::Offline(why)) = self.bridge.status_of(asked.device)
        {
            return Err(Outcome::because(OutcomeKind::Failed, format!("{} is offline: {why}", device.name)));
        }
        if let Some(own) = verbs::find(device, asked.point, &asked.verb).map_err(rejected)? {
            let point = asked.point.and_then(|p| self.points.spec(p));
            let words = point.map_or(("ON", "OFF"), |p| (p.payload_on.as_str(), p.payload_off.as_str()));
            let value = verbs::accept(&own.takes, &asked.wish.value, words).map_err(rejected)?;
            return Ok((Action::Verb { point: own.point, verb: own.verb.clone(), value }, own.time));
        }
        let wish = match asked.verb.as_str() {
            "get" => {
                let points = asked.point.map_or_else(|| device.points.clone(), |p| vec![p]);
                let only = points.len() == 1;
                let mut value = None;
                for point in points {
                    value = self.points.again(point, now, fx).or(value);
                }
                return match value {
                    Some(value) => Err(Outcome::done(only.then_some(value))),
                    None => Err(Outcome::because(OutcomeKind::Failed, "nothing has been read yet")),
                };
            }
            "send" => {
                let bytes = match &asked.wish.value {
                    Value::Bytes(b) => b.clone(),
                    other => other.to_string().into_bytes(),
                };
                return Ok((Action::Send(bytes), Duration::ZERO));
            }
            _ => {
                let point = asked.point.or_else(|| device.points.first().copied());
                let words = point.and_then(|p| self.points.spec(p));
                let words = words.map_or(("ON", "OFF"), |p| (p.payload_on.as_str(), p.payload_off.as_str()));
                let scale = self.outputs.scale(asked.device).unwrap_or_default();
                outputs::read(&asked.verb, &asked.wish.value, scale, words).map_err(rejected)?
            }
        };
        match self.outputs.wish(asked.device, wish, now) {
            Verdict::Write(write) => {
                let to = self.outputs.scale(asked.device).unwrap_or_default().value(write.to);
                let at_once = write.over.is_zero();
                let action = if at_once { Action::Set(to) } else { Action::Fade { to, over: write.over } };
                Ok((action, Duration::ZERO))
            }
            Verdict::Answer(outcome) => Err(outcome),
        }
    }

    /// A device has acted, or has not.
    pub(super) fn acted(
        &mut self,
        ticket: Ticket,
        result: Result<Option<Value>, Refusal>,
        now: &Now,
        fx: &mut Vec<Effect>,
    ) {
        let Some(pending) = self.commands.pending.remove(&ticket) else { return };
        if self.outputs.has(pending.device) {
            let scale = self.outputs.scale(pending.device).unwrap_or_default();
            let read = result.as_ref().ok().and_then(|value| scale.setting(value.as_ref()?));
            let forced = self.outputs.settled(pending.device, read, now);
            self.force(forced, true, now, fx);
            // the state follows the pin, not the wish
            if let (Some(value), Some(point)) = (
                read.and_then(|read| scale.reading(read)),
                self.devices.get(pending.device.0 as usize).and_then(|d| d.points.first()),
            ) {
                let frame = Default::default();
                self.points.reading(*point, value, Default::default(), now.stamp(), &frame, now, fx);
            }
        }
        self.settle(pending, result, now, fx);
        self.unpark(now, fx);
    }

    /// Judges anew what has waited for a write.
    fn unpark(&mut self, now: &Now, fx: &mut Vec<Effect>) {
        for (asked, message) in std::mem::take(&mut self.commands.parked) {
            let waited = now.mono.since(asked.came);
            match asked.wish.ttl {
                // without a time the ttl counts from when it came
                Some(ttl) if asked.wish.time.is_none() && waited > ttl => {
                    let text =
                        format!("it waited {} for the command before it and holds for {}", rough(waited), rough(ttl));
                    let outcome = Outcome::because(OutcomeKind::Expired, text);
                    self.answer(About::verb(asked.device, &asked.verb), &asked.reply, &outcome, now, fx);
                    fx.push(Effect::Ack(message.ack));
                }
                _ => self.command(asked, &message, now, fx),
            }
        }
    }

    /// Answers the command that was carried out.
    fn settle(&mut self, pending: Pending, result: Result<Option<Value>, Refusal>, now: &Now, fx: &mut Vec<Effect>) {
        let Some(wished) = pending.wished else { return };
        let late = pending.deadline.is_some_and(|t| t <= now.mono);
        let outcome = match (result, &wished.value) {
            (Ok(read), Some(value)) if wished.exact && read.as_ref() != Some(value) => {
                let text = match &read {
                    Some(read) => format!("it reads back {read}"),
                    None => "it could not be read back".into(),
                };
                Outcome { value: read, ..Outcome::because(OutcomeKind::Failed, text) }
            }
            (Ok(read), _) => Outcome::done(read),
            (Err(no), _) if late => Outcome::because(OutcomeKind::Timeout, no.reason),
            (Err(no), _) => Outcome::because(no.kind, no.reason),
        };
        self.finish(pending.device, wished, &outcome, now, fx);
    }

    /// Devices that have not answered in time: the senders are told; what became of it is still owed.
    pub(super) fn overdue(&mut self, now: &Now, fx: &mut Vec<Effect>) {
        for ticket in self.commands.overdue(now.mono) {
            let Some(pending) = self.commands.pending.get_mut(&ticket) else { continue };
            pending.deadline = None;
            let (device, wished) = (pending.device, pending.wished.take());
            if let Some(wished) = wished {
                let outcome = Outcome::because(OutcomeKind::Timeout, "the device did not answer in time");
                self.finish(device, wished, &outcome, now, fx);
            }
        }
        self.unpark(now, fx);
    }

    /// A command has come to its end: everybody who asked is answered.
    fn finish(&mut self, device: DeviceId, wished: Wished, outcome: &Outcome, now: &Now, fx: &mut Vec<Effect>) {
        if let Some(key) = &wished.key {
            fx.extend(self.commands.seen.remember(key, Some(outcome.clone()), false));
        }
        for (reply, ack) in [(wished.reply, wished.ack)].into_iter().chain(wished.also) {
            let about = About { device: Some(device), verb: &wished.verb, wished: wished.value.as_ref() };
            self.answer(about, &reply, outcome, now, fx);
            self.came_of(&reply, &wished.verb, outcome, now, fx);
            fx.push(Effect::Ack(ack));
        }
    }
}

fn age(time: Wall, now: &Now) -> Duration {
    Duration::from_millis(now.wall.0.saturating_sub(time.0).max(0) as u64)
}

/// Whether it may have moved something.
fn executed(kind: OutcomeKind) -> bool {
    use OutcomeKind::{Busy, Expired, Rejected};
    !matches!(kind, Rejected | Expired | Busy)
}

/// Whether doing it twice is the same as doing it once.
fn idempotent(verb: &str, value: &Value) -> bool {
    match verb {
        "set" => !matches!(value, Value::Text(t) if t.trim().eq_ignore_ascii_case("toggle")),
        _ => false,
    }
}
