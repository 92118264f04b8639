//! `nmea`: sentences of NMEA 0183, `$…*hh` or `!…*hh` up to the end of the line.
//!
//! The checksum, the exclusive or of all bytes between `$` and `*`, must be there and be right. `$` and `*hh` stay in
//! the frame, the line end does not. A `$` inside a sentence begins a new one: the first lost its end.

use super::{Cut, Doubt, Found, FrameMap, Framing, Joined};
use crate::codec::check::verify_nmea;
use crate::codec::{KeyError, Reason};

struct Nmea {
    max: usize,
    /// No sentence ends before this offset.
    scanned: usize,
}

pub(super) fn build(_: &FrameMap, max: usize) -> Result<Box<dyn Framing>, KeyError> {
    Ok(Box::new(Nmea { max, scanned: 0 }))
}

impl Framing for Nmea {
    fn cut(&mut self, buf: &[u8]) -> Cut {
        let line_ends = buf.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
        if line_ends > 0 {
            return Cut::Skip(line_ends);
        }
        // line ends are nobody's loss, not even those of garbage
        match buf.iter().position(|b| matches!(b, b'$' | b'!' | b'\r' | b'\n')) {
            Some(0) => {}
            Some(n) => return Cut::Drop(n),
            None => return Cut::Drop(buf.len()),
        }
        let from = self.scanned.max(1);
        let Some(hit) = buf.get(from..).and_then(|fresh| memchr::memchr3(b'\r', b'\n', b'$', fresh)) else {
            self.scanned = buf.len();
            return if buf.len() > self.max {
                Cut::Bad { reason: Reason::TooLong, used: 1, extent: buf.len() }
            } else {
                Cut::More
            };
        };
        let end = from + hit;
        self.scanned = end;
        if buf[end] == b'$' {
            return Cut::Bad { reason: Reason::Incomplete, used: end, extent: end };
        }
        if end > self.max {
            return Cut::Bad { reason: Reason::TooLong, used: 1, extent: end };
        }
        match verify_nmea(&buf[..end]) {
            Ok(()) => Cut::Frame { found: Found::Here(0..end), used: end, again: 1, doubt: Doubt::None },
            Err(reason) => Cut::Bad { reason, used: 1, extent: end },
        }
    }
    fn shift(&mut self, n: usize) {
        self.scanned = self.scanned.saturating_sub(n);
    }
    fn reset(&mut self, _: Joined) {
        self.scanned = 0;
    }
}
