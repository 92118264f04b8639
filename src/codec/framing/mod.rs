//! Cutting a stream of bytes into frames (`frame:`).
//!
//! One file per framing, one line in [`FRAMINGS`]. A framing only looks at the bytes not yet consumed and says what
//! they begin with ([`Cut`]); [`Framer`] keeps the bytes, asks the check, and tells the caller.
//!
//! What is promised for every framing:
//! - the frames do not depend on how the stream was split into reads (only `gap` looks at time; a good frame that holds
//!   three good frames in a row is taken for a wrong length if it comes in pieces);
//! - every byte is in a frame, a delimiter, a foreign message (`ignore`), or told as rejected or dropped;
//! - no more than the longest frame allowed and one read is kept;
//! - after a frame failed its check the search goes on one byte behind its start, where the framing has no delimiter;
//!   what such a search meets inside the failed frame is told as dropped, so that one bad frame counts once;
//! - the time for a byte does not depend on how many came before (with a check, each place where a frame may begin is
//!   checked once, which costs up to the length of that frame).
//!
//! **The first line after opening.** A port is opened in the middle of a stream, so what comes before the first
//! delimiter may be half a line. Half a number is a wrong number, therefore it is dropped, even if it was whole: the
//! bytes cannot tell. Where a `check` is declared it can tell, and a whole first frame is kept. A caller that knows
//! that the stream begins with a frame (the output of a process, an answer to a request after the input was flushed)
//! says [`Joined::AtStart`].

mod cobs;
mod delimiter;
mod gap;
mod ignore;
mod keys;
mod length;
mod marks;
mod nmea;
mod prefix;
mod slip;

use std::ops::Range;
use std::time::Duration;

use super::check::{Check, CheckKeys};
use super::{KeyError, Reason};
use ignore::Filter;
use keys::LARGEST_MAX;
pub use keys::{DEFAULT_MAX, FrameKeys, FrameMap, IgnoreKeys, Width};

/// Silence after which a frame that is not whole may be given up for a good one behind it.
const RESCUE_AFTER: Duration = Duration::from_millis(200);
/// So many good frames in a row behind one that is not whole show without a silence that its length was wrong.
const RESCUE_ROW: usize = 3;
/// Bytes kept before such a row is looked for; looked for again each time they have doubled.
const RESCUE_FIRST: usize = 64;

/// What the bytes not yet consumed begin with. All lengths count from their first byte.
enum Cut {
    /// Nothing that is whole; ask again when more has come.
    More,
    /// This many bytes are delimiters: nobody misses them.
    Skip(usize),
    /// This many bytes belong to no frame.
    Drop(usize),
    /// A frame.
    Frame {
        /// Where it is.
        found: Found,
        /// Bytes that are done with if it is good.
        used: usize,
        /// Bytes that are done with if its check fails.
        again: usize,
        /// Whether it may have begun before the port was opened.
        doubt: Doubt,
    },
    /// A frame that cannot be one.
    Bad {
        /// Why.
        reason: Reason,
        /// Bytes that are done with.
        used: usize,
        /// Bytes that were taken for the frame; what else goes wrong in them is not told again.
        extent: usize,
    },
}

/// Whether a frame may have begun before the port was opened: then a bad check is no fault and it is only dropped.
#[derive(Clone, Copy, PartialEq)]
enum Doubt {
    /// It began here.
    None,
    /// It may have; without a check it is believed all the same.
    Slight,
    /// It may have; without a check it is dropped.
    Strong,
}

/// Where a frame is.
enum Found {
    /// In the bytes shown.
    Here(Range<usize>),
    /// Decoded, in [`Framing::decoded`].
    Decoded,
}

/// How frames are told apart. Holds no bytes, only how far it has looked.
trait Framing: Send {
    /// What `buf`, all bytes not yet consumed, begins with. Every answer but `More` consumes at least one byte.
    fn cut(&mut self, buf: &[u8]) -> Cut;
    /// `n` bytes at the front are gone.
    fn shift(&mut self, n: usize);
    /// Everything is gone; the stream goes on somewhere else.
    fn reset(&mut self, joined: Joined);
    /// The frame of [`Found::Decoded`].
    fn decoded(&self) -> &[u8] {
        &[]
    }
    /// Silence that means something to this framing.
    fn gap(&self) -> Option<Duration> {
        None
    }
    /// That silence has come.
    fn silence(&mut self, _buf: &[u8]) -> Cut {
        Cut::More
    }
    /// A wrong start may swallow good frames: they are looked for behind it.
    fn may_overreach(&self) -> bool {
        false
    }
    /// There is no mark to tell where a frame begins: every byte is tried.
    fn tries_every_byte(&self) -> bool {
        false
    }
    /// Marks at both ends of a frame: (start, end).
    fn marks(&self) -> (&[u8], &[u8]) {
        (&[], &[])
    }
}

