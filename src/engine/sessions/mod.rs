//! Sessions: an enrolment with a server that hands out an id and then sends commands to be answered. Pure; both ends.
//!
//! A [`client`] says its name on `login`, is granted an id, listens where the id says, answers each command with its
//! word of the table, and is done when the server says so. A [`server`] does the other half for many clients.
//! What moves an output goes the way of every command, within its limits, and is answered when the output has moved.
//!
//! Nothing of a session survives a restart or has to: who misses the other one begins anew by itself, with `login`.
//! A delivery that is marked as repeated and was answered before is not answered again; one that is not marked is the
//! other side asking again, and is. Retained messages are of another time, and are not heard.

mod client;
mod server;

use std::time::Duration;

use serde_json::{Map, Value as Json, json};

use crate::config::scalar::Span;
use crate::expr::{Given, Template};
use crate::model::{
    Deliver, DeviceId, Incoming, Message, Mono, Now, Outcome, OutcomeKind, PointId, Priority, Properties, Qos, Value,
};
use crate::wire::Record;
use crate::wire::topics::{check_filter, check_topic};

use super::bridge::lane;
use super::commands::Reply;
use super::logic::By;
use super::{Effect, Engine, Outgoing};
use client::Client;
use server::Server;

/// Between the grant and the server's first command.
pub const BEGIN: Duration = Duration::from_secs(3);
/// Before a client whose `on_done` is `restart` logs in again.
pub const REST: Duration = Duration::from_secs(1);
/// Clients that a server has at a time.
pub const MOST: usize = 1000;
/// How often a server asks for the same before it gives a client up.
pub const ASKS: u8 = 3;
/// The longest login or id, in bytes.
pub const LONGEST: usize = 128;

/// A session, complete.
#[derive(Debug, Clone)]
pub struct Session {
    /// Its name.
    pub name: String,
    /// Which end.
    pub role: Role,
    /// Where a client says who it is.
    pub login_topic: String,
    /// Who: what a client says, and the only one that a server lets in. `None`: a server takes everybody.
    pub login: Option<String>,
    /// Delivery of all that is said, and of what is listened to.
    pub qos: Qos,
    /// Where the id is handed out; knows `login`.
    pub grant: Template,
    /// Where commands come; knows `grant` and `login`.
    pub listen: Template,
    /// Where they are answered; knows `grant`, `login` and `command`.
    pub reply_to: Template,
    /// Commands and their answers, in the order of the file.
    pub replies: Vec<(String, Answer)>,
    /// The last word of the server.
    pub done: String,
    /// What a client, or a server without further clients, does then.
    pub on_done: OnDone,
    /// How long one end waits for the other.
    pub timeout: Duration,
}

/// Which end of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It logs in and answers.
    Client,
    /// It grants and asks.
    Server,
}

/// What comes behind the last word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDone {
    /// Nothing.
    Stay,
    /// The program ends with 0.
    Exit,
    /// The next session.
    Restart,
}

/// What a command is answered with.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// A word.
    Say(String),
    /// An output is wished to move; what it reads back then, or a word.
    Move {
        /// Whose.
        device: DeviceId,
        /// Which point, where it matters.
        point: Option<PointId>,
        /// To what.
        to: Value,
        /// The word; `None`: what is read back.
        say: Option<String>,
    },
}

impl Answer {
    /// What the server expects.
    fn expected(&self) -> String {
        match self {
            Answer::Say(word) => word.clone(),
            Answer::Move { say: Some(word), .. } => word.clone(),
            Answer::Move { to, .. } => to.to_string(),
        }
    }
}

/// The sessions of a plan.
#[derive(Debug, Default)]
pub struct Plan {
    /// In the order of the file.
    pub sessions: Vec<Session>,
    /// What ids and lists of commands are drawn from.
    pub seed: u64,
}

/// Which command of which session wished something.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    session: usize,
    command: usize,
    /// The id under which it was asked: another one's answer is nobody's.
    grant: String,
}

/// What an end wants to have done.
#[derive(Debug, Clone, PartialEq)]
enum Word {
    Send(String, String),
    Listen(String),
    Hush(String),
    /// The wish of this command, under this id.
    Wish(usize, String),
    /// For `bridge/event`.
    Tell(&'static str, Vec<(&'static str, String)>),
    /// Something is wrong with the other end.
    Wrong(String),
    Exit,
}

