//! A wish, what a device is asked to do about it, and what became of it.

use std::time::Duration;

use super::{DeviceId, PointId, Value, Wall};

/// A wish as it was understood from a message, not yet judged.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// Who it is for.
    pub device: DeviceId,
    /// Which of its points, where the device has several.
    pub point: Option<PointId>,
    /// `set`, `get`, `pulse`, `send` or a kind's own verb.
    pub verb: String,
    /// What was wished, as it came (after the JSON envelope was taken off).
    pub value: Value,
    /// The sender's id: a redelivery with the same id is executed once.
    pub id: Option<String>,
    /// How long the wish holds, from `wished` or else from arrival.
    pub ttl: Option<Duration>,
    /// When it was wished, where the sender said so.
    pub wished: Option<Wall>,
}

/// What a device task is asked to do. Already judged: it may be carried out at once.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Bring the point to this logical value and read it back.
    Set(Value),
    /// Bring the point to this value in so much time, step by step. It is answered with the value at the first step;
    /// the last one is told as a reading.
    Fade {
        /// The value at the end.
        to: Value,
        /// How long it takes.
        over: Duration,
    },
    /// Write these bytes to the port.
    Send(Vec<u8>),
    /// A verb of the kind's own ([`super::VerbSpec`]), or `set` of a point that is no output. The value is of the form
    /// that the verb takes.
    Verb {
        /// The point it is said to: its place among the device's points; `None`: said to the device.
        point: Option<usize>,
        /// Its word.
        verb: String,
        /// What was wished; empty text where the verb takes nothing.
        value: Value,
    },
}

/// Why a device did not do what it was asked, by what the sender can make of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// `rejected`, `failed`, `busy` or `timeout`.
    pub kind: OutcomeKind,
    /// In words a person understands.
    pub reason: String,
}

impl Refusal {
    /// A refusal of this kind.
    pub fn new(kind: OutcomeKind, reason: impl Into<String>) -> Refusal {
        Refusal { kind, reason: reason.into() }
    }
}

/// It was tried, and the hardware did not follow.
impl From<String> for Refusal {
    fn from(reason: String) -> Refusal {
        Refusal::new(OutcomeKind::Failed, reason)
    }
}

/// It was tried, and the hardware did not follow.
impl From<&str> for Refusal {
    fn from(reason: &str) -> Refusal {
        Refusal::new(OutcomeKind::Failed, reason)
    }
}

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutcomeKind {
    /// Carried out and read back.
    Done,
    /// It already was so.
    Unchanged,
    /// Not allowed or not understood.
    Rejected,
    /// Too old.
    Expired,
    /// Tried; the hardware did not follow.
    Failed,
    /// Not now; ask again.
    Busy,
    /// No answer in time.
    Timeout,
}

impl OutcomeKind {
    /// All of them.
    pub const ALL: [OutcomeKind; 7] = {
        use OutcomeKind::{Busy, Done, Expired, Failed, Rejected, Timeout, Unchanged};
        [Done, Unchanged, Rejected, Expired, Failed, Busy, Timeout]
    };
    /// The word in results.
    pub fn as_str(self) -> &'static str {
        match self {
            OutcomeKind::Done => "done",
            OutcomeKind::Unchanged => "unchanged",
            OutcomeKind::Rejected => "rejected",
            OutcomeKind::Expired => "expired",
            OutcomeKind::Failed => "failed",
            OutcomeKind::Busy => "busy",
            OutcomeKind::Timeout => "timeout",
        }
    }
}

/// The answer to a command.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// What became of it.
    pub kind: OutcomeKind,
    /// The value now, where it is known.
    pub value: Option<Value>,
    /// Why, in words a person understands; present for everything but `done` and `unchanged`.
    pub reason: Option<String>,
}

impl Outcome {
    /// Carried out; the value as read back.
    pub fn done(value: Option<Value>) -> Outcome {
        Outcome { kind: OutcomeKind::Done, value, reason: None }
    }
    /// Anything that needs a reason.
    pub fn because(kind: OutcomeKind, reason: impl Into<String>) -> Outcome {
        Outcome { kind, value: None, reason: Some(reason.into()) }
    }
}
