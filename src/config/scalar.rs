//! Scalars with units and rules: durations, sizes, switches, pins, secrets.
//!
//! Each is a newtype that reads itself from YAML and names its rule in the schema as a `format`, so that `check`,
//! the schema and the daemon judge a value by the same function.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};

/// Longest duration accepted: a hundred years; keeps sums of times far from overflow.
const MAX_SPAN: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// A duration with a unit: `250ms`, `15m`, `1h30m`, `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;
    fn from_str(s: &str) -> Result<Span, String> {
        let text = s.trim();
        let wrong = || format!("`{s}` is not a duration; write a number with a unit: 250ms, 5s, 15m, 2h or 7d");
        let mut total = 0f64;
        let mut rest = text;
        if rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
            rest = rest[digits..].trim_start();
            let letters = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
            let unit = match &rest[..letters] {
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" | "sec" | "second" | "seconds" => 1.0,
                "m" | "min" | "minute" | "minutes" => 60.0,
                "h" | "hour" | "hours" => 3600.0,
                "d" | "day" | "days" => 86_400.0,
                "w" | "week" | "weeks" => 604_800.0,
                "" => return Err(format!("`{s}` has no unit; write {s}ms, {s}s or {s}m")),
                _ => return Err(wrong()),
            };
            total += number * unit;
            rest = rest[letters..].trim_start();
        }
        if total > MAX_SPAN.as_secs_f64() {
            return Err(format!("`{s}` is longer than a hundred years"));
        }
        // nanosecond rounding keeps 0.1s + 0.2s = 300ms
        Ok(Span(Duration::from_nanos((total * 1e9).round() as u64)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        match ms {
            0 if self.0.is_zero() => f.write_str("0s"),
            0 => write!(f, "{}us", self.0.as_micros()),
            _ if ms.is_multiple_of(86_400_000) => write!(f, "{}d", ms / 86_400_000),
            _ if ms.is_multiple_of(3_600_000) => write!(f, "{}h", ms / 3_600_000),
            _ if ms.is_multiple_of(60_000) => write!(f, "{}m", ms / 60_000),
            _ if ms.is_multiple_of(1000) => write!(f, "{}s", ms / 1000),
            _ => write!(f, "{ms}ms"),
        }
    }
}

/// A size in bytes with a unit: `64MiB`, `500kB`, `1GB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;
    fn from_str(s: &str) -> Result<Size, String> {
        let text = s.trim();
        let wrong = || format!("`{s}` is not a size; write a number with a unit: 512KiB, 64MiB or 1GiB");
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let number: f64 = text[..digits].parse().map_err(|_| wrong())?;
        let unit = match text[digits..].trim() {
            "B" => 1.0,
            "kB" | "KB" => 1e3,
            "KiB" | "K" => 1024.0,
            "MB" => 1e6,
            "MiB" | "M" => 1024.0 * 1024.0,
            "GB" => 1e9,
            "GiB" | "G" => 1024.0 * 1024.0 * 1024.0,
            "" => return Err(format!("`{s}` has no unit; write {s}KiB, {s}MiB or {s}GiB")),
            _ => return Err(wrong()),
        };
        let bytes = number * unit;
        if bytes > 1e15 {
            return Err(format!("`{s}` is more than any disk here"));
        }
        Ok(Size(bytes as u64))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const KIB: u64 = 1024;
        match self.0 {
            n if n > 0 && n.is_multiple_of(KIB * KIB * KIB) => write!(f, "{}GiB", n / (KIB * KIB * KIB)),
            n if n > 0 && n.is_multiple_of(KIB * KIB) => write!(f, "{}MiB", n / (KIB * KIB)),
            n if n > 0 && n.is_multiple_of(KIB) => write!(f, "{}KiB", n / KIB),
            n => write!(f, "{n}B"),
        }
    }
}

/// A boolean as people write it: `true false yes no on off`, in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OnOff(pub bool);

impl FromStr for OnOff {
    type Err = String;
    fn from_str(s: &str) -> Result<OnOff, String> {
        match s.trim().to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" => Ok(OnOff(true)),
            "false" | "no" | "off" => Ok(OnOff(false)),
            _ => Err(format!("`{s}` is neither yes nor no; write true or false")),
        }
    }
}

impl fmt::Display for OnOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 { "on" } else { "off" })
    }
}

/// A pin by its BCM number: `17`, `GPIO17`, or `header:11` for its place on the 40-pin header. With the character device
/// it is the line's number on the chip, up to 255.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pin(pub u8);

/// BCM number of each place of the 40-pin header, from place 1; -1 is power, ground or the ID EEPROM's place.
/// Source: Raspberry Pi documentation, "GPIO and the 40-pin header".
pub const HEADER: [i8; 40] = [
    -1, -1, 2, -1, 3, -1, 4, 14, -1, 15, 17, 18, 27, -1, 22, 23, -1, 24, 10, -1, 9, 25, 11, 8, -1, 7, 0, 1, 5, -1, 6,
    12, 13, -1, 19, 16, 26, 20, -1, 21,
];

