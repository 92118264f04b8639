//! Whether a frame arrived as it was sent (`check:`).
//!
//! A check says what is added up (`over`), how (`crc`, `sum`, `xor`, `fletcher`, then `negate` or `invert`), and where
//! the result stands (`at`) in which form (`endian`, `as: hex`). The same description puts a check onto a request.
//!
//! Where nothing is said: it stands at the end, over everything before it; a CRC is sent low byte first if the
//! algorithm reflects its output (MODBUS, X-25) and high byte first if not (XMODEM); in hex the high digit comes first.

mod crc;
mod sum;

use std::ops::Range;

use schemars::JsonSchema;
use serde::Deserialize;

use super::bytes::hex_digit;
use super::framing::Width;
use super::{KeyError, Reason};

/// The keys of `check:`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CheckKeys {
    /// A CRC by its name or alias in the CRC catalogue: CRC-16/MODBUS.
    pub crc: Option<String>,
    /// All bytes added.
    pub sum: Option<Width>,
    /// All bytes by exclusive or.
    pub xor: Option<OneByte>,
    /// Two running sums modulo 256 (RFC 1145, u-blox).
    pub fletcher: Option<OneByte>,
    /// What is done to a sum before it is written.
    pub then: Option<Then>,
    /// Which byte of a CRC comes first.
    pub endian: Option<Endian>,
    /// What is added up: [from, to), negative numbers count from the end; default everything before the check.
    pub over: Option<[i64; 2]>,
    /// Where it stands, a negative number counts from the end; default at the end.
    pub at: Option<i64>,
    /// `hex` where it is written in text.
    #[serde(rename = "as")]
    pub written: Option<Written>,
}

/// The width of `xor` and `fletcher`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OneByte {
    /// Bytes.
    U8,
}

/// What is done to a sum before it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Then {
    /// Two's complement: the frame and its check add up to 0.
    Negate,
    /// One's complement.
    Invert,
}

/// Which byte comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Endian {
    /// The low one.
    Little,
    /// The high one.
    Big,
}

/// How a check is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Written {
    /// Hex digits, upper or lower case.
    Hex,
    /// Bytes.
    Binary,
}

enum Rule {
    Crc(crc::Engine),
    Sum,
    Xor,
    Fletcher,
}

/// A check ready to use.
pub struct Check {
    rule: Rule,
    then: Option<Then>,
    /// Bytes of the number.
    width: usize,
    little: bool,
    hex: bool,
    over: Option<[i64; 2]>,
    at: Option<i64>,
}

/// The words of which a check has exactly one.
const RULES: &str = "write one of {crc: CRC-16/MODBUS}, {sum: u8}, {xor: u8}, {fletcher: u8}";

impl Check {
    /// A check as the keys say.
    pub fn new(keys: &CheckKeys) -> Result<Check, KeyError> {
        let named = [
            ("crc", keys.crc.is_some()),
            ("sum", keys.sum.is_some()),
            ("xor", keys.xor.is_some()),
            ("fletcher", keys.fletcher.is_some()),
        ];
        let named: Vec<&str> = named.into_iter().filter_map(|(name, is)| is.then_some(name)).collect();
        match named.as_slice() {
            [_] => {}
            [] => return Err(KeyError::new("check", "it does not say how it is computed").help(RULES)),
            [a, b, ..] => {
                return Err(KeyError::new(format!("check.{b}"), format!("`{a}` and `{b}` are two checks")).help(RULES));
            }
        }
        let (rule, width, mut little) = match (&keys.crc, keys.sum) {
            (Some(name), _) => match crc::Engine::by_name(name) {
                Ok(engine) => {
                    let (width, low_first) = (engine.width(), engine.low_first());
                    (Rule::Crc(engine), width, low_first && keys.written != Some(Written::Hex))
                }
                Err(near) => {
                    let error = KeyError::new("check.crc", format!("`{name}` is no name of the CRC catalogue"));
                    return Err(match near {
                        Some(near) => error.help(format!("did you mean `{near}`?")),
                        None => error.help("see https://reveng.sourceforge.io/crc-catalogue/all.htm, or CRC-16/MODBUS"),
                    });
                }
            },
            (_, Some(width)) => (Rule::Sum, width.bytes(), width == Width::U16le),
            _ if keys.xor.is_some() => (Rule::Xor, 1, false),
            _ => (Rule::Fletcher, 2, false),
        };
        match (keys.endian, &rule) {
            (Some(endian), Rule::Crc(_)) => little = endian == Endian::Little,
            (Some(_), _) => {
                return Err(KeyError::new("check.endian", "`endian` goes with `crc`")
                    .help("a sum says it by its name: u16be or u16le"));
            }
            (None, _) => {}
        }
        if keys.then.is_some() && !matches!(rule, Rule::Sum | Rule::Xor) {
            return Err(KeyError::new("check.then", "`then` goes with `sum` and `xor`").help("leave it out"));
        }
        if let Some([from, to]) = keys.over
            && (from < 0) == (to < 0)
            && from >= to
        {
            return Err(KeyError::new("check.over", format!("[{from}, {to}] holds no byte"))
                .help("write [from, to): the offset of the first byte, and of the first one behind"));
        }
        if keys.at == Some(0) && keys.over.is_none() {
            return Err(KeyError::new("check.at", "before a check at 0 there is nothing to add up")
                .help("say what it covers: over: [1, …]"));
        }
        let hex = keys.written == Some(Written::Hex);
        Ok(Check { rule, then: keys.then, width, little, hex, over: keys.over, at: keys.at })
    }

