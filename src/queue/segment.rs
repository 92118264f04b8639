//! ONE SEGMENT FILE: its name, its header, its footer, and the way through its entries.
//!
//! The scanner promises: every good entry is found, whatever lies before, between or behind; it never panics; its
//! work is linear in the file's size save for the checksums of chance candidates, of which there is one in a thousand.

use std::collections::HashMap;

use super::record::{self, Base, Before, Cursor, Found, Item, Source};
use super::{Keep, Rank};

/// Bytes of one copy of the header; a segment begins with two.
pub const HEADER: usize = 64;
/// Where the first entry begins.
pub const FIRST: u64 = 2 * HEADER as u64;
/// Payload of a footer.
const FOOTER_PAYLOAD: usize = 1 + 4 + 4 + 8 + 8 + 1 + 8 + 25 + 4 + HEADER;
/// A footer with its head; it ends the file.
pub const FOOTER: usize = record::HEAD + FOOTER_PAYLOAD;
const MAGIC: &[u8; 8] = b"PINPOSTQ";
/// The format that is written, and the only one that is read.
pub const VERSION: u16 = 1;

/// Segments of one importance and one way of keeping follow each other as a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chain {
    /// Importance.
    pub rank: Rank,
    /// Whether it holds the lanes of which only the latest record is kept.
    pub latest: bool,
}

/// The file that begins with `token`.
pub fn name(chain: Chain, token: u64) -> String {
    format!("{:03}{}-{token:020}.seg", chain.rank, if chain.latest { 'l' } else { 'a' })
}

/// Takes a segment's name apart; `None`: the file is not ours.
pub fn parse_name(name: &str) -> Option<(Chain, u64)> {
    let (chain, token) = name.strip_suffix(".seg")?.split_once('-')?;
    let rank = chain.get(..3)?.parse().ok()?;
    let latest = match chain.get(3..)? {
        "a" => false,
        "l" => true,
        _ => return None,
    };
    // Tokens count from one or from the clock; a greater number is not of our making.
    let token = token.parse().ok().filter(|t| *t < 1 << 62)?;
    let parsed = (Chain { rank, latest }, token);
    (self::name(parsed.0, parsed.1) == name).then_some(parsed)
}

/// What every checksum of a segment starts from.
pub fn salt(chain: Chain, token: u64) -> u32 {
    crc32c::crc32c(name(chain, token).as_bytes())
}

/// What is known of a segment without reading all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Records written, the good and the bad.
    pub count: u32,
    /// How many of them are readings.
    pub readings: u32,
    /// Token of the last.
    pub last_token: u64,
    /// First reading's sequence number.
    pub first_seq: u64,
    /// Last reading's sequence number.
    pub last_seq: Option<u64>,
    /// Stamp of the last.
    pub last_stamp: super::Stamp,
}

impl Summary {
    fn add(&mut self, index: u32, item: &Item) {
        self.count = index + 1;
        self.last_token = item.token;
        self.last_stamp = item.stamp;
        if let Some(seq) = item.seq {
            if self.last_seq.is_none() {
                self.first_seq = seq;
            }
            self.readings += 1;
            self.last_seq = Some(seq);
        }
    }
}

fn header(chain: Chain, base: &Base) -> [u8; HEADER] {
    let mut h = Vec::with_capacity(HEADER);
    h.extend_from_slice(MAGIC);
    h.extend_from_slice(&VERSION.to_le_bytes());
    h.extend_from_slice(&[chain.rank, u8::from(chain.latest)]);
    h.extend_from_slice(&base.before.count.to_le_bytes());
    for v in [base.token, base.seq, base.stamp.wall as u64, base.stamp.mono, base.stamp.boot] {
        h.extend_from_slice(&v.to_le_bytes());
    }
    h.extend_from_slice(&base.before.token.to_le_bytes());
    h.extend_from_slice(&crc32c::crc32c_append(salt(chain, base.token), &h).to_le_bytes());
    let mut out = [0; HEADER];
    for (to, from) in out.iter_mut().zip(h) {
        *to = from;
    }
    out
}

