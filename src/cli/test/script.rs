//! A scenario as it is written: its shape, and what is wrong with it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use indexmap::IndexMap;
use jiff::tz::TimeZone;
use regex::Regex;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value as Json;

use crate::codec::bytes::Bytes;
use crate::config::raw::Params;
use crate::config::scalar::{OnOff, Pin, Plain, Span};
use crate::config::{self, Places};
use crate::model::{Place, Problem, Qos, Wall};
use crate::wire::topics::{check_filter, check_topic};

/// How long an expectation waits where it does not say.
const WITHIN: Duration = Duration::from_secs(1);
/// 2026-01-01T00:00:00Z: when a scenario begins that does not say.
const START: Wall = Wall(1_767_225_600_000);

/// A scenario.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct Written {
    /// What it shows, in a sentence.
    name: Option<String>,
    /// The gateway's file, from here; or several by a name for each.
    config: Option<Configs>,
    /// What `${NAME}` means in those files, before the environment.
    env: IndexMap<String, Plain>,
    /// The time of day at its beginning; default 2026-01-01T00:00:00Z.
    start: Option<String>,
    /// The gateway's time zone; default UTC.
    zone: Option<String>,
    /// Whether there is a broker at the beginning; default up.
    broker: Option<Standing>,
    /// What happens, in order.
    steps: Vec<Step>,
}

/// One file, or several gateways by name.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Configs {
    /// One.
    One(String),
    /// Several that share a broker.
    Many(IndexMap<String, String>),
}

/// Whether there is a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// There is.
    Up,
    /// There is none.
    Down,
}

/// How a gateway is started anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Restart {
    /// After it was stopped in order.
    Stop,
    /// After it was cut off, as by `kill -9`.
    Kill,
}

/// One step: one of the words for what is done or expected, and what belongs to it.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct Step {
    /// When, from the beginning; default: at once.
    at: Option<Span>,
    /// Which gateway, where there are several.
    gateway: Option<String>,
    /// Drives an input pin; the level stands under `to`.
    pin: Option<Pin>,
    /// Writes a file of the simulated kernel, `sys/class/…`; its text stands under `to`.
    file: Option<String>,
    /// 1 or 0; or a file's text.
    to: Option<Plain>,
    /// The instrument at this port says the bytes under `bytes`.
    write: Option<String>,
    /// Bytes: hex pairs or text with escapes.
    bytes: Option<Bytes>,
    /// Unplugs a port.
    unplug: Option<String>,
    /// Plugs it in again.
    plug: Option<String>,
    /// Somebody publishes on this topic what stands under `payload`.
    publish: Option<String>,
    /// What is published, or exactly expected.
    payload: Option<Plain>,
    /// Quality of service, 0 to 2.
    #[schemars(range(min = 0, max = 2))]
    qos: Option<u8>,
    /// The retain flag.
    retain: Option<OnOff>,
    /// It is delivered twice, as by a broker that was not sure.
    twice: Option<OnOff>,
    /// The broker goes, or comes back.
    broker: Option<Standing>,
    /// Nothing for so long.
    wait: Option<Span>,
    /// The gateway ends and is started anew.
    restart: Option<Restart>,
    /// A message that must come on this topic (+ and # may be in it).
    expect: Option<String>,
    /// Its payload is JSON with at least these keys and values.
    json: Option<Params>,
    /// Its payload is a number from here to there.
    #[schemars(length(min = 2, max = 2))]
    between: Option<Vec<f64>>,
    /// Its payload meets this regular expression.
    matches: Option<String>,
    /// How long it may take; default 1s.
    within: Option<Span>,
    /// No such message may come, for the time under `for`.
    never: Option<String>,
    /// How long.
    #[serde(rename = "for")]
    lasts: Option<Span>,
    /// This output's level must be what stands under `is`.
    level: Option<Pin>,
    /// 1, 0, or the share of its pulses.
    is: Option<Plain>,
    /// The gateway must write what stands under `bytes` on this port.
    heard: Option<String>,
    /// The gateway must end by itself with this exit code.
    exits: Option<i32>,
}

