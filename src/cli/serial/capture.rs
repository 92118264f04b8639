//! Captures: what was heard of a line, as a text file that people can read, cut and mail.
//!
//! The first line is [`HEADER`]. Then a line a read: microseconds since the port was opened, and the bytes as hex pairs.
//! A line without bytes is the moment at which listening ended. Empty lines and lines from `#` on are for people.
//! Reading is line by line in bounded memory; what is not of this form is refused with its line number.

use std::io::{BufRead, Read, Write};
use std::time::Duration;

use crate::codec::bytes::parse_hex;

/// The first line: what it is, and the version of the form.
pub const HEADER: &str = "pinpost-capture 1";
/// The longest line: far more than one read of a port.
const LONGEST: usize = 1 << 20;

/// Bytes that were read at once. No bytes: the end of listening.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Since the port was opened.
    pub at: Duration,
    /// As they came.
    pub bytes: Vec<u8>,
}

/// Writes a capture; every read is in the file when the call returns.
pub struct Writer<W>(W);

impl<W: Write> Writer<W> {
    /// Begins with the header.
    pub fn new(mut to: W) -> std::io::Result<Writer<W>> {
        writeln!(to, "{HEADER}")?;
        Ok(Writer(to))
    }
    /// One read.
    pub fn write(&mut self, at: Duration, bytes: &[u8]) -> std::io::Result<()> {
        let mut line = at.as_micros().to_string();
        bytes.iter().for_each(|b| line.push_str(&format!(" {b:02x}")));
        line.push('\n');
        self.0.write_all(line.as_bytes())?;
        self.0.flush()
    }
}

/// Reads a capture, read by read.
pub struct Reader<R> {
    from: R,
    line: usize,
    at: Duration,
    buffer: Vec<u8>,
}

impl<R: BufRead> Reader<R> {
    /// The header is looked at with the first read.
    pub fn new(from: R) -> Reader<R> {
        Reader { from, line: 0, at: Duration::ZERO, buffer: Vec::new() }
    }

    /// The next line without its end; `None` at the end of the file.
    fn line(&mut self) -> Result<Option<String>, String> {
        self.buffer.clear();
        self.line += 1;
        let n = self
            .from
            .by_ref()
            .take(LONGEST as u64 + 1)
            .read_until(b'\n', &mut self.buffer)
            .map_err(|e| format!("line {}: {e}", self.line))?;
        if n == 0 {
            return Ok(None);
        }
        if n > LONGEST {
            return Err(format!("line {}: longer than {LONGEST} bytes; no capture has such lines", self.line));
        }
        match std::str::from_utf8(&self.buffer) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(_) => Err(format!("line {}: it is not text", self.line)),
        }
    }

    /// The next read.
    fn step(&mut self) -> Result<Option<Heard>, String> {
        if self.line == 0 {
            match self.line()? {
                Some(first) if first == HEADER => {}
                Some(first) if first.starts_with("pinpost-capture ") => {
                    let shown: String = first.chars().take(40).collect();
                    return Err(format!(
                        "line 1: `{}` is of another version; this one reads `{HEADER}`",
                        shown.escape_debug()
                    ));
                }
                _ => return Err(format!("line 1: not a capture; the first line of one is `{HEADER}`")),
            }
        }
        while let Some(text) = self.line()? {
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let (time, hex) = text.split_once(' ').unwrap_or((&text, ""));
            let number = self.line;
            let at = time.parse().map(Duration::from_micros).map_err(|_| {
                let shown: String = time.chars().take(40).collect();
                format!(
                    "line {number}: `{}` is no number of microseconds; a line is MICROSECONDS HEX",
                    shown.escape_debug()
                )
            })?;
            if at < self.at {
                let (now, before) = (at.as_micros(), self.at.as_micros());
                return Err(format!("line {number}: {now} µs comes after {before} µs; times must not go back"));
            }
            let bytes =
                parse_hex(hex).map_err(|_| format!("line {number}: not hex pairs behind the time; 1200 42 4d, say"))?;
            self.at = at;
            return Ok(Some(Heard { at, bytes }));
        }
        Ok(None)
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Heard, String>;
    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> Result<Vec<Heard>, String> {
        Reader::new(bytes).collect()
    }

    #[test]
    fn what_is_no_capture_is_refused_with_its_line() {
        for (text, line) in [
            ("", "line 1: not a capture"),
            ("hello\n", "line 1: not a capture"),
            ("pinpost-capture 2\n0 42\n", "line 1: `pinpost-capture 2` is of another version"),
            ("pinpost-capture 1\n0 42\n\n# why\nx 42\n", "line 5: `x` is no number"),
            ("pinpost-capture 1\n-1 42\n", "line 2: `-1` is no number"),
            ("pinpost-capture 1\n0 42\n5 4\n", "line 3: not hex pairs"),
            ("pinpost-capture 1\n5 zz\n", "line 2: not hex pairs"),
            ("pinpost-capture 1\n5 42\n4 42\n", "line 3: 4 µs comes after 5 µs"),
            ("pinpost-capture 1\n99999999999999999999999 42\n", "line 2: `99999999999999999999999` is no number"),
        ] {
            let error = read(text.as_bytes()).unwrap_err();
            assert!(error.starts_with(line), "{text:?}: {error}");
        }
        assert!(read(b"pinpost-capture 1\n\xff\xfe\n").unwrap_err().starts_with("line 2: it is not text"));
        let long = format!("{HEADER}\n0 {}\n", "42 ".repeat(LONGEST / 3 + 1));
        assert!(read(long.as_bytes()).unwrap_err().starts_with("line 2: longer than"));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back(reads in prop::collection::vec((0u64..5_000_000, prop::collection::vec(any::<u8>(), 0..40)), 0..20)) {
            let mut file = Vec::new();
            let mut writer = Writer::new(&mut file).unwrap();
            let mut at = Duration::ZERO;
            let mut expected = Vec::new();
            for (later, bytes) in reads {
                at += Duration::from_micros(later);
                writer.write(at, &bytes).unwrap();
                expected.push(Heard { at, bytes });
            }
            prop_assert_eq!(read(&file).unwrap(), expected);
        }

        #[test]
        fn any_bytes_are_read_or_refused_with_a_line_number(lines in prop::collection::vec("[0-9a-f #x-]{0,20}|\\PC{0,8}", 0..12), tail in prop::collection::vec(any::<u8>(), 0..30), headed: bool) {
            let mut file = if headed { format!("{HEADER}\n").into_bytes() } else { Vec::new() };
            lines.iter().for_each(|l| file.extend_from_slice(format!("{l}\n").as_bytes()));
            file.extend_from_slice(&tail);
            let count = file.split(|b| *b == b'\n').count();
            match read(&file) {
                Ok(heard) => {
                    prop_assert!(headed);
                    prop_assert!(heard.windows(2).all(|w| w[0].at <= w[1].at));
                }
                Err(e) => {
                    let n: usize = e.strip_prefix("line ").and_then(|e| e.split(':').next()).unwrap().parse().unwrap();
                    prop_assert!((1..=count).contains(&n), "{e}");
                }
            }
        }
    }
}
