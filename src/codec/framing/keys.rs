//! The keys of `frame:`, as they are written. What does not go together is told when the framing is built.

use std::borrow::Cow;
use std::fmt;
use std::ops::{Deref, DerefMut};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use crate::codec::Bytes;
use crate::config::scalar::{OnOff, Span};

/// Longest frame unless `max` says otherwise.
pub const DEFAULT_MAX: usize = 4096;
/// Largest `max`: a picture, not a stream.
pub(super) const LARGEST_MAX: u32 = 16 << 20;
/// The keys of `frame:` as a map.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FrameMap {
    /// What ends each frame; it does not belong to the frame. With "\n" a CR before it goes too.
    pub delimiter: Option<Bytes>,
    /// Bytes of every frame, the start mark counted.
    pub length: Option<u32>,
    /// What every frame begins with; it belongs to the frame.
    pub start: Option<Bytes>,
    /// What every frame ends with; it belongs to the frame.
    pub end: Option<Bytes>,
    /// Bytes that follow the end mark and belong to the frame; default 0.
    pub trailer: Option<u32>,
    /// The frame holds its own length, written so.
    pub length_prefix: Option<Width>,
    /// Where the length stands, counted from the frame's first byte; default: behind the start mark.
    pub at: Option<u32>,
    /// Bytes of the frame that its length does not count; default 0.
    pub adjust: Option<i64>,
    /// Silence that ends a frame.
    pub gap: Option<Span>,
    /// Consistent Overhead Byte Stuffing: zero bytes end frames.
    pub cobs: Option<OnOff>,
    /// RFC 1055: bytes 0xc0 end frames.
    pub slip: Option<OnOff>,
    /// NMEA 0183 sentences; the checksum is verified.
    pub nmea: Option<OnOff>,
    /// Longest frame in bytes; default 4096.
    #[schemars(range(min = 1, max = 16777216))]
    pub max: Option<u32>,
    /// Foreign messages inside the stream, taken out before anything else.
    pub ignore: Option<IgnoreKeys>,
}

/// Foreign messages inside the stream.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IgnoreKeys {
    /// What they begin with.
    pub start: Bytes,
    /// What they end with.
    pub end: Bytes,
}

/// How a number is written on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Width {
    /// One byte.
    U8,
    /// Two bytes, the high one first.
    U16be,
    /// Two bytes, the low one first.
    U16le,
}

impl Width {
    /// Bytes it takes.
    pub fn bytes(self) -> usize {
        if self == Width::U8 { 1 } else { 2 }
    }
    /// Reads it at an offset; `None` beyond the end.
    pub fn read(self, bytes: &[u8], at: usize) -> Option<usize> {
        let low = |i: usize| bytes.get(at.checked_add(i)?).map(|b| usize::from(*b));
        match self {
            Width::U8 => low(0),
            Width::U16be => Some(low(0)? << 8 | low(1)?),
            Width::U16le => Some(low(1)? << 8 | low(0)?),
        }
    }
}

/// The keys of `frame:`: a map, or one of the words `cobs`, `slip`, `nmea`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FrameKeys(pub FrameMap);

impl FrameMap {
    /// The keys that were written, without the options that go with every framing.
    pub(super) fn written(&self) -> Vec<&'static str> {
        let on = |o: Option<OnOff>| o.is_some_and(|o| o.0);
        [
            ("delimiter", self.delimiter.is_some()),
            ("length", self.length.is_some()),
            ("start", self.start.is_some()),
            ("end", self.end.is_some()),
            ("trailer", self.trailer.is_some()),
            ("length_prefix", self.length_prefix.is_some()),
            ("at", self.at.is_some()),
            ("adjust", self.adjust.is_some()),
            ("gap", self.gap.is_some()),
            ("cobs", on(self.cobs)),
            ("slip", on(self.slip)),
            ("nmea", on(self.nmea)),
        ]
        .into_iter()
        .filter_map(|(name, is)| is.then_some(name))
        .collect()
    }
}

impl FrameKeys {
    /// Lines, as a device that says nothing about frames sends them.
    pub fn lines() -> FrameKeys {
        FrameKeys(FrameMap { delimiter: Some(Bytes(b"\n".to_vec())), ..FrameMap::default() })
    }
}

impl Deref for FrameKeys {
    type Target = FrameMap;
    fn deref(&self) -> &FrameMap {
        &self.0
    }
}

impl DerefMut for FrameKeys {
    fn deref_mut(&mut self) -> &mut FrameMap {
        &mut self.0
    }
}

/// The framings that may be written as one word.
const WORDS: [&str; 3] = ["cobs", "slip", "nmea"];

impl<'de> Deserialize<'de> for FrameKeys {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct WordOrMap;
        impl<'de> Visitor<'de> for WordOrMap {
            type Value = FrameKeys;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("how frames are told apart: {delimiter: \"\\r\\n\"}, {length: 32}, cobs, slip or nmea")
            }
            fn visit_str<E: de::Error>(self, word: &str) -> Result<FrameKeys, E> {
                let mut keys = FrameKeys::default();
                match word {
                    "cobs" => keys.cobs = Some(OnOff(true)),
                    "slip" => keys.slip = Some(OnOff(true)),
                    "nmea" => keys.nmea = Some(OnOff(true)),
                    _ => return Err(E::unknown_variant(word, &WORDS)),
                }
                Ok(keys)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<FrameKeys, A::Error> {
                FrameMap::deserialize(MapAccessDeserializer::new(map)).map(FrameKeys)
            }
        }
        d.deserialize_any(WordOrMap)
    }
}

impl JsonSchema for FrameKeys {
    fn schema_name() -> Cow<'static, str> {
        "FrameKeys".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let map = generator.subschema_for::<FrameMap>();
        json_schema!({ "anyOf": [{ "type": "string", "enum": WORDS }, map] })
    }
}