/// A framing's constructor; the last argument is `max`.
type Build = fn(&FrameMap, usize) -> Result<Box<dyn Framing>, KeyError>;

/// The framings: the key that names each, the keys that go with it, and what makes it.
const FRAMINGS: &[(&str, &[&str], Build)] = &[
    ("delimiter", &[], delimiter::build),
    ("length", &["start"], length::build),
    ("end", &["start", "trailer"], marks::build),
    ("length_prefix", &["start", "at", "adjust"], prefix::build),
    ("gap", &[], gap::build),
    ("cobs", &[], cobs::build),
    ("slip", &[], slip::build),
    ("nmea", &[], nmea::build),
];

impl FrameMap {
    fn build(&self) -> Result<(Box<dyn Framing>, usize), KeyError> {
        let written = self.written();
        let named: Vec<_> = FRAMINGS.iter().filter(|(name, ..)| written.contains(name)).collect();
        let (name, companions, build) = match named.as_slice() {
            [one] => **one,
            [] if written.contains(&"start") => {
                return Err(KeyError::new("frame.start", "`start` alone does not say where a frame ends")
                    .help("add `length`, `end` or `length_prefix`"));
            }
            [] => {
                return Err(KeyError::new("frame", "it does not say how frames are told apart")
                    .help("write one of delimiter, length, start with end, length_prefix, gap, cobs, slip, nmea"));
            }
            [(first, ..), (second, ..), ..] => {
                return Err(KeyError::new(
                    format!("frame.{second}"),
                    format!("`{first}` and `{second}` are two ways to tell frames apart"),
                )
                .help("write one of them"));
            }
        };
        if let Some(stray) = written.iter().find(|key| **key != name && !companions.contains(key)) {
            return Err(KeyError::new(format!("frame.{stray}"), format!("`{stray}` does not go with `{name}`"))
                .help("leave it out"));
        }
        let max = match self.max {
            Some(max) if max == 0 || max > LARGEST_MAX => {
                return Err(KeyError::new("frame.max", format!("a frame of {max} bytes is not possible"))
                    .help(format!("write 1 to {LARGEST_MAX}")));
            }
            Some(max) => max as usize,
            None => DEFAULT_MAX.max(self.length.unwrap_or(0).min(LARGEST_MAX) as usize),
        };
        Ok((build(self, max)?, max))
    }
}

/// How a stream was joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Joined {
    /// Somewhere: the first bytes may be the rest of a frame.
    #[default]
    Midway,
    /// At the beginning of a frame.
    AtStart,
}

/// One frame.
#[derive(Debug, Clone)]
pub struct Frame<'a> {
    /// All of it: marks and check too, delimiters not.
    pub bytes: &'a [u8],
    /// Where its content is, without marks and check; see [`Frame::text`].
    body: Range<usize>,
    /// Where the check, and what separates it, begins.
    checked: usize,
    /// Where its content ends, if marks and check are taken off whatever they look like.
    data_end: usize,
}

impl<'a> Frame<'a> {
    /// A frame without marks and check.
    pub fn plain(bytes: &'a [u8]) -> Frame<'a> {
        Frame { bytes, body: 0..bytes.len(), checked: bytes.len(), data_end: bytes.len() }
    }
    /// What `keyvalue` and `csv` read: the frame without its check, what separates that from the rest (`*`), and marks
    /// that are no letters or digits (a mark like `PID` is a word of the text).
    pub fn text(&self) -> &'a [u8] {
        self.bytes.get(self.body.clone()).unwrap_or(self.bytes)
    }
    /// What `json` reads: like [`Frame::text`], but braces are never taken for marks.
    pub fn json(&self) -> &'a [u8] {
        match self.bytes.get(..self.checked) {
            Some(bytes @ [b'{' | b'[', ..]) => bytes,
            _ => self.text(),
        }
    }
    /// Offset behind the last byte that is neither check nor end mark.
    pub fn data_end(&self) -> usize {
        self.data_end
    }
}

