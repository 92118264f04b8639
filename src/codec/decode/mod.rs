//! Finding named fields in a frame (`decode:` and the points' own keys).
//!
//! One file per decoder, one line in [`DECODERS`]. A decoder finds fields; what they become is the same for all of
//! them and is done here: `match`, a point's own `pattern`, its `type`.
//!
//! - Without `type` a finite decimal number is a number, JSON's true and false and a bit are ON and OFF, all else is text.
//! - A field that is there but not of its declared `type` gives a bad reading with the text as it came; the others of
//!   the frame stay good. A field that is not there, or is empty, gives no reading.
//! - `field` left out is the point's own name.
//! - Bytes that are not UTF-8 become U+FFFD in text and stop nothing.

mod binary;
mod csv;
mod extract;
mod json;
mod keys;
mod keyvalue;
mod nmea;
mod regex;
mod text;
mod tlv;

use std::borrow::Cow;

use ::regex::{CaptureLocations, Regex};

pub use keys::{As, Count, DecodeKeys, DecodeType, FieldKeys, FieldType, MatchKeys, Name};

use super::bytes::Bytes;
use super::check::offset;
use super::framing::Frame;
use super::{KeyError, Reason};
use crate::model::Value;
use crate::model::value::parse_number;

/// What a decoder found at a field.
enum Found<'a> {
    /// Text as it stands in the frame.
    Text(&'a [u8]),
    /// Text that had to be put together.
    Owned(String),
    /// A number; never NaN or infinite.
    Number(f64),
    /// JSON's true or false.
    Bool(bool),
    /// A bit.
    Flag(bool),
    /// Bytes.
    Bytes(&'a [u8]),
    /// It is there, and cannot be what it should be.
    Wrong(String),
}

/// A field that somebody wants.
struct Want<'a> {
    /// Path of the keys, for errors.
    path: String,
    /// The field's name.
    field: Cow<'a, str>,
    keys: &'a FieldKeys,
}

/// A decoder: where fields are.
trait Kind: Send {
    /// Finds the wanted fields; what is kept are offsets into this frame.
    fn parse(&mut self, frame: &Frame<'_>) -> Result<(), Reason>;
    /// The wanted field `slot` of the frame that was parsed last.
    fn get<'a>(&'a self, frame: &Frame<'a>, slot: usize) -> Option<Found<'a>>;
    /// All fields of the frame that was parsed last, by name.
    fn each(&self, frame: &Frame<'_>, visit: &mut dyn FnMut(&str, Value));
}

/// A decoder's constructor: from its keys and the wanted fields, whose order gives their slots.
type Build = fn(&DecodeKeys, &[Want<'_>]) -> Result<Box<dyn Kind>, Vec<KeyError>>;

/// One line of the list of decoders.
struct Entry {
    kind: DecodeType,
    name: &'static str,
    /// The keys of `decode` that go with it.
    keys: &'static [&'static str],
    /// The keys of a point that go with it.
    point: &'static [&'static str],
    build: Build,
}

/// The decoders.
const DECODERS: &[Entry] = &[
    Entry {
        kind: DecodeType::Keyvalue,
        name: "keyvalue",
        keys: &["pair", "assign"],
        point: &["field"],
        build: keyvalue::build,
    },
    Entry { kind: DecodeType::Csv, name: "csv", keys: &["columns", "separator"], point: &["field"], build: csv::build },
    Entry { kind: DecodeType::Regex, name: "regex", keys: &["pattern"], point: &["field"], build: regex::build },
    Entry { kind: DecodeType::Json, name: "json", keys: &[], point: &["field"], build: json::build },
    Entry { kind: DecodeType::Nmea, name: "nmea", keys: &[], point: &["field"], build: nmea::build },
    Entry {
        kind: DecodeType::Binary,
        name: "binary",
        keys: &[],
        point: &["at", "as", "bcd", "bytes", "text", "bit", "bits", "endian"],
        build: binary::build,
    },
    Entry {
        kind: DecodeType::Tlv,
        name: "tlv",
        keys: &["at", "tag", "length"],
        point: &["tag", "as", "bcd", "bytes", "text", "bit", "bits", "endian"],
        build: tlv::build,
    },
    Entry { kind: DecodeType::Text, name: "text", keys: &[], point: &[], build: text::build_text },
    Entry { kind: DecodeType::Raw, name: "raw", keys: &[], point: &[], build: text::build_raw },
];

/// One value of one point.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The point's place in the list given to [`Decoder::new`].
    pub point: usize,
    /// What was read.
    pub value: Value,
    /// It is not of the declared type; the value is the text as it came.
    pub bad: bool,
}

/// `match`, ready to use.
enum Gate {
    Field { slot: usize, is: Vec<String> },
    At { at: i64, is: Vec<Bytes> },
}

/// A point's own pattern.
struct Pattern {
    regex: Regex,
    groups: CaptureLocations,
}

struct Point {
    /// The decoder's field; `None`: the whole frame, through the pattern.
    slot: Option<usize>,
    gate: Option<Gate>,
    pattern: Option<Pattern>,
    kind: Option<FieldType>,
}

/// Finds the readings of a device's points in its frames. Everything is prepared once; numbers out of
/// keyvalue, csv, regex and binary frames allocate nothing.
pub struct Decoder {
    kind: Box<dyn Kind>,
    gate: Option<Gate>,
    points: Vec<Point>,
    /// Further gates that a caller asks for by number.
    further: Vec<Option<Gate>>,
}

impl Decoder {
    /// A decoder as the keys say; `points` are the names and keys of the device's points. All wrong keys are told.
    pub fn new(keys: &DecodeKeys, points: &[(&str, &FieldKeys)]) -> Result<Decoder, Vec<KeyError>> {
        Decoder::with_gates(keys, points, &[])
    }

