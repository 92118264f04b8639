//! Byte strings as people write them: hex pairs (`"42 4d"`) or text with escapes (`"\r\n"`).
//!
//! The rule that tells them apart: pairs of hex digits with one space between them, or one pair alone, are hex;
//! all else is text. So `"02"` is the byte 0x02 and `"ff d8"` two bytes, while `"424d"`, `"OK"` and `";"` are text.
//! Text that looks like hex pairs is written with an escape: `"\x41B"` for the letters `AB`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};

/// A byte string: hex pairs or text with escapes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bytes(pub Vec<u8>);

/// Text with escapes (`\r \n \t \0 \xNN \\`); never hex pairs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Escaped(pub Vec<u8>);

/// Reads hex pairs, with or without spaces between them: `ff 01 86` or `ff0186`.
pub fn parse_hex(text: &str) -> Result<Vec<u8>, String> {
    let wrong = || format!("`{text}` is not hex; write pairs of hex digits: ff 01 86");
    let mut out = Vec::new();
    for word in text.split([' ', '\t', '\n']).filter(|w| !w.is_empty()) {
        if word.len() % 2 != 0 {
            return Err(wrong());
        }
        for pair in word.as_bytes().chunks_exact(2) {
            match (hex_digit(pair[0]), hex_digit(pair[1])) {
                (Some(high), Some(low)) => out.push(high << 4 | low),
                _ => return Err(wrong()),
            }
        }
    }
    Ok(out)
}

/// Reads text with the escapes `\r \n \t \0 \xNN \\`.
pub fn parse_escaped(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        match rest.next() {
            Some(b'r') => out.push(b'\r'),
            Some(b'n') => out.push(b'\n'),
            Some(b't') => out.push(b'\t'),
            Some(b'0') => out.push(0),
            Some(b'e') => out.push(0x1b),
            Some(quoted @ (b'\\' | b'"' | b'\'')) => out.push(quoted),
            Some(b'x') => match (rest.next().and_then(hex_digit), rest.next().and_then(hex_digit)) {
                (Some(high), Some(low)) => out.push(high << 4 | low),
                _ => return Err(format!("`\\x` in `{text}` needs two hex digits: \\x0d")),
            },
            _ => return Err(format!("`{text}` holds an unknown escape; there are \\r \\n \\t \\0 \\xNN and \\\\")),
        }
    }
    Ok(out)
}

/// The value of one hex digit.
pub(crate) fn hex_digit(byte: u8) -> Option<u8> {
    (byte as char).to_digit(16).map(|d| d as u8)
}

fn is_hex_pairs(text: &str) -> bool {
    text.split(' ').all(|pair| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit()))
}

impl FromStr for Bytes {
    type Err = String;
    fn from_str(text: &str) -> Result<Bytes, String> {
        if text.is_empty() {
            return Err("it is empty; write hex pairs (\"42 4d\") or text (\"\\r\\n\")".to_owned());
        }
        if is_hex_pairs(text) {
            return parse_hex(text).map(Bytes);
        }
        if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            return Err(format!("write the bytes without 0x, as hex pairs in quotes: \"{digits}\""));
        }
        parse_escaped(text).map(Bytes)
    }
}

impl FromStr for Escaped {
    type Err = String;
    fn from_str(text: &str) -> Result<Escaped, String> {
        if text.is_empty() {
            return Err("it is empty; write the text that separates, \";\" say".to_owned());
        }
        parse_escaped(text).map(Escaped)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02x}", if i == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

/// Whether all of a mark is punctuation, control or binary bytes: no letter, digit or quote that text could own.
pub(crate) fn is_bare_mark(mark: &[u8]) -> bool {
    !mark.is_empty() && !mark.iter().any(|b| b.is_ascii_alphanumeric() || matches!(b, b'"' | b'-' | b'+' | b'.'))
}

struct BytesVisitor;

impl Visitor<'_> for BytesVisitor {
    type Value = Bytes;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes in quotes: hex pairs (\"42 4d\") or text (\"\\r\\n\")")
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Bytes, E> {
        text.parse().map_err(E::custom)
    }
    // YAML reads an unquoted 42 as a number; two decimal digits were a hex pair to the one who wrote them
    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Bytes, E> {
        match number {
            10..=99 => self.visit_str(&number.to_string()),
            _ => Err(E::custom(format!("`{number}` is a number; write hex pairs in quotes: \"42 4d\""))),
        }
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(BytesVisitor)
    }
}

impl<'de> Deserialize<'de> for Escaped {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Bytes {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "bytes".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "number"],
            "format": "bytes",
            "description": "Bytes: hex pairs (\"42 4d\") or text with escapes (\"\\r\\n\").",
            "examples": ["42 4d"],
        })
    }
}

impl JsonSchema for Escaped {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "escaped-text".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "examples": [";"] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Vec<u8> {
        text.parse::<Bytes>().unwrap().0
    }

    #[test]
    fn hex_pairs_are_bytes_and_all_else_is_text() {
        assert_eq!(bytes("42 4d"), [0x42, 0x4d]);
        assert_eq!(bytes("02"), [2]);
        assert_eq!(bytes("fF D8"), [0xff, 0xd8]);
        assert_eq!(bytes("424d"), b"424d");
        assert_eq!(bytes("42  4d"), b"42  4d");
        assert_eq!(bytes(";"), b";");
        assert_eq!(bytes("\r\n"), b"\r\n");
        assert_eq!(bytes(r"\r\n\t\0\x7f\\"), b"\r\n\t\0\x7f\\");
        assert_eq!(bytes(r"\x41B"), b"AB");
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_advice() {
        for bad in ["", r"\q", r"\x4", "\\", "0x42"] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad:?}");
        }
        assert!("0x42".parse::<Bytes>().unwrap_err().contains("\"42\""));
        assert!(parse_hex("ff 0").is_err());
        assert_eq!(parse_hex("ff01 86").unwrap(), [0xff, 1, 0x86]);
    }

    #[test]
    fn unquoted_digits_in_yaml_are_a_hex_pair() {
        assert_eq!(serde_json::from_str::<Bytes>("68").unwrap().0, [0x68]);
        assert_eq!(serde_json::from_str::<Bytes>("\"02\"").unwrap().0, [2]);
        assert!(serde_json::from_str::<Bytes>("126").is_err());
        assert!(serde_json::from_str::<Bytes>("1.5").is_err());
    }

    #[test]
    fn bytes_print_as_hex_pairs() {
        assert_eq!(Bytes(vec![0x42, 0x4d]).to_string(), "42 4d");
    }
}
