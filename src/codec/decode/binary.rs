//! `binary`: numbers, bits, digits, bytes and text at fixed places of the whole frame, marks and check counted.

use super::extract::Extract;
use super::{DecodeKeys, Found, Kind, Want};
use crate::codec::check::offset;
use crate::codec::{Frame, KeyError, Reason};
use crate::model::Value;

struct Binary {
    fields: Vec<(String, i64, Extract)>,
}

pub(super) fn build(_: &DecodeKeys, wants: &[Want<'_>]) -> Result<Box<dyn Kind>, Vec<KeyError>> {
    let mut fields = Vec::new();
    let mut errors = Vec::new();
    for want in wants {
        let extract = Extract::new(want.keys, &want.path, None);
        match (want.keys.at, extract) {
            (Some(at), Ok(extract)) => fields.push((want.field.to_string(), at, extract)),
            (None, extract) => {
                errors.push(
                    KeyError::new(want.path.clone(), "it does not say where the value stands")
                        .help("add `at: 4`, counted from the frame's first byte"),
                );
                errors.extend(extract.err());
            }
            (_, Err(error)) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(Box::new(Binary { fields })) } else { Err(errors) }
}

impl Kind for Binary {
    fn parse(&mut self, _: &Frame<'_>) -> Result<(), Reason> {
        Ok(())
    }
    fn get<'a>(&'a self, frame: &Frame<'a>, slot: usize) -> Option<Found<'a>> {
        let (_, at, extract) = self.fields.get(slot)?;
        let at = offset(*at, frame.bytes.len())?;
        extract.read(frame.bytes.get(at..)?, frame.data_end().saturating_sub(at))
    }
    fn each(&self, frame: &Frame<'_>, visit: &mut dyn FnMut(&str, Value)) {
        for (slot, (name, ..)) in self.fields.iter().enumerate() {
            if let Some(found) = self.get(frame, slot) {
                visit(name, super::coerce(found, None).0);
            }
        }
    }
}
