//! What stands in registers: one value of a point in one or several of them, read and written.
//!
//! Source: MODBUS Application Protocol Specification V1.1b3, sections 4.3 and 6. How numbers of more than one register
//! are ordered is not in it; `word_order` says which register comes first, `be` and `le` the order of the bytes.

use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use crate::model::Value;
use crate::model::value::parse_number;

/// One of the four tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Table {
    Coil,
    Discrete,
    Holding,
    Input,
}

impl Table {
    pub fn word(self) -> &'static str {
        match self {
            Table::Coil => "coil",
            Table::Discrete => "discrete",
            Table::Holding => "holding",
            Table::Input => "input",
        }
    }
    /// Whether its cells are single bits.
    pub fn is_bits(self) -> bool {
        matches!(self, Table::Coil | Table::Discrete)
    }
    /// The most cells that one request may ask for.
    pub fn longest(self) -> u16 {
        if self.is_bits() { 1968 } else { 120 }
    }
}

/// Which register of a number comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum WordOrder {
    /// The one with the highest digits, as most devices do.
    #[default]
    HighFirst,
    /// The one with the lowest digits.
    LowFirst,
}

/// How a number is written: `u16`, `i16`, `u32`, `i32`, `u64`, `i64`, `f32`, `f64`, each also with `be` (as it is
/// without) or `le` behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Number {
    pub kind: char,
    /// Bytes.
    pub size: usize,
    /// Lowest byte first.
    pub little: bool,
}

impl Number {
    pub const U16: Number = Number { kind: 'u', size: 2, little: false };

    /// The range of what it can hold, for whole numbers.
    pub fn range(self) -> Option<(f64, f64)> {
        let bits = self.size as i32 * 8;
        match self.kind {
            'u' => Some((0.0, 2f64.powi(bits) - 1.0)),
            'i' => Some((-(2f64.powi(bits - 1)), 2f64.powi(bits - 1) - 1.0)),
            _ => None,
        }
    }
}

const NUMBERS: [&str; 8] = ["u16", "i16", "u32", "i32", "u64", "i64", "f32", "f64"];

impl FromStr for Number {
    type Err = String;
    fn from_str(text: &str) -> Result<Number, String> {
        let (word, little) = match (text.strip_suffix("be"), text.strip_suffix("le")) {
            (Some(word), _) => (word, false),
            (_, Some(word)) => (word, true),
            _ => (text, false),
        };
        if !NUMBERS.contains(&word) {
            let list = NUMBERS.join(", ");
            return Err(format!(
                "`{text}` is no kind of number in registers; write one of {list}, each also with be or le"
            ));
        }
        let size = word.get(1..).and_then(|bits| bits.parse::<usize>().ok()).unwrap_or(16) / 8;
        Ok(Number { kind: word.chars().next().unwrap_or('u'), size, little })
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Number, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Number {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RegisterNumber".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let words: Vec<String> =
            NUMBERS.iter().flat_map(|n| ["", "be", "le"].map(|order| format!("{n}{order}"))).collect();
        json_schema!({ "type": "string", "enum": words })
    }
}

/// What a point's cells mean.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Form {
    /// A coil or a discrete input.
    Cell,
    /// A number; `scale` is what one step of it is worth.
    Number { number: Number, order: WordOrder, scale: f64 },
    /// One bit of a register, 0 is the lowest.
    Bit(u32),
    /// Bits of a register from and to, both included.
    Bits(u32, u32),
    /// So many bytes of text, two in a register.
    Text(usize),
}

impl Form {
    /// How many cells it takes.
    pub fn cells(&self) -> u16 {
        let bytes = match self {
            Form::Cell => return 1,
            Form::Number { number, .. } => number.size,
            Form::Bit(_) | Form::Bits(..) => 2,
            Form::Text(bytes) => *bytes,
        };
        u16::try_from(bytes.div_ceil(2)).unwrap_or(u16::MAX)
    }

