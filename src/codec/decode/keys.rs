//! The keys of `decode:` and of a point, as they are written. What does not go together is told by the decoder.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use crate::codec::bytes::Escaped;
use crate::codec::check::Endian;
use crate::codec::framing::Width;

/// How fields are found in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DecodeType {
    /// `T=21.5;H=40`.
    Keyvalue,
    /// `21.5,40`.
    Csv,
    /// A regular expression with named groups.
    Regex,
    /// JSON; fields by dotted path.
    Json,
    /// NMEA 0183: positions, time, speed.
    Nmea,
    /// Numbers, bits and text at fixed places.
    Binary,
    /// Tag, length, value.
    Tlv,
    /// The whole frame as text.
    #[default]
    Text,
    /// The whole frame as bytes.
    Raw,
}

impl DecodeType {
    /// Whether `match` can look at a field by name.
    pub(super) fn has_fields(self) -> bool {
        !matches!(self, DecodeType::Binary | DecodeType::Tlv | DecodeType::Text | DecodeType::Raw)
    }
}

/// The keys of `decode:`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DecodeKeys {
    /// How fields are found; default text.
    #[serde(rename = "type")]
    pub kind: DecodeType,
    /// keyvalue: what separates pairs; default any of `;`, `,` and white space.
    pub pair: Option<Escaped>,
    /// keyvalue: what stands between name and value; default `=`.
    pub assign: Option<Escaped>,
    /// csv: the columns' names; without them fields are numbers from 0.
    pub columns: Option<Vec<Name>>,
    /// csv: what separates columns; default `,`.
    pub separator: Option<Escaped>,
    /// regex: the expression; its named groups are the fields.
    pub pattern: Option<String>,
    /// tlv: where the first tag stands; default 0.
    pub at: Option<u32>,
    /// tlv: how a tag is written; default u8.
    pub tag: Option<Width>,
    /// tlv: how a length is written; default u8.
    pub length: Option<Width>,
    /// Only frames of this kind are for this device.
    #[serde(rename = "match")]
    pub only: Option<MatchKeys>,
}

impl DecodeKeys {
    pub(super) fn written(&self) -> Vec<&'static str> {
        named([
            ("pair", self.pair.is_some()),
            ("assign", self.assign.is_some()),
            ("columns", self.columns.is_some()),
            ("separator", self.separator.is_some()),
            ("pattern", self.pattern.is_some()),
            ("at", self.at.is_some()),
            ("tag", self.tag.is_some()),
            ("length", self.length.is_some()),
        ])
    }
}

fn named<const N: usize>(keys: [(&'static str, bool); N]) -> Vec<&'static str> {
    keys.into_iter().filter_map(|(name, is)| is.then_some(name)).collect()
}

/// The keys by which a point finds its value in a frame. Meant to be flattened beside the other keys of a point.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FieldKeys {
    /// The field's name: a key, a column, a group, a JSON path; default: the point's name.
    pub field: Option<Name>,
    /// What the value must be; default: a number where it is one, else text.
    #[serde(rename = "type")]
    pub kind: Option<FieldType>,
    /// A regular expression; its first group is the value. With `field` it looks there, else at the whole frame.
    pub pattern: Option<String>,
    /// binary: offset in the frame; a negative one counts from the end.
    pub at: Option<i64>,
    /// binary, tlv: a number written so.
    #[serde(rename = "as")]
    pub number: Option<As>,
    /// binary, tlv: bytes of packed decimal digits.
    pub bcd: Option<u32>,
    /// binary, tlv: this many bytes as they are, or `rest`.
    pub bytes: Option<Count>,
    /// binary, tlv: this many bytes of text, or `rest`.
    pub text: Option<Count>,
    /// binary, tlv: one bit, 0 is the lowest.
    pub bit: Option<u32>,
    /// binary, tlv: bits from and to, both included.
    pub bits: Option<[u32; 2]>,
    /// tlv: the element's tag.
    pub tag: Option<u32>,
    /// Which byte of `bcd` comes first; default big.
    pub endian: Option<Endian>,
    /// Only frames of this kind.
    #[serde(rename = "match")]
    pub only: Option<MatchKeys>,
}

impl FieldKeys {
    /// The keys that say where the value is.
    pub(super) fn written(&self) -> Vec<&'static str> {
        named([
            ("field", self.field.is_some()),
            ("at", self.at.is_some()),
            ("as", self.number.is_some()),
            ("bcd", self.bcd.is_some()),
            ("bytes", self.bytes.is_some()),
            ("text", self.text.is_some()),
            ("bit", self.bit.is_some()),
            ("bits", self.bits.is_some()),
            ("tag", self.tag.is_some()),
            ("endian", self.endian.is_some()),
        ])
    }
}

/// What a value must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FieldType {
    /// A finite decimal number.
    Number,
    /// Text, also where it looks like a number.
    Text,
    /// ON, OFF, 1, 0, true, false.
    Bool,
}