    /// Bytes that it takes in a frame.
    pub fn width(&self) -> usize {
        if self.hex { 2 * self.width } else { self.width }
    }

    /// Where it stands in a frame of this length; `None` if the frame cannot hold it.
    pub fn position(&self, length: usize) -> Option<usize> {
        let at = match self.at {
            None => length.checked_sub(self.width())?,
            Some(at) => offset(at, length)?,
        };
        (at.checked_add(self.width())? <= length).then_some(at)
    }

    /// What it covers in a frame of this length.
    fn covers(&self, length: usize) -> Option<Range<usize>> {
        let (from, to) = match self.over {
            Some([from, to]) => (offset(from, length)?, offset(to, length)?),
            None => (0, self.position(length)?),
        };
        (from <= to && to <= length).then_some(from..to)
    }

    fn compute(&self, data: &[u8]) -> u128 {
        let plain = match &self.rule {
            Rule::Crc(engine) => engine.compute(data),
            Rule::Sum => sum::sum(data),
            Rule::Xor => sum::xor(data),
            Rule::Fletcher => sum::fletcher(data),
        };
        let done = match self.then {
            None => plain,
            Some(Then::Negate) => plain.wrapping_neg(),
            Some(Then::Invert) => !plain,
        };
        match self.width {
            16.. => done,
            width => done & ((1 << (8 * width)) - 1),
        }
    }

    /// Whether the frame is as it was sent.
    pub fn verify(&self, frame: &[u8]) -> Result<(), Reason> {
        let (Some(at), Some(covered)) = (self.position(frame.len()), self.covers(frame.len())) else {
            return Err(Reason::TooShort);
        };
        let (Some(written), Some(data)) = (frame.get(at..at + self.width()), frame.get(covered)) else {
            return Err(Reason::TooShort);
        };
        let found = self.read(written).ok_or(Reason::NoCheck)?;
        let computed = self.compute(data);
        if found == computed { Ok(()) } else { Err(Reason::Check { computed, found }) }
    }

    /// Puts the check onto a request that was written without it.
    pub fn append(&self, request: &mut Vec<u8>) -> Result<(), Reason> {
        let length = request.len() + self.width();
        let at = self.position(length).ok_or(Reason::TooShort)?;
        request.splice(at..at, std::iter::repeat_n(0, self.width()));
        let covered = self.covers(length).and_then(|range| request.get(range)).ok_or(Reason::TooShort)?;
        let value = self.compute(covered);
        for i in 0..self.width {
            let byte = (value >> (8 * if self.little { i } else { self.width - 1 - i })) as u8;
            if self.hex {
                for (digit, nibble) in [byte >> 4, byte & 15].into_iter().enumerate() {
                    request[at + 2 * i + digit] = b"0123456789ABCDEF"[usize::from(nibble)];
                }
            } else {
                request[at + i] = byte;
            }
        }
        Ok(())
    }

    fn read(&self, written: &[u8]) -> Option<u128> {
        let mut value = 0;
        for i in 0..self.width {
            let i = if self.little { self.width - 1 - i } else { i };
            let byte = match self.hex {
                true => hex_digit(*written.get(2 * i)?)? << 4 | hex_digit(*written.get(2 * i + 1)?)?,
                false => *written.get(i)?,
            };
            value = value << 8 | u128::from(byte);
        }
        Some(value)
    }