/// What a segment's beginning says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// Ours.
    Good(Base),
    /// Ours, of another version of the format.
    Version(u16),
    /// Unreadable.
    Bad,
}

fn read_one(bytes: &[u8], chain: Chain, token: u64) -> Header {
    let parse = || {
        let body = bytes.get(..HEADER - 4)?;
        let mut c = Cursor(bytes);
        let magic = c.bytes(8)?;
        let version = u16::from_le_bytes(c.bytes(2)?.try_into().ok()?);
        c.bytes(2)?;
        let count = c.u32()?;
        let (base_token, seq, wall, mono, boot) = (c.u64()?, c.u64()?, c.u64()? as i64, c.u64()?, c.u64()?);
        let before = Before { token: c.u32()?, count };
        let good = c.u32()? == crc32c::crc32c_append(salt(chain, token), body) && base_token == token;
        if magic != MAGIC {
            return None;
        }
        if version != VERSION {
            return Some(Header::Version(version));
        }
        let stamp = super::Stamp { wall, mono, boot, synced: false };
        good.then_some(Header::Good(Base { token, seq, stamp, before }))
    };
    parse().unwrap_or(Header::Bad)
}

/// Reads the header of the file named for `chain` and `token` from its first [`FIRST`] bytes; one copy is enough.
pub fn read_header(bytes: &[u8], chain: Chain, token: u64) -> Header {
    let copies = [bytes, bytes.get(HEADER..).unwrap_or_default()].map(|b| read_one(b, chain, token));
    let good = copies.iter().find(|h| matches!(h, Header::Good(_)));
    // A version is believed only if both copies agree on it: one flipped bit is no new format.
    match (good, copies) {
        (Some(h), _) => *h,
        (None, [a, b]) if a == b => a,
        _ => Header::Bad,
    }
}

/// Reads the footer from the last [`FOOTER`] bytes of a file.
pub fn read_footer(bytes: &[u8], chain: Chain, token: u64) -> Option<(Summary, Base)> {
    match record::find(bytes, salt(chain, token), false) {
        Found::Good(p) if p.len() == FOOTER_PAYLOAD && record::kind(p) == record::FOOTER => footer(p, chain, token),
        _ => None,
    }
}

/// Reads how many records of each lane a segment has from its last bytes, the footer included; `Err`: from so many.
pub fn read_lanes(bytes: &[u8], chain: Chain, token: u64) -> Result<HashMap<u64, u32>, usize> {
    let salt = salt(chain, token);
    let parse = || {
        let foot = bytes.get(bytes.len().checked_sub(FOOTER)?..)?;
        read_footer(foot, chain, token)?;
        let at = record::HEAD + FOOTER_PAYLOAD - HEADER - 4;
        Some(Cursor(foot.get(at..)?).u32()? as usize)
    };
    let Some(len) = parse() else { return Err(0) };
    let all = len.saturating_add(FOOTER);
    let table = bytes.len().checked_sub(all).and_then(|at| bytes.get(at..)).ok_or(all)?;
    match record::find(table, salt, false) {
        Found::Good(p) => record::get_lanes(p).ok_or(0),
        _ => Err(0),
    }
}

fn footer(payload: &[u8], chain: Chain, token: u64) -> Option<(Summary, Base)> {
    let mut c = Cursor(payload.get(1..)?);
    let (count, readings, last_token, first_seq, any, last_seq) =
        (c.u32()?, c.u32()?, c.u64()?, c.u64()?, c.u8()?, c.u64()?);
    let last_seq = (any != 0).then_some(last_seq);
    let last_stamp = record::get_stamp(&mut c)?;
    c.u32()?;
    match read_one(c.0, chain, token) {
        Header::Good(base) => Some((Summary { count, readings, last_token, first_seq, last_seq, last_stamp }, base)),
        _ => None,
    }
}

