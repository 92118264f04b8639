//! The keys of `poll` and `commands`, and what is made of them: requests, patience, what counts as the answer.

use std::fmt;
use std::time::Duration;

use regex::bytes::{Regex, RegexBuilder};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

use crate::codec::bytes::{parse_escaped, parse_hex};
use crate::codec::decode::Name;
use crate::codec::{Bytes, Check, CheckKeys, MatchKeys};
use crate::config::scalar::Span;
use crate::device::Desk;
use crate::expr::{Given, Scope, Template};
use crate::model::{Now, Problem, Takes, Value, is_name};

/// How long an answer may take where nothing is said.
const TIMEOUT: Duration = Duration::from_secs(1);
/// The longest text that a command takes where nothing is said.
const LONGEST_TEXT: usize = 255;
/// Names that a command cannot have: what the gateway itself says and hears below a device.
const RESERVED: &[&str] = &["get", "send", "result", "availability"];

/// `poll`: one question or several.
#[derive(Debug, Clone, Default)]
pub struct Polls {
    /// The questions.
    pub list: Vec<PollKeys>,
    /// Whether they were written as a list.
    pub several: bool,
}

/// A question that is asked again and again.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PollKeys {
    /// How often.
    pub every: Span,
    /// What is asked.
    pub send: SendKeys,
    /// How long the answer may take; default 1s.
    pub timeout: Option<Span>,
    /// Only a frame of this kind is the answer.
    #[serde(rename = "match")]
    pub only: Option<MatchKeys>,
    /// The points that are read from this answer, and from no other; default: all that no question names.
    pub points: Option<Vec<String>>,
}

/// A command of the instrument's.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandKeys {
    /// What it takes; default: what the other keys say, else text, or button where `send` holds no `value`.
    #[serde(rename = "type")]
    pub kind: Option<CommandType>,
    /// number: the least; text: the fewest characters.
    pub min: Option<f64>,
    /// number: the greatest; text: the most characters, default 255.
    pub max: Option<f64>,
    /// choice: the words to choose from.
    pub choices: Option<Vec<Name>>,
    /// What is written to the port; `{{ value }}` is what was wished.
    pub send: SendKeys,
    /// What a good answer looks like: a regular expression; its first group is the outcome's value.
    pub expect: Option<String>,
    /// How long the answer may take; default 1s with `expect`, else none is waited for.
    pub timeout: Option<Span>,
}

/// What a command takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CommandType {
    /// A number from `min` to `max`.
    Number,
    /// Text.
    Text,
    /// ON or OFF.
    Bool,
    /// One of `choices`.
    Choice,
    /// No value.
    Button,
}

/// Bytes to be written: text with escapes or hex pairs, or `{hex: …, check: append}`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum SendKeys {
    /// Text with escapes, or hex pairs.
    Text(String),
    /// With a check.
    Form(SendForm),
}

/// Bytes to be written, with their check.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SendForm {
    /// Hex pairs.
    #[serde(default)]
    pub hex: Option<String>,
    /// Text with escapes.
    #[serde(default)]
    pub text: Option<String>,
    /// `append` puts the device's `check` onto it.
    #[serde(default)]
    pub check: Option<CheckWord>,
}

/// The check of a request.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum CheckWord {
    /// The device's own.
    Word(Append),
    /// Another one.
    Keys(Box<CheckKeys>),
}

/// The word.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Append {
    /// The device's own check.
    Append,
}

impl Polls {
    /// Their `match`es, each with its path.
    pub fn gates(&self) -> Vec<(String, &MatchKeys)> {
        let path = |i: usize| if self.several { format!("poll.{i}.match") } else { "poll.match".to_owned() };
        self.list.iter().enumerate().filter_map(|(i, poll)| Some((path(i), poll.only.as_ref()?))).collect()
    }
}

struct PollsVisitor;

impl<'de> Visitor<'de> for PollsVisitor {
    type Value = Polls;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{every: 10s, send: \"READ\\r\\n\"}, or a list of such")
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Polls, A::Error> {
        let one = PollKeys::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Polls { list: vec![one], several: false })
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Polls, A::Error> {
        let mut list = Vec::new();
        while let Some(one) = seq.next_element()? {
            list.push(one);
        }
        Ok(Polls { list, several: true })
    }
}