    /// A good frame without its check, if that stands at its end, and without bare punctuation that it does not cover
    /// (`$` before, `*` between): what a text decoder reads.
    pub(super) fn body(&self, frame: &[u8]) -> Range<usize> {
        let all = 0..frame.len();
        let (Some(at), Some(covered)) = (self.position(frame.len()), self.covers(frame.len())) else { return all };
        let bare = |range: Range<usize>| {
            frame.get(range).is_some_and(|b| b.len() <= 4 && !b.iter().any(u8::is_ascii_alphanumeric))
        };
        if !bare(at + self.width()..frame.len()) {
            return all;
        }
        let end = if covered.end <= at && bare(covered.end..at) { covered.end } else { at };
        let start = if covered.start <= end && bare(0..covered.start) { covered.start } else { 0 };
        start..end
    }
}

/// Verifies an NMEA 0183 sentence from its `$` to its last byte, `*hh`: the exclusive or of what is between.
pub(super) fn verify_nmea(sentence: &[u8]) -> Result<(), Reason> {
    let [_, content @ .., b'*', high, low] = sentence else { return Err(Reason::NoCheck) };
    let (Some(high), Some(low)) = (hex_digit(*high), hex_digit(*low)) else { return Err(Reason::NoCheck) };
    let (found, computed) = (u128::from(high << 4 | low), sum::xor(content));
    if computed == found { Ok(()) } else { Err(Reason::Check { computed, found }) }
}

/// An offset that may count from the end.
pub(super) fn offset(at: i64, length: usize) -> Option<usize> {
    match usize::try_from(at) {
        Ok(at) => Some(at),
        Err(_) => length.checked_sub(usize::try_from(at.unsigned_abs()).ok()?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) -> Check {
        Check::new(&serde_json::from_str(json).unwrap()).unwrap()
    }

    #[test]
    fn a_modbus_crc_goes_low_byte_first() {
        // Modbus over serial line V1.02, appendix B: slave 2, function 7
        let check = check(r#"{"crc": "CRC-16/MODBUS"}"#);
        let mut request = vec![0x02, 0x07];
        check.append(&mut request).unwrap();
        assert_eq!(request, [0x02, 0x07, 0x41, 0x12]);
        assert_eq!(check.verify(&request), Ok(()));
        assert!(matches!(check.verify(&[0x02, 0x07, 0x12, 0x41]), Err(Reason::Check { .. })));
        assert_eq!(check.verify(&[1]), Err(Reason::TooShort));
    }

    #[test]
    fn an_mh_z19_request_gets_its_negated_sum() {
        let check = check(r#"{"sum": "u8", "over": [1, -1], "then": "negate"}"#);
        let mut request = vec![0xff, 1, 0x86, 0, 0, 0, 0, 0];
        check.append(&mut request).unwrap();
        assert_eq!(request.last(), Some(&0x79));
    }

    #[test]
    fn a_u_blox_poll_has_two_running_sums() {
        // u-blox protocol: poll of NAV-POSLLH
        let check = check(r#"{"fletcher": "u8", "over": [2, -2]}"#);
        let mut request = vec![0xb5, 0x62, 1, 2, 0, 0];
        check.append(&mut request).unwrap();
        assert_eq!(request[6..], [3, 0x0a]);
    }

    #[test]
    fn a_check_in_text_may_stand_before_an_end_mark() {
        let check = check(r#"{"xor": "u8", "as": "hex", "over": [1, -5], "at": -4}"#);
        let frame = b"$T=1*58\r\n";
        assert_eq!(check.verify(frame), Ok(()));
        assert_eq!(&frame[check.body(frame)], b"T=1");
        let mut request = b"$T=1*\r\n".to_vec();
        check.append(&mut request).unwrap();
        assert_eq!(request, frame);
        assert_eq!(check.verify(b"$T=1*zz\r\n"), Err(Reason::NoCheck));
    }

    #[test]
    fn wrong_keys_are_told_with_their_place() {
        for (json, path) in [
            ("{}", "check"),
            (r#"{"crc": "CRC-16/MODBUZ"}"#, "check.crc"),
            (r#"{"sum": "u8", "xor": "u8"}"#, "check.xor"),
            (r#"{"crc": "MODBUS", "then": "negate"}"#, "check.then"),
            (r#"{"sum": "u8", "endian": "little"}"#, "check.endian"),
            (r#"{"sum": "u8", "over": [4, 4]}"#, "check.over"),
            (r#"{"sum": "u8", "at": 0}"#, "check.at"),
        ] {
            let error = Check::new(&serde_json::from_str(json).unwrap()).err().unwrap();
            assert_eq!(error.path, path, "{json}");
            assert!(error.help.is_some());
        }
    }
}
