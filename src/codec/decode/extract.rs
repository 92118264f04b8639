//! Values out of bytes: what `binary` and `tlv` share. `as`, `bcd`, `bytes`, `text`, `bit`, `bits`.

use super::{As, Count, FieldKeys, Found};
use crate::codec::KeyError;
use crate::codec::check::Endian;

#[derive(Clone, Copy)]
enum Form {
    Number(As),
    Bcd { bytes: usize, little: bool },
    Bytes(Count),
    Text(Count),
}

/// How one value is taken out of the bytes at its place.
pub(super) struct Extract {
    form: Form,
    /// Lowest and highest bit, and whether it is one bit by name.
    bits: Option<(u32, u32, bool)>,
}

impl As {
    fn width(self) -> usize {
        use As::*;
        match self {
            U8 | I8 => 1,
            U16be | U16le | I16be | I16le => 2,
            U24be | U24le | I24be | I24le => 3,
            U32be | U32le | I32be | I32le | F32be | F32le => 4,
            U64be | U64le | I64be | I64le | F64be | F64le => 8,
        }
    }

    fn is_little(self) -> bool {
        use As::*;
        matches!(self, U16le | I16le | U24le | I24le | U32le | I32le | U64le | I64le | F32le | F64le)
    }

    fn is_signed(self) -> bool {
        use As::*;
        matches!(self, I8 | I16be | I16le | I24be | I24le | I32be | I32le | I64be | I64le)
    }

    fn is_float(self) -> bool {
        use As::*;
        matches!(self, F32be | F32le | F64be | F64le)
    }

    /// The bits as they stand, in the low end.
    fn raw(self, bytes: &[u8]) -> Option<u64> {
        let bytes = bytes.get(..self.width())?;
        let join = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        Some(if self.is_little() { bytes.iter().rev().fold(0, join) } else { bytes.iter().fold(0, join) })
    }

    fn read(self, bytes: &[u8]) -> Option<Found<'static>> {
        let raw = self.raw(bytes)?;
        let number = if self.is_float() {
            let float = if self.width() == 4 { shortest(f32::from_bits(raw as u32)) } else { f64::from_bits(raw) };
            if !float.is_finite() {
                return Some(Found::Wrong(float.to_string()));
            }
            float
        } else if self.is_signed() {
            let unused = 64 - 8 * self.width() as u32;
            ((raw << unused) as i64 >> unused) as f64
        } else {
            raw as f64
        };
        Some(Found::Number(number))
    }
}

/// The double that prints like the float: 21.3, not 21.299999237060547.
fn shortest(float: f32) -> f64 {
    use std::io::Write;
    let mut text = [0u8; 32];
    let mut rest = &mut text[..];
    let wide = f64::from(float);
    if write!(rest, "{float:e}").is_err() {
        return wide;
    }
    let left = rest.len();
    std::str::from_utf8(&text[..32 - left]).ok().and_then(|text| text.parse().ok()).unwrap_or(wide)
}

impl FieldKeys {
    /// How many bytes a value takes, where the keys say so.
    pub fn width(&self) -> Option<usize> {
        let count = |count: Option<Count>| match count {
            Some(Count::Bytes(n)) => Some(n),
            _ => None,
        };
        let number = self.number.map(As::width).or(self.bcd.map(|n| n as usize));
        let bits = self.bit.is_some() || self.bits.is_some();
        number.or(count(self.bytes)).or(count(self.text)).or(bits.then_some(1))
    }
}

