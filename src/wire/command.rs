//! Reads a command's payload: the plain value, or `{"value":…,"id":…,"ttl":"5s","time":…}`.

use std::time::Duration;

use serde_json::Value as Json;

use crate::config::scalar::Span;
use crate::model::{Incoming, Value, Wall};

use super::payload::parse_time;

/// Longest payload of a command that is looked at; a `send` may be longer.
const MAX_COMMAND: usize = 64 * 1024;

/// A command's payload, taken apart. Nothing is judged yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Wish {
    /// The value as it came.
    pub value: Value,
    /// The sender's id, a text or a number: it is echoed as it came.
    pub id: Option<Json>,
    /// How long it holds.
    pub ttl: Option<Duration>,
    /// When it was wished.
    pub time: Option<Wall>,
}

/// Takes a command's payload apart, with what MQTT 5 says beside it. The error is for the sender.
///
/// A JSON object with a `value` is the envelope; everything else is the value itself.
pub fn parse(message: &Incoming) -> Result<Wish, String> {
    let user = |key: &str| message.properties.user.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
    let mut wish = Wish {
        value: Value::Bytes(Vec::new()),
        id: user("id").map(|id| Json::String(clip(id))),
        ttl: None,
        time: None,
    };
    if let Some(text) = user("time") {
        wish.time = Some(parse_time(text).ok_or("`time` is not RFC 3339; write 2026-11-20T12:00:00Z")?);
    }
    let envelope = if message.payload.len() <= MAX_COMMAND && message.payload.first() == Some(&b'{') {
        serde_json::from_slice::<Json>(&message.payload).ok().and_then(|json| match json {
            Json::Object(map) if map.contains_key("value") => Some(map),
            _ => None,
        })
    } else {
        None
    };
    let Some(map) = envelope else {
        wish.value = match std::str::from_utf8(&message.payload) {
            Ok(text) => Value::Text(text.to_owned()),
            Err(_) => Value::Bytes(message.payload.clone()),
        };
        return Ok(wish);
    };
    wish.value = from_json(map.get("value").unwrap_or(&Json::Null));
    match map.get("id") {
        None | Some(Json::Null) => {}
        Some(Json::String(s)) => wish.id = Some(Json::String(clip(s))),
        Some(Json::Number(n)) => wish.id = Some(Json::Number(n.clone())),
        Some(_) => return Err("`id` is a text or a number".into()),
    }
    match map.get("ttl") {
        None | Some(Json::Null) => {}
        Some(Json::String(s)) => wish.ttl = Some(s.parse::<Span>().map_err(|e| format!("`ttl`: {e}"))?.0),
        Some(_) => return Err("`ttl` is a duration with a unit: \"5s\"".into()),
    }
    match map.get("time") {
        None | Some(Json::Null) => {}
        Some(Json::String(s)) => {
            wish.time = Some(parse_time(s).ok_or("`time` is not RFC 3339; write 2026-11-20T12:00:00Z")?);
        }
        Some(_) => return Err("`time` is a text: \"2026-11-20T12:00:00Z\"".into()),
    }
    Ok(wish)
}

/// The sender's id, as far as it can be read: for the refusal of what cannot be understood.
pub fn id_of(message: &Incoming) -> Option<Json> {
    let user = message.properties.user.iter().find(|(k, _)| k == "id").map(|(_, v)| Json::String(clip(v)));
    if message.payload.len() > MAX_COMMAND || message.payload.first() != Some(&b'{') {
        return user;
    }
    match serde_json::from_slice::<Json>(&message.payload).unwrap_or_default().get("id") {
        Some(Json::String(s)) => Some(Json::String(clip(s))),
        Some(Json::Number(n)) => Some(Json::Number(n.clone())),
        _ => user,
    }
}

/// A JSON value as a value; lists, objects and null as their text.
pub fn from_json(json: &Json) -> Value {
    match json {
        Json::Bool(b) => Value::Bool(*b),
        Json::Number(n) => match n.as_f64().filter(|n| n.is_finite()) {
            Some(n) => Value::Number(n),
            None => Value::Text(n.to_string()),
        },
        Json::String(s) => Value::Text(s.clone()),
        other => Value::Text(other.to_string()),
    }
}

