//! Whether a message may go to this broker as it is. Pure.
//!
//! A broker says in its CONNACK what it cannot take; some of it can be helped (a lesser QoS, no retain flag), some
//! not (its size, a topic that no broker takes). Checked before sending: rumqttc fails on the answer 0x95 and would
//! send the same record again for ever.

use crate::model::{Message, Qos};

/// What the broker said it can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// MQTT 5: properties are sent.
    pub v5: bool,
    /// Greatest QoS.
    pub max_qos: Qos,
    /// Whether it keeps retained messages.
    pub retain: bool,
    /// Greatest packet in bytes, everything included.
    pub max_packet: Option<u32>,
}

/// MQTT's own bound on a packet (2.1.4): a remaining length of four bytes.
const MQTT_MAX: usize = 268_435_455;

/// Why a message can never be sent here: the reason code a broker would give, and words.
pub type Unfit = (u8, String);

/// The message as it may be sent, and the size of its packet.
pub fn fit(mut message: Message, limits: &Limits) -> Result<(Message, usize), Unfit> {
    if let Some(why) = bad_topic(&message.topic) {
        return Err((0x90, why));
    }
    message.qos = message.qos.min(limits.max_qos);
    message.retain &= limits.retain;
    if limits.v5
        && let Some(why) = bad_properties(&message)
    {
        return Err((0x95, why));
    }
    let size = packet_size(&message, limits.v5);
    let max = limits.max_packet.map_or(MQTT_MAX, |m| m as usize).min(MQTT_MAX);
    if size > max {
        return Err((0x95, format!("the message takes {size} bytes, this broker takes at most {max}")));
    }
    Ok((message, size))
}

fn bad_topic(topic: &str) -> Option<String> {
    if topic.is_empty() {
        Some("the topic is empty".into())
    } else if topic.len() > 65_535 {
        Some("the topic is longer than 65535 bytes".into())
    } else if topic.contains(['+', '#', '\0']) {
        Some("a topic to publish on holds no + # or NUL".into())
    } else {
        None
    }
}

fn bad_properties(message: &Message) -> Option<String> {
    let p = &message.properties;
    let long = |s: &str| s.len() > 65_535;
    if p.response_topic.as_deref().is_some_and(long)
        || p.content_type.as_deref().is_some_and(long)
        || p.correlation.as_ref().is_some_and(|c| c.len() > 65_535)
        || p.user.iter().any(|(k, v)| long(k) || long(v))
    {
        return Some("an MQTT property is longer than 65535 bytes".into());
    }
    if p.response_topic.as_deref().is_some_and(|t| bad_topic(t).is_some()) {
        return Some("the response topic is empty or holds + # or NUL".into());
    }
    None
}

/// Bytes of the PUBLISH packet (MQTT 3.1.1 and 5, 3.3).
pub fn packet_size(message: &Message, v5: bool) -> usize {
    let mut rest = 2 + message.topic.len() + message.payload.len();
    if message.qos != Qos::AtMostOnce {
        rest += 2;
    }
    if v5 {
        let p = &message.properties;
        let mut properties = 0;
        properties += p.expiry.map_or(0, |_| 5);
        properties += p.response_topic.as_ref().map_or(0, |t| 3 + t.len());
        properties += p.content_type.as_ref().map_or(0, |t| 3 + t.len());
        properties += p.correlation.as_ref().map_or(0, |c| 3 + c.len());
        properties += p.user.iter().map(|(k, v)| 5 + k.len() + v.len()).sum::<usize>();
        rest += varint(properties) + properties;
    }
    1 + varint(rest) + rest
}

/// Bytes of a variable byte integer (MQTT 5, 1.5.5).
fn varint(n: usize) -> usize {
    match n {
        0..128 => 1,
        128..16_384 => 2,
        16_384..2_097_152 => 3,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Properties;
    use std::time::Duration;

    const ANY: Limits = Limits { v5: true, max_qos: Qos::ExactlyOnce, retain: true, max_packet: None };

    fn message(topic: &str, payload: usize) -> Message {
        Message { topic: topic.into(), payload: vec![b'x'; payload], ..Message::default() }
    }

    #[test]
    fn what_the_broker_cannot_keep_is_sent_as_it_can() {
        let wish = Message { qos: Qos::ExactlyOnce, retain: true, ..message("a", 1) };
        let limits = Limits { max_qos: Qos::AtMostOnce, retain: false, ..ANY };
        let (sent, _) = fit(wish, &limits).unwrap();
        assert_eq!((sent.qos, sent.retain), (Qos::AtMostOnce, false));
    }

    #[test]
    fn a_packet_of_exactly_the_greatest_size_passes_and_one_more_byte_does_not() {
        let limits = Limits { max_packet: Some(200), ..ANY };
        let room = 200 - packet_size(&message("a", 0), true) - 1; // one more byte of remaining length
        assert_eq!(fit(message("a", room), &limits).unwrap().1, 200);
        let (code, why) = fit(message("a", room + 1), &limits).unwrap_err();
        assert!(code == 0x95 && why.contains("201") && why.contains("200"), "{why}");
    }

    #[test]
    fn topics_that_no_broker_takes_are_refused_with_words() {
        for bad in ["", "a/+/b", "#", "a\0b"] {
            assert!(fit(message(bad, 1), &ANY).is_err(), "{bad:?}");
        }
        assert!(fit(message(&"x".repeat(65_536), 1), &ANY).is_err());
        let long = Properties { user: vec![("k".into(), "v".repeat(70_000))], ..Properties::default() };
        assert!(fit(Message { properties: long, ..message("a", 1) }, &ANY).is_err());
    }

    #[test]
    fn the_size_is_what_the_library_writes() {
        for payload in [0, 1, 100, 126, 127, 128, 5000, 16_400, 70_000] {
            for qos in [Qos::AtMostOnce, Qos::AtLeastOnce] {
                let full = Properties {
                    response_topic: Some("back/here".into()),
                    correlation: Some(vec![1, 2, 3]),
                    content_type: Some("text/plain".into()),
                    expiry: Some(Duration::from_secs(9)),
                    user: vec![("time".into(), "2026".into()), ("seq".into(), "x".repeat(payload.min(300)))],
                };
                for properties in [Properties::default(), full] {
                    let m = Message { qos, properties, ..message("some/topic", payload) };
                    let mut buffer = bytes::BytesMut::new();
                    let mut packet = crate::link::session_v5::publish(m.clone());
                    packet.pkid = u16::from(qos != Qos::AtMostOnce);
                    packet.write(&mut buffer).unwrap();
                    assert_eq!(packet_size(&m, true), buffer.len());
                    let mut buffer = bytes::BytesMut::new();
                    let mut packet =
                        rumqttc::Publish::new(&m.topic, rumqttc::qos(qos.number()).unwrap(), m.payload.clone());
                    packet.pkid = u16::from(qos != Qos::AtMostOnce);
                    packet.write(&mut buffer).unwrap();
                    assert_eq!(packet_size(&m, false), buffer.len());
                }
            }
        }
    }
}