/// A scenario that can be played.
pub struct Script {
    /// What it shows.
    pub name: Option<String>,
    /// Gateways: name and file. The name is empty where there is one.
    pub gateways: Vec<(String, PathBuf)>,
    /// What `${NAME}` means.
    pub env: IndexMap<String, String>,
    /// Time of day at the beginning.
    pub start: Wall,
    /// Time zone.
    pub zone: TimeZone,
    /// Whether there is a broker at the beginning.
    pub broker: Standing,
    /// What happens.
    pub steps: Vec<Act>,
}

/// A step that can be played.
pub struct Act {
    /// Where it stands.
    pub place: Option<Place>,
    /// When.
    pub at: Option<Duration>,
    /// Which gateway, by its number.
    pub gateway: usize,
    /// What.
    pub what: What,
}

/// What is done or expected.
#[derive(Debug)]
pub enum What {
    /// An input is driven.
    Pin(u8, bool),
    /// A file of the kernel's.
    File(PathBuf, String),
    /// An instrument speaks.
    Write(String, Vec<u8>),
    /// A port goes or comes back.
    Plug(String, bool),
    /// Somebody publishes; perhaps it is delivered twice.
    Publish(crate::model::Message, bool),
    /// The broker goes or comes back.
    Broker(Standing),
    /// Time goes by.
    Wait(Duration),
    /// A gateway is started anew.
    Restart(Restart),
    /// A message is expected.
    Expect(Wanted, Duration),
    /// None is.
    Never(Wanted, Duration),
    /// An output's share of the high level.
    Level(u8, f64, Duration),
    /// Bytes on a port.
    Heard(String, Vec<u8>, Duration),
    /// The gateway ends.
    Exits(i32, Duration),
}

impl What {
    /// Whether it does something; the others only look.
    pub fn does(&self) -> bool {
        !matches!(
            self,
            What::Expect(..) | What::Never(..) | What::Level(..) | What::Heard(..) | What::Exits(..) | What::Wait(_)
        )
    }
}

/// Which message.
#[derive(Debug)]
pub struct Wanted {
    /// Its topic, with wildcards.
    pub topic: String,
    /// What of its payload.
    pub payload: Option<Like>,
    /// Its quality of service.
    pub qos: Option<Qos>,
    /// Its retain flag.
    pub retain: Option<bool>,
}

/// What a payload must be.
#[derive(Debug)]
pub enum Like {
    /// Exactly this text, or the same number.
    Text(String),
    /// JSON with at least this.
    Json(Json),
    /// A number from here to there.
    Between(f64, f64),
    /// It meets this.
    Matches(Regex),
}

/// A file, judged: the script, or what is wrong; and its text.
pub fn load(bytes: &[u8], dir: &Path) -> (Option<Script>, Vec<Problem>, String) {
    let env = |name: &str| std::env::var(name).ok();
    let config::LoadedAs { value, mut problems, places, text } = config::load_as::<Written>(bytes, &env);
    let script = value.and_then(|written| {
        let mut judge = Judge { places: &places, problems: &mut problems };
        let script = judge.script(written, dir);
        problems.is_empty().then_some(script)
    });
    (script, problems, text)
}

struct Judge<'a> {
    places: &'a Places,
    problems: &'a mut Vec<Problem>,
}