impl FromStr for Pin {
    type Err = String;
    fn from_str(s: &str) -> Result<Pin, String> {
        let text = s.trim();
        if let Some(place) = text.strip_prefix("header:") {
            let n: usize = place
                .trim()
                .parse()
                .map_err(|_| format!("`{s}` is not a place on the header; write header:1 to header:40"))?;
            return match n.checked_sub(1).and_then(|i| HEADER.get(i)) {
                Some(&bcm) if bcm >= 0 => Ok(Pin(bcm as u8)),
                Some(_) => Err(format!("place {n} of the header is power or ground, not a GPIO pin")),
                None => Err(format!("the header has places 1 to 40, not {n}")),
            };
        }
        let digits = text.strip_prefix("GPIO").or_else(|| text.strip_prefix("gpio")).unwrap_or(text);
        match digits.parse::<u8>() {
            // whether there is such a pin is for the plan to say, which knows the backend
            Ok(n) => Ok(Pin(n)),
            Err(_) => Err(format!("`{s}` is not a pin; write its BCM number (17), GPIO17 or header:11")),
        }
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GPIO{}", self.0)
    }
}

/// Four hex digits of a USB vendor or product id, written `0403` or `0x0403`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UsbId(pub u16);

impl FromStr for UsbId {
    type Err = String;
    fn from_str(s: &str) -> Result<UsbId, String> {
        let hex = s.trim().trim_start_matches("0x");
        u16::from_str_radix(hex, 16)
            .map(UsbId)
            .map_err(|_| format!("`{s}` is not a USB id; write four hex digits: 0403"))
    }
}

impl fmt::Display for UsbId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}", self.0)
    }
}

/// A rate: `unlimited`, or so many a second: `500/s`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate(pub Option<f64>);

impl FromStr for Rate {
    type Err = String;
    fn from_str(s: &str) -> Result<Rate, String> {
        let text = s.trim();
        if text == "unlimited" {
            return Ok(Rate(None));
        }
        let number = text.strip_suffix("/s").and_then(|n| n.trim().parse::<f64>().ok());
        match number.filter(|n| n.is_finite() && *n > 0.0) {
            Some(n) => Ok(Rate(Some(n))),
            None => Err(format!("`{s}` is not a rate; write unlimited or 500/s")),
        }
    }
}

/// When a waiting reading must be on disk: a time, or `always`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncKey {
    /// This long after it came, if it still waits.
    Within(Span),
    /// Before it is sent.
    Always,
}

impl FromStr for SyncKey {
    type Err = String;
    fn from_str(s: &str) -> Result<SyncKey, String> {
        match s.trim() {
            "always" => Ok(SyncKey::Always),
            text => match text.parse::<Span>() {
                Ok(span) if span.0 >= Duration::from_millis(10) && span.0 <= Duration::from_secs(3600) => {
                    Ok(SyncKey::Within(span))
                }
                Ok(_) => Err(format!("`{text}` is out of range; write a time from 10ms to 1h, or always")),
                Err(text) => Err(format!("{text}, or always")),
            },
        }
    }
}

/// Where an output is to be: a word, or a number (a duty in percent, an angle).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Drive {
    /// Off.
    Off,
    /// On.
    On,
    /// As it is.
    Keep,
    /// As it was before the daemon's end.
    Restore,
    /// The safe state.
    Safe,
    /// There.
    At(f64),
}

impl FromStr for Drive {
    type Err = String;
    fn from_str(s: &str) -> Result<Drive, String> {
        match s.trim().to_ascii_lowercase().as_str() {
            "off" | "false" | "no" => Ok(Drive::Off),
            "on" | "true" | "yes" => Ok(Drive::On),
            "keep" => Ok(Drive::Keep),
            "restore" => Ok(Drive::Restore),
            "safe" => Ok(Drive::Safe),
            text => match text.trim_end_matches('%').trim_end().parse::<f64>() {
                Ok(n) if n.is_finite() => Ok(Drive::At(n)),
                _ => Err(format!("`{s}` is neither a number nor off or on")),
            },
        }
    }
}

impl fmt::Display for Drive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Drive::Off => f.write_str("off"),
            Drive::On => f.write_str("on"),
            Drive::Keep => f.write_str("keep"),
            Drive::Restore => f.write_str("restore"),
            Drive::Safe => f.write_str("safe"),
            Drive::At(n) => write!(f, "{n}"),
        }
    }
}

/// A scalar as its text, whatever YAML takes it for; a key or value of a free table.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Plain(pub String);

impl FromStr for Plain {
    type Err = String;
    fn from_str(s: &str) -> Result<Plain, String> {
        Ok(Plain(s.to_owned()))
    }
}

/// A payload in which something is filled in; which names it may use is judged later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateText(pub String);

impl FromStr for TemplateText {
    type Err = String;
    fn from_str(s: &str) -> Result<TemplateText, String> {
        if s.contains("{{") || s.contains("{%") {
            Ok(TemplateText(s.to_owned()))
        } else {
            Err(format!(
                "`{s}` is neither plain, json, cbor nor a template; write {{{{ value }}}} where the value goes"
            ))
        }
    }
}

