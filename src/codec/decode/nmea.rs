//! Coming.
use super::{DecodeKeys, Kind, Want};
use crate::codec::KeyError;
pub(super) fn build(_: &DecodeKeys, _: &[Want<'_>]) -> Result<Box<dyn Kind>, Vec<KeyError>> {
    Err(vec![KeyError::new("decode.type", "not there yet")])
}