/// Numbers that look random: splitmix64.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.roll() % (n.max(1) as u64)).unwrap_or(0)
    }
    /// As RFC 9562 writes a version 4.
    fn uuid(&mut self) -> String {
        let (a, b) = (self.roll(), self.roll());
        let (c, d) = ((a & 0xfff) | 0x4000, ((b >> 48) & 0x3fff) | 0x8000);
        format!("{:08x}-{:04x}-{c:04x}-{d:04x}-{:012x}", a >> 32, (a >> 16) & 0xffff, b & 0xffff_ffff_ffff)
    }
}

#[derive(Debug)]
enum End {
    Client(Client),
    Server(Server),
}

/// The sessions and where they stand.
#[derive(Debug)]
pub(super) struct Sessions {
    all: Vec<(Session, End)>,
    dice: Dice,
    up: bool,
}

impl Sessions {
    pub(super) fn new(plan: Plan) -> Sessions {
        let end = |session: Session| {
            let end = match session.role {
                Role::Client => End::Client(Client::default()),
                Role::Server => End::Server(Server::default()),
            };
            (session, end)
        };
        Sessions { all: plan.sessions.into_iter().map(end).collect(), dice: Dice(plan.seed), up: false }
    }

    /// Nothing is due while the broker is away.
    pub(super) fn next_wake(&self) -> Option<Mono> {
        let wakes = self.all.iter().filter_map(|(_, end)| match end {
            End::Client(client) => client.next_wake(),
            End::Server(server) => server.next_wake(),
        });
        wakes.min().filter(|_| self.up)
    }
}

impl Session {
    fn render(&self, template: &Template, words: &[(&str, &str)], filter: bool) -> Result<String, String> {
        let topic =
            template.render(&Given { words, ..Given::default() }).map_err(|blank| blank.say(|_| String::new()))?;
        let fits = if filter { check_filter(&topic) } else { check_topic(&topic) };
        fits.map(|()| topic)
    }

    fn grant_topic(&self, login: &str) -> Result<String, String> {
        self.render(&self.grant, &[("login", login)], false)
    }

    fn listen_topic(&self, login: &str, grant: &str) -> Result<String, String> {
        self.render(&self.listen, &[("login", login), ("grant", grant)], false)
    }

    fn reply_topic(&self, login: &str, grant: &str, command: &str) -> Result<String, String> {
        self.render(&self.reply_to, &[("login", login), ("grant", grant), ("command", command)], command == "+")
    }

    fn command(&self, index: usize) -> &str {
        self.replies.get(index).map_or("", |(command, _)| command)
    }
}

/// A login or an id: text that may stand in a topic. Foreign, so it is judged.
fn name(payload: &[u8]) -> Result<&str, &'static str> {
    match std::str::from_utf8(payload) {
        Err(_) => Err("it is not text"),
        Ok("") => Err("it is empty"),
        Ok(text) if text.len() > LONGEST => Err("it is longer than 128 bytes"),
        Ok(text) => Ok(text),
    }
}

/// Foreign text in an event.
fn shown(payload: &[u8]) -> String {
    String::from_utf8_lossy(payload.get(..64).unwrap_or(payload)).into_owned()
}

impl Engine {
    /// The broker is there, or gone.
    pub(super) fn sessions_broker(&mut self, up: bool, now: &Now, fx: &mut Vec<Effect>) {
        self.sessions.up = up;
        for i in 0..self.sessions.all.len() {
            let mut words = Vec::new();
            match self.sessions.all.get_mut(i) {
                Some((session, End::Client(client))) if up => client.up(session, now.mono, &mut words),
                Some((session, End::Server(server))) if up => server.up(session, now.mono),
                _ => {}
            }
            self.session_words(i, words, now, fx);
        }
    }

    /// A message came; it may be for several.
    pub(super) fn sessions_hear(&mut self, message: &Incoming, now: &Now, fx: &mut Vec<Effect>) {
        if message.retain || self.stopping {
            return;
        }
        for i in 0..self.sessions.all.len() {
            let mut words = Vec::new();
            let Sessions { all, dice, .. } = &mut self.sessions;
            match all.get_mut(i) {
                Some((session, End::Client(client))) => client.hear(session, message, now.mono, &mut words),
                Some((session, End::Server(server))) => server.hear(session, message, dice, now.mono, &mut words),
                None => {}
            }
            self.session_words(i, words, now, fx);
        }
    }