/// Text that is never shown: `Debug` and `Display` print stars.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }
    /// The secret itself; for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
impl FromStr for Secret {
    type Err = String;
    fn from_str(s: &str) -> Result<Secret, String> {
        Ok(Secret(s.to_owned()))
    }
}

/// Reads a scalar however YAML resolved it, by its text.
struct TextVisitor<T>(std::marker::PhantomData<T>, &'static str);

impl<T: FromStr<Err = String>> Visitor<'_> for TextVisitor<T> {
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.1)
    }
    fn visit_str<E: de::Error>(self, v: &str) -> Result<T, E> {
        v.parse().map_err(E::custom)
    }
    fn visit_u64<E: de::Error>(self, v: u64) -> Result<T, E> {
        self.visit_str(&v.to_string())
    }
    fn visit_i64<E: de::Error>(self, v: i64) -> Result<T, E> {
        self.visit_str(&v.to_string())
    }
    fn visit_f64<E: de::Error>(self, v: f64) -> Result<T, E> {
        self.visit_str(&v.to_string())
    }
    fn visit_bool<E: de::Error>(self, v: bool) -> Result<T, E> {
        self.visit_str(if v { "true" } else { "false" })
    }
}

/// Gives a scalar its reader, its schema and its place in the list of formats.
macro_rules! scalars {
    ($($type:ty, $format:literal, $what:literal, $example:literal;)*) => {
        $(
            impl<'de> Deserialize<'de> for $type {
                fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                    d.deserialize_any(TextVisitor::<$type>(std::marker::PhantomData, $what))
                }
            }
            impl JsonSchema for $type {
                fn inline_schema() -> bool { true }
                fn schema_name() -> Cow<'static, str> { $format.into() }
                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    json_schema!({
                        "type": ["string", "number", "boolean"],
                        "format": $format,
                        "examples": [$example],
                    })
                }
            }
        )*
        /// Judges `text` by the rule of the schema `format`; `None` for a format that is not ours.
        pub fn check_format(format: &str, text: &str) -> Option<Result<(), String>> {
            match format {
                $($format => Some(text.parse::<$type>().map(|_| ())),)*
                _ => None,
            }
        }
    };
}

scalars! {
    Span, "duration", "a duration with a unit", "250ms";
    Size, "size", "a size with a unit", "64MiB";
    OnOff, "on-off", "yes or no", "true";
    Pin, "pin", "a pin", "17";
    UsbId, "usb-id", "a USB id", "0403";
    Rate, "rate", "a rate", "500/s";
    SyncKey, "sync", "a time or `always`", "1s";
    Drive, "drive", "a number, off or on", "40";
    Plain, "plain", "a single value", "open";
    TemplateText, "template", "a template", "{{ value }} °C";
    Secret, "secret", "a secret", "${MQTT_PASSWORD}";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!("250ms".parse::<Span>().unwrap().0, Duration::from_millis(250));
        assert_eq!("1h30m".parse::<Span>().unwrap().0, Duration::from_secs(5400));
        assert_eq!("1.5 s".parse::<Span>().unwrap().0, Duration::from_millis(1500));
        for bad in ["", "5", "s", "-5s", "5 parsecs", "1e3s", "999999999w"] {
            assert!(bad.parse::<Span>().is_err(), "{bad:?}");
        }
        assert!("20".parse::<Span>().unwrap_err().contains("20ms"));
    }

    #[test]
    fn spans_print_as_they_are_written() {
        for s in ["250ms", "15m", "7d", "2h", "90s", "0s", "20us"] {
            assert_eq!(s.parse::<Span>().unwrap().to_string(), s);
        }
    }

    #[test]
    fn sizes_need_a_unit() {
        assert_eq!("64MiB".parse::<Size>().unwrap().0, 64 << 20);
        assert_eq!("500kB".parse::<Size>().unwrap().0, 500_000);
        assert!("64".parse::<Size>().is_err());
    }

    #[test]
    fn pins_have_three_spellings() {
        for s in ["17", "GPIO17", "header:11"] {
            assert_eq!(s.parse::<Pin>().unwrap(), Pin(17));
        }
        assert!("header:6".parse::<Pin>().unwrap_err().contains("ground"));
        assert_eq!("255".parse::<Pin>().unwrap(), Pin(255));
        assert!("256".parse::<Pin>().is_err());
        assert!("header:41".parse::<Pin>().is_err());
    }

    #[test]
    fn usb_ids_are_hex_even_where_yaml_sees_a_number() {
        assert_eq!(serde_yaml::from_str::<UsbId>("6001").unwrap(), UsbId(0x6001));
        assert_eq!(serde_yaml::from_str::<UsbId>("0403").unwrap(), UsbId(0x0403));
    }

    #[test]
    fn a_secret_prints_as_stars() {
        assert_eq!(format!("{:?} {}", Secret::new("hunter2"), Secret::new("hunter2")), "*** ***");
    }
}
