//! `{length: 32}`, `{start: "42 4d", length: 32}`: frames of one length, with or without a start mark.
//!
//! Without a mark only a check can find where frames begin; each place is tried.

use memchr::memmem::Finder;

use super::{Cut, Doubt, Found, FrameMap, Framing, Joined, find_start, start_mark};
use crate::codec::KeyError;

struct Length {
    start: Vec<u8>,
    finder: Finder<'static>,
    length: usize,
}

pub(super) fn build(keys: &FrameMap, max: usize) -> Result<Box<dyn Framing>, KeyError> {
    let length = keys.length.unwrap_or(0) as usize;
    let start = start_mark(keys, max)?;
    if length > max {
        return Err(KeyError::new("frame.length", format!("a frame of {length} bytes is longer than `max` ({max})"))
            .help(format!("leave `max` out or write at least {length}, at most 16777216")));
    }
    if length == 0 || length < start.len() {
        return Err(KeyError::new("frame.length", format!("{length} bytes cannot hold the frame and its start mark"))
            .help("`length` counts the whole frame, the start mark too"));
    }
    Ok(Box::new(Length { finder: Finder::new(&start).into_owned(), start, length }))
}

impl Framing for Length {
    fn cut(&mut self, buf: &[u8]) -> Cut {
        match find_start(&self.finder, buf) {
            Err(0) => Cut::More,
            Err(n) => Cut::Drop(n),
            Ok(0) if buf.len() < self.length => Cut::More,
            Ok(0) => Cut::Frame { found: Found::Here(0..self.length), used: self.length, again: 1, doubt: Doubt::None },
            Ok(n) => Cut::Drop(n),
        }
    }
    fn shift(&mut self, _: usize) {}
    fn reset(&mut self, _: Joined) {}
    fn may_overreach(&self) -> bool {
        true
    }
    fn tries_every_byte(&self) -> bool {
        self.start.is_empty()
    }
    fn marks(&self) -> (&[u8], &[u8]) {
        (&self.start, &[])
    }
}