    /// Time has come for some.
    pub(super) fn sessions_due(&mut self, now: &Now, fx: &mut Vec<Effect>) {
        if !self.sessions.up || self.stopping {
            return;
        }
        for i in 0..self.sessions.all.len() {
            let mut words = Vec::new();
            match self.sessions.all.get_mut(i) {
                Some((session, End::Client(client))) => client.due(session, now.mono, &mut words),
                Some((session, End::Server(server))) => server.due(session, now.mono, &mut words),
                None => {}
            }
            self.session_words(i, words, now, fx);
        }
    }

    /// A command of the table has moved its output, or could not.
    pub(super) fn session_moved(&mut self, reply: &Reply, outcome: &Outcome, now: &Now, fx: &mut Vec<Effect>) {
        let Some(asked) = reply.by.as_ref().and_then(|by| by.session.clone()) else { return };
        let mut words = Vec::new();
        if let Some((session, End::Client(client))) = self.sessions.all.get_mut(asked.session) {
            let said = match (outcome.kind, session.replies.get(asked.command)) {
                (OutcomeKind::Done | OutcomeKind::Unchanged, Some((_, Answer::Move { to, say, .. }))) => {
                    let read = outcome.value.as_ref().map_or_else(|| to.to_string(), Value::to_string);
                    Ok(say.clone().unwrap_or(read))
                }
                _ => Err(outcome.reason.clone().unwrap_or_else(|| outcome.kind.as_str().to_owned())),
            };
            client.moved(session, &asked, said, &mut words);
        }
        self.session_words(asked.session, words, now, fx);
    }

    fn session_words(&mut self, i: usize, words: Vec<Word>, now: &Now, fx: &mut Vec<Effect>) {
        for word in words {
            let Some((session, _)) = self.sessions.all.get(i) else { return };
            match word {
                Word::Send(topic, payload) => fx.push(said(session, topic, payload, now)),
                Word::Listen(filter) => fx.push(Effect::Listen(filter, session.qos)),
                Word::Hush(filter) => fx.push(Effect::Hush(filter)),
                Word::Tell(state, about) => {
                    let mut event = Map::new();
                    event.insert("event".into(), json!("session"));
                    event.insert("session".into(), json!(session.name));
                    event.insert("state".into(), json!(state));
                    event.extend(about.into_iter().map(|(key, value)| (key.to_owned(), json!(value))));
                    self.bridge.event(&self.topics, Json::Object(event), now, fx);
                }
                Word::Wrong(text) => {
                    let text = format!("session {}: {text}", session.name);
                    self.bridge.problem(&self.topics, &text, now, fx);
                }
                Word::Exit => fx.push(Effect::Exit(format!("session {} is done", session.name))),
                Word::Wish(command, grant) => {
                    let Some((_, Answer::Move { device, point, to, .. })) = session.replies.get(command) else {
                        continue;
                    };
                    let (device, point, to) = (*device, *point, to.clone());
                    let asked = Asked { session: i, command, grant };
                    let sender = format!("session {}", session.name);
                    let by = By { sender, step: None, session: Some(asked) };
                    self.wish_by(by, device, point, "set", to, now, fx);
                }
            }
        }
    }
}

/// What one end says to the other. It waits in the queue no longer than the other end waits.
fn said(session: &Session, topic: String, payload: String, now: &Now) -> Effect {
    let message = Message {
        topic,
        payload: payload.into_bytes(),
        qos: session.qos,
        retain: false,
        properties: Properties::default(),
    };
    Effect::Send(Outgoing {
        reading: false,
        priority: Priority::Control,
        lane: lane(&session.login_topic),
        deliver: Deliver::All,
        expires: Some(now.mono.after(session.timeout)),
        retain: false,
        taken: None,
        source: format!("session {}", session.name),
        record: Record::Message(Box::new(message)),
    })
}

/// How long somebody waited, for an event.
fn waited(session: &Session) -> String {
    Span(session.timeout).to_string()
}