    /// Reads registers; `None` if they are too few, or hold what is no finite number.
    pub fn read(&self, registers: &[u16]) -> Option<Value> {
        let first = *registers.first()?;
        match *self {
            Form::Cell => Some(Value::Bool(first != 0)),
            Form::Bit(bit) => Some(Value::Bool(first >> bit & 1 == 1)),
            Form::Bits(from, to) => {
                let width = to - from + 1;
                Some(Value::Number(f64::from(u32::from(first) >> from & ((1 << width) - 1))))
            }
            Form::Text(size) => {
                let bytes: Vec<u8> = registers.iter().flat_map(|r| r.to_be_bytes()).take(size).collect();
                let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
                Some(Value::Text(String::from_utf8_lossy(bytes.get(..end)?).trim_end().to_owned()))
            }
            Form::Number { number, order, scale } => {
                let mut raw = [0u8; 8];
                let words: Vec<u16> = registers.get(..number.size / 2)?.to_vec();
                let bytes: Vec<u8> = ordered(words, order).into_iter().flat_map(u16::to_be_bytes).collect();
                // everything is read from the highest byte on
                for (i, byte) in bytes.iter().enumerate() {
                    let at = if number.little { number.size - 1 - i } else { i };
                    *raw.get_mut(8 - number.size + at)? = *byte;
                }
                let whole = u64::from_be_bytes(raw);
                let shift = 64 - 8 * number.size as u32;
                let n = match (number.kind, number.size) {
                    ('f', 4) => short(f32::from_bits(whole as u32)),
                    ('f', _) => f64::from_bits(whole),
                    ('i', _) => ((whole << shift) as i64 >> shift) as f64,
                    _ => whole as f64,
                };
                let n = scaled(n, scale);
                n.is_finite().then_some(Value::Number(n))
            }
        }
    }

    /// The registers that hold a number.
    pub fn write(&self, value: f64) -> Result<Vec<u16>, String> {
        let Form::Number { number, order, scale } = *self else {
            return Err("it holds no number".into());
        };
        let raw = unscaled(value, scale);
        let whole = match (number.kind, number.range()) {
            ('f', _) if number.size == 4 => u64::from((raw as f32).to_bits()),
            ('f', _) => raw.to_bits(),
            (_, Some((low, high))) if !(low..=high).contains(&raw.round()) => {
                return Err(format!("{value} does not fit in its registers: {} to {}", low * scale, high * scale));
            }
            ('i', _) => (raw.round() as i64) as u64,
            _ => raw.round() as u64,
        };
        let mut bytes: Vec<u8> = whole.to_be_bytes().into_iter().skip(8 - number.size).collect();
        if number.little {
            bytes.reverse();
        }
        let words = bytes.chunks(2).map(|b| b.iter().fold(0, |word, byte| word << 8 | u16::from(*byte))).collect();
        Ok(ordered(words, order))
    }

    /// A register with this point's bit set or not.
    pub fn with_bit(&self, register: u16, on: bool) -> Option<u16> {
        match *self {
            Form::Bit(bit) if on => Some(register | 1 << bit),
            Form::Bit(bit) => Some(register & !(1 << bit)),
            _ => None,
        }
    }
}

fn ordered(mut words: Vec<u16>, order: WordOrder) -> Vec<u16> {
    if order == WordOrder::LowFirst {
        words.reverse();
    }
    words
}

/// The decimal number that a single-precision one was written from: 23.1, not 23.10000038.
fn short(n: f32) -> f64 {
    parse_number(&n.to_string()).unwrap_or(f64::from(n))
}

/// A step of 0.1 is division by ten, which gives 23.1 where multiplication gives 23.1000000001.
fn scaled(n: f64, scale: f64) -> f64 {
    match inverse(scale) {
        Some(steps) => n / steps,
        None => n * scale,
    }
}

fn unscaled(n: f64, scale: f64) -> f64 {
    match inverse(scale) {
        Some(steps) => n * steps,
        None => n / scale,
    }
}

