//! Plays a history.

use std::time::Duration;

use jiff::tz::TimeZone;
use serde_json::Value as Json;

use crate::config::When;
use crate::config::scalar::Span;
use crate::engine::bridge::{GapReport, Info};
use crate::engine::logic::Logic;
use crate::engine::{Effect, Engine, Event, Outgoing, Setup};
use crate::expr::Zone;
use crate::model::{
    Action, DeviceId, DeviceStatus, Frame, Incoming, Mono, Now, OutcomeKind, PointId, Qos, Quality, Refusal, Ticket,
    Value, Wall,
};
use crate::plan::{Ask, Plan, check};
use crate::wire::Record;
use crate::wire::record::Sending;
use crate::wire::sparkplug::{Device, Metric, Word, write_command};

/// 2026-11-20T12:00:00Z: the clock of every history begins then.
const NOON: i64 = 1_795_176_000_000;

struct House {
    engine: Engine,
    devices: Vec<String>,
    points: Vec<String>,
    now: Now,
    incoming: u64,
    /// By how much the system's clock was set, in milliseconds.
    ahead: i64,
}

/// Plays the events of `history` in the house of `yaml`; gives them with what came of them.
pub fn play(yaml: &str, history: &str) -> String {
    let mut house = House::new(yaml);
    let mut played = String::new();
    for event in history.lines().filter(|l| !l.starts_with(' ')) {
        played += event;
        played.push('\n');
        if event.is_empty() || event.starts_with('#') {
            continue;
        }
        for line in house.happens(event) {
            played += &format!("    {line}\n");
        }
    }
    played
}

impl House {
    fn new(yaml: &str) -> House {
        let text = format!("version: 1\ngateway: {{ id: shed }}\n{yaml}");
        let ask = Ask {
            env: &|_| None,
            base: std::path::Path::new("/nowhere"),
            when: When::Run,
            simulate: true,
            host: "host",
            machine: "m",
        };
        let checked = check(text.as_bytes(), &ask);
        let Some(plan) = checked.plan else { panic!("{:#?}", checked.problems) };
        let Plan { topics, devices, points, chains, logic, home_assistant, sparkplug, homie, .. } = plan;
        let zone = Some(Zone(TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()));
        let now = Now { wall: Wall(NOON), mono: Mono::default(), synced: true };
        let devices: Vec<_> = devices.into_iter().map(|d| d.spec).collect();
        let name = |p: &crate::model::PointSpec| {
            let device = &devices[p.device.0 as usize];
            if device.points.len() == 1 { device.name.clone() } else { format!("{}.{}", device.name, p.name) }
        };
        let names = points.iter().map(name).collect();
        let info = Info { version: "1".into(), id: "shed".into(), ..Info::default() };
        House {
            devices: devices.iter().map(|d| d.name.clone()).collect(),
            points: names,
            engine: Engine::new(
                Setup {
                    topics,
                    devices,
                    points,
                    chains,
                    logic: Logic { zone, ..logic },
                    info,
                    home_assistant,
                    sparkplug,
                    homie,
                    memory: Default::default(),
                    boot: Default::default(),
                    abnormal: false,
                },
                &now,
            ),
            now,
            incoming: 0,
            ahead: 0,
        }
    }