    /// The same with further `match`es, each with its path; see [`Decoder::passes`].
    pub fn with_gates(
        keys: &DecodeKeys,
        points: &[(&str, &FieldKeys)],
        gates: &[(String, &MatchKeys)],
    ) -> Result<Decoder, Vec<KeyError>> {
        let mut errors = Vec::new();
        let mut wants: Vec<Want<'_>> = Vec::new();
        let no_keys = FieldKeys::default();
        let Some(Entry { kind, name, keys: own, point: of_points, build }) =
            DECODERS.iter().find(|entry| entry.kind == keys.kind)
        else {
            return Err(vec![KeyError::new("decode.type", "there is no such decoder")]);
        };
        for stray in keys.written().into_iter().filter(|key| !own.contains(key)) {
            let text = format!("`{stray}` does not go with `type: {name}`");
            errors.push(KeyError::new(format!("decode.{stray}"), text).help(owner_of(stray, |d| d.keys)));
        }
        let gate = gate(keys.only.as_ref(), "decode.match", *kind, &no_keys, &mut wants, &mut errors);
        let mut ready = Vec::with_capacity(points.len());
        for (point, field) in points {
            let path = format!("points.{point}");
            for stray in field.written().into_iter().filter(|key| !of_points.contains(key)) {
                let text = format!("`{stray}` does not go with `type: {name}`");
                errors.push(KeyError::new(format!("{path}.{stray}"), text).help(owner_of(stray, |d| d.point)));
            }
            let gate = gate_of(field, &path, *kind, &no_keys, &mut wants, &mut errors);
            let pattern = match field.pattern.as_deref().map(compile).transpose() {
                Ok(pattern) => pattern.map(|regex| Pattern { groups: regex.capture_locations(), regex }),
                Err(text) => {
                    errors.push(KeyError::new(format!("{path}.pattern"), text));
                    None
                }
            };
            let whole = field.pattern.is_some() && field.written().is_empty();
            let slot = (!whole).then(|| {
                let name = field.field.as_ref().map_or(*point, |name| name.0.as_str());
                wants.push(Want { path, field: Cow::Borrowed(name), keys: field });
                wants.len() - 1
            });
            ready.push(Point { slot, gate, pattern, kind: field.kind });
        }
        let further = gates
            .iter()
            .map(|(path, only)| self::gate(Some(only), path, *kind, &no_keys, &mut wants, &mut errors))
            .collect();
        match build(keys, &wants) {
            Ok(kind) if errors.is_empty() => Ok(Decoder { kind, gate, points: ready, further }),
            Ok(_) => Err(errors),
            Err(more) => {
                errors.extend(more);
                Err(errors)
            }
        }
    }