impl Judge<'_> {
    fn error(&mut self, path: &[&str], text: impl Into<String>, help: &str) {
        self.problems.push(Problem::error(self.places.value(path), text).help(help));
    }

    fn script(&mut self, written: Written, dir: &Path) -> Script {
        let gateways: Vec<(String, PathBuf)> = match written.config {
            Some(Configs::One(file)) => vec![(String::new(), dir.join(file))],
            Some(Configs::Many(files)) => files.into_iter().map(|(name, file)| (name, dir.join(file))).collect(),
            None => Vec::new(),
        };
        if gateways.is_empty() {
            let help = "write `config: FILE`, the gateway's file as seen from this one";
            self.error(&["config"], "the scenario does not say which gateway it is about", help);
        }
        if written.steps.is_empty() {
            self.error(&["steps"], "there are no steps: nothing would be tested", "write `steps:` and a list");
        }
        let start = match written.start.as_deref().map(str::parse::<jiff::Timestamp>) {
            None => START,
            Some(Ok(time)) => Wall(time.as_millisecond()),
            Some(Err(e)) => {
                self.error(
                    &["start"],
                    format!("`start`: {e}"),
                    "write 2026-11-20T12:00:00Z, or with an offset: +01:00",
                );
                START
            }
        };
        let zone = match written.zone.as_deref().map(TimeZone::get) {
            None => TimeZone::UTC,
            Some(Ok(zone)) => zone,
            Some(Err(e)) => {
                self.error(&["zone"], format!("`zone`: {e}"), "write a name such as Europe/Berlin");
                TimeZone::UTC
            }
        };
        let names: Vec<String> = gateways.iter().map(|(name, _)| name.clone()).collect();
        let mut last = Duration::ZERO;
        let mut steps = Vec::new();
        for (i, step) in written.steps.into_iter().enumerate() {
            let n = i.to_string();
            let at = step.at.map(|s| s.0);
            if at.is_some_and(|at| at < last) {
                let text = "this step is before the one above it";
                self.error(&["steps", &n, "at"], text, "`at` counts from the beginning; steps stand in their order");
            }
            last = at.unwrap_or(last).max(last);
            let gateway = self.gateway(&step, &names, &n);
            if let Some((word, what)) = self.step(step, &n) {
                steps.push(Act { place: self.places.key(&["steps", &n, word]), at, gateway, what });
            }
        }
        Script {
            name: written.name,
            gateways,
            env: written.env.into_iter().map(|(name, value)| (name, value.0)).collect(),
            start,
            zone,
            broker: written.broker.unwrap_or(Standing::Up),
            steps,
        }
    }

    fn gateway(&mut self, step: &Step, names: &[String], n: &str) -> usize {
        let needs = step.pin.is_some()
            || step.file.is_some()
            || [&step.write, &step.unplug, &step.plug, &step.heard].iter().any(|port| port.is_some())
            || step.restart.is_some()
            || step.level.is_some()
            || step.exits.is_some();
        match &step.gateway {
            Some(name) => match names.iter().position(|n| n == name) {
                Some(found) => return found,
                None => {
                    let all = names.join(", ");
                    let help = if all.is_empty() {
                        "there is only one; remove the key".into()
                    } else {
                        format!("there are {all}")
                    };
                    self.error(&["steps", n, "gateway"], format!("there is no gateway `{name}`"), &help);
                }
            },
            None if needs && names.len() > 1 => {
                let help = format!("add `gateway:`, one of {}", names.join(", "));
                self.error(&["steps", n], "there are several gateways, and the step does not say which", &help);
            }
            None => {}
        }
        0
    }

    fn step(&mut self, step: Step, n: &str) -> Option<(&'static str, What)> {
        let here = ["steps", n];
        let words = [
            ("pin", step.pin.is_some()),
            ("file", step.file.is_some()),
            ("write", step.write.is_some()),
            ("unplug", step.unplug.is_some()),
            ("plug", step.plug.is_some()),
            ("publish", step.publish.is_some()),
            ("broker", step.broker.is_some()),
            ("wait", step.wait.is_some()),
            ("restart", step.restart.is_some()),
            ("expect", step.expect.is_some()),
            ("never", step.never.is_some()),
            ("level", step.level.is_some()),
            ("heard", step.heard.is_some()),
            ("exits", step.exits.is_some()),
        ];
        let all = words.map(|(word, _)| word).join(", ");
        let mut said = words.iter().filter(|(_, there)| *there).map(|(word, _)| *word);
        let Some(word) = said.next() else {
            self.error(&here, "the step does nothing and expects nothing", &format!("write one of {all}"));
            return None;
        };
        if let Some(second) = said.next() {
            let text = format!("`{word}` and `{second}` in one step");
            self.error(&["steps", n, second], text, "make two steps of it");
            return None;
        }
        self.strangers(&step, word, n);
        let within = step.within.map_or(WITHIN, |s| s.0);
        let what = match word {
            "pin" => What::Pin(step.pin?.0, self.level(step.to.as_ref(), n)?),
            "file" => {
                let Some(to) = step.to else { return self.lacks(n, word, "to") };
                let file = step.file?;
                let below: PathBuf = file.trim_start_matches('/').into();
                let plain = below.components().all(|c| matches!(c, std::path::Component::Normal(_)));
                if !plain {
                    self.error(&["steps", n, "file"], format!("`{file}` is no file below / "), "write sys/…");
                    return None;
                }
                What::File(below, to.0)
            }
            "write" | "heard" => {
                let Some(bytes) = step.bytes else { return self.lacks(n, word, "bytes") };
                match (step.write, step.heard) {
                    (Some(port), _) => What::Write(port, bytes.0),
                    (None, port) => What::Heard(port?, bytes.0, within),
                }
            }
            "unplug" => What::Plug(step.unplug?, false),
            "plug" => What::Plug(step.plug?, true),
            "publish" => {
                let topic = step.publish?;
                if let Err(text) = check_topic(&topic) {
                    self.error(&["steps", n, "publish"], text, "write the topic as it is published");
                    return None;
                }
                let payload = step.payload.map_or(Vec::new(), |p| p.0.into_bytes());
                let qos = step.qos.and_then(Qos::from_number).unwrap_or_default();
                let retain = step.retain.is_some_and(|r| r.0);
                let message = crate::model::Message { topic, payload, qos, retain, ..Default::default() };
                What::Publish(message, step.twice.is_some_and(|t| t.0))
            }
            "broker" => What::Broker(step.broker?),
            "wait" => What::Wait(step.wait?.0),
            "restart" => What::Restart(step.restart?),
            "expect" => What::Expect(self.wanted(&step, n, "expect")?, within),
            "never" => {
                let Some(lasts) = step.lasts else { return self.lacks(n, word, "for") };
                What::Never(self.wanted(&step, n, "never")?, lasts.0)
            }
            "level" => {
                let Some(is) = &step.is else { return self.lacks(n, word, "is") };
                let share = match is.0.to_ascii_lowercase().as_str() {
                    "high" | "on" | "true" => Some(1.0),
                    "low" | "off" | "false" => Some(0.0),
                    text => crate::model::value::parse_number(text).filter(|n| (0.0..=1.0).contains(n)),
                };
                let Some(share) = share else {
                    self.error(&["steps", n, "is"], format!("`{}` is no level", is.0), "write 1, 0, or a share: 0.4");
                    return None;
                };
                What::Level(step.level?.0, share, within)
            }
            _ => What::Exits(step.exits?, within),
        };
        Some((word, what))
    }

    fn lacks<T>(&mut self, n: &str, word: &str, key: &str) -> Option<T> {
        self.error(&["steps", n, word], format!("`{word}` has no `{key}`"), &format!("add `{key}:` to the step"));
        None
    }

    /// Keys that do not belong to the word.
    fn strangers(&mut self, step: &Step, word: &str, n: &str) {
        let message = matches!(word, "expect" | "never");
        let belongs = [
            ("to", step.to.is_some(), matches!(word, "pin" | "file")),
            ("bytes", step.bytes.is_some(), matches!(word, "write" | "heard")),
            ("payload", step.payload.is_some(), message || word == "publish"),
            ("qos", step.qos.is_some(), message || word == "publish"),
            ("retain", step.retain.is_some(), message || word == "publish"),
            ("twice", step.twice.is_some(), word == "publish"),
            ("json", step.json.is_some(), message),
            ("between", step.between.is_some(), message),
            ("matches", step.matches.is_some(), message),
            ("within", step.within.is_some(), matches!(word, "expect" | "level" | "heard" | "exits")),
            ("for", step.lasts.is_some(), word == "never"),
            ("is", step.is.is_some(), word == "level"),
        ];
        for (key, there, fits) in belongs {
            if there && !fits {
                self.error(&["steps", n, key], format!("`{key}` means nothing beside `{word}`"), "remove it");
            }
        }
    }

    fn level(&mut self, to: Option<&Plain>, n: &str) -> Option<bool> {
        match to.map(|to| to.0.to_ascii_lowercase()).as_deref() {
            Some("1" | "high") => Some(true),
            Some("0" | "low") => Some(false),
            Some(other) => {
                let help = "write 1 or 0: the level at the pin, whatever `inverted` makes of it";
                self.error(&["steps", n, "to"], format!("`{other}` is no level"), help);
                None
            }
            None => self.lacks(n, "pin", "to"),
        }
    }

    fn wanted(&mut self, step: &Step, n: &str, word: &str) -> Option<Wanted> {
        let topic = step.expect.clone().or_else(|| step.never.clone())?;
        if let Err(text) = check_filter(&topic) {
            self.error(&["steps", n, word], text, "write a topic; + and # may be in it");
            return None;
        }
        let mut likes = Vec::new();
        likes.extend(step.payload.clone().map(|p| Like::Text(p.0)));
        if let Some(json) = &step.json {
            likes.push(Like::Json(json.read().unwrap_or_default()));
        }
        if let Some([from, to]) = step.between.as_deref() {
            likes.push(Like::Between(*from, *to));
        }
        if let Some(pattern) = &step.matches {
            match Regex::new(pattern) {
                Ok(regex) => likes.push(Like::Matches(regex)),
                Err(e) => {
                    self.error(&["steps", n, "matches"], format!("`matches`: {e}"), "write a regular expression");
                    return None;
                }
            }
        }
        let payload = likes.pop();
        if !likes.is_empty() {
            let text = "`payload`, `json`, `between` and `matches` say how a payload is; here are several";
            self.error(&["steps", n], text, "keep one of them");
        }
        let qos = step.qos.and_then(Qos::from_number);
        Some(Wanted { topic, payload, qos, retain: step.retain.map(|r| r.0) })
    }
}