    fn happens(&mut self, line: &str) -> Vec<String> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let event = match word {
            "at" => return self.wait_until(rest.parse::<Span>().unwrap().0),
            "clock" => {
                let wall = rest.parse::<jiff::Timestamp>().unwrap().as_millisecond();
                self.ahead = wall - NOON - self.now.mono.0.as_millis() as i64;
                self.now.synced = true;
                self.set(self.now.mono.0);
                return self.feed(Event::Wake);
            }
            "unset" => {
                self.now.synced = false;
                return Vec::new();
            }
            "up" => Event::LinkUp,
            "down" => Event::LinkDown,
            "stop" => {
                let keep = rest.strip_prefix("but ").map(|names| names.split(' ').map(|n| self.device(n)).collect());
                Event::Stop(keep.unwrap_or_default())
            }
            "online" => Event::Device(self.device(rest), DeviceStatus::Online),
            "offline" => {
                let (name, why) = rest.split_once(' ').unwrap();
                Event::Device(self.device(name), DeviceStatus::Offline(why.into()))
            }
            "silent" => {
                let (name, why) = rest.split_once(' ').unwrap();
                Event::Device(self.device(name), DeviceStatus::Silent(why.into()))
            }
            "read" | "half" => {
                let (name, value) = rest.split_once(' ').unwrap();
                let point = self.points.iter().position(|p| p == name).unwrap_or_else(|| panic!("no point {name}"));
                let (value, quality) = match value.strip_prefix("bad ") {
                    Some(text) => (Value::Text(text.into()), Quality::Bad),
                    None => (self::value(value), Quality::Good),
                };
                let frame = Frame { fields: None, more: word == "half" };
                Event::Reading { point: PointId(point as u32), value, quality, taken: self.now.stamp(), frame }
            }
            "acted" => {
                let (ticket, what) = rest.split_once(' ').unwrap();
                let result = match what.strip_prefix("failed ") {
                    Some(why) => Err(refusal(why)),
                    None => Ok((what != "-").then(|| self::value(what))),
                };
                Event::Acted(Ticket(ticket.parse().unwrap()), result)
            }
            "in" => Event::Incoming(self.incoming(rest)),
            "sim" => {
                let (pin, level) = rest.split_once(' ').unwrap();
                Event::SimLevel(pin.parse().unwrap(), level.parse().unwrap())
            }
            "gap" => {
                let parts: Vec<&str> = rest.splitn(4, ' ').collect();
                let n = |i: usize| parts[i].parse().unwrap();
                Event::Gap(GapReport { from: n(0), to: n(1), count: n(2), reason: parts[3].into(), point: None })
            }
            "problem" => Event::Problem(rest.into()),
            "fill" => Event::QueueFill(rest.parse().unwrap()),
            other => panic!("no event `{other}`"),
        };
        self.feed(event)
    }

    fn feed(&mut self, event: Event) -> Vec<String> {
        let mut fx = Vec::new();
        self.engine.handle(event, &self.now, &mut fx);
        // a wish from within has nothing to acknowledge
        fx.iter().filter(|e| **e != Effect::Ack(0)).map(|effect| self.shown(effect)).collect()
    }

    /// The clock goes on; each waking is said with its time.
    fn wait_until(&mut self, until: Duration) -> Vec<String> {
        let mut lines = Vec::new();
        let mut woken = 0;
        while let Some(wake) = self.engine.next_wake().filter(|w| w.0 <= until) {
            self.set(wake.0.max(self.now.mono.0));
            let at = self.now.mono.0;
            lines.extend(self.feed(Event::Wake).into_iter().map(|line| format!("{}: {line}", Span(at))));
            woken += 1;
            assert!(woken < 1000, "it wants to be woken for ever at {}", Span(at));
        }
        self.set(until);
        lines
    }

    fn set(&mut self, mono: Duration) {
        assert!(mono >= self.now.mono.0, "the clock of a history does not go back");
        self.now.mono = Mono(mono);
        self.now.wall = Wall(NOON + self.ahead + mono.as_millis() as i64);
    }

    fn device(&self, name: &str) -> DeviceId {
        DeviceId(self.devices.iter().position(|d| d == name).unwrap_or_else(|| panic!("no device {name}")) as u32)
    }

    /// `TOPIC (dup, retain, backlog, metrics 5s, expiry 5s, reply a/b, corr xy, user k=v) PAYLOAD`
    fn incoming(&mut self, rest: &str) -> Incoming {
        self.incoming += 1;
        let (topic, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let mut m = Incoming { topic: topic.into(), ack: self.incoming, ..Incoming::default() };
        let (mut payload, mut metrics) = (rest, None);
        if let Some((flags, behind)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            payload = behind.trim_start();
            for flag in flags.split(", ") {
                let (key, value) = flag.split_once(' ').unwrap_or((flag, ""));
                match key {
                    "dup" => m.dup = true,
                    "retain" => m.retain = true,
                    "backlog" => m.backlog = true,
                    // the payload is that of a Sparkplug host, sent so long ago
                    "metrics" if value.is_empty() => metrics = Some(Duration::ZERO),
                    "metrics" => metrics = Some(value.parse::<Span>().unwrap().0),
                    "expiry" => m.properties.expiry = Some(value.parse::<Span>().unwrap().0),
                    "reply" => m.properties.response_topic = Some(value.into()),
                    "corr" => m.properties.correlation = Some(value.into()),
                    "user" => {
                        let (k, v) = value.split_once('=').unwrap();
                        m.properties.user.push((k.into(), v.into()));
                    }
                    other => panic!("no flag `{other}`"),
                }
            }
        }
        m.payload = payload.as_bytes().to_vec();
        if let Some(age) = metrics {
            let metric = |text: &'_ str| {
                let (name, value) = text.split_once('=').unwrap();
                let alias = name.strip_prefix('#').map(|n| n.parse::<u64>().unwrap());
                let value = match value {
                    "true" => Value::Bool(true),
                    "false" => Value::Bool(false),
                    other => self::value(other),
                };
                (alias.is_none().then(|| name.to_owned()), alias, value)
            };
            let metrics: Vec<_> = payload.split("; ").map(metric).collect();
            let time = self.now.wall.0 - age.as_millis() as i64;
            m.payload = write_command(Some(time as u64), &metrics);
        }
        m
    }

    fn shown(&self, effect: &Effect) -> String {
        match effect {
            Effect::Send(outgoing) => self.sent(outgoing),
            Effect::Act(device, ticket, action) => {
                let what = match action {
                    Action::Set(value) => format!("set {value}"),
                    Action::Fade { to, over } => format!("fade {to} over {}", Span(*over)),
                    Action::Send(bytes) => format!("send {}", String::from_utf8_lossy(bytes).escape_debug()),
                    Action::Verb { point, verb, value } => {
                        format!("{verb}{} {value}", point.map_or(String::new(), |p| format!(" of point {p}")))
                    }
                };
                format!("act {} {} {what}", ticket.0, self.devices[device.0 as usize])
            }
            Effect::Ack(n) => format!("ack {n}"),
            Effect::DriveSim(pin, high) => format!("drive {pin} {}", u8::from(*high)),
            Effect::Remember { key, value, urgent } => {
                let value = value.as_ref().map_or("-".to_owned(), Json::to_string);
                format!("remember {key} {value}{}", if *urgent { " urgent" } else { "" })
            }
            Effect::Log(text) => format!("log {text}"),
            Effect::Listen(filter, qos) => format!("listen {filter} qos {}", qos.number()),
            Effect::Hush(filter) => format!("hush {filter}"),
            Effect::Exit(why) => format!("exit: {why}"),
            Effect::Sparkplug(word) => format!("sparkplug {}", sparkplug(word)),
            Effect::Leave { connection, why } => format!("leave connection {connection}: {why}"),
            Effect::Daemon(request, reply) => {
                let transaction = reply.transaction.as_ref().map_or(String::new(), |t| format!(" transaction {t}"));
                format!("daemon {request:?} to {}{transaction}", reply.topic.as_deref().unwrap_or("nobody"))
            }
            Effect::Health(None) => "health".into(),
            Effect::Health(Some(reply)) => {
                let transaction = reply.transaction.as_ref().map_or(String::new(), |t| format!(" transaction {t}"));
                format!("health to {}{transaction}", reply.topic.as_deref().unwrap_or("nobody"))
            }
        }
    }

    fn sent(&self, out: &Outgoing) -> String {
        let taken = out.taken.unwrap_or_else(|| self.now.stamp());
        let sending = Sending { seq: None, replayed: false, taken, ours: false, expires_in: None, now: self.now };
        let message = out.record.clone().into_message(&sending);
        assert_eq!(out.reading, matches!(out.record, Record::Reading(_)));
        assert_eq!(out.retain, message.retain, "the queue must know what is retained");
        let topic = message.topic.strip_prefix("shed/").unwrap_or(&message.topic);
        let mut text = String::from_utf8_lossy(&message.payload).into_owned();
        // the present time says nothing
        if let Ok(Json::Object(mut map)) = serde_json::from_str::<Json>(&text) {
            if map.get("time") == Some(&crate::wire::payload::time_text(self.now.wall).into()) {
                map.remove("time");
            }
            text = match (topic, map.get("event").and_then(Json::as_str)) {
                // the same as in the answer
                ("bridge/event", Some("command")) => {
                    let word = |key: &str| map.get(key).and_then(Json::as_str).unwrap_or_default();
                    format!("command {} {} {}", word("device"), word("verb"), word("outcome"))
                }
                ("bridge/info", _) => map.keys().cloned().collect::<Vec<_>>().join(" "),
                _ => Json::Object(map).to_string(),
            };
        }
        let mut line = format!("{topic} {text}");
        if let Some(corr) = &message.properties.correlation {
            line += &format!(" corr {}", String::from_utf8_lossy(corr));
        }
        if message.retain {
            line += " retained";
        }
        if message.qos != Qos::AtLeastOnce {
            line += &format!(" qos {}", message.qos.number());
        }
        for (key, value) in message.properties.user.iter().filter(|(k, _)| k != "time") {
            line += &format!(" {key}={value}");
        }
        if taken.mono != self.now.mono {
            line += &format!(" taken {}", Span(taken.mono.0));
        }
        line
    }
}

