//! `tlv`: elements of tag, length and value, one after the other, up to the check or end mark.
//!
//! An element that reaches beyond the content makes the frame bad. Where a tag comes twice the last one counts.

use std::ops::Range;

use super::extract::Extract;
use super::{Count, DecodeKeys, Found, Kind, Want};
use crate::codec::framing::Width;
use crate::codec::{Frame, KeyError, Reason};
use crate::model::Value;

struct Tlv {
    at: usize,
    tag: Width,
    length: Width,
    fields: Vec<(usize, Extract)>,
    found: Vec<Option<Range<usize>>>,
}

pub(super) fn build(keys: &DecodeKeys, wants: &[Want<'_>]) -> Result<Box<dyn Kind>, Vec<KeyError>> {
    let mut fields = Vec::new();
    let mut errors = Vec::new();
    for want in wants {
        let extract = Extract::new(want.keys, &want.path, Some(Count::Rest));
        match (want.keys.tag, extract) {
            (Some(tag), Ok(extract)) => fields.push((tag as usize, extract)),
            (None, _) => errors.push(
                KeyError::new(want.path.clone(), "it does not say which element it is")
                    .help("add `tag: 1` and `as: u16be`"),
            ),
            (_, Err(error)) => errors.push(error),
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok(Box::new(Tlv {
        at: keys.at.unwrap_or(0) as usize,
        tag: keys.tag.unwrap_or(Width::U8),
        length: keys.length.unwrap_or(Width::U8),
        found: vec![None; fields.len()],
        fields,
    }))
}

impl Tlv {
    /// Calls with the tag and the range of the value of each element.
    fn elements(&self, frame: &Frame<'_>, mut each: impl FnMut(usize, Range<usize>)) -> Result<(), Reason> {
        let content = frame.bytes.get(..frame.data_end()).unwrap_or(frame.bytes);
        let mut at = self.at;
        if at > content.len() {
            return Err(Reason::TooShort);
        }
        while at < content.len() {
            let (Some(tag), Some(length)) =
                (self.tag.read(content, at), self.length.read(content, at + self.tag.bytes()))
            else {
                return Err(Reason::Length);
            };
            let from = at + self.tag.bytes() + self.length.bytes();
            at = from + length;
            if at > content.len() {
                return Err(Reason::Length);
            }
            each(tag, from..at);
        }
        Ok(())
    }
}

impl Kind for Tlv {
    fn parse(&mut self, frame: &Frame<'_>) -> Result<(), Reason> {
        let mut found = std::mem::take(&mut self.found);
        found.fill(None);
        let result = self.elements(frame, |tag, range| {
            for (slot, _) in self.fields.iter().enumerate().filter(|(_, (wanted, _))| *wanted == tag) {
                found[slot] = Some(range.clone());
            }
        });
        self.found = found;
        result
    }
    fn get<'a>(&'a self, frame: &Frame<'a>, slot: usize) -> Option<Found<'a>> {
        let value = frame.bytes.get(self.found.get(slot)?.clone()?)?;
        let (_, extract) = self.fields.get(slot)?;
        // an element that is there and too short is not absent
        Some(extract.read(value, value.len()).unwrap_or_else(|| Found::Wrong(super::extract::hex(value))))
    }
    fn each(&self, frame: &Frame<'_>, visit: &mut dyn FnMut(&str, Value)) {
        // a frame that was parsed has no error left to tell
        let _ = self.elements(frame, |tag, range| {
            if let Some(value) = frame.bytes.get(range) {
                visit(&tag.to_string(), Value::Bytes(value.to_vec()));
            }
        });
    }
}
