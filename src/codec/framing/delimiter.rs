//! `{delimiter: "\r\n"}`: a mark between frames, lines above all.
//!
//! The delimiter is not part of the frame; empty frames are none; with `"\n"` a CR before it is taken off. A frame that
//! grows beyond `max` is refused at once and the rest of it is dropped, never kept.

use memchr::memmem::Finder;

use super::{Cut, Doubt, Found, FrameMap, Framing, Joined};
use crate::codec::{KeyError, Reason};

struct Delimiter {
    finder: Finder<'static>,
    /// The delimiter, where it is one byte.
    single: Option<u8>,
    width: usize,
    strip_cr: bool,
    max: usize,
    /// Bytes known to hold no delimiter.
    scanned: usize,
    /// What comes before the next delimiter.
    ahead: Ahead,
}

#[derive(Clone, Copy, PartialEq)]
enum Ahead {
    /// A frame from its first byte.
    Whole,
    /// Maybe the rest of a frame that began before the port was opened.
    Unsure,
    /// The rest of a frame that was too long.
    Rest,
}

pub(super) fn build(keys: &FrameMap, max: usize) -> Result<Box<dyn Framing>, KeyError> {
    let mark = keys.delimiter.clone().unwrap_or_default().0;
    if mark.is_empty() {
        return Err(KeyError::new("frame.delimiter", "the delimiter is empty").help("write \"\\n\" for lines"));
    }
    Ok(Box::new(Delimiter {
        single: (mark.len() == 1).then(|| mark[0]),
        width: mark.len(),
        strip_cr: mark == b"\n",
        finder: Finder::new(&mark).into_owned(),
        max,
        scanned: 0,
        ahead: Ahead::Unsure,
    }))
}

impl Framing for Delimiter {
    fn cut(&mut self, buf: &[u8]) -> Cut {
        let fresh = buf.get(self.scanned..).unwrap_or(&[]);
        let hit = match self.single {
            Some(byte) => memchr::memchr(byte, fresh),
            None => self.finder.find(fresh),
        };
        let Some(hit) = hit else {
            let sure = (buf.len() + 1).saturating_sub(self.width);
            self.scanned = sure;
            return match self.ahead {
                Ahead::Rest if sure > 0 => Cut::Drop(sure),
                // one byte more than `max` is not yet too long where it may be the CR
                _ if sure > self.max + usize::from(self.strip_cr) => {
                    let first = self.ahead == Ahead::Unsure;
                    self.ahead = Ahead::Rest;
                    if first { Cut::Drop(sure) } else { Cut::Bad { reason: Reason::TooLong, used: sure, extent: sure } }
                }
                _ => Cut::More,
            };
        };
        let end = self.scanned + hit;
        let used = end + self.width;
        let ahead = std::mem::replace(&mut self.ahead, Ahead::Whole);
        if ahead == Ahead::Rest {
            return Cut::Drop(used);
        }
        let end = if self.strip_cr && end > 0 && buf[end - 1] == b'\r' { end - 1 } else { end };
        if end == 0 {
            return Cut::Skip(used);
        }
        let first = ahead == Ahead::Unsure;
        let doubt = if first { Doubt::Strong } else { Doubt::None };
        match end > self.max {
            true if first => Cut::Drop(used),
            true => Cut::Bad { reason: Reason::TooLong, used, extent: used },
            false => Cut::Frame { found: Found::Here(0..end), used, again: used, doubt },
        }
    }

    fn shift(&mut self, n: usize) {
        self.scanned = self.scanned.saturating_sub(n);
    }

    fn reset(&mut self, joined: Joined) {
        self.scanned = 0;
        self.ahead = if joined == Joined::Midway { Ahead::Unsure } else { Ahead::Whole };
    }
}
