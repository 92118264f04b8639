//! `slip`: RFC 1055. 0xc0 ends (and may begin) a frame; inside, `db dc` stands for c0 and `db dd` for db.
//!
//! The frame is the decoded content; `max` counts that.

use super::{Cut, Doubt, Found, FrameMap, Framing, Joined};
use crate::codec::{KeyError, Reason};

const END: u8 = 0xc0;
const ESC: u8 = 0xdb;

struct Slip {
    max: usize,
    /// Bytes known to hold no end.
    scanned: usize,
    /// The frame was too long; the rest of it is dropped.
    rest: bool,
    /// What comes may be the rest of a frame that began before the port was opened.
    unsure: bool,
    out: Vec<u8>,
}

pub(super) fn build(_: &FrameMap, max: usize) -> Result<Box<dyn Framing>, KeyError> {
    Ok(Box::new(Slip { max, scanned: 0, rest: false, unsure: true, out: Vec::new() }))
}

/// Decodes one frame without its end; false if an escape is followed by what it cannot be.
fn decode(block: &[u8], out: &mut Vec<u8>) -> bool {
    out.clear();
    let mut rest = block.iter();
    while let Some(&byte) = rest.next() {
        out.push(match byte {
            ESC => match rest.next() {
                Some(0xdc) => END,
                Some(0xdd) => ESC,
                _ => return false,
            },
            other => other,
        });
    }
    true
}

impl Framing for Slip {
    fn cut(&mut self, buf: &[u8]) -> Cut {
        let Some(hit) = buf.get(self.scanned..).and_then(|fresh| memchr::memchr(END, fresh)) else {
            self.scanned = buf.len();
            return if self.rest {
                Cut::Drop(buf.len())
            } else if buf.len() > 2 * self.max {
                self.rest = true;
                let unsure = std::mem::replace(&mut self.unsure, false);
                match unsure {
                    true => Cut::Drop(buf.len()),
                    false => Cut::Bad { reason: Reason::TooLong, used: buf.len(), extent: buf.len() },
                }
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
        let doubt = if unsure { Doubt::Strong } else { Doubt::None };
        let reason = match decode(&buf[..end], &mut self.out) {
            true if self.out.len() <= self.max => {
                return Cut::Frame { found: Found::Decoded, used, again: used, doubt };
            }
            true => Reason::TooLong,
            false => Reason::Encoding,
        };
        if unsure { Cut::Drop(used) } else { Cut::Bad { reason, used, extent: used } }
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
