//! `nmea`: sentences of NMEA 0183 (GGA, GNS, RMC, GLL, VTG, GSA, ZDA), as positions and numbers a person reads.
//!
//! Fields: `type` (GGA), `talker` (GP), `latitude` and `longitude` in signed decimal degrees, `altitude` in m,
//! `satellites` in use, `fix` (the quality of GGA; elsewhere 1 or 0), `hdop`, `speed_kmh`, `course` in degrees, `time`
//! (`12:35:19`, UTC), `date` (`2026-11-20`); in any other sentence the fields by number, 1 behind the address.
//! Without a fix there is no position, altitude, speed or course.

use super::{DecodeKeys, Found, Kind, Want, lossy};
use crate::codec::check::verify_nmea;
use crate::codec::{Frame, KeyError, Reason, nearest};
use crate::model::Value;

/// What a sentence can tell.
#[derive(Clone, Copy, PartialEq)]
enum Field {
    Type,
    Talker,
    Latitude,
    Longitude,
    Altitude,
    Satellites,
    Fix,
    Hdop,
    Speed,
    Course,
    Time,
    Date,
    Number(usize),
}

const NAMES: [(&str, Field); 12] = [
    ("type", Field::Type),
    ("talker", Field::Talker),
    ("latitude", Field::Latitude),
    ("longitude", Field::Longitude),
    ("altitude", Field::Altitude),
    ("satellites", Field::Satellites),
    ("fix", Field::Fix),
    ("hdop", Field::Hdop),
    ("speed_kmh", Field::Speed),
    ("course", Field::Course),
    ("time", Field::Time),
    ("date", Field::Date),
];

/// Where a sentence keeps what; 0 is nowhere. Source: NMEA 0183, as gpsd's "NMEA Revealed" lists it.
#[derive(Clone, Copy, Default)]
struct Layout {
    /// First of latitude, N or S, longitude, E or W.
    position: usize,
    altitude: usize,
    satellites: usize,
    hdop: usize,
    knots: usize,
    kmh: usize,
    course: usize,
    time: usize,
    /// ddmmyy in one field.
    date: usize,
    /// Day, month, year in three fields.
    dates: usize,
    fix: Fix,
}

/// How a sentence tells whether there is a fix.
#[derive(Clone, Copy, Default)]
enum Fix {
    #[default]
    Unsaid,
    /// A number, 0 for none.
    Quality(usize),
    /// A or V.
    Status(usize),
    /// One letter for each system, N for none.
    Modes(usize),
}

fn layout(sentence: &[u8]) -> Layout {
    let none = Layout::default();
    match sentence {
        b"GGA" => Layout { time: 1, position: 2, fix: Fix::Quality(6), satellites: 7, hdop: 8, altitude: 9, ..none },
        b"GNS" => Layout { time: 1, position: 2, fix: Fix::Modes(6), satellites: 7, hdop: 8, altitude: 9, ..none },
        b"RMC" => Layout { time: 1, fix: Fix::Status(2), position: 3, knots: 7, course: 8, date: 9, ..none },
        b"GLL" => Layout { position: 1, time: 5, fix: Fix::Status(6), ..none },
        b"VTG" => Layout { course: 1, knots: 5, kmh: 7, ..none },
        b"GSA" => Layout { hdop: 16, ..none },
        b"ZDA" => Layout { time: 1, dates: 2, ..none },
        _ => none,
    }
}

struct Nmea {
    fields: Vec<Field>,
    /// Where each comma-separated part stands; 0 is the address.
    parts: Vec<(usize, usize)>,
    layout: Layout,
}

