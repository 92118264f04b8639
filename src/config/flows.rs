//! The shapes of what passes through the gateway by itself: `relays`, `sessions`. Templates are still texts here.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;

use super::scalar::{OnOff, Plain, Span};

/// `relays`, by name.
pub type Relays = IndexMap<String, Relay>;

/// Messages of topics, or readings of a point, passed on.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Relay {
    /// A topic, with wildcards if need be; or `{point: NAME}`.
    pub from: RelayFrom,
    /// A topic, `{{ … }}` is filled in; or `{set: NAME}`.
    pub to: RelayTo,
    /// What goes out; `payload`, `topic`, `value` and points are known. Default: the payload's bytes.
    #[serde(default)]
    pub payload: Option<Plain>,
    /// What must hold: an expression over `payload`, `topic`, `value` and points.
    #[serde(default)]
    pub when: Option<String>,
    /// Delivery, 0 to 2; default 1.
    #[serde(default)]
    #[schemars(range(min = 0, max = 2))]
    pub qos: Option<u8>,
    /// Whether the broker keeps what goes out; default no.
    #[serde(default)]
    pub retain: Option<OnOff>,
}

/// Where a relay takes from.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RelayFrom {
    /// A topic, with wildcards if need be.
    Topic(String),
    /// The readings of a point.
    Point(FromPoint),
}

/// The readings of a point.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct FromPoint {
    /// `door`, `weather.temperature`.
    pub point: String,
}

/// Where a relay gives to.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RelayTo {
    /// A topic.
    Topic(String),
    /// An output or a writable point.
    Set(ToPoint),
}

/// An output or a writable point.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct ToPoint {
    /// `pump`, `meter.limit`.
    pub set: String,
}

/// `sessions`, by name.
pub type Sessions = IndexMap<String, Session>;

/// An enrolment with a server that hands out an id and then sends commands to be answered; either end.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Session {
    /// client: logs in and answers; server: grants ids, asks and checks the answers.
    pub role: SessionRole,
    /// How a client says who it is.
    #[serde(default)]
    pub login: Login,
    /// Where the id is handed out.
    #[serde(default)]
    pub grant: Grant,
    /// Where commands come; default `{{ grant }}`, the id.
    #[serde(default)]
    pub listen: Option<String>,
    /// Commands and the words they are answered with.
    #[serde(default)]
    pub replies: IndexMap<String, SessionReply>,
    /// Where they are answered; default `{{ grant }}/{{ command }}`.
    #[serde(default)]
    pub reply_to: Option<String>,
    /// The server's last word; default done.
    #[serde(default)]
    pub done: Option<Plain>,
    /// What comes then; default stay.
    #[serde(default)]
    pub on_done: Option<OnDone>,
    /// How long one end waits for the other; default 30s.
    #[serde(default)]
    pub timeout: Option<Span>,
}

/// Which end of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SessionRole {
    /// It logs in and answers.
    Client,
    /// It grants ids, asks and checks the answers.
    Server,
}

/// How a client says who it is.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Login {
    /// On this topic; default login.
    pub topic: Option<String>,
    /// With these words. A server lets in only who says them; without, everybody.
    pub payload: Option<Plain>,
    /// Delivery of all that the two ends say, 0 to 2; default 2.
    #[schemars(range(min = 0, max = 2))]
    pub qos: Option<u8>,
}

/// Where the id is handed out.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Grant {
    /// On this topic; default `{{ login }}/UUID`, with what the client said.
    pub topic: Option<String>,
}

/// What a command is answered with.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum SessionReply {
    /// This word.
    Say(Plain),
    /// What an output reads back that was moved.
    Move(SessionMove),
}

/// An output that a command moves.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct SessionMove {
    /// An output or a writable point.
    pub set: String,
    /// The value.
    pub to: Plain,
    /// The word of the answer; default: what is read back.
    #[serde(default)]
    pub reply: Option<Plain>,
}

/// What comes behind the server's last word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnDone {
    /// Nothing.
    Stay,
    /// The program ends with 0.
    Exit,
    /// The next session.
    Restart,
}
