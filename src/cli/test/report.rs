//! What a scenario came to, for people: what was wanted (`-`) and what was found (`+`).

use std::fmt::Write;
use std::time::Duration;

use tokio::time::Instant;

use super::script::{Like, Wanted};
use crate::link::stand_in::Seen;

/// Messages that a failure shows.
pub const MOST: usize = 12;
/// Characters of a payload that are shown.
const LONG: usize = 120;

/// `1h 2m 3.004s`, without what is 0.
pub fn time(time: Duration) -> String {
    let (hours, minutes) = (time.as_secs() / 3600, time.as_secs() / 60 % 60);
    let seconds = (time - Duration::from_secs(hours * 3600 + minutes * 60)).as_millis() as f64 / 1000.0;
    let mut out = String::new();
    if hours > 0 {
        let _ = write!(out, "{hours}h ");
    }
    if minutes > 0 {
        let _ = write!(out, "{minutes}m ");
    }
    if seconds > 0.0 || out.is_empty() {
        let _ = write!(out, "{seconds}s");
    }
    out.trim_end().to_owned()
}

/// Bytes as a scenario writes them: text with escapes.
pub fn bytes(bytes: &[u8]) -> String {
    let mut out = String::from("\"");
    for byte in bytes.iter().take(LONG) {
        match byte {
            b'\r' => out.push_str("\\r"),
            b'\n' => out.push_str("\\n"),
            b'"' | b'\\' => out.extend(['\\', char::from(*byte)]),
            0x20..=0x7e => out.push(char::from(*byte)),
            other => drop(write!(out, "\\x{other:02x}")),
        }
    }
    out.push_str(if bytes.len() > LONG { "…\"" } else { "\"" });
    out
}

fn payload(found: &[u8]) -> String {
    match std::str::from_utf8(found) {
        Ok(text) if text.chars().all(|c| !c.is_control()) && text.chars().count() <= LONG => text.to_owned(),
        Ok(text) if text.chars().all(|c| !c.is_control()) => text.chars().take(LONG).chain(['…']).collect(),
        _ => bytes(found),
    }
}

fn flags(qos: Option<u8>, retain: Option<bool>) -> String {
    let qos = qos.map(|qos| format!("  qos {qos}")).unwrap_or_default();
    let retain = match retain {
        Some(true) => "  retained",
        Some(false) => "  not retained",
        None => "",
    };
    format!("{qos}{retain}")
}

/// A message that is wanted.
pub fn wanted(wanted: &Wanted) -> String {
    let like = match &wanted.payload {
        None => String::new(),
        Some(Like::Text(text)) => format!("  {}", payload(text.as_bytes())),
        Some(Like::Json(json)) => format!("  json {json}"),
        Some(Like::Between(from, to)) => format!("  between {from} and {to}"),
        Some(Like::Matches(regex)) => format!("  matches {regex}"),
    };
    format!("{}{like}{}", wanted.topic, flags(wanted.qos.map(crate::model::Qos::number), wanted.retain))
}

/// A message that came.
pub fn came(sign: &str, seen: &Seen, began: Instant) -> String {
    let message = &seen.message;
    let flags = flags(Some(message.qos.number()), message.retain.then_some(true));
    let at = time(seen.at.saturating_duration_since(began));
    format!("{sign} {}  {}{flags}  at {at}", message.topic, payload(&message.payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_bytes_are_shown_as_people_write_them() {
        for (ms, text) in [(0, "0s"), (1500, "1.5s"), (60_000, "1m"), (3_723_004, "1h 2m 3.004s"), (3_600_000, "1h")] {
            assert_eq!(time(Duration::from_millis(ms)), text);
        }
        assert_eq!(bytes(b"A\r\n\xff\""), r#""A\r\n\xff\"""#);
    }
}
