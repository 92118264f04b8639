//! How a reading and an outcome are written.

use ciborium::Value as Cbor;
use jiff::Timestamp;
use serde_json::{Map, Value as Json, json};

use crate::model::{Outcome, PayloadFormat, Quality, Value, Wall};

/// RFC 3339 in UTC with milliseconds: `2026-11-20T12:00:00.123Z`.
pub fn time_text(wall: Wall) -> String {
    match Timestamp::from_millisecond(wall.0) {
        Ok(t) => format!("{t:.3}"),
        // out of the calendar's range: a clock gone mad must not lose the reading
        Err(_) => "1970-01-01T00:00:00.000Z".to_owned(),
    }
}

/// Reads RFC 3339 with any offset.
pub fn parse_time(text: &str) -> Option<Wall> {
    text.parse::<Timestamp>().ok().map(|t| Wall(t.as_millisecond()))
}

/// A value as JSON. Bytes become lower-case hex.
pub fn to_json(value: &Value, on: &str, off: &str) -> Json {
    match value {
        Value::Bool(b) => json!(if *b { on } else { off }),
        Value::Number(n) if n.fract() == 0.0 && n.abs() < 9e15 => json!(*n as i64),
        Value::Number(n) => json!(n),
        Value::Text(t) => json!(t),
        Value::Bytes(b) => json!(hex(b)),
    }
}

/// Lower-case hex; frames may be long.
fn hex(bytes: &[u8]) -> String {
    let digit = |n: u8| char::from_digit(u32::from(n), 16).unwrap_or_default();
    let mut text = String::with_capacity(bytes.len() * 2);
    for b in bytes {
        text.push(digit(b >> 4));
        text.push(digit(b & 15));
    }
    text
}

/// What is written of a reading besides its value.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// When it was taken.
    pub time: Wall,
    /// Whether that time can be trusted.
    pub synced: bool,
    /// Its number.
    pub seq: Option<u64>,
    /// Whether to believe it.
    pub quality: Quality,
}

/// Writes a reading; gives the payload and its content type.
pub fn reading(value: &Value, on: &str, off: &str, format: PayloadFormat, about: &About) -> (Vec<u8>, &'static str) {
    match format {
        PayloadFormat::Plain => match value {
            Value::Bytes(b) => (b.clone(), "application/octet-stream"),
            Value::Bool(b) => ((if *b { on } else { off }).as_bytes().to_vec(), "text/plain"),
            other => (other.to_string().into_bytes(), "text/plain"),
        },
        PayloadFormat::Json => (Json::Object(json(value, on, off, about)).to_string().into_bytes(), "application/json"),
        PayloadFormat::Cbor => {
            let mut bytes = Vec::with_capacity(96);
            // into memory nothing fails
            let _ = ciborium::into_writer(&Cbor::Map(cbor(value, on, off, about)), &mut bytes);
            (bytes, "application/cbor")
        }
    }
}

/// The map of a reading in JSON.
pub(super) fn json(value: &Value, on: &str, off: &str, about: &About) -> Map<String, Json> {
    let mut map = Map::new();
    map.insert("value".into(), to_json(value, on, off));
    map.insert("time".into(), json!(time_text(about.time)));
    if let Some(seq) = about.seq {
        map.insert("seq".into(), json!(seq));
    }
    map.insert("quality".into(), json!(about.quality.as_str()));
    if !about.synced {
        map.insert("clock".into(), json!("unsynced"));
    }
    map
}

/// The map of the JSON in CBOR, its keys in the same order. Whole numbers are integers.
pub(super) fn cbor(value: &Value, on: &str, off: &str, about: &About) -> Vec<(Cbor, Cbor)> {
    let value = match value {
        Value::Bool(b) => (if *b { on } else { off }).into(),
        Value::Number(n) if n.fract() == 0.0 && n.abs() < 9e15 => Cbor::Integer((*n as i64).into()),
        Value::Number(n) => Cbor::Float(*n),
        Value::Text(t) => t.as_str().into(),
        Value::Bytes(b) => Cbor::Bytes(b.clone()),
    };
    let mut map = vec![("value".into(), value), ("time".into(), time_text(about.time).into())];
    map.extend(about.seq.map(|seq| ("seq".into(), seq.into())));
    map.push(("quality".into(), about.quality.as_str().into()));
    if !about.synced {
        map.push(("clock".into(), "unsynced".into()));
    }
    map
}