impl<'de> Deserialize<'de> for Polls {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(PollsVisitor)
    }
}

impl JsonSchema for Polls {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Polls".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<PollKeys>();
        json_schema!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
    }
}

/// A question, ready to be asked.
pub struct Poll {
    /// How often.
    pub every: Duration,
    /// What is asked.
    pub request: Vec<u8>,
    /// How long the answer may take.
    pub timeout: Duration,
    /// The number of its `match` among the pipeline's gates.
    pub gate: Option<usize>,
    /// The points that are read from its answer alone; empty: all that no question names.
    pub points: Vec<usize>,
}

/// A command, ready to be carried out.
pub struct Command {
    /// Its name, which is its verb.
    pub name: String,
    /// What it takes.
    pub takes: Takes,
    /// What is written.
    pub request: Request,
    /// What a good answer looks like.
    pub expect: Option<Regex>,
    /// How long the answer may take; `None`: none is waited for.
    pub timeout: Option<Duration>,
}

/// Bytes, or how to make them.
pub enum Request {
    /// Always the same.
    Fixed(Vec<u8>),
    /// Filled in.
    Filled {
        /// With the value.
        template: Template,
        /// Whether it gives hex pairs.
        hex: bool,
        /// What is put onto it.
        check: Appended,
    },
}

/// The check of a request.
pub enum Appended {
    /// None.
    No,
    /// The device's.
    Device,
    /// Its own.
    Own(Box<Check>),
}

impl Request {
    /// The bytes for a value; `device` is the device's check.
    pub fn bytes(&self, value: &Value, now: Now, device: Option<&Check>) -> Result<Vec<u8>, String> {
        let (template, hex, check) = match self {
            Request::Fixed(bytes) => return Ok(bytes.clone()),
            Request::Filled { template, hex, check } => (template, *hex, check),
        };
        let given = Given { now, value: Some(value), words: &[] };
        let text = template.render(&given).map_err(|blank| blank.say(|_| "a point".into()))?;
        let mut bytes = if hex { parse_hex(&text)? } else { text.into_bytes() };
        let check = match check {
            Appended::No => None,
            Appended::Device => device,
            Appended::Own(check) => Some(check.as_ref()),
        };
        if let Some(check) = check {
            check.append(&mut bytes).map_err(|reason| format!("the check cannot be put onto it: {reason}"))?;
        }
        Ok(bytes)
    }
}

/// A list of keys with their device, to report what is wrong at its place.
pub struct Reader<'d, 'p> {
    /// Where.
    pub desk: &'d mut Desk<'p>,
    /// The device's check.
    pub check: Option<&'d Check>,
}

impl Reader<'_, '_> {
    fn error(&mut self, path: &[&str], text: impl Into<String>, help: impl Into<String>) {
        self.desk.error(path, text, help);
    }

    /// The questions; `points` are the names of the device's points.
    pub fn polls(&mut self, polls: &Polls, points: &[String]) -> Vec<Poll> {
        let mut gates = 0;
        let mut ready = Vec::new();
        for (i, keys) in polls.list.iter().enumerate() {
            let index = i.to_string();
            let below: &[&str] = if polls.several { &["poll", &index] } else { &["poll"] };
            let at = |key: &'static str| [below, &[key]].concat();
            for (key, span) in [("every", Some(keys.every)), ("timeout", keys.timeout)] {
                if span.is_some_and(|s| s.0.is_zero()) {
                    self.error(&at(key), format!("`{key}` of no time"), "write a time such as 10s");
                }
            }
            let mut own = Vec::new();
            for name in keys.points.iter().flatten() {
                match points.iter().position(|p| p == name) {
                    Some(point) => own.push(point),
                    None => {
                        let help = match crate::config::near(name, points) {
                            Some(near) => format!("did you mean `{near}`?"),
                            None => format!("the points are {}", points.join(", ")),
                        };
                        self.error(&at("points"), format!("there is no point `{name}`"), help);
                    }
                }
            }
            let gate = keys.only.is_some().then(|| {
                gates += 1;
                gates - 1
            });
            let request = self.request(&keys.send, &at("send"), &Scope::new());
            if let Some(Request::Filled { .. }) = request {
                let help = "a question is always the same; a text that is to be filled in belongs to `commands`";
                self.error(&at("send"), "a question cannot hold `{{`", help);
            }
            let Some(Request::Fixed(request)) = request else { continue };
            let timeout = keys.timeout.map_or(TIMEOUT, |s| s.0);
            ready.push(Poll { every: keys.every.0, request, timeout, gate, points: own });
        }
        ready
    }