/// An id as it is remembered: foreign text of any length must not fill the memory.
fn clip(id: &str) -> String {
    id.chars().take(128).collect()
}

/// What an on/off output is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
    /// The other of the two.
    Toggle,
}

/// Reads what an on/off output is told: the point's own words, `ON OFF TOGGLE`, `true false`, `1 0`.
pub fn switch(value: &Value, on: &str, off: &str) -> Option<Switch> {
    match value {
        Value::Bool(true) => Some(Switch::On),
        Value::Bool(false) => Some(Switch::Off),
        Value::Number(n) if *n == 1.0 => Some(Switch::On),
        Value::Number(n) if *n == 0.0 => Some(Switch::Off),
        Value::Text(t) => {
            let t = t.trim();
            if t == on {
                return Some(Switch::On);
            }
            if t == off {
                return Some(Switch::Off);
            }
            match t.to_ascii_lowercase().as_str() {
                "on" | "true" | "1" => Some(Switch::On),
                "off" | "false" | "0" => Some(Switch::Off),
                "toggle" => Some(Switch::Toggle),
                _ => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(payload: &str) -> Incoming {
        Incoming { payload: payload.into(), ..Incoming::default() }
    }

    #[test]
    fn a_plain_payload_is_the_value() {
        assert_eq!(parse(&message("ON")).unwrap().value, Value::Text("ON".into()));
        assert_eq!(parse(&message("{\"a\":1}")).unwrap().value, Value::Text("{\"a\":1}".into()));
        assert_eq!(parse(&message("{broken")).unwrap().value, Value::Text("{broken".into()));
    }

    #[test]
    fn an_envelope_is_taken_apart() {
        let wish = parse(&message(r#"{"value":true,"id":7,"ttl":"5s","time":"1970-01-01T00:00:01Z"}"#)).unwrap();
        assert_eq!(wish.value, Value::Bool(true));
        assert_eq!(wish.id, Some(Json::from(7)));
        assert_eq!(wish.ttl, Some(Duration::from_secs(5)));
        assert_eq!(wish.time, Some(Wall(1000)));
        assert!(parse(&message(r#"{"value":1,"ttl":5}"#)).unwrap_err().contains("5s"));
        assert!(parse(&message(r#"{"value":1,"time":"now"}"#)).unwrap_err().contains("RFC 3339"));
    }

    #[test]
    fn an_id_is_found_in_what_cannot_be_understood() {
        let by = |payload: &str| id_of(&message(payload));
        assert_eq!(by(r#"{"value":1,"id":"a","ttl":5}"#), Some(Json::from("a")));
        assert_eq!(by(r#"{"vlaue":1,"id":7}"#), Some(Json::from(7)));
        assert_eq!((by("ON"), by("{broken"), by(r#"{"id":[1]}"#)), (None, None, None));
        let mut named = message(r#"{"value":1,"id":[],"ttl":5}"#);
        named.properties.user.push(("id".into(), "u1".into()));
        assert_eq!(id_of(&named), Some(Json::from("u1")));
    }

    #[test]
    fn switches_have_many_words() {
        for (text, want) in [("ON", Switch::On), ("off", Switch::Off), (" Toggle\n", Switch::Toggle), ("1", Switch::On)]
        {
            assert_eq!(switch(&Value::Text(text.into()), "ON", "OFF"), Some(want));
        }
        assert_eq!(switch(&Value::Text("auf".into()), "auf", "zu"), Some(Switch::On));
        assert_eq!(switch(&Value::Text("maybe".into()), "ON", "OFF"), None);
        assert_eq!(switch(&Value::Number(2.0), "ON", "OFF"), None);
    }

    proptest! {
        #[test]
        fn no_payload_panics(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&Incoming { payload, ..Incoming::default() });
        }
        #[test]
        fn no_json_panics(text in r#"\{"value":.{0,40}"(id|ttl|time)":.{0,20}\}"#) {
            let _ = parse(&message(&text));
        }
    }
}
