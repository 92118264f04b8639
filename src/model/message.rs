//! MQTT messages, free of any library's types.

use std::time::Duration;

/// Quality of service of a publish or subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord)]
pub enum Qos {
    /// At most once.
    AtMostOnce,
    /// At least once.
    #[default]
    AtLeastOnce,
    /// Exactly once.
    ExactlyOnce,
}

impl Qos {
    /// 0, 1 or 2.
    pub fn number(self) -> u8 {
        self as u8
    }
    /// From 0, 1 or 2.
    pub fn from_number(n: u8) -> Option<Qos> {
        match n {
            0 => Some(Qos::AtMostOnce),
            1 => Some(Qos::AtLeastOnce),
            2 => Some(Qos::ExactlyOnce),
            _ => None,
        }
    }
}

/// MQTT 5 properties that pinpost reads or writes; 3.1.1 carries none of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    /// Where the answer is wanted.
    pub response_topic: Option<String>,
    /// Sent back unchanged with the answer.
    pub correlation: Option<Vec<u8>>,
    /// MIME type of the payload.
    pub content_type: Option<String>,
    /// Whole seconds after which the broker should forget the message.
    pub expiry: Option<Duration>,
    /// Key and value pairs, in order.
    pub user: Vec<(String, String)>,
}

/// A message to publish, complete.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// Full topic, no wildcard.
    pub topic: String,
    /// Payload as it goes out.
    pub payload: Vec<u8>,
    /// Delivery wanted.
    pub qos: Qos,
    /// Whether the broker keeps it for later subscribers.
    pub retain: bool,
    /// MQTT 5 properties.
    pub properties: Properties,
}

/// A message that a subscription brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Incoming {
    /// Full topic.
    pub topic: String,
    /// Payload as it came.
    pub payload: Vec<u8>,
    /// The broker's retain flag.
    pub retain: bool,
    /// The broker's redelivery flag; true does not mean that it was seen before.
    pub dup: bool,
    /// Came out of the store that the broker kept for us while we were away.
    pub backlog: bool,
    /// MQTT 5 properties.
    pub properties: Properties,
    /// What the link needs to acknowledge it, once it was acted on or refused. 0: nothing to acknowledge.
    pub ack: u64,
}
