//! `ignore: {start: "3a", end: "0a"}`: foreign messages inside the stream, taken out before frames are looked for.
//!
//! Bytes of a trailer (`{start, end, trailer}`) are never taken for the start of a foreign message: the checksum byte of
//! a VE.Direct block may be any byte, a colon too. A foreign message whose end does not come within `max` bytes is given
//! up: it was none.

use super::IgnoreKeys;

/// Finds a pattern in a stream that comes byte by byte (Knuth, Morris, Pratt).
struct Matcher {
    pattern: Vec<u8>,
    fallback: Vec<usize>,
    matched: usize,
}

impl Matcher {
    fn new(pattern: &[u8]) -> Matcher {
        let mut fallback = vec![0; pattern.len()];
        let mut k = 0;
        for i in 1..pattern.len() {
            while k > 0 && pattern[k] != pattern[i] {
                k = fallback[k - 1];
            }
            if pattern[k] == pattern[i] {
                k += 1;
            }
            fallback[i] = k;
        }
        Matcher { pattern: pattern.to_vec(), fallback, matched: 0 }
    }

    /// Takes one byte; true if it ends the pattern. An empty pattern never ends.
    fn feed(&mut self, byte: u8) -> bool {
        let Some(&last) = self.pattern.get(self.matched) else { return false };
        let mut expected = last;
        while self.matched > 0 && expected != byte {
            self.matched = self.fallback[self.matched - 1];
            expected = self.pattern[self.matched];
        }
        if expected == byte {
            self.matched += 1;
        }
        let whole = self.matched == self.pattern.len();
        if whole {
            self.matched = 0;
        }
        whole
    }
}

/// Takes foreign messages out of a stream.
pub(super) struct Filter {
    start: Matcher,
    end: Matcher,
    /// The frames' own end mark and how many bytes follow it.
    frame_end: Matcher,
    trailer: usize,
    limit: usize,
    /// Bytes of the foreign message under way.
    inside: Option<usize>,
    /// Bytes of a trailer still to come.
    pass: usize,
}

impl Filter {
    pub(super) fn new(keys: &IgnoreKeys, limit: usize, frame_end: &[u8], trailer: usize) -> Filter {
        let frame_end = if trailer > 0 { frame_end } else { &[] };
        Filter {
            start: Matcher::new(&keys.start.0),
            end: Matcher::new(&keys.end.0),
            frame_end: Matcher::new(frame_end),
            trailer,
            limit,
            inside: None,
            pass: 0,
        }
    }

    pub(super) fn reset(&mut self) {
        self.start.matched = 0;
        self.end.matched = 0;
        self.frame_end.matched = 0;
        self.inside = None;
        self.pass = 0;
    }

    /// Appends what is no foreign message. The beginning of what may become one is held back: at most a start mark.
    pub(super) fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        for &byte in bytes {
            if let Some(seen) = &mut self.inside {
                *seen += 1;
                if self.end.feed(byte) || *seen > self.limit {
                    self.end.matched = 0;
                    self.inside = None;
                }
                continue;
            }
            if self.pass > 0 {
                self.pass -= 1;
                out.push(byte);
                continue;
            }
            let held = self.start.matched;
            if self.start.feed(byte) {
                self.inside = Some(0);
                continue;
            }
            let free = held + 1 - self.start.matched;
            for i in 0..free {
                let freed = if i < held { self.start.pattern[i] } else { byte };
                out.push(freed);
                if self.frame_end.feed(freed) {
                    self.pass = self.trailer;
                }
            }
            if self.pass > 0 {
                // what was held back came behind the end mark, so it belongs to the trailer
                let held = self.start.matched.min(self.pass);
                out.extend_from_slice(&self.start.pattern[..held]);
                self.start.matched = 0;
                self.pass -= held;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Bytes;

    fn filtered(start: &str, end: &str, frame_end: &[u8], trailer: usize, stream: &[u8]) -> Vec<u8> {
        let keys = IgnoreKeys { start: start.parse::<Bytes>().unwrap(), end: end.parse::<Bytes>().unwrap() };
        let whole = {
            let mut out = Vec::new();
            Filter::new(&keys, 50, frame_end, trailer).feed(stream, &mut out);
            out
        };
        let mut filter = Filter::new(&keys, 50, frame_end, trailer);
        let mut out = Vec::new();
        stream.iter().for_each(|b| filter.feed(&[*b], &mut out));
        assert_eq!(out, whole, "however it was split");
        whole
    }

    #[test]
    fn foreign_messages_are_taken_out_wherever_they_stand() {
        assert_eq!(filtered("3a", "0a", b"", 0, b"ab:4000051\ncd:1\n:2\ne"), b"abcde");
        assert_eq!(filtered("aab", "z", b"", 0, b"xaaabqqzyaac"), b"xayaac");
    }

    #[test]
    fn a_trailer_is_no_foreign_message() {
        assert_eq!(filtered("3a", "0a", b"SUM", 1, b"xSUM::1\ny"), b"xSUM:y");
    }

    #[test]
    fn a_foreign_message_without_end_is_given_up() {
        let mut stream = b"a:".to_vec();
        stream.extend([b'.'; 51]);
        stream.extend(b"bc");
        assert_eq!(filtered("3a", "0a", b"", 0, &stream), b"abc");
    }
}
