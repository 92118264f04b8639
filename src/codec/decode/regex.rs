//! `regex`: one expression over the whole frame; its named groups are the fields. What is not UTF-8 is seen as U+FFFD.

use regex::{CaptureLocations, Regex};

use super::{DecodeKeys, Found, Kind, Want, compile, text_at};
use crate::codec::{Frame, KeyError, Reason, nearest};
use crate::model::Value;

struct ByRegex {
    regex: Regex,
    groups: CaptureLocations,
    /// Group of each wanted field.
    slots: Vec<usize>,
    /// The frame where it is not UTF-8.
    lossy: Option<String>,
}

pub(super) fn build(keys: &DecodeKeys, wants: &[Want<'_>]) -> Result<Box<dyn Kind>, Vec<KeyError>> {
    let Some(pattern) = &keys.pattern else {
        return Err(vec![
            KeyError::new("decode", "`type: regex` needs a `pattern`").help("pattern: 'T=(?<temperature>[0-9.]+)'"),
        ]);
    };
    let regex = compile(pattern).map_err(|text| vec![KeyError::new("decode.pattern", text)])?;
    let mut slots = Vec::new();
    let mut errors = Vec::new();
    for want in wants {
        let field: &str = &want.field;
        let by_name = regex.capture_names().position(|name| name == Some(field));
        let by_number = || field.parse().ok().filter(|n| *n < regex.captures_len());
        match by_name.or_else(by_number) {
            Some(group) => slots.push(group),
            None => {
                let error =
                    KeyError::new(format!("{}.field", want.path), format!("the pattern has no group `{field}`"));
                errors.push(match nearest(field, regex.capture_names().flatten()) {
                    Some(near) => error.help(format!("did you mean `{near}`?")),
                    None => error.help(format!("write (?<{field}>…) in the pattern")),
                });
            }
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok(Box::new(ByRegex { groups: regex.capture_locations(), regex, slots, lossy: None }))
}

impl ByRegex {
    fn text<'a>(&'a self, frame: &Frame<'a>) -> &'a [u8] {
        match &self.lossy {
            Some(text) => text.as_bytes(),
            None => frame.bytes,
        }
    }
}

impl Kind for ByRegex {
    fn parse(&mut self, frame: &Frame<'_>) -> Result<(), Reason> {
        let found = match std::str::from_utf8(frame.bytes) {
            Ok(text) => {
                self.lossy = None;
                self.regex.captures_read(&mut self.groups, text)
            }
            Err(_) => {
                let text = self.lossy.insert(String::from_utf8_lossy(frame.bytes).into_owned());
                self.regex.captures_read(&mut self.groups, text)
            }
        };
        found.map(|_| ()).ok_or(Reason::NoMatch)
    }

    fn get<'a>(&'a self, frame: &Frame<'a>, slot: usize) -> Option<Found<'a>> {
        let (from, to) = self.groups.get(*self.slots.get(slot)?)?;
        text_at(self.text(frame), from..to)
    }

    fn each(&self, frame: &Frame<'_>, visit: &mut dyn FnMut(&str, Value)) {
        for (group, name) in self.regex.capture_names().enumerate().skip(1) {
            let Some((from, to)) = self.groups.get(group) else { continue };
            if let Some(Found::Text(text)) = text_at(self.text(frame), from..to) {
                let value = Value::parse(&super::lossy(text));
                match name {
                    Some(name) => visit(name, value),
                    None => visit(&group.to_string(), value),
                }
            }
        }
    }
}