impl Extract {
    /// From a point's keys; `fallback` is used where they name no form.
    pub(super) fn new(keys: &FieldKeys, path: &str, fallback: Option<Count>) -> Result<Extract, KeyError> {
        let little = keys.endian == Some(Endian::Little);
        let forms = [
            keys.number.map(|number| ("as", Form::Number(number))),
            keys.bcd.map(|bytes| ("bcd", Form::Bcd { bytes: bytes as usize, little })),
            keys.bytes.map(|count| ("bytes", Form::Bytes(count))),
            keys.text.map(|count| ("text", Form::Text(count))),
        ];
        let named: Vec<_> = forms.into_iter().flatten().collect();
        let bits = match (keys.bit, keys.bits) {
            (Some(_), Some(_)) => {
                return Err(KeyError::new(format!("{path}.bits"), "`bit` and `bits` are two things")
                    .help("write `bit: 3` for one bit, `bits: [4, 7]` for several"));
            }
            (Some(bit), None) => Some((bit, bit, true)),
            (None, Some([low, high])) => Some((low.min(high), low.max(high), false)),
            (None, None) => None,
        };
        let form = match (named.as_slice(), fallback) {
            ([(_, form)], _) => *form,
            ([], _) if bits.is_some() => Form::Number(As::U8),
            ([], Some(count)) => Form::Bytes(count),
            ([], None) => {
                return Err(KeyError::new(path, "it does not say how the value is written")
                    .help("add `as: u16be`, `bcd: 4`, `bytes: 4`, `text: 4` or `bit: 0`"));
            }
            ([(a, _), (b, _), ..], _) => {
                return Err(KeyError::new(format!("{path}.{b}"), format!("`{a}` and `{b}` are two ways to read it"))
                    .help("write one of them"));
            }
        };
        if let Form::Bcd { bytes, .. } = form
            && !(1..=8).contains(&bytes)
        {
            return Err(KeyError::new(format!("{path}.bcd"), format!("{bytes} bytes of digits are not possible"))
                .help("write 1 to 8 bytes"));
        }
        if keys.endian.is_some() && !matches!(form, Form::Bcd { .. }) {
            return Err(KeyError::new(format!("{path}.endian"), "`endian` goes with `bcd`")
                .help("a number says it by its name: u16be or u16le"));
        }
        if let Some((_, high, one)) = bits {
            let key = format!("{path}.{}", if one { "bit" } else { "bits" });
            match form {
                Form::Number(number) if number.is_float() => {
                    return Err(KeyError::new(key, "a float has no bits of its own").help("read it `as: u32be`"));
                }
                Form::Number(number) if high as usize >= 8 * number.width() => {
                    let last = 8 * number.width() - 1;
                    return Err(KeyError::new(key, format!("there is no bit {high}; it has bits 0 to {last}"))
                        .help("read a wider number, `as: u16be` say"));
                }
                Form::Number(_) => {}
                _ => return Err(KeyError::new(key, "bits belong to a number").help("write `as: u8` or leave it out")),
            }
        }
        Ok(Extract { form, bits })
    }

    /// Takes the value from the front of `bytes`; `data` is where the content ends. `None` if the bytes do not reach.
    pub(super) fn read<'a>(&self, bytes: &'a [u8], data: usize) -> Option<Found<'a>> {
        let part = |count| match count {
            Count::Bytes(n) => bytes.get(..n),
            Count::Rest => bytes.get(..data.min(bytes.len())),
        };
        match (self.form, self.bits) {
            (Form::Number(number), Some((low, high, one))) => {
                let width = high - low + 1;
                let mask = if width >= 64 { u64::MAX } else { (1 << width) - 1 };
                let value = number.raw(bytes)? >> low & mask;
                Some(if one { Found::Flag(value == 1) } else { Found::Number(value as f64) })
            }
            (Form::Number(number), None) => number.read(bytes),
            (Form::Bcd { bytes: n, little }, _) => Some(bcd(bytes.get(..n)?, little)),
            (Form::Bytes(count), _) => Some(Found::Bytes(part(count)?)),
            (Form::Text(count), _) => {
                let text = part(count)?;
                let text = text.split(|b| *b == 0).next().unwrap_or(text);
                Some(Found::Text(super::trim(text)))
            }
        }
    }
}

fn bcd(bytes: &[u8], little: bool) -> Found<'static> {
    let mut value = 0u64;
    for i in 0..bytes.len() {
        let byte = bytes[if little { bytes.len() - 1 - i } else { i }];
        let (high, low) = (byte >> 4, byte & 15);
        if high > 9 || low > 9 {
            return Found::Wrong(hex(bytes));
        }
        value = value * 100 + u64::from(high * 10 + low);
    }
    Found::Number(value as f64)
}

