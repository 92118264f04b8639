//! Answers: to the sender where he wants them, to everybody on `bridge/event`.

use std::time::Duration;

use serde_json::{Map, Value as Json, json};

use crate::model::{Deliver, DeviceId, Message, Mono, Now, Outcome, Priority, Properties, Qos, Value};
use crate::wire::Record;
use crate::wire::payload;

use super::commands::Reply;
use super::{Effect, Engine, Outgoing};

/// How long an answer is worth sending.
const ANSWER_HOLDS: Duration = Duration::from_secs(300);

/// What an answer is about.
pub(super) struct About<'a> {
    /// `None`: a request that found no device.
    pub device: Option<DeviceId>,
    pub verb: &'a str,
    pub wished: Option<&'a Value>,
}

impl<'a> About<'a> {
    pub fn verb(device: DeviceId, verb: &'a str) -> About<'a> {
        About { device: Some(device), verb, wished: None }
    }
}

impl Engine {
    /// Answers a request that is about no device.
    pub(super) fn answer_request(&self, verb: &str, reply: &Reply, outcome: &Outcome, now: &Now, fx: &mut Vec<Effect>) {
        self.answer(About { device: None, verb, wished: None }, reply, outcome, now, fx);
    }

    /// Answers the sender, and tells the others on `bridge/event`.
    pub(super) fn answer(&self, about: About, reply: &Reply, outcome: &Outcome, now: &Now, fx: &mut Vec<Effect>) {
        let mut map = payload::outcome(outcome, reply.id.as_ref(), now.wall);
        if let Some(transaction) = &reply.transaction {
            map.insert("transaction".into(), transaction.clone());
        }
        if let Some(device) = about.device {
            let mut event = json!({ "event": "command", "device": self.device_name(device), "verb": about.verb });
            if let Some(fields) = event.as_object_mut() {
                if let Some(by) = &reply.by {
                    fields.insert("by".into(), json!(by.sender));
                }
                if let Some(wished) = about.wished {
                    fields.insert("wished".into(), payload::to_json(wished, "ON", "OFF"));
                }
                fields.extend(map.iter().filter(|(k, _)| *k != "time").map(|(k, v)| (k.clone(), v.clone())));
            }
            self.bridge.event(&self.topics, event, now, fx);
        }
        fx.extend(send_reply(reply, map, now.mono));
    }
}

/// An answer on its way.
pub fn send_reply(reply: &Reply, map: Map<String, Json>, now: Mono) -> Option<Effect> {
    let topic = reply.topic.clone()?;
    let properties = Properties {
        correlation: reply.correlation.clone(),
        content_type: Some("application/json".into()),
        ..Properties::default()
    };
    let payload = Json::Object(map).to_string().into_bytes();
    let message = Message { topic, payload, qos: Qos::AtLeastOnce, retain: false, properties };
    Some(Effect::Send(Outgoing {
        reading: false,
        priority: Priority::Control,
        lane: u64::MAX,
        deliver: Deliver::All,
        expires: Some(now.after(ANSWER_HOLDS)),
        retain: false,
        taken: None,
        source: "answer".into(),
        record: Record::Message(Box::new(message)),
    }))
}