/// What became of bytes.
#[derive(Debug)]
pub enum Event<'a> {
    /// A frame that is whole and passed its check.
    Frame(Frame<'a>),
    /// A frame that cannot be used.
    Rejected {
        /// Why.
        reason: Reason,
        /// The bytes that were taken for a frame.
        frame: &'a [u8],
        /// Bytes that are lost by it for sure; the others are looked through again.
        bytes: usize,
    },
    /// Bytes that belong to no frame.
    Dropped(&'a [u8]),
}

/// Cuts a stream into frames and checks them.
pub struct Framer {
    framing: Box<dyn Framing>,
    check: Option<Check>,
    filter: Option<Filter>,
    /// Bytes not yet consumed.
    buf: Vec<u8>,
    /// Bytes of a read without foreign messages, reused.
    clean: Vec<u8>,
    /// How many of the bytes ahead belong to a loss that was already told.
    told: usize,
    /// Nothing came since the last silence.
    quiet: bool,
    /// How many bytes must be kept before a row of good frames is looked for behind the first of them.
    search_at: usize,
}

impl Framer {
    /// A framer as the keys say, joined midway; wrong keys are told with their path.
    pub fn new(keys: &FrameKeys, check: Option<&CheckKeys>) -> Result<Framer, Vec<KeyError>> {
        let framing = keys.build();
        let check = check.map(Check::new).transpose();
        let filter = match &framing {
            Ok((framing, max)) => keys
                .ignore
                .as_ref()
                .map(|ignore| Filter::new(ignore, *max, framing.marks().1, keys.trailer.unwrap_or(0) as usize)),
            Err(_) => None,
        };
        match (framing, check) {
            (Ok((framing, _)), Ok(check)) => Ok(Framer {
                framing,
                check,
                filter,
                buf: Vec::new(),
                clean: Vec::new(),
                told: 0,
                quiet: true,
                search_at: RESCUE_FIRST,
            }),
            (framing, check) => Err([framing.err(), check.err()].into_iter().flatten().collect()),
        }
    }

    /// Forgets what is kept; called when a port was opened again.
    pub fn reset(&mut self, joined: Joined) {
        self.buf.clear();
        self.told = 0;
        self.quiet = true;
        self.search_at = RESCUE_FIRST;
        self.framing.reset(joined);
        if let Some(filter) = &mut self.filter {
            filter.reset();
        }
    }

    /// The check, where one is declared; it can also be put onto a request.
    pub fn check(&self) -> Option<&Check> {
        self.check.as_ref()
    }

    /// How many bytes are kept for a frame that is not whole yet.
    pub fn buffered(&self) -> usize {
        self.buf.len()
    }

    /// Takes bytes as they came and tells what became of them. An event's slices live until `sink` returns.
    pub fn push(&mut self, bytes: &[u8], mut sink: impl FnMut(Event<'_>)) {
        if bytes.is_empty() {
            return;
        }
        self.quiet = false;
        match self.filter.take() {
            None => self.take(bytes, &mut sink),
            Some(mut filter) => {
                let mut clean = std::mem::take(&mut self.clean);
                clean.clear();
                filter.feed(bytes, &mut clean);
                self.take(&clean, &mut sink);
                self.clean = clean;
                self.filter = Some(filter);
            }
        }
    }

    /// The silence after which [`Framer::idle`] wants to be called, counted from the last byte; `None`: never.
    pub fn idle_after(&self) -> Option<Duration> {
        if self.quiet {
            return None;
        }
        match self.framing.gap() {
            Some(gap) => Some(gap),
            None if self.buf.is_empty() || self.check.is_none() => None,
            None => self.framing.may_overreach().then_some(RESCUE_AFTER),
        }
    }

    /// The silence of [`Framer::idle_after`] has come. For `gap` it ends the frame. For a framing that may take a wrong
    /// length for true, a whole frame with a good check behind an unfinished one is taken and the unfinished one given
    /// up; without such a frame nothing is given up, so that a slow sender loses nothing.
    pub fn idle(&mut self, mut sink: impl FnMut(Event<'_>)) {
        self.quiet = true;
        let mut buf = std::mem::take(&mut self.buf);
        if self.framing.gap().is_some() {
            let cut = self.framing.silence(&buf);
            let done = self.settle(&buf, cut, &mut sink);
            self.framing.shift(done);
            buf.drain(..done.min(buf.len()));
        } else if self.check.is_some() && self.framing.may_overreach() && !buf.is_empty() {
            let good = self.look_behind(&buf, 1);
            self.framing.reset(Joined::AtStart);
            if let Some(at) = good {
                let done = self.give_up(&buf, at, &mut sink);
                buf.drain(..done);
            }
        }
        self.buf = buf;
    }

    /// Gives up the frame that `buf` begins with for the good one at `at`; returns the bytes that are done with.
    fn give_up(&mut self, buf: &[u8], at: usize, sink: &mut impl FnMut(Event<'_>)) -> usize {
        if self.told > 0 {
            sink(Event::Dropped(&buf[..at]));
        } else {
            sink(Event::Rejected { reason: Reason::Incomplete, frame: &buf[..at], bytes: at });
        }
        self.told = 0;
        at + self.run(&buf[at..], sink)
    }

    /// On a line that never falls silent a wrong length would hold the good frames behind it back until so many bytes
    /// have come. A row of them, one right behind the other, is proof enough. Looked for whenever the bytes kept have
    /// doubled, so that the time for a byte stays the same.
    fn look_for_row(&mut self, sink: &mut impl FnMut(Event<'_>)) {
        if self.buf.len() < self.search_at {
            return;
        }
        self.search_at = self.buf.len() * 2;
        if self.check.is_none() || !self.framing.may_overreach() {
            return;
        }
        let mut buf = std::mem::take(&mut self.buf);
        let row = self.look_behind(&buf, RESCUE_ROW);
        self.framing.reset(Joined::AtStart);
        if let Some(at) = row {
            let done = self.give_up(&buf, at, sink);
            buf.drain(..done);
            self.search_at = RESCUE_FIRST.max(buf.len() * 2);
        }
        self.buf = buf;
    }

    /// Where, behind the first byte, the first frame with a good check begins, if so many in a row are there.
    fn look_behind(&mut self, buf: &[u8], row: usize) -> Option<usize> {
        self.framing.reset(Joined::AtStart);
        let mut at = 1;
        // the first good frame of all, how long the row at hand is and where it would go on
        let (mut first, mut seen, mut next) = (None, 0, 0);
        while at < buf.len() {
            let rest = &buf[at..];
            let step = match self.framing.cut(rest) {
                // what is not whole here is passed over as well: something behind it may be
                Cut::More => 1,
                Cut::Skip(n) | Cut::Drop(n) | Cut::Bad { used: n, .. } => n,
                Cut::Frame { found: Found::Here(range), used, again, .. } => match (rest.get(range), &self.check) {
                    (Some(frame), Some(check)) if check.verify(frame).is_ok() => {
                        first = first.or(Some(at));
                        seen = if at == next { seen + 1 } else { 1 };
                        if seen >= row {
                            return first;
                        }
                        next = at + used;
                        used
                    }
                    _ => again,
                },
                Cut::Frame { again, .. } => again,
            };
            let step = step.max(1);
            self.framing.shift(step);
            at += step;
        }
        None
    }

    fn take(&mut self, bytes: &[u8], sink: &mut impl FnMut(Event<'_>)) {
        if self.buf.is_empty() {
            // the usual case: whole frames in one read are never copied
            let done = self.run(bytes, sink);
            self.buf.extend_from_slice(&bytes[done..]);
            self.search_at = RESCUE_FIRST.max(self.buf.len() * 2);
        } else {
            let mut buf = std::mem::take(&mut self.buf);
            buf.extend_from_slice(bytes);
            let done = self.run(&buf, sink);
            buf.drain(..done);
            if done > 0 {
                self.search_at = RESCUE_FIRST.max(buf.len() * 2);
            }
            self.buf = buf;
            self.look_for_row(sink);
        }
    }

    /// Cuts as far as it goes; returns the bytes that are done with.
    fn run(&mut self, buf: &[u8], sink: &mut impl FnMut(Event<'_>)) -> usize {
        let mut done = 0;
        while done < buf.len() {
            let rest = &buf[done..];
            let cut = self.framing.cut(rest);
            let step = self.settle(rest, cut, sink);
            if step == 0 {
                break;
            }
            self.framing.shift(step);
            done += step;
        }
        done
    }

    /// Tells what was cut; returns the bytes that are done with.
    fn settle(&mut self, rest: &[u8], cut: Cut, sink: &mut impl FnMut(Event<'_>)) -> usize {
        let step = match cut {
            Cut::More => return 0,
            Cut::Skip(n) => n.min(rest.len()),
            Cut::Drop(n) => {
                let n = n.min(rest.len());
                sink(Event::Dropped(&rest[..n]));
                n
            }
            Cut::Bad { reason, used, extent } => {
                let used = used.min(rest.len());
                let extent = extent.clamp(used, rest.len());
                self.refuse(reason, &rest[..extent], &rest[..used], sink);
                used
            }
            Cut::Frame { found, used, again, doubt } => {
                let used = used.min(rest.len());
                let frame = match &found {
                    Found::Here(range) => rest.get(range.clone()).unwrap_or(&[]),
                    Found::Decoded => self.framing.decoded(),
                };
                let verdict = match &self.check {
                    Some(check) => check.verify(frame),
                    None => Ok(()),
                };
                match verdict {
                    Ok(()) if doubt == Doubt::Strong && self.check.is_none() => {
                        sink(Event::Dropped(&rest[..used]));
                        used
                    }
                    Ok(()) => {
                        let frame = dress(self.framing.as_ref(), self.check.as_ref(), frame);
                        sink(Event::Frame(frame));
                        self.told = 0;
                        return used;
                    }
                    Err(_) if doubt != Doubt::None => {
                        sink(Event::Dropped(&rest[..used]));
                        used
                    }
                    Err(reason) => {
                        let again = again.clamp(1, used.max(1));
                        self.refuse(reason, &rest[..used], &rest[..again], sink);
                        again
                    }
                }
            }
        };
        self.told = self.told.saturating_sub(step);
        step
    }

    /// Tells a loss once: what lies inside a frame that was already refused is only dropped.
    fn refuse(&mut self, reason: Reason, frame: &[u8], lost: &[u8], sink: &mut impl FnMut(Event<'_>)) {
        if self.told > 0 {
            sink(Event::Dropped(lost));
        } else {
            sink(Event::Rejected { reason, frame, bytes: lost.len() });
            self.told = if self.framing.tries_every_byte() { usize::MAX } else { frame.len() };
        }
    }
}

/// Finds the content of a good frame.
fn dress<'a>(framing: &dyn Framing, check: Option<&Check>, bytes: &'a [u8]) -> Frame<'a> {
    let (start, end) = framing.marks();
    let mut body = 0..bytes.len();
    let mut data_end = bytes.len();
    if let Some(check) = check {
        body = check.body(bytes);
        data_end = data_end.min(check.position(bytes.len()).unwrap_or(data_end));
    }
    let checked = body.end;
    if !end.is_empty() && bytes[..data_end].ends_with(end) {
        data_end -= end.len();
    }
    if super::bytes::is_bare_mark(start) && bytes[body.clone()].starts_with(start) {
        body.start += start.len();
    }
    if super::bytes::is_bare_mark(end) && bytes[body.clone()].ends_with(end) {
        body.end -= end.len();
    }
    Frame { bytes, body, checked, data_end }
}

/// Whether `keys` name a start mark that is not longer than the frame may be.
fn start_mark(keys: &FrameMap, max: usize) -> Result<Vec<u8>, KeyError> {
    let start = keys.start.clone().unwrap_or_default().0;
    if start.len() > max {
        return Err(KeyError::new("frame.start", "the mark alone is longer than `max`").help("raise `max`"));
    }
    Ok(start)
}

/// Finds a mark in `buf`; if it is not there, how many bytes surely hold no beginning of it.
fn find_start(finder: &memchr::memmem::Finder<'_>, buf: &[u8]) -> Result<usize, usize> {
    finder.find(buf).ok_or_else(|| (buf.len() + 1).saturating_sub(finder.needle().len()))
}