/// Bytes for a person.
pub(super) fn hex(bytes: &[u8]) -> String {
    crate::codec::Bytes(bytes.to_vec()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str, bytes: &[u8]) -> String {
        let keys: FieldKeys = serde_json::from_str(json).unwrap();
        let extract = Extract::new(&keys, "p", None).unwrap();
        match extract.read(bytes, bytes.len()) {
            None => "none".to_owned(),
            Some(found) => {
                let (value, bad) = super::super::coerce(found, None);
                if bad { format!("bad {value}") } else { value.to_string() }
            }
        }
    }

    #[test]
    fn numbers_are_read_as_they_are_written() {
        for (form, bytes, expected) in [
            ("u8", &[200u8][..], "200"),
            ("i8", &[200], "-56"),
            ("u16be", &[1, 2], "258"),
            ("u16le", &[1, 2], "513"),
            ("i16be", &[0xff, 0xfe], "-2"),
            ("i16le", &[0xfe, 0xff], "-2"),
            ("u24be", &[1, 0, 0], "65536"),
            ("i24le", &[0xff, 0xff, 0xff], "-1"),
            ("u32le", &[0, 0, 0, 0x80], "2147483648"),
            ("i32be", &[0x80, 0, 0, 0], "-2147483648"),
            ("u64be", &[0, 0, 0, 1, 0, 0, 0, 0], "4294967296"),
            ("i64le", &[0xff; 8], "-1"),
            ("f32be", &[0x41, 0xaa, 0x66, 0x66], "21.3"),
            ("f32le", &[0, 0, 0x80, 0xbf], "-1"),
            ("f64be", &[0x40, 0x35, 0x4c, 0xcc, 0xcc, 0xcc, 0xcc, 0xcd], "21.3"),
            ("f32be", &[0x7f, 0xc0, 0, 0], "bad NaN"),
            ("u16be", &[1], "none"),
        ] {
            assert_eq!(read(&format!(r#"{{"as": "{form}"}}"#), bytes), expected, "{form}");
        }
    }

    #[test]
    fn bits_digits_and_text_come_out_of_bytes() {
        assert_eq!(read(r#"{"bit": 3}"#, &[8]), "ON");
        assert_eq!(read(r#"{"bit": 15, "as": "u16be"}"#, &[0x7f, 0xff]), "OFF");
        assert_eq!(read(r#"{"bits": [4, 7]}"#, &[0xa5]), "10");
        assert_eq!(read(r#"{"bcd": 3}"#, &[0x01, 0x23, 0x45]), "12345");
        assert_eq!(read(r#"{"bcd": 3, "endian": "little"}"#, &[0x45, 0x23, 0x01]), "12345");
        assert_eq!(read(r#"{"bcd": 2}"#, &[0x1a, 0x00]), "bad 1a 00");
        assert_eq!(read(r#"{"text": 6}"#, b"AB \0\0\0"), "AB");
        assert_eq!(read(r#"{"text": "rest"}"#, b"12.50"), "12.5");
        assert_eq!(read(r#"{"bytes": 2}"#, &[1, 2, 3]), "<2 bytes>");
    }

    #[test]
    fn forms_that_cannot_be_are_told() {
        for (json, path) in [
            ("{}", "p"),
            (r#"{"as": "u8", "bcd": 2}"#, "p.bcd"),
            (r#"{"as": "u8", "bit": 8}"#, "p.bit"),
            (r#"{"bits": [4, 9]}"#, "p.bits"),
            (r#"{"as": "f32be", "bit": 1}"#, "p.bit"),
            (r#"{"bcd": 9}"#, "p.bcd"),
            (r#"{"as": "u8", "endian": "big"}"#, "p.endian"),
        ] {
            let keys: FieldKeys = serde_json::from_str(json).unwrap();
            let error = Extract::new(&keys, "p", None).err().unwrap();
            assert_eq!(error.path, path, "{json}");
            assert!(error.help.is_some(), "{json}");
        }
    }
}