    /// Appends the readings of a frame. `Ok(false)`: `decode.match` says that the frame is another message.
    pub fn decode(&mut self, frame: &Frame<'_>, out: &mut Vec<Decoded>) -> Result<bool, Reason> {
        if let Some(Gate::At { at, is }) = &self.gate
            && !stands_at(frame, *at, is)
        {
            return Ok(false);
        }
        self.kind.parse(frame)?;
        if let Some(gate) = &self.gate
            && !passes(gate, self.kind.as_ref(), frame)
        {
            return Ok(false);
        }
        let mut whole = None;
        for (index, point) in self.points.iter_mut().enumerate() {
            if point.gate.as_ref().is_some_and(|gate| !passes(gate, self.kind.as_ref(), frame)) {
                continue;
            }
            let found = match point.slot {
                Some(slot) => self.kind.get(frame, slot),
                None => None,
            };
            let read = match (&mut point.pattern, found) {
                (None, None) => None,
                (None, Some(found)) => Some(coerce(found, point.kind)),
                (Some(_), None) if point.slot.is_some() => None,
                (Some(pattern), None) => {
                    let text = whole.get_or_insert_with(|| String::from_utf8_lossy(frame.bytes));
                    pattern.first(text).map(|part| coerce(Found::Text(part.as_bytes()), point.kind))
                }
                (Some(pattern), Some(found)) => {
                    let text = as_text(&found);
                    pattern.first(&text).map(|part| coerce(Found::Text(part.as_bytes()), point.kind))
                }
            };
            if let Some((value, bad)) = read {
                out.push(Decoded { point: index, value, bad });
            }
        }
        Ok(true)
    }

    /// Whether the frame that was decoded last passes the further `match` of this number; there is no such number: yes.
    pub fn passes(&self, gate: usize, frame: &Frame<'_>) -> bool {
        match self.further.get(gate) {
            Some(Some(gate)) => passes(gate, self.kind.as_ref(), frame),
            _ => true,
        }
    }

    /// All fields of the frame that was decoded last, by name, whether a point wants them or not; JSON's nested ones by
    /// their dotted path, a binary frame's by its points' names.
    pub fn fields(&self, frame: &Frame<'_>, visit: &mut dyn FnMut(&str, Value)) {
        self.kind.each(frame, visit);
    }
}

impl Pattern {
    /// The first group, or all of it where the pattern has none.
    fn first<'t>(&mut self, text: &'t str) -> Option<&'t str> {
        self.regex.captures_read(&mut self.groups, text)?;
        let group = if self.groups.len() > 1 { 1 } else { 0 };
        let (from, to) = self.groups.get(group)?;
        text.get(from..to)
    }
}

/// Says which decoder a stray key belongs to.
fn owner_of(key: &str, keys_of: impl Fn(&Entry) -> &'static [&'static str]) -> String {
    let owners: Vec<String> =
        DECODERS.iter().filter(|d| keys_of(d).contains(&key)).map(|d| format!("`type: {}`", d.name)).collect();
    match owners.as_slice() {
        [] => "leave it out".to_owned(),
        _ => format!("leave it out; it goes with {}", owners.join(", ")),
    }
}

fn compile(pattern: &str) -> Result<Regex, String> {
    Regex::new(pattern).map_err(|error| {
        let text = error.to_string();
        let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it cannot be read");
        format!("not a regular expression: {}", last.trim().trim_start_matches("error: "))
    })
}

fn gate_of<'a>(
    field: &'a FieldKeys,
    path: &str,
    kind: DecodeType,
    no_keys: &'a FieldKeys,
    wants: &mut Vec<Want<'a>>,
    errors: &mut Vec<KeyError>,
) -> Option<Gate> {
    gate(field.only.as_ref(), &format!("{path}.match"), kind, no_keys, wants, errors)
}

fn gate<'a>(
    keys: Option<&'a MatchKeys>,
    path: &str,
    kind: DecodeType,
    no_keys: &'a FieldKeys,
    wants: &mut Vec<Want<'a>>,
    errors: &mut Vec<KeyError>,
) -> Option<Gate> {
    let keys = keys?;
    match (&keys.field, keys.at) {
        (Some(_), None) if !kind.has_fields() => {
            errors.push(
                KeyError::new(format!("{path}.field"), "these frames have no named fields")
                    .help("match bytes: {at: 2, is: \"10\"}"),
            );
            None
        }
        (Some(field), None) => {
            let want = Want { path: path.to_owned(), field: Cow::Borrowed(&field.0), keys: no_keys };
            wants.push(want);
            Some(Gate::Field { slot: wants.len() - 1, is: keys.is.texts().map(str::to_owned).collect() })
        }
        (None, Some(at)) => {
            let is: Result<Vec<Bytes>, String> = keys.is.texts().map(str::parse).collect();
            match is {
                Ok(is) => Some(Gate::At { at, is }),
                Err(text) => {
                    errors.push(KeyError::new(format!("{path}.is"), text));
                    None
                }
            }
        }
        _ => {
            errors.push(
                KeyError::new(path, "`match` looks either at a field or at bytes")
                    .help("write {field: type, is: GGA} or {at: 2, is: \"10\"}"),
            );
            None
        }
    }
}

