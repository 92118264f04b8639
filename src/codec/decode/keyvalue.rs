//! `keyvalue`: `T=21.5;H=40`. Names and values are trimmed; where a name comes twice the last one counts.

use std::ops::Range;

use memchr::memmem;

use super::{DecodeKeys, Found, Kind, Want, lossy, text_at, trim, trim_noise};
use crate::codec::{Frame, KeyError, Reason};
use crate::model::Value;

/// What separates pairs.
enum Split {
    One(u8),
    Many(Box<memmem::Finder<'static>>),
    /// Any of `;`, `,` and white space.
    Usual,
}

struct KeyValue {
    split: Split,
    assign: memmem::Finder<'static>,
    assign_byte: Option<u8>,
    fields: Vec<Vec<u8>>,
    found: Vec<Option<Range<usize>>>,
}

pub(super) fn build(keys: &DecodeKeys, wants: &[Want<'_>]) -> Result<Box<dyn Kind>, Vec<KeyError>> {
    let assign = keys.assign.as_ref().map_or(&b"="[..], |a| &a.0);
    let split = match keys.pair.as_ref().map(|pair| pair.0.as_slice()) {
        None => Split::Usual,
        Some(pair) if pair == assign => {
            return Err(vec![
                KeyError::new("decode.assign", "`pair` and `assign` are the same")
                    .help("`pair` separates pairs, `assign` stands between name and value"),
            ]);
        }
        Some([one]) => Split::One(*one),
        Some(pair) => Split::Many(Box::new(memmem::Finder::new(pair).into_owned())),
    };
    Ok(Box::new(KeyValue {
        split,
        assign: memmem::Finder::new(assign).into_owned(),
        assign_byte: if let [one] = assign { Some(*one) } else { None },
        fields: wants.iter().map(|want| want.field.as_bytes().to_vec()).collect(),
        found: vec![None; wants.len()],
    }))
}

fn is_usual(byte: u8) -> bool {
    matches!(byte, b';' | b',') || byte.is_ascii_whitespace()
}

impl KeyValue {
    /// Where the first pair ends. A comma before digits alone is no end: 21,5 is one number in half of Europe.
    fn usual_end(&self, text: &[u8]) -> Option<usize> {
        let ends_pair = |comma: usize| {
            let word = text.get(comma + 1..).unwrap_or(&[]);
            let word = word.get(..word.iter().position(|b| is_usual(*b)).unwrap_or(word.len())).unwrap_or(&[]);
            word.is_empty() || self.assign.find(word).is_some()
        };
        (0..text.len()).find(|at| is_usual(text[*at]) && (text[*at] != b',' || ends_pair(*at)))
    }

    /// Calls with the name and the range of the value of each pair.
    fn pairs<'t>(&self, text: &'t [u8], mut each: impl FnMut(&'t [u8], Range<usize>)) {
        let mut from = 0;
        while from < text.len() {
            let rest = &text[from..];
            let (end, gap) = match &self.split {
                Split::One(byte) => (memchr::memchr(*byte, rest), 1),
                Split::Many(finder) => (finder.find(rest), finder.needle().len()),
                Split::Usual => (self.usual_end(rest), 1),
            };
            let end = end.unwrap_or(rest.len());
            let pair = &rest[..end];
            let at = match self.assign_byte {
                Some(byte) => memchr::memchr(byte, pair),
                None => self.assign.find(pair),
            };
            if let Some(at) = at {
                each(trim(&pair[..at]), from + at + self.assign.needle().len()..from + end);
            }
            from += end + gap;
        }
    }
}

impl Kind for KeyValue {
    fn parse(&mut self, frame: &Frame<'_>) -> Result<(), Reason> {
        let mut found = std::mem::take(&mut self.found);
        found.fill(None);
        let mut any = false;
        self.pairs(frame.text(), |name, value| {
            any = true;
            let mut set = |name: &[u8]| {
                let mut hit = false;
                for (slot, _) in self.fields.iter().enumerate().filter(|(_, field)| field.as_slice() == name) {
                    found[slot] = Some(value.clone());
                    hit = true;
                }
                hit
            };
            if !set(name) && name.first().is_some_and(|b| !b.is_ascii()) {
                set(trim_noise(name));
            }
        });
        self.found = found;
        if any { Ok(()) } else { Err(Reason::Syntax) }
    }

    fn get<'a>(&'a self, frame: &Frame<'a>, slot: usize) -> Option<Found<'a>> {
        text_at(frame.text(), self.found.get(slot)?.clone()?)
    }

    fn each(&self, frame: &Frame<'_>, visit: &mut dyn FnMut(&str, Value)) {
        let text = frame.text();
        self.pairs(text, |name, value| {
            if let Some(Found::Text(value)) = text_at(text, value) {
                visit(&lossy(trim_noise(name)), Value::parse(&lossy(value)));
            }
        });
    }
}