fn sparkplug(word: &Word) -> String {
    let metrics = |list: &[Metric]| {
        let shown = list.iter().map(|m| {
            let quality = if m.quality == Quality::Good { String::new() } else { format!(" {}", m.quality.as_str()) };
            let value = m.value.as_ref().map_or("null".into(), ToString::to_string);
            format!("{}={value}{quality}", m.name)
        });
        shown.collect::<Vec<_>>().join(", ")
    };
    let device = |d: &Device| format!("{}{} {{{}}}", d.name, if d.alive { "" } else { " (dead)" }, metrics(&d.metrics));
    match word {
        Word::Born(birth) => {
            let devices: Vec<String> = birth.devices.iter().map(device).collect();
            format!("born {} of connection {}: {}", birth.bd_seq, birth.connection, devices.join(" "))
        }
        Word::Device(of) => format!("device {}", device(of)),
        Word::Dead(name) => format!("dead {name}"),
        Word::Node(list) => format!("node {{{}}}", metrics(list)),
    }
}

/// `REASON`, or `(KIND) REASON`.
fn refusal(text: &str) -> Refusal {
    use OutcomeKind::{Busy, Rejected, Timeout};
    let kinds = [Busy, Rejected, Timeout];
    let kind = kinds.into_iter().find_map(|k| Some((k, text.strip_prefix(&format!("({}) ", k.as_str()))?)));
    kind.map_or_else(|| text.into(), |(kind, reason)| Refusal::new(kind, reason))
}

fn value(text: &str) -> Value {
    match text {
        "ON" => Value::Bool(true),
        "OFF" => Value::Bool(false),
        other => Value::parse(other),
    }
}
