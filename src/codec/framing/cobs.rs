//! `cobs`: Consistent Overhead Byte Stuffing (Cheshire and Baker, 1999). A zero byte ends each frame and occurs nowhere
//! else; each code byte says how far the next zero of the content is.
//!
//! The frame is the decoded content; `max` counts that. The rest of a frame that was under way when the port was opened
//! seldom decodes, so it is dropped without being counted; only a check makes sure.

use super::{Cut, Doubt, Found, FrameMap, Framing, Joined};
use crate::codec::{KeyError, Reason};

struct Cobs {
    max: usize,
    /// Bytes known to hold no zero.
    scanned: usize,
    /// The frame was too long; the rest of it is dropped.
    rest: bool,
    /// Nothing was whole since the port was opened.
    unsure: bool,
    out: Vec<u8>,
}

pub(super) fn build(_: &FrameMap, max: usize) -> Result<Box<dyn Framing>, KeyError> {
    Ok(Box::new(Cobs { max, scanned: 0, rest: false, unsure: true, out: Vec::new() }))
}

/// Decodes one block without its zero; false if it is not COBS.
fn decode(mut block: &[u8], out: &mut Vec<u8>) -> bool {
    out.clear();
    while let Some((&code, tail)) = block.split_first() {
        let run = usize::from(code).saturating_sub(1);
        let (Some(data), Some(next)) = (tail.get(..run), tail.get(run..)) else { return false };
        out.extend_from_slice(data);
        if code != 0xff && !next.is_empty() {
            out.push(0);
        }
        block = next;
    }
    true
}

impl Framing for Cobs {
    fn cut(&mut self, buf: &[u8]) -> Cut {
        let longest = self.max + self.max / 254 + 1;
        let Some(hit) = buf.get(self.scanned..).and_then(|fresh| memchr::memchr(0, fresh)) else {
            self.scanned = buf.len();
            return if self.rest {
                Cut::Drop(buf.len())
            } else if buf.len() > longest {
                self.rest = true;
                Cut::Bad { reason: Reason::TooLong, used: buf.len(), extent: buf.len() }
            } else {
                Cut::More
            };
        };
        let end = self.scanned + hit;
        let used = end + 1;
        let unsure = std::mem::replace(&mut self.unsure, false);
        if std::mem::replace(&mut self.rest, false) {
            return Cut::Drop(used);
        }
        if end == 0 {
            return Cut::Skip(used);
        }
        if !decode(&buf[..end], &mut self.out) {
            return if unsure { Cut::Drop(used) } else { Cut::Bad { reason: Reason::Encoding, used, extent: used } };
        }
        if self.out.len() > self.max {
            return Cut::Bad { reason: Reason::TooLong, used, extent: used };
        }
        let doubt = if unsure { Doubt::Slight } else { Doubt::None };
        Cut::Frame { found: Found::Decoded, used, again: used, doubt }
    }
    fn shift(&mut self, n: usize) {
        self.scanned = self.scanned.saturating_sub(n);
    }
    fn reset(&mut self, joined: Joined) {
        self.scanned = 0;
        self.rest = false;
        self.unsure = joined == Joined::Midway;
    }
    fn decoded(&self) -> &[u8] {
        &self.out
    }
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn the_examples_of_the_paper_decode() {
        let mut out = Vec::new();
        let long: Vec<u8> = (1..=254).collect();
        let mut coded = vec![0xff];
        coded.extend(&long);
        for (block, content) in [
            (&[1u8, 1][..], &[0u8][..]),
            (&[1, 1, 1], &[0, 0]),
            (&[3, 0x11, 0x22, 2, 0x33], &[0x11, 0x22, 0, 0x33]),
            (&[2, 0x11, 1, 1, 1], &[0x11, 0, 0, 0]),
            (&coded, &long),
        ] {
            assert!(decode(block, &mut out));
            assert_eq!(out, content);
        }
        assert!(!decode(&[5, 1, 2], &mut out));
    }
}
