//! `text` and `raw`: the whole frame, as text or as bytes.

use super::{DecodeKeys, Found, Kind, Want, lossy};
use crate::codec::{Frame, KeyError, Reason};
use crate::model::Value;

struct Whole {
    raw: bool,
}

pub(super) fn build_text(_: &DecodeKeys, _: &[Want<'_>]) -> Result<Box<dyn Kind>, Vec<KeyError>> {
    Ok(Box::new(Whole { raw: false }))
}

pub(super) fn build_raw(_: &DecodeKeys, _: &[Want<'_>]) -> Result<Box<dyn Kind>, Vec<KeyError>> {
    Ok(Box::new(Whole { raw: true }))
}

impl Kind for Whole {
    fn parse(&mut self, _: &Frame<'_>) -> Result<(), Reason> {
        Ok(())
    }
    fn get<'a>(&'a self, frame: &Frame<'a>, _: usize) -> Option<Found<'a>> {
        Some(if self.raw { Found::Bytes(frame.bytes) } else { Found::Text(frame.bytes) })
    }
    fn each(&self, frame: &Frame<'_>, visit: &mut dyn FnMut(&str, Value)) {
        match self.raw {
            true => visit("raw", Value::Bytes(frame.bytes.to_vec())),
            false => visit("text", Value::parse(&lossy(frame.bytes))),
        }
    }
}
