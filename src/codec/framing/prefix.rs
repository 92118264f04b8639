//! `{length_prefix: u8|u16be|u16le, at: 1, adjust: 2}`: frames that hold their own length, with or without a start mark.
//!
//! The frame's length is the number at `at` plus `adjust`. A length that cannot be (shorter than its own field, longer
//! than `max`) is refused at once; a wrong one that can be is found by the check, or, where the line falls silent
//! first, by the search behind it.

use memchr::memmem::Finder;

use super::{Cut, Doubt, Found, FrameMap, Framing, Joined, Width, find_start, start_mark};
use crate::codec::{KeyError, Reason};

struct Prefix {
    start: Vec<u8>,
    finder: Finder<'static>,
    width: Width,
    at: usize,
    adjust: i64,
    /// The shortest frame that holds its mark and its length.
    least: usize,
    max: usize,
}

pub(super) fn build(keys: &FrameMap, max: usize) -> Result<Box<dyn Framing>, KeyError> {
    let start = start_mark(keys, max)?;
    let width = keys.length_prefix.unwrap_or(Width::U8);
    let at = keys.at.map_or(start.len(), |at| at as usize);
    let adjust = keys.adjust.unwrap_or(0);
    let least = at.saturating_add(width.bytes());
    if at < start.len() {
        return Err(KeyError::new("frame.at", format!("at {at} stands the start mark, not the length"))
            .help(format!("`at` counts from the frame's first byte; write {} or more", start.len())));
    }
    if least > max {
        return Err(KeyError::new("frame.at", format!("{at} is beyond the longest frame (`max` {max})")));
    }
    let largest = if width == Width::U8 { 255 } else { 65_535 };
    if adjust.saturating_add(largest) < least as i64 || adjust > max as i64 {
        return Err(KeyError::new("frame.adjust", format!("with {adjust} no frame is possible"))
            .help("`adjust` is how many bytes of the frame its length does not count"));
    }
    Ok(Box::new(Prefix { finder: Finder::new(&start).into_owned(), start, width, at, adjust, least, max }))
}

impl Framing for Prefix {
    fn cut(&mut self, buf: &[u8]) -> Cut {
        match find_start(&self.finder, buf) {
            Ok(0) => {}
            Err(0) => return Cut::More,
            Ok(n) | Err(n) => return Cut::Drop(n),
        }
        let Some(length) = self.width.read(buf, self.at) else { return Cut::More };
        match usize::try_from(length as i64 + self.adjust) {
            Ok(total) if total < self.least => Cut::Bad { reason: Reason::Length, used: 1, extent: 1 },
            Ok(total) if total > self.max => Cut::Bad { reason: Reason::TooLong, used: 1, extent: 1 },
            Ok(total) if total > buf.len() => Cut::More,
            Ok(total) => Cut::Frame { found: Found::Here(0..total), used: total, again: 1, doubt: Doubt::None },
            Err(_) => Cut::Bad { reason: Reason::Length, used: 1, extent: 1 },
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