/// Writes a segment's entries, in memory; the log puts them on the disk.
#[derive(Debug, Clone)]
pub struct Builder {
    chain: Chain,
    base: Base,
    salt: u32,
    sources: HashMap<Source, u64>,
    next_source: u64,
    /// Records by lane.
    pub lanes: HashMap<u64, u32>,
    /// What was written so far.
    pub summary: Summary,
}

impl Builder {
    /// A new segment that begins with `first`, and its header. `seq`: the first reading's number; `before`: see
    /// [`Base`].
    pub fn begin(chain: Chain, first: &Item, seq: u64, before: Before, out: &mut Vec<u8>) -> Builder {
        let base = Base { token: first.token, seq: first.seq.unwrap_or(seq), stamp: first.stamp, before };
        let copy = header(chain, &base);
        out.extend_from_slice(&copy);
        out.extend_from_slice(&copy);
        Builder {
            chain,
            base,
            salt: salt(chain, first.token),
            sources: HashMap::new(),
            next_source: 0,
            lanes: HashMap::new(),
            summary: Summary::default(),
        }
    }

    /// Goes on where a scan has ended.
    pub fn resume(scan: Scanner) -> Builder {
        let known = scan.sources.iter().enumerate();
        let sources = known.filter_map(|(i, s)| Some((s.clone()?, i as u64))).collect();
        Builder {
            chain: scan.chain,
            base: scan.base,
            salt: scan.salt,
            sources,
            next_source: scan.sources.len() as u64,
            lanes: scan.lanes,
            summary: scan.summary,
        }
    }

    /// What the segment's records count from.
    pub fn base(&self) -> Base {
        self.base
    }

    /// Appends a record; gives its index.
    pub fn push(&mut self, item: &Item, out: &mut Vec<u8>) -> u32 {
        let source = Source { name: item.source.clone(), lane: item.lane, keep: item.keep };
        let id = match self.sources.get(&source) {
            Some(id) => *id,
            None => {
                let id = self.next_source;
                record::put_entry(out, self.salt, |o| record::put_source(o, id, &source));
                self.sources.insert(source, id);
                self.next_source += 1;
                id
            }
        };
        let index = self.summary.count;
        *self.lanes.entry(item.lane).or_default() += 1;
        record::put_entry(out, self.salt, |o| record::put_item(o, &self.base, index, id, item));
        self.summary.add(index, item);
        index
    }

    /// Appends the footer.
    pub fn finish(&self, out: &mut Vec<u8>) {
        let s = &self.summary;
        let before = out.len();
        record::put_entry(out, self.salt, |o| record::put_lanes(o, &self.lanes));
        let table = (out.len() - before) as u32;
        record::put_entry(out, self.salt, |o| {
            o.push(record::FOOTER);
            o.extend_from_slice(&s.count.to_le_bytes());
            o.extend_from_slice(&s.readings.to_le_bytes());
            o.extend_from_slice(&s.last_token.to_le_bytes());
            o.extend_from_slice(&s.first_seq.to_le_bytes());
            o.push(u8::from(s.last_seq.is_some()));
            o.extend_from_slice(&s.last_seq.unwrap_or(0).to_le_bytes());
            record::put_stamp(o, &s.last_stamp);
            o.extend_from_slice(&table.to_le_bytes());
            o.extend_from_slice(&header(self.chain, &self.base));
        });
    }
}

/// One step of a scan.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// A record, its index.
    Item(u32, Item),
    /// Bytes that are nothing, good entries behind them: both offsets in the file, the second excluded.
    Bad(usize, usize),
    /// The footer.
    Footer(Summary),
    /// Nothing more; how far the good entries reach, and whether junk lies behind them.
    End(usize, bool),
}

/// What the torn end of a segment may have held, as far as its bytes tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Torn {
    /// Records.
    pub records: u64,
    /// Their readings begin here…
    pub from: u64,
    /// …and end before this.
    pub to: u64,
}