/// Writes the answer to a command.
pub fn outcome(outcome: &Outcome, id: Option<&Json>, time: Wall) -> Map<String, Json> {
    let mut map = Map::new();
    if let Some(id) = id {
        map.insert("id".into(), id.clone());
    }
    map.insert("outcome".into(), json!(outcome.kind.as_str()));
    if let Some(value) = &outcome.value {
        map.insert("value".into(), to_json(value, "ON", "OFF"));
    }
    if let Some(reason) = &outcome.reason {
        map.insert("reason".into(), json!(reason));
    }
    map.insert("time".into(), json!(time_text(time)));
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::OutcomeKind;

    const ABOUT: About = About { time: Wall(1_795_176_000_123), synced: true, seq: Some(7), quality: Quality::Good };

    #[test]
    fn plain_is_the_bare_value() {
        let plain = |v| String::from_utf8(reading(&v, "open", "shut", PayloadFormat::Plain, &ABOUT).0).unwrap();
        assert_eq!(plain(Value::Bool(true)), "open");
        assert_eq!(plain(Value::Number(23.5)), "23.5");
        assert_eq!(plain(Value::Text("a b".into())), "a b");
        assert_eq!(reading(&Value::Bytes(vec![0xff, 0]), "", "", PayloadFormat::Plain, &ABOUT).0, [0xff, 0]);
    }

    #[test]
    fn bytes_are_hex_in_json() {
        assert_eq!(to_json(&Value::Bytes(vec![0x00, 0x0f, 0xa5, 0xff]), "", ""), "000fa5ff");
    }

    #[test]
    fn json_carries_time_seq_and_quality() {
        let (bytes, kind) = reading(&Value::Number(23.5), "ON", "OFF", PayloadFormat::Json, &ABOUT);
        assert_eq!(kind, "application/json");
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            r#"{"value":23.5,"time":"2026-11-20T12:00:00.123Z","seq":7,"quality":"good"}"#
        );
        let unsynced = About { synced: false, ..ABOUT };
        let (bytes, _) = reading(&Value::Bool(true), "ON", "OFF", PayloadFormat::Json, &unsynced);
        assert!(String::from_utf8(bytes).unwrap().ends_with(r#""quality":"good","clock":"unsynced"}"#));
    }

    #[test]
    fn cbor_is_the_same_map_and_bytes_stay_bytes() {
        let write = |value, about| reading(&value, "open", "shut", PayloadFormat::Cbor, about);
        let (bytes, kind) = write(Value::Bytes(vec![0xff, 0]), &ABOUT);
        assert_eq!(kind, "application/cbor");
        // by the tables of RFC 8949: a map of 4; texts (0x60 + length, 0x78 length), bytes (0x40 + length), 7
        let mut wanted = b"\xa4\x65value\x42\xff\x00\x64time\x78\x182026-11-20T12:00:00.123Z".to_vec();
        wanted.extend(b"\x63seq\x07\x67quality\x64good");
        assert_eq!(bytes, wanted);
        let values =
            [(Value::Number(23.5), json!(23.5)), (Value::Number(-4.0), json!(-4)), (Value::Bool(true), json!("open"))];
        for (value, wanted) in values {
            let (bytes, _) = write(value, &About { synced: false, seq: None, ..ABOUT });
            let map: Json = ciborium::from_reader(bytes.as_slice()).unwrap();
            let about = json!({ "time": "2026-11-20T12:00:00.123Z", "quality": "good", "clock": "unsynced" });
            let mut whole = json!({ "value": wanted });
            whole.as_object_mut().unwrap().extend(about.as_object().unwrap().clone());
            assert_eq!(map, whole);
        }
    }

    #[test]
    fn times_are_read_with_any_offset() {
        assert_eq!(parse_time("2026-11-20T13:00:00.123+01:00"), Some(Wall(1_795_176_000_123)));
        assert_eq!(parse_time("yesterday"), None);
        assert_eq!(time_text(Wall(i64::MAX)), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn an_outcome_says_why() {
        let o = Outcome::because(OutcomeKind::Rejected, "it is retained");
        let text = Json::Object(outcome(&o, Some(&json!("a1")), Wall(0))).to_string();
        assert_eq!(
            text,
            r#"{"id":"a1","outcome":"rejected","reason":"it is retained","time":"1970-01-01T00:00:00.000Z"}"#
        );
    }
}
