//! `{start: "02", end: "03"}` and `{start: …, end: …, trailer: 6}`: frames between two marks, both part of the frame,
//! with a fixed number of bytes behind the end mark if `trailer` says so.
//!
//! The first end mark behind a start mark ends the frame. Where both marks are the same, two of them in a row are the
//! end of one frame and the start of the next, so that a stream joined inside a frame falls into step.

use memchr::memmem::Finder;

use super::{Cut, Doubt, Found, FrameMap, Framing, Joined, find_start, start_mark};
use crate::codec::{KeyError, Reason};

struct Marks {
    start: Vec<u8>,
    end: Vec<u8>,
    find_start: Finder<'static>,
    find_end: Finder<'static>,
    trailer: usize,
    max: usize,
    /// No end mark begins before this offset, whatever start mark is taken.
    scanned: usize,
}

pub(super) fn build(keys: &FrameMap, max: usize) -> Result<Box<dyn Framing>, KeyError> {
    let start = start_mark(keys, max)?;
    let end = keys.end.clone().unwrap_or_default().0;
    let trailer = keys.trailer.unwrap_or(0) as usize;
    if start.is_empty() {
        return Err(KeyError::new("frame.end", "`end` needs `start`")
            .help("add `start`, or write `delimiter` for frames that only end with a mark"));
    }
    if end.is_empty() {
        return Err(KeyError::new("frame.end", "the end mark is empty"));
    }
    if trailer.saturating_add(start.len() + end.len()) > max {
        return Err(
            KeyError::new("frame.end", "the marks and the trailer alone are longer than `max`").help("raise `max`")
        );
    }
    Ok(Box::new(Marks {
        find_start: Finder::new(&start).into_owned(),
        find_end: Finder::new(&end).into_owned(),
        start,
        end,
        trailer,
        max,
        scanned: 0,
    }))
}

impl Framing for Marks {
    fn cut(&mut self, buf: &[u8]) -> Cut {
        match find_start(&self.find_start, buf) {
            Ok(0) => {}
            Err(0) => return Cut::More,
            Ok(n) | Err(n) => return Cut::Drop(n),
        }
        let from = self.scanned.max(self.start.len());
        let Some(hit) = buf.get(from..).and_then(|b| self.find_end.find(b)) else {
            self.scanned = (buf.len() + 1).saturating_sub(self.end.len()).max(self.start.len());
            // an end mark may still begin at `scanned`; the frame is too long once even that would be
            let shortest = self.scanned + self.end.len() + self.trailer;
            return if shortest > self.max {
                Cut::Bad { reason: Reason::TooLong, used: 1, extent: self.scanned }
            } else {
                Cut::More
            };
        };
        let end = from + hit;
        self.scanned = end;
        if end == self.start.len() && self.start == self.end {
            return Cut::Drop(self.start.len());
        }
        let used = end + self.end.len() + self.trailer;
        if used > self.max {
            Cut::Bad { reason: Reason::TooLong, used: 1, extent: self.scanned }
        } else if used > buf.len() {
            Cut::More
        } else {
            Cut::Frame { found: Found::Here(0..used), used, again: 1, doubt: Doubt::None }
        }
    }
    fn shift(&mut self, n: usize) {
        self.scanned = self.scanned.saturating_sub(n);
    }
    fn reset(&mut self, _: Joined) {
        self.scanned = 0;
    }
    fn may_overreach(&self) -> bool {
        true
    }
    fn marks(&self) -> (&[u8], &[u8]) {
        (&self.start, &self.end)
    }
}