    /// One command.
    pub fn command(&mut self, name: &str, keys: &CommandKeys) -> Option<Command> {
        let at = |key: &'static str| ["commands", name, key];
        if !is_name(name) {
            self.error(&["commands", name], format!("`{name}` is not a name"), "use a-z, 0-9, _ and -");
        }
        if RESERVED.contains(&name) {
            let text = format!("a command cannot be called `{name}`: the gateway uses that topic itself");
            self.error(&["commands", name], text, "give it another name");
        }
        let kind = keys.kind.unwrap_or(match (&keys.choices, keys.min.or(keys.max)) {
            (Some(_), _) => CommandType::Choice,
            (None, Some(_)) => CommandType::Number,
            (None, None) if !keys.send.is_template() => CommandType::Button,
            (None, None) => CommandType::Text,
        });
        let bounds = matches!(kind, CommandType::Number | CommandType::Text);
        for (key, written) in [("min", keys.min), ("max", keys.max)] {
            if written.is_some() && !bounds {
                self.error(&at(key), format!("`{key}` goes with type number and text"), "leave it out");
            }
        }
        if let (Some(min), Some(max)) = (keys.min, keys.max)
            && min > max
        {
            self.error(&at("max"), format!("`max` {max} is less than `min` {min}"), "give the greater one to max");
        }
        if keys.choices.is_some() != (kind == CommandType::Choice)
            || keys.choices.as_ref().is_some_and(|list| list.is_empty())
        {
            let key = if keys.choices.is_some() { "choices" } else { "type" };
            let help = "write type: choice and choices: [auto, manual]";
            self.error(&at(key), "`choices` and type choice belong together", help);
        }
        if kind != CommandType::Button && !keys.send.is_template() {
            let text = "`send` says nothing of the value that is wished";
            self.error(&at("send"), text, "put `{{ value }}` where it belongs, or write type: button");
        }
        let count = |bound: Option<f64>, otherwise: usize| bound.map_or(otherwise, |n| n.max(0.0) as usize);
        let takes = match kind {
            CommandType::Number => Takes::Number { min: keys.min, max: keys.max },
            CommandType::Text => Takes::Text { min: count(keys.min, 0), max: count(keys.max, LONGEST_TEXT) },
            CommandType::Bool => Takes::Bool,
            CommandType::Choice => Takes::Choice(keys.choices.iter().flatten().map(|name| name.0.clone()).collect()),
            CommandType::Button => Takes::Nothing,
        };
        let scope = if kind == CommandType::Button { Scope::new() } else { Scope::new().with_value() };
        let request = self.request(&keys.send, &at("send"), &scope)?;
        self.try_out(&request, &takes, &at("send"));
        let expect = match keys.expect.as_deref().map(|text| RegexBuilder::new(text).size_limit(1 << 20).build()) {
            None => None,
            Some(Ok(regex)) => Some(regex),
            Some(Err(e)) => {
                let text = e.to_string();
                let last = text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("it cannot be read");
                let last = last.trim().trim_start_matches("error: ");
                self.error(&at("expect"), format!("not a regular expression: {last}"), "write one such as ^OK");
                None
            }
        };
        if keys.timeout.is_some_and(|s| s.0.is_zero()) {
            self.error(&at("timeout"), "`timeout` of no time", "write a time such as 1s");
        }
        let timeout = keys.timeout.map(|s| s.0).or_else(|| keys.expect.is_some().then_some(TIMEOUT));
        Some(Command { name: name.to_owned(), takes, request, expect, timeout })
    }

    /// A request that cannot be made of the values at the ends of what is allowed is told now.
    fn try_out(&mut self, request: &Request, takes: &Takes, path: &[&str]) {
        let values: Vec<Value> = match takes {
            Takes::Number { min, max } => [*min, *max].into_iter().flatten().map(Value::Number).collect(),
            Takes::Choice(words) => words.iter().cloned().map(Value::Text).collect(),
            Takes::Bool => vec![Value::Bool(false), Value::Bool(true)],
            Takes::Nothing => vec![Value::Text(String::new())],
            Takes::Anything | Takes::Text { .. } => vec![],
        };
        // a request that needs the clock cannot be tried
        let now = Now::default();
        for value in values {
            if let Err(why) = request.bytes(&value, now, self.check)
                && !why.contains("clock")
            {
                self.error(path, format!("`send` gives no request for {value}: {why}"), "see the template");
                return;
            }
        }
    }