/// A batch has fewer records.
const MAX_TORN: u64 = 1 << 16;

/// A way through a segment's entries.
#[derive(Debug, Clone)]
pub struct Scanner {
    chain: Chain,
    base: Base,
    salt: u32,
    trust: bool,
    sources: Vec<Option<Source>>,
    /// Records by lane.
    pub lanes: HashMap<u64, u32>,
    /// Where the next step begins, in the file.
    pub at: usize,
    /// What was seen so far.
    pub summary: Summary,
}

/// More source numbers than a segment can hold are the work of chance.
const MAX_SOURCES: usize = 65_536;

impl Scanner {
    /// At a segment's first entry. `trust`: a planted bug.
    pub fn new(chain: Chain, base: Base, trust: bool) -> Scanner {
        let salt = salt(chain, base.token);
        let (sources, lanes, summary) = (Vec::new(), HashMap::new(), Summary::default());
        Scanner { chain, base, salt, trust, sources, lanes, at: FIRST as usize, summary }
    }

    fn parse(&mut self, payload: &[u8]) -> Option<Option<Step>> {
        match record::kind(payload) {
            record::ITEM => {
                let keep = if self.chain.latest { Keep::Latest } else { Keep::All };
                let sources = &self.sources;
                let find = |id| sources.get(usize::try_from(id).ok()?)?.clone();
                let (index, item) = record::get_item(payload, &self.base, keep, find)?;
                // An index that does not rise is an old entry that shines through.
                if index < self.summary.count || index == u32::MAX {
                    return None;
                }
                self.summary.add(index, &item);
                *self.lanes.entry(item.lane).or_default() += 1;
                Some(Some(Step::Item(index, item)))
            }
            record::SOURCE => {
                let (id, source) = record::get_source(payload)?;
                let id = usize::try_from(id).ok().filter(|id| *id < MAX_SOURCES)?;
                if self.sources.len() <= id {
                    self.sources.resize(id + 1, None);
                }
                if let Some(place) = self.sources.get_mut(id) {
                    *place = Some(source);
                }
                Some(None)
            }
            record::LANES => record::get_lanes(payload).map(|_| None),
            record::FOOTER => Some(Some(Step::Footer(footer(payload, self.chain, self.base.token)?.0))),
            _ => None,
        }
    }

    /// The next step through `file`, the whole segment from its beginning.
    pub fn step(&mut self, file: &[u8]) -> Step {
        loop {
            let rest = file.get(self.at..).unwrap_or_default();
            if let Found::Good(payload) = record::find(rest, self.salt, self.trust) {
                let len = record::HEAD + payload.len();
                if let Some(step) = self.parse(payload) {
                    self.at += len;
                    match step {
                        Some(step) => return step,
                        None => continue,
                    }
                }
            }
            let from = self.at;
            return match self.resync(file, from) {
                Some(next) => {
                    self.at = next;
                    Step::Bad(from, next)
                }
                None => Step::End(from, rest.iter().any(|b| *b != 0)),
            };
        }
    }

    /// Where the next good entry behind `from` begins.
    fn resync(&self, file: &[u8], from: usize) -> Option<usize> {
        let mut at = from + 1;
        loop {
            let rest = file.get(at..)?;
            if rest.len() <= record::HEAD {
                return None;
            }
            // Blank stretches are long; an entry's first four bytes are never all zero.
            if rest.starts_with(&[0; 4]) {
                at += rest.iter().position(|b| *b != 0)?.saturating_sub(3).max(1);
                continue;
            }
            if let Found::Good(payload) = record::find(rest, self.salt, false)
                && self.clone_for_probe().parse(payload).is_some()
            {
                return Some(at);
            }
            at += 1;
        }
    }