fn inverse(scale: f64) -> Option<f64> {
    let steps = (1.0 / scale).round();
    (scale.abs() < 1.0 && (steps * scale - 1.0).abs() < 1e-12).then_some(steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number(word: &str, order: WordOrder, scale: f64) -> Form {
        Form::Number { number: word.parse().unwrap(), order, scale }
    }
    use WordOrder::{HighFirst, LowFirst};

    #[test]
    fn numbers_are_read_in_every_order() {
        // 123456.0 as IEEE 754: 47 f1 20 00
        for (word, order, registers) in [
            ("f32", HighFirst, [0x47f1, 0x2000]),
            ("f32", LowFirst, [0x2000, 0x47f1]),
            ("f32le", HighFirst, [0x0020, 0xf147]),
            ("f32le", LowFirst, [0xf147, 0x0020]),
        ] {
            assert_eq!(number(word, order, 1.0).read(&registers), Some(Value::Number(123_456.0)), "{word} {order:?}");
        }
        assert_eq!(number("i16", HighFirst, 0.1).read(&[0xfff6]), Some(Value::Number(-1.0)));
        assert_eq!(number("u16", HighFirst, 0.1).read(&[231]), Some(Value::Number(23.1)));
        assert_eq!(number("u32", HighFirst, 1.0).read(&[1, 2]), Some(Value::Number(65_538.0)));
        assert_eq!(number("i32", LowFirst, 1.0).read(&[0xfffe, 0xffff]), Some(Value::Number(-2.0)));
        assert_eq!(number("u64", HighFirst, 1.0).read(&[0, 0, 1, 0]), Some(Value::Number(65_536.0)));
        assert_eq!(number("f64", HighFirst, 1.0).read(&[0x3ff8, 0, 0, 0]), Some(Value::Number(1.5)));
        assert_eq!(number("f32", HighFirst, 1.0).read(&[0x41b8, 0xcccd]), Some(Value::Number(23.1)));
        assert_eq!(number("f32", HighFirst, 1.0).read(&[0x7fc0, 0]), None, "not a number");
        assert_eq!(number("u32", HighFirst, 1.0).read(&[1]), None, "too short");
    }

    #[test]
    fn bits_and_text_are_read() {
        assert_eq!(Form::Bit(15).read(&[0x8000]), Some(Value::Bool(true)));
        assert_eq!(Form::Bits(4, 7).read(&[0x0a50]), Some(Value::Number(5.0)));
        assert_eq!(Form::Bits(0, 15).read(&[0xffff]), Some(Value::Number(65_535.0)));
        assert_eq!(Form::Text(5).read(&[0x5344, 0x4d36, 0x3300]), Some(Value::Text("SDM63".into())));
        assert_eq!(Form::Text(4).read(&[0x4100, 0x4242]), Some(Value::Text("A".into())));
        assert_eq!(Form::Bit(3).with_bit(0xffff, false), Some(0xfff7));
    }

    #[test]
    fn what_does_not_fit_is_not_written() {
        assert_eq!(number("u16", HighFirst, 0.1).write(21.5), Ok(vec![215]));
        assert!(number("u16", HighFirst, 0.1).write(-1.0).unwrap_err().contains("0 to 6553.5"));
        assert!(number("i16", HighFirst, 1.0).write(40_000.0).is_err());
    }

    #[test]
    fn a_word_that_is_no_number_is_refused_with_the_list() {
        assert!("u24".parse::<Number>().unwrap_err().contains("u16, i16"));
        assert!("".parse::<Number>().is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            word in proptest::sample::select(&NUMBERS[..]),
            little in any::<bool>(),
            low_first in any::<bool>(),
            n in -30_000i32..30_000,
            scale in proptest::sample::select(&[1.0, 0.1, 0.01, 2.0][..]),
        ) {
            let order = if low_first { LowFirst } else { HighFirst };
            let form = number(&format!("{word}{}", if little { "le" } else { "be" }), order, scale);
            let n = f64::from(if word.starts_with('u') { n.abs() } else { n });
            let value = scaled(n, scale);
            prop_assert_eq!(form.read(&form.write(value).unwrap()), Some(Value::Number(value)));
        }

        #[test]
        fn no_registers_panic(word in proptest::sample::select(&NUMBERS[..]), words in proptest::collection::vec(any::<u16>(), 0..6), bits in (0u32..16, 0u32..16)) {
            let _ = number(word, HighFirst, 0.1).read(&words);
            let _ = Form::Text(9).read(&words);
            let _ = Form::Bits(bits.0.min(bits.1), bits.0.max(bits.1)).read(&words);
        }
    }
}