    fn request(&mut self, keys: &SendKeys, path: &[&str], scope: &Scope) -> Option<Request> {
        let (text, hex, check, at) = match keys {
            SendKeys::Text(text) => (text, false, None, path.to_vec()),
            SendKeys::Form(SendForm { hex: Some(text), text: None, check }) => {
                (text, true, check.as_ref(), [path, &["hex"]].concat())
            }
            SendKeys::Form(SendForm { hex: None, text: Some(text), check }) => {
                (text, false, check.as_ref(), [path, &["text"]].concat())
            }
            SendKeys::Form(_) => {
                self.error(path, "`send` holds either `hex` or `text`", "write {hex: \"ff 01 86\", check: append}");
                return None;
            }
        };
        let check = match check {
            None => Appended::No,
            Some(CheckWord::Word(Append::Append)) if self.check.is_some() => Appended::Device,
            Some(CheckWord::Word(Append::Append)) => {
                if !self.desk.written(&["check"]) {
                    let help = "declare it beside `frame`: check: { crc: CRC-16/MODBUS }";
                    self.error(&[path, &["check"]].concat(), "the device has no `check` to append", help);
                }
                return None;
            }
            Some(CheckWord::Keys(keys)) => match Check::new(keys) {
                Ok(check) => Appended::Own(Box::new(check)),
                Err(e) => {
                    let below: Vec<&str> = e.path.split('.').collect();
                    let problem = Problem::error(self.desk.place(&[path, &below].concat()), e.text);
                    self.desk.problems.push(match e.help {
                        Some(help) => problem.help(help),
                        None => problem,
                    });
                    return None;
                }
            },
        };
        if is_template(text) {
            // escapes are of the file: what a value brings is never read as one
            let source = if hex { Ok(text.clone().into_bytes()) } else { parse_escaped(text) };
            let source = source.and_then(|bytes| {
                String::from_utf8(bytes)
                    .map_err(|_| "bytes above 7f do not go with a template; write it as `hex`".into())
            });
            let template = match source {
                Ok(source) => Template::compile(&source, scope).map_err(|e| (e, source == *text)),
                Err(why) => {
                    self.error(&at, why, "write text with \\r \\n \\t \\xNN, or {hex: …}");
                    return None;
                }
            };
            match template {
                Ok(template) => return Some(Request::Filled { template, hex, check }),
                Err((e, same)) => {
                    let whole = [&["devices", self.desk.name], at.as_slice()].concat();
                    let inside = same.then(|| self.desk.places.inside(&whole, e.offset)).flatten();
                    let place = inside.or_else(|| self.desk.place(&at));
                    self.desk.problems.push(e.problem(place));
                    return None;
                }
            }
        }
        let bytes = match keys {
            SendKeys::Text(text) => text.parse::<Bytes>().map(|b| b.0),
            _ if hex => parse_hex(text),
            _ => parse_escaped(text),
        };
        let fixed = bytes.and_then(|mut bytes| {
            let check = match &check {
                Appended::No => None,
                Appended::Device => self.check,
                Appended::Own(check) => Some(check.as_ref()),
            };
            match check.map(|check| check.append(&mut bytes)) {
                Some(Err(reason)) => Err(format!("the check cannot be put onto it: {reason}")),
                _ if bytes.is_empty() => Err("there is nothing to send".into()),
                _ => Ok(bytes),
            }
        });
        match fixed {
            Ok(bytes) => Some(Request::Fixed(bytes)),
            Err(why) => {
                self.error(&at, why, "write text with escapes (\"READ\\r\\n\") or hex pairs (\"ff 01 86\")");
                None
            }
        }
    }
}

impl SendKeys {
    fn is_template(&self) -> bool {
        match self {
            SendKeys::Text(text) => is_template(text),
            SendKeys::Form(form) => form.hex.iter().chain(&form.text).any(|text| is_template(text)),
        }
    }
}

fn is_template(text: &str) -> bool {
    text.contains("{{") || text.contains("{%")
}