fn stands_at(frame: &Frame<'_>, at: i64, is: &[Bytes]) -> bool {
    let Some(tail) = offset(at, frame.bytes.len()).and_then(|at| frame.bytes.get(at..)) else { return false };
    is.iter().any(|bytes| tail.starts_with(&bytes.0))
}

fn passes(gate: &Gate, kind: &dyn Kind, frame: &Frame<'_>) -> bool {
    match gate {
        Gate::At { at, is } => stands_at(frame, *at, is),
        Gate::Field { slot, is } => kind.get(frame, *slot).is_some_and(|found| {
            let text = as_text(&found);
            let number = parse_number(&text);
            is.iter().any(|is| text.trim() == is || (number.is_some() && number == parse_number(is)))
        }),
    }
}

fn as_text<'a>(found: &'a Found<'_>) -> Cow<'a, str> {
    match found {
        Found::Text(text) | Found::Bytes(text) => String::from_utf8_lossy(text),
        Found::Owned(text) | Found::Wrong(text) => Cow::Borrowed(text),
        Found::Number(n) => Cow::Owned(Value::Number(*n).to_string()),
        Found::Bool(b) => Cow::Borrowed(if *b { "true" } else { "false" }),
        Found::Flag(b) => Cow::Borrowed(if *b { "ON" } else { "OFF" }),
    }
}

/// Gives a field its type; true where it has none of the kind.
fn coerce(found: Found<'_>, kind: Option<FieldType>) -> (Value, bool) {
    use FieldType::{Bool, Number, Text};
    match (found, kind) {
        (Found::Number(n), None | Some(Number)) => (Value::Number(n), false),
        (Found::Number(n), Some(Bool)) if n == 0.0 || n == 1.0 => (Value::Bool(n == 1.0), false),
        (Found::Bool(b) | Found::Flag(b), None | Some(Bool)) => (Value::Bool(b), false),
        (Found::Flag(b), Some(Number)) => (Value::Number(if b { 1.0 } else { 0.0 }), false),
        (Found::Bytes(bytes), None) => (Value::Bytes(bytes.to_vec()), false),
        (Found::Wrong(text), _) => (Value::Text(text), true),
        (Found::Bool(b), Some(Number)) => (Value::Text(b.to_string()), true),
        (found, kind) => {
            let number = match &found {
                // the usual case, without the detour over a lossy copy
                Found::Text(text) if kind != Some(Text) => std::str::from_utf8(text).ok().and_then(parse_number),
                Found::Owned(text) if kind != Some(Text) => parse_number(text),
                Found::Bytes(text) if kind == Some(Number) => std::str::from_utf8(text).ok().and_then(parse_number),
                _ => None,
            };
            match (kind, number) {
                (None | Some(Number), Some(n)) => (Value::Number(n), false),
                (Some(Bool), _) => {
                    let text = as_text(&found);
                    match parse_bool(&text) {
                        Some(b) => (Value::Bool(b), false),
                        None => (Value::Text(text.into_owned()), true),
                    }
                }
                (Some(Number), None) => (Value::Text(as_text(&found).into_owned()), true),
                (None | Some(Text), _) => (Value::Text(as_text(&found).into_owned()), false),
            }
        }
    }
}

/// ON, OFF, 1, 0, true, false, in any case.
fn parse_bool(text: &str) -> Option<bool> {
    let text = text.trim();
    let is = |words: [&str; 3]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    if is(["on", "1", "true"]) {
        Some(true)
    } else if is(["off", "0", "false"]) {
        Some(false)
    } else {
        None
    }
}

/// Takes spaces and control bytes off both ends.
fn trim(mut bytes: &[u8]) -> &[u8] {
    let blank = |b: u8| b <= b' ' || b == 0x7f;
    while let [first, rest @ ..] = bytes
        && blank(*first)
    {
        bytes = rest;
    }
    while let [rest @ .., last] = bytes
        && blank(*last)
    {
        bytes = rest;
    }
    bytes
}

/// Takes what is no text off the front: control bytes and bytes that are not UTF-8, as a starting line leaves them.
fn trim_noise(bytes: &[u8]) -> &[u8] {
    let mut bytes = trim(bytes);
    while let Err(error) = std::str::from_utf8(bytes)
        && error.valid_up_to() == 0
    {
        bytes = trim(bytes.get(error.error_len().unwrap_or(1)..).unwrap_or(&[]));
    }
    bytes
}

/// A field of a text by its range, trimmed; `None` if nothing is there.
fn text_at(text: &[u8], range: std::ops::Range<usize>) -> Option<Found<'_>> {
    let text = trim(text.get(range)?);
    if text.is_empty() { None } else { Some(Found::Text(text)) }
}

fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}