pub(super) fn build(_: &DecodeKeys, wants: &[Want<'_>]) -> Result<Box<dyn Kind>, Vec<KeyError>> {
    let mut fields = Vec::new();
    let mut errors = Vec::new();
    for want in wants {
        let name: &str = &want.field;
        match NAMES.iter().find(|(known, _)| *known == name) {
            Some((_, field)) => fields.push(*field),
            None => match name.parse::<usize>() {
                Ok(number) if number > 0 => fields.push(Field::Number(number)),
                _ => {
                    let error =
                        KeyError::new(format!("{}.field", want.path), format!("a sentence has no field `{name}`"));
                    let names = || NAMES.iter().map(|(name, _)| *name);
                    errors.push(match nearest(name, names()) {
                        Some(near) => error.help(format!("did you mean `{near}`?")),
                        None => error.help(format!("the fields are {}", names().collect::<Vec<_>>().join(", "))),
                    });
                }
            },
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok(Box::new(Nmea { fields, parts: Vec::new(), layout: Layout::default() }))
}

impl Nmea {
    /// A part that is there and not empty.
    fn part<'a>(&self, frame: &Frame<'a>, number: usize) -> Option<&'a [u8]> {
        let (from, to) = *self.parts.get(number)?;
        frame.bytes.get(from..to).filter(|part| !part.is_empty())
    }

    /// Like [`Nmea::part`], but 0 is nowhere.
    fn at<'a>(&self, frame: &Frame<'a>, number: usize) -> Option<&'a [u8]> {
        if number == 0 { None } else { self.part(frame, number) }
    }

    fn address<'a>(&self, frame: &Frame<'a>) -> Option<(&'a [u8], &'a [u8])> {
        let address = self.part(frame, 0)?;
        // a maker's own sentence is P and what the maker likes
        let talker = if address.first() == Some(&b'P') || address.len() < 5 { 1 } else { 2 };
        address.split_at_checked(talker)
    }

    /// The fix as a number; `None` where the sentence does not say.
    fn fix(&self, frame: &Frame<'_>) -> Option<f64> {
        let yes = |is: bool| if is { 1.0 } else { 0.0 };
        match self.layout.fix {
            Fix::Unsaid => None,
            Fix::Quality(at) => number(self.at(frame, at)?),
            Fix::Status(at) => self.at(frame, at).map(|part| yes(part == b"A")),
            Fix::Modes(at) => self.at(frame, at).map(|part| yes(part.iter().any(|mode| *mode != b'N'))),
        }
    }

    fn value<'a>(&self, frame: &Frame<'a>, field: Field) -> Option<Found<'a>> {
        let layout = &self.layout;
        let needs_fix =
            matches!(field, Field::Latitude | Field::Longitude | Field::Altitude | Field::Speed | Field::Course);
        if needs_fix && self.fix(frame) == Some(0.0) {
            return None;
        }
        let plain = |at| self.at(frame, at).map(Found::Text);
        match field {
            Field::Type => self.address(frame).map(|(_, sentence)| Found::Text(sentence)),
            Field::Talker => self.address(frame).map(|(talker, _)| Found::Text(talker)),
            Field::Latitude => self.degrees(frame, layout.position, b'N', b'S', 90.0),
            Field::Longitude => self.degrees(frame, next(layout.position, 2), b'E', b'W', 180.0),
            Field::Altitude => plain(layout.altitude),
            Field::Satellites => plain(layout.satellites),
            Field::Fix => self.fix(frame).map(Found::Number),
            Field::Hdop => plain(layout.hdop),
            Field::Speed => plain(layout.kmh).or_else(|| {
                let part = self.at(frame, layout.knots)?;
                Some(match number(part) {
                    Some(knots) => Found::Number(round(knots * 1.852, 1e4)),
                    None => Found::Wrong(lossy(part).into_owned()),
                })
            }),
            Field::Course => plain(layout.course),
            Field::Time => self.at(frame, layout.time).map(time),
            Field::Date => self.date(frame),
            Field::Number(at) => plain(at),
        }
    }

    fn degrees(&self, frame: &Frame<'_>, at: usize, plus: u8, minus: u8, most: f64) -> Option<Found<'static>> {
        let part = self.at(frame, at)?;
        let wrong = || Some(Found::Wrong(lossy(part).into_owned()));
        let Some(value) = number(part).filter(|value| *value >= 0.0) else { return wrong() };
        let whole = (value / 100.0).floor();
        let minutes = value - whole * 100.0;
        let degrees = whole + minutes / 60.0;
        if minutes >= 60.0 || degrees > most {
            return wrong();
        }
        let degrees = round(degrees, 1e7);
        match self.at(frame, at + 1)? {
            [sign] if *sign == plus => Some(Found::Number(degrees)),
            [sign] if *sign == minus => Some(Found::Number(-degrees)),
            _ => wrong(),
        }
    }

    fn date(&self, frame: &Frame<'_>) -> Option<Found<'static>> {
        let two = |part: &[u8]| std::str::from_utf8(part).ok()?.parse::<u32>().ok();
        let (day, month, year, text) = if self.layout.dates > 0 {
            let at = self.layout.dates;
            let (day, month, year) = (self.at(frame, at)?, self.at(frame, at + 1)?, self.at(frame, at + 2)?);
            (two(day), two(month), two(year), day)
        } else {
            let text = self.at(frame, self.layout.date)?;
            let pair = |at: usize| text.get(at..at + 2).and_then(two);
            // two digits of the year: NMEA came in 1983
            let year = pair(4).map(|year| if year < 80 { 2000 + year } else { 1900 + year });
            (pair(0), pair(2), year, text)
        };
        Some(match (day, month, year) {
            (Some(day @ 1..=31), Some(month @ 1..=12), Some(year)) => {
                Found::Owned(format!("{year:04}-{month:02}-{day:02}"))
            }
            _ => Found::Wrong(lossy(text).into_owned()),
        })
    }
}

/// A later place of the same layout; nowhere stays nowhere.
fn next(at: usize, by: usize) -> usize {
    if at == 0 { 0 } else { at + by }
}

fn number(part: &[u8]) -> Option<f64> {
    std::str::from_utf8(part).ok().and_then(crate::model::value::parse_number)
}

fn round(value: f64, steps: f64) -> f64 {
    (value * steps).round() / steps
}

/// `123519.50` as `12:35:19.5`.
fn time(part: &[u8]) -> Found<'static> {
    let (whole, fraction) = part.split_at(part.iter().position(|b| *b == b'.').unwrap_or(part.len()));
    let [h1, h2, m1, m2, s1, s2] = whole else { return Found::Wrong(lossy(part).into_owned()) };
    let digits = whole.iter().chain(fraction.iter().skip(1)).all(u8::is_ascii_digit);
    let in_range = (*h1, *h2) < (b'2', b'4') && *m1 < b'6' && *s1 <= b'6';
    if !digits || !in_range {
        return Found::Wrong(lossy(part).into_owned());
    }
    let c = |digit: &u8| *digit as char;
    let fraction = lossy(fraction);
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    Found::Owned(format!("{}{}:{}{}:{}{}{fraction}", c(h1), c(h2), c(m1), c(m2), c(s1), c(s2)))
}

