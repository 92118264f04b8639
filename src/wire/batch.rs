//! Several readings in one message: a list of the maps that `payload: json` writes, each with the name of its point.
//!
//! What the user properties of a single reading say (time, number, quality, whether it waited) stands in its map here;
//! the message itself only says how many there are.

use std::time::Duration;

use ciborium::Value as Cbor;
use serde_json::{Value as Json, json};

use crate::model::{Message, PayloadFormat, Properties};

use super::payload;
use super::record::{ReadingRecord, Sending};

/// The message of these readings, which have one destination. `None` of none, or where they are not for a batch.
pub fn message(readings: &[(&ReadingRecord, Sending)]) -> Option<Message> {
    let (first, _) = readings.first()?;
    let batched = first.batch.as_deref()?;
    let (payload, kind) = match first.format {
        PayloadFormat::Cbor => {
            let list = Cbor::Array(readings.iter().map(|(reading, sending)| cbor(reading, sending)).collect());
            let mut bytes = Vec::with_capacity(96 * readings.len());
            // into memory nothing fails
            let _ = ciborium::into_writer(&list, &mut bytes);
            (bytes, "application/cbor")
        }
        PayloadFormat::Json | PayloadFormat::Plain => {
            let list: Vec<Json> = readings.iter().map(|(reading, sending)| json(reading, sending)).collect();
            (Json::Array(list).to_string().into_bytes(), "application/json")
        }
    };
    let mut user = vec![("batch".to_owned(), readings.len().to_string())];
    if readings.iter().any(|(_, sending)| sending.replayed) {
        user.push(("replayed".to_owned(), "1".to_owned()));
    }
    // as long as any of them is worth something
    let expiry: Option<Vec<Duration>> = readings.iter().map(|(_, sending)| sending.expires_in).collect();
    let expiry = expiry.and_then(|all| all.into_iter().max()).map(|e| e.max(Duration::from_secs(1)));
    let properties = Properties { content_type: Some(kind.to_owned()), expiry, user, ..Properties::default() };
    Some(Message { topic: batched.topic.clone(), payload, qos: first.qos, retain: first.retain, properties })
}

fn point(reading: &ReadingRecord) -> &str {
    reading.batch.as_ref().map_or("", |batch| &batch.point)
}

fn json(reading: &ReadingRecord, sending: &Sending) -> Json {
    let mut map = serde_json::Map::new();
    map.insert("point".into(), json!(point(reading)));
    map.extend(payload::json(&reading.value, &reading.words.0, &reading.words.1, &reading.about(sending)));
    if sending.replayed {
        map.insert("replayed".into(), json!(true));
    }
    Json::Object(map)
}

fn cbor(reading: &ReadingRecord, sending: &Sending) -> Cbor {
    let mut map = vec![("point".into(), point(reading).into())];
    map.extend(payload::cbor(&reading.value, &reading.words.0, &reading.words.1, &reading.about(sending)));
    if sending.replayed {
        map.push(("replayed".into(), true.into()));
    }
    Cbor::Map(map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Mono, Now, Qos, Quality, Stamp, Value, Wall};
    use crate::wire::record::Batched;

    fn reading(point: &str, value: Value, format: PayloadFormat) -> ReadingRecord {
        let every = Duration::from_secs(10);
        let batched = Batched { topic: "shed/weather".into(), point: point.into(), every, max: 100, urgent: false };
        ReadingRecord {
            topic: format!("shed/weather/{point}"),
            qos: Qos::AtLeastOnce,
            retain: false,
            format,
            words: ("ON".into(), "OFF".into()),
            value,
            quality: Quality::Good,
            told: None,
            batch: Some(Box::new(batched)),
        }
    }

    fn sending(seq: u64, synced: bool, expires_in: Option<u64>) -> Sending {
        let taken = Stamp { wall: Wall(1_795_176_000_000), mono: Mono::default(), synced };
        let now = Now { wall: Wall(0), mono: Mono::default(), synced: false };
        let expires_in = expires_in.map(Duration::from_secs);
        Sending { seq: Some(seq), replayed: !synced, taken, ours: true, expires_in, now }
    }

    #[test]
    fn each_reading_of_a_batch_keeps_its_time_its_number_and_what_else_is_said_of_it() {
        let (a, b) = (
            reading("temperature", Value::Number(21.5), PayloadFormat::Json),
            reading("rain", Value::Bool(true), PayloadFormat::Json),
        );
        let made = message(&[(&a, sending(7, true, Some(5))), (&b, sending(8, false, Some(9)))]).unwrap();
        assert_eq!(
            String::from_utf8(made.payload).unwrap(),
            concat!(
                r#"[{"point":"temperature","value":21.5,"time":"2026-11-20T12:00:00.000Z","seq":7,"quality":"good"},"#,
                r#"{"point":"rain","value":"ON","time":"2026-11-20T12:00:00.000Z","seq":8,"quality":"good","#,
                r#""clock":"unsynced","replayed":true}]"#
            )
        );
        assert_eq!(made.topic, "shed/weather");
        let user = vec![("batch".to_owned(), "2".to_owned()), ("replayed".to_owned(), "1".to_owned())];
        assert_eq!(made.properties.user, user);
        assert_eq!(made.properties.content_type.as_deref(), Some("application/json"));
        assert_eq!(made.properties.expiry, Some(Duration::from_secs(9)));
    }

    #[test]
    fn one_that_never_expires_lets_the_whole_batch_live() {
        let a = reading("temperature", Value::Number(21.5), PayloadFormat::Json);
        let made = message(&[(&a, sending(7, true, Some(5))), (&a, sending(8, true, None))]).unwrap();
        assert_eq!(made.properties.expiry, None);
        assert_eq!(message(&[]), None);
    }

    #[test]
    fn cbor_holds_the_same_and_bytes_stay_bytes() {
        let a = reading("frame", Value::Bytes(vec![1, 2]), PayloadFormat::Cbor);
        let made = message(&[(&a, sending(7, true, None))]).unwrap();
        let read: Cbor = ciborium::from_reader(&made.payload[..]).unwrap();
        let map = read.as_array().unwrap()[0].as_map().unwrap();
        let keys: Vec<_> = map.iter().map(|(k, _)| k.as_text().unwrap()).collect();
        assert_eq!(keys, ["point", "value", "time", "seq", "quality"]);
        assert_eq!(map[1].1, Cbor::Bytes(vec![1, 2]));
        assert_eq!(made.properties.content_type.as_deref(), Some("application/cbor"));
    }
}