/// How a number is written: sign, bits, byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum As {
    /// 8 bits, unsigned.
    U8,
    /// 8 bits, signed.
    I8,
    /// 16 bits, unsigned, high byte first.
    U16be,
    /// 16 bits, unsigned, low byte first.
    U16le,
    /// 16 bits, signed, high byte first.
    I16be,
    /// 16 bits, signed, low byte first.
    I16le,
    /// 24 bits, unsigned, high byte first.
    U24be,
    /// 24 bits, unsigned, low byte first.
    U24le,
    /// 24 bits, signed, high byte first.
    I24be,
    /// 24 bits, signed, low byte first.
    I24le,
    /// 32 bits, unsigned, high byte first.
    U32be,
    /// 32 bits, unsigned, low byte first.
    U32le,
    /// 32 bits, signed, high byte first.
    I32be,
    /// 32 bits, signed, low byte first.
    I32le,
    /// 64 bits, unsigned, high byte first.
    U64be,
    /// 64 bits, unsigned, low byte first.
    U64le,
    /// 64 bits, signed, high byte first.
    I64be,
    /// 64 bits, signed, low byte first.
    I64le,
    /// 32 bits, IEEE 754, high byte first.
    F32be,
    /// 32 bits, IEEE 754, low byte first.
    F32le,
    /// 64 bits, IEEE 754, high byte first.
    F64be,
    /// 64 bits, IEEE 754, low byte first.
    F64le,
}

/// Which frames.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MatchKeys {
    /// This field …
    #[serde(default)]
    pub field: Option<Name>,
    /// … or the bytes at this offset …
    #[serde(default)]
    pub at: Option<i64>,
    /// … is this, or one of these.
    pub is: Is,
}

/// One text or several.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Is {
    /// One.
    One(Name),
    /// Any of these.
    Any(Vec<Name>),
}

impl Is {
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        match self {
            Is::One(name) => std::slice::from_ref(name),
            Is::Any(names) => names,
        }
        .iter()
        .map(|name| name.0.as_str())
    }
}

/// A text that YAML may take for a number or a boolean.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Name(pub String);

/// A number of bytes, or all that are left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// So many.
    Bytes(usize),
    /// Up to the end of the content: what follows is check or end mark.
    Rest,
}

struct NameVisitor;

impl Visitor<'_> for NameVisitor {
    type Value = Name;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name or a number")
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Name, E> {
        Ok(Name(text.to_owned()))
    }
    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Name, E> {
        Ok(Name(number.to_string()))
    }
    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Name, E> {
        Ok(Name(number.to_string()))
    }
    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Name, E> {
        Ok(Name(number.to_string()))
    }
    fn visit_bool<E: de::Error>(self, flag: bool) -> Result<Name, E> {
        Ok(Name(flag.to_string()))
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(NameVisitor)
    }
}

impl JsonSchema for Name {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Name".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "number", "boolean"] })
    }
}

struct CountVisitor;

impl Visitor<'_> for CountVisitor {
    type Value = Count;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of bytes, or rest")
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Count, E> {
        match text {
            "rest" => Ok(Count::Rest),
            _ => Err(E::custom(format!("`{text}` is neither a number of bytes nor `rest`"))),
        }
    }
    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Count, E> {
        match u32::try_from(number) {
            Ok(n) if n > 0 => Ok(Count::Bytes(n as usize)),
            _ => Err(E::custom("write a number of bytes from 1, or `rest`")),
        }
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(CountVisitor)
    }
}

impl JsonSchema for Count {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Count".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "integer", "minimum": 1 }, { "const": "rest" }] })
    }
}