impl Kind for Nmea {
    fn parse(&mut self, frame: &Frame<'_>) -> Result<(), Reason> {
        let sentence = super::trim(frame.bytes);
        self.parts.clear();
        if !matches!(sentence.first(), Some(b'$' | b'!')) {
            return Err(Reason::Syntax);
        }
        let mut end = frame.bytes.len();
        while end > 0 && frame.bytes[end - 1] <= b' ' {
            end -= 1;
        }
        // where the framing was a plain line nobody has looked at the checksum yet
        if sentence.len() > 3 && sentence[sentence.len() - 3] == b'*' {
            verify_nmea(sentence)?;
            end -= 3;
        }
        let start = frame.bytes.iter().position(|b| matches!(b, b'$' | b'!')).unwrap_or(0) + 1;
        let mut from = start;
        for at in memchr::memchr_iter(b',', frame.bytes.get(start..end).unwrap_or(&[])) {
            self.parts.push((from, start + at));
            from = start + at + 1;
        }
        self.parts.push((from, end.max(from)));
        self.layout = self.address(frame).map(|(_, sentence)| layout(sentence)).unwrap_or_default();
        Ok(())
    }

    fn get<'a>(&'a self, frame: &Frame<'a>, slot: usize) -> Option<Found<'a>> {
        self.value(frame, *self.fields.get(slot)?)
    }

    fn each(&self, frame: &Frame<'_>, visit: &mut dyn FnMut(&str, Value)) {
        for (name, field) in NAMES {
            if let Some(found) = self.value(frame, field) {
                visit(name, super::coerce(found, None).0);
            }
        }
        for number in 1..self.parts.len() {
            if let Some(found) = self.value(frame, Field::Number(number)) {
                visit(&number.to_string(), super::coerce(found, None).0);
            }
        }
    }
}