impl Wanted {
    /// Whether a message is the one.
    pub fn fits(&self, message: &crate::model::Message) -> bool {
        self.qos.is_none_or(|qos| qos == message.qos)
            && self.retain.is_none_or(|retain| retain == message.retain)
            && self.payload.as_ref().is_none_or(|like| like.fits(&message.payload))
    }
}

impl Like {
    fn fits(&self, payload: &[u8]) -> bool {
        let text = std::str::from_utf8(payload).ok();
        let number = || text.and_then(crate::model::value::parse_number);
        match self {
            Like::Text(wanted) => {
                let same = crate::model::value::parse_number(wanted).is_some_and(|n| number() == Some(n));
                same || wanted.as_bytes() == payload
            }
            Like::Json(wanted) => serde_json::from_slice(payload).is_ok_and(|found| within(wanted, &found)),
            Like::Between(from, to) => number().is_some_and(|n| (*from..=*to).contains(&n)),
            Like::Matches(regex) => text.is_some_and(|text| regex.is_match(text)),
        }
    }
}

/// Whether all that is wanted is there; numbers by their value.
fn within(wanted: &Json, found: &Json) -> bool {
    match (wanted, found) {
        (Json::Object(wanted), Json::Object(found)) => {
            wanted.iter().all(|(key, value)| found.get(key).is_some_and(|f| within(value, f)))
        }
        (Json::Number(a), Json::Number(b)) => a.as_f64() == b.as_f64(),
        (wanted, found) => wanted == found,
    }
}
