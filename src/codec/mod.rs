//! BYTES <-> FRAMES <-> FIELDS, pure: no clock, task, file or socket.
//!
//! A port's bytes go through three steps, each declared by one key of a `serial` device:
//!
//! 1. [`framing`] (`frame:`) cuts the stream into frames; [`check`] (`check:`) is asked on the way, because a frame
//!    that fails must send the search back to one byte behind its start;
//! 2. [`decode`] (`decode:`) finds named fields in a frame;
//! 3. the points' own keys ([`FieldKeys`]) say which field, of which type, becomes a reading.
//!
//! [`Pipeline`] is the three in a row, as a device and a sniffer use them. Whatever arrives, nothing here panics, ends
//! the stream, or keeps more than the longest frame allowed and one read. Every byte that made no frame is told
//! ([`Event::Rejected`], [`Event::Dropped`]), so that loss can be counted.

pub mod bytes;
pub mod check;
pub mod decode;
pub mod framing;
pub mod pipeline;
#[cfg(test)]
mod properties;

use std::fmt;

pub use bytes::{Bytes, Escaped};
pub use check::{Check, CheckKeys};
pub use decode::{DecodeKeys, DecodeType, Decoded, Decoder, FieldKeys, FieldType, MatchKeys};
pub use framing::{Event, Frame, FrameKeys, Framer, Joined};
pub use pipeline::{Fields, Output, Pipeline};

/// A wrong value, said so that the caller can show it at its place in the YAML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyError {
    /// Dotted path below the device: `frame.delimiter`, `points.humidity.field`.
    pub path: String,
    /// What is wrong, one line.
    pub text: String,
    /// What to write instead, one line.
    pub help: Option<String>,
}

impl KeyError {
    /// A problem at a path.
    pub fn new(path: impl Into<String>, text: impl Into<String>) -> KeyError {
        KeyError { path: path.into(), text: text.into(), help: None }
    }
    /// With advice.
    pub fn help(mut self, help: impl Into<String>) -> KeyError {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.text)?;
        match &self.help {
            Some(help) => write!(f, "; {help}"),
            None => Ok(()),
        }
    }
}

/// Why bytes did not become readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Longer than `max`.
    TooLong,
    /// Shorter than its own marks, length field or check.
    TooShort,
    /// The length field says what cannot be.
    Length,
    /// The check says other than the bytes.
    Check {
        /// What the bytes add up to.
        computed: u128,
        /// What the frame says.
        found: u128,
    },
    /// No check where one must be.
    NoCheck,
    /// Not COBS or SLIP.
    Encoding,
    /// Not whole, and a whole one was found behind it.
    Incomplete,
    /// Not of the decoder's form.
    Syntax,
    /// The regular expression does not match.
    NoMatch,
    /// Fewer columns than declared.
    Columns,
}

impl Reason {
    /// A stable word for counters.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::TooLong => "too_long",
            Reason::TooShort => "too_short",
            Reason::Length => "length",
            Reason::Check { .. } => "check",
            Reason::NoCheck => "no_check",
            Reason::Encoding => "encoding",
            Reason::Incomplete => "incomplete",
            Reason::Syntax => "syntax",
            Reason::NoMatch => "no_match",
            Reason::Columns => "columns",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::TooLong => "longer than `max`",
            Reason::TooShort => "too short to hold its marks and check",
            Reason::Length => "its length field says what cannot be",
            Reason::Check { computed, found } => {
                return write!(f, "the check is {found:02x}, the bytes give {computed:02x}");
            }
            Reason::NoCheck => "it carries no check",
            Reason::Encoding => "it is not encoded as declared",
            Reason::Incomplete => "its end never came",
            Reason::Syntax => "it is not of the declared form",
            Reason::NoMatch => "the pattern does not match",
            Reason::Columns => "it has fewer columns than declared",
        })
    }
}

/// The known name nearest to what was written, if one is near.
pub(crate) fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = written.to_ascii_lowercase();
    known
        .into_iter()
        .map(|k| (strsim::damerau_levenshtein(&wanted, &k.to_ascii_lowercase()), k))
        .filter(|(d, k)| *d <= 1 + k.len() / 4)
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}