    /// What lies behind `end`, where the good entries end: heads that are plausible, checksums or not.
    pub fn torn(&self, file: &[u8], end: usize) -> Torn {
        let s = &self.summary;
        let from = s.last_seq.map_or(self.base.seq, |l| l.saturating_add(1));
        // Whatever it was, it was something.
        let mut torn = Torn { records: 1, from, to: from.saturating_add(1) };
        let mut at = end;
        while let Some(rest) = file.get(at..).filter(|r| r.len() > record::HEAD) {
            let item = record::guess(rest, self.salt)
                .and_then(|p| Some((p.len(), record::get_item(p, &self.base, Keep::All, |_| None)?)))
                .filter(|(_, (index, item))| {
                    let near = |v: u64, least: u64| v >= least && v - least < MAX_TORN;
                    near(u64::from(*index), u64::from(s.count)) && item.seq.is_none_or(|q| near(q, from))
                });
            let Some((len, (index, item))) = item else {
                at += 1;
                continue;
            };
            torn.records = torn.records.max(u64::from(index - s.count) + 1);
            torn.to = torn.to.max(item.seq.map_or(0, |q| q.saturating_add(1)));
            at += record::HEAD + len;
        }
        torn
    }

    fn clone_for_probe(&self) -> Scanner {
        let Scanner { chain, base, salt, trust, at, summary, .. } = *self;
        Scanner { chain, base, salt, trust, at, summary, sources: Vec::new(), lanes: HashMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Stamp;
    use proptest::prelude::*;

    const CHAIN: Chain = Chain { rank: 100, latest: false };

    fn item(n: u64, len: usize) -> Item {
        Item {
            token: 10 + n,
            seq: Some(500 + n),
            lane: n % 3,
            keep: Keep::All,
            in_order: false,
            ttl: None,
            stamp: Stamp { wall: 1000 + n as i64, mono: n, boot: 9, synced: true },
            source: ["a", "b", "c"][n as usize % 3].into(),
            body: vec![n as u8; len],
        }
    }

    fn segment(n: u64, finish: bool) -> Vec<u8> {
        let mut out = Vec::new();
        let mut b = Builder::begin(CHAIN, &item(0, 0), 0, Before { token: 3, count: 4 }, &mut out);
        for i in 0..n {
            b.push(&item(i, 20 + i as usize % 40), &mut out);
        }
        if finish {
            b.finish(&mut out);
        }
        out
    }

    fn read(file: &[u8]) -> Option<Vec<(u32, Item)>> {
        let Header::Good(base) = read_header(file, CHAIN, 10) else { return None };
        let mut s = Scanner::new(CHAIN, base, false);
        let mut items = Vec::new();
        loop {
            match s.step(file) {
                Step::Item(i, it) => items.push((i, it)),
                Step::Bad(a, b) => assert!(a < b),
                Step::Footer(_) => {}
                Step::End(..) => return Some(items),
            }
        }
    }

    #[test]
    fn a_name_says_what_the_file_holds_and_foreign_names_say_nothing() {
        for chain in [CHAIN, Chain { rank: 0, latest: true }] {
            assert_eq!(parse_name(&name(chain, 77)), Some((chain, 77)));
        }
        for foreign in [
            "",
            ".seg",
            "x.seg",
            "100a-7.seg",
            "999a-00000000000000000007.seg",
            "state",
            "100a-18446744073709551615.seg",
            "100x-00000000000000000007.seg",
        ] {
            assert_eq!(parse_name(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn a_finished_segment_is_known_by_its_footer() {
        let file = segment(50, true);
        let (summary, base) = read_footer(&file[file.len() - FOOTER..], CHAIN, 10).unwrap();
        assert_eq!((summary.count, summary.readings, summary.first_seq, summary.last_seq), (50, 50, 500, Some(549)));
        assert_eq!((base.token, base.seq, base.before), (10, 500, Before { token: 3, count: 4 }));
        assert_eq!(read(&file).unwrap().len(), 50);
    }

    #[test]
    fn one_copy_of_the_header_is_enough_and_another_version_is_told_from_damage() {
        let mut file = segment(2, false);
        file[20] ^= 1;
        assert_eq!(read(&file).unwrap().len(), 2);
        file[HEADER + 20] ^= 1;
        assert_eq!(read_header(&file, CHAIN, 10), Header::Bad);
        let mut newer = segment(2, false);
        newer[8] = 2;
        assert_eq!(read_header(&newer, CHAIN, 10), Header::Good(read_one_base(&segment(2, false))));
        newer[HEADER + 8] = 2;
        assert_eq!(read_header(&newer, CHAIN, 10), Header::Version(2));
    }

    fn read_one_base(file: &[u8]) -> Base {
        match read_header(file, CHAIN, 10) {
            Header::Good(b) => b,
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #[test]
        fn damage_in_one_place_costs_only_what_lies_there(n in 3u64..60, at in any::<prop::sample::Index>(),
            junk in proptest::collection::vec(any::<u8>(), 1..90)) {
            let good = segment(n, true);
            let mut file = good.clone();
            let at = FIRST as usize + at.index(file.len() - FIRST as usize);
            let to = (at + junk.len()).min(file.len());
            for (to, from) in file[at..to].iter_mut().zip(&junk) { *to = *from; }
            let want = read(&good).unwrap();
            let got = read(&file).unwrap();
            // Whatever is given is what was written (a lost source definition costs the name, not the message).
            for (i, it) in &got {
                let w = &want[*i as usize].1;
                prop_assert_eq!((&w.body, w.seq, w.token, &w.stamp), (&it.body, it.seq, it.token, &it.stamp));
            }
            // A record is at least 28 bytes: 90 bytes of junk touch at most five of them.
            prop_assert!(got.len() + 5 >= want.len());
        }

        #[test]
        fn a_torn_end_is_known_as_far_as_heads_are_left(n in 2u64..40, lost in 1usize..400) {
            let whole = segment(n, false);
            let mut file = whole.clone();
            let from = file.len().saturating_sub(lost).max(FIRST as usize + 60);
            file[from..].fill(0);
            let Header::Good(base) = read_header(&file, CHAIN, 10) else { panic!() };
            let mut s = Scanner::new(CHAIN, base, false);
            let end = loop {
                if let Step::End(at, _) = s.step(&file) {
                    break at;
                }
            };
            let torn = s.torn(&file, end);
            // Never one that is still there, never one that was not written.
            prop_assert!(torn.from == s.summary.last_seq.map_or(500, |l| l + 1) && torn.to <= 500 + n.max(1) + 1);
        }

        #[test]
        fn a_segments_lanes_are_known_from_its_end(n in 1u64..60) {
            let file = segment(n, true);
            let want = (0..n).fold(HashMap::new(), |mut lanes, i| {
                *lanes.entry(i % 3).or_default() += 1u32;
                lanes
            });
            let Err(more) = read_lanes(&file[file.len() - FOOTER..], CHAIN, 10) else { panic!() };
            prop_assert_eq!(read_lanes(&file[file.len() - more..], CHAIN, 10), Ok(want.clone()));
            prop_assert_eq!(read_lanes(&file, CHAIN, 10), Ok(want));
        }

        #[test]
        fn any_name_is_answered(name in "[0-9al.seg-]{0,40}") {
            if let Some((chain, token)) = parse_name(&name) {
                prop_assert_eq!(super::name(chain, token), name);
            }
        }

        #[test]
        fn any_bytes_as_a_segment_are_read_without_harm(junk in proptest::collection::vec(any::<u8>(), 0..600), keep_header in any::<bool>()) {
            let mut file = if keep_header { segment(1, false) } else { Vec::new() };
            file.extend(junk);
            let _ = read(&file);
            let _ = (read_footer(&file, CHAIN, 10), read_lanes(&file, CHAIN, 10));
            let base = Base { token: 10, seq: 500, ..Base::default() };
            let torn = Scanner::new(CHAIN, base, false).torn(&file, FIRST as usize);
            prop_assert!(torn.from < torn.to && torn.records > 0);
        }
    }
}
