//! `{gap: 20ms}`: a silence ends each frame.
//!
//! The only framing that looks at time: the caller waits for [`Framer::idle_after`](super::Framer::idle_after) and says
//! that it has come. The time is that of the read, so a gap shorter than what the adapter gathers (16 ms for many USB
//! ones) cannot be seen. What is longer than `max` is refused and the rest dropped until the silence.

use std::time::Duration;

use super::{Cut, Doubt, Found, FrameMap, Framing, Joined};
use crate::codec::{KeyError, Reason};

struct Gap {
    gap: Duration,
    max: usize,
    /// The frame was too long; the rest of it is dropped.
    rest: bool,
}

pub(super) fn build(keys: &FrameMap, max: usize) -> Result<Box<dyn Framing>, KeyError> {
    let gap = keys.gap.map_or(Duration::ZERO, |span| span.0);
    if gap < Duration::from_millis(1) || gap > Duration::from_secs(60) {
        return Err(KeyError::new("frame.gap", "such a silence cannot tell frames apart")
            .help("write 1ms to 60s; 20ms suits most instruments"));
    }
    Ok(Box::new(Gap { gap, max, rest: false }))
}

impl Framing for Gap {
    fn cut(&mut self, buf: &[u8]) -> Cut {
        if self.rest {
            Cut::Drop(buf.len())
        } else if buf.len() > self.max {
            self.rest = true;
            Cut::Bad { reason: Reason::TooLong, used: buf.len(), extent: buf.len() }
        } else {
            Cut::More
        }
    }
    fn shift(&mut self, _: usize) {}
    fn reset(&mut self, _: Joined) {
        self.rest = false;
    }
    fn gap(&self) -> Option<Duration> {
        Some(self.gap)
    }
    fn silence(&mut self, buf: &[u8]) -> Cut {
        self.rest = false;
        match buf.len() {
            0 => Cut::More,
            n => Cut::Frame { found: Found::Here(0..n), used: n, again: n, doubt: Doubt::None },
        }
    }
}
