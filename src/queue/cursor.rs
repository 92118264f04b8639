//! WHAT IS FINISHED, as the disk remembers it: the state file, and the marks on a segment's records.
//!
//! The state is saved lazily: what it lags behind is sent again after a power cut, never lost. It promises: one of
//! its two slots is whole at any time; any bytes are answered, with `None` where they are no state.

use super::record::{Cursor, put_varint};
use super::segment::Chain;
use super::{Gap, REASONS};

/// Bytes of one slot; the file has two.
pub const SLOT: usize = 4096;
const MAGIC: &[u8; 8] = b"PPQSTATE";
const VERSION: u16 = 1;
/// Gaps that a state keeps until they are said.
pub const MAX_GAPS: usize = 24;
// A full list may still grow by one for each reason; they fit the slot too.

/// Which records of a segment are finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// The segment's chain.
    pub chain: Chain,
    /// The segment's first token.
    pub token: u64,
    /// All of it: the file may be removed, and must be if it turns up again.
    pub gone: bool,
    /// First and length of each run of finished records, in order.
    pub runs: Vec<(u32, u32)>,
}

/// Length of the run that says that nothing from its start on counts.
pub const CUT: u32 = u32::MAX / 2;
/// Length of the run that says that what is torn behind its start was reported.
pub const TORN: u32 = CUT - 1;

/// What survives beside the segments.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// Rises with each save.
    pub generation: u64,
    /// Sequence numbers below this may have been given out.
    pub seq_limit: u64,
    /// Tokens below this may have been used.
    pub next_token: u64,
    /// Records dropped since the directory was made, in the order of [`REASONS`].
    pub dropped: [u64; REASONS.len()],
    /// Records that the broker refused for good since then.
    pub dead: u64,
    /// Losses that were perhaps not reported yet.
    pub gaps: Vec<Gap>,
    /// What is finished.
    pub finished: Vec<Finished>,
}

impl State {
    /// One slot's bytes. What does not fit is left out: those records are sent again after a crash.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SLOT);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        for v in [self.generation, self.seq_limit, self.next_token] {
            out.extend_from_slice(&v.to_le_bytes());
        }
        for v in self.dropped.iter().chain([&self.dead]) {
            put_varint(&mut out, *v);
        }
        let most = MAX_GAPS + REASONS.len();
        let gaps = self.gaps.get(..most).unwrap_or(&self.gaps);
        put_varint(&mut out, gaps.len() as u64);
        for gap in gaps {
            for v in [gap.from, gap.to, gap.count] {
                put_varint(&mut out, v);
            }
            out.push(REASONS.iter().position(|r| *r == gap.reason).unwrap_or(0) as u8);
            let name = gap.source.as_deref().filter(|s| s.len() <= 64).unwrap_or("");
            out.push(name.len() as u8);
            out.extend_from_slice(name.as_bytes());
        }
        let room = SLOT - 4 - 16;
        let mut whole = self.finished.iter().collect::<Vec<_>>();
        whole.sort_by_key(|f| !f.gone);
        for f in whole {
            if out.len() + 16 > room {
                break;
            }
            out.push(1);
            out.push(f.chain.rank);
            out.push(u8::from(f.chain.latest) | u8::from(f.gone) << 1);
            out.extend_from_slice(&f.token.to_le_bytes());
            let fits = f.runs.len().min((room - out.len()) / 10);
            put_varint(&mut out, fits as u64);
            for (from, len) in f.runs.iter().take(fits) {
                put_varint(&mut out, u64::from(*from));
                put_varint(&mut out, u64::from(*len));
            }
        }
        out.resize(SLOT - 4, 0);
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out
    }

    /// From which index on a segment's records do not count, if it was given up after a failed write.
    pub fn cut(&self, id: (Chain, u64)) -> Option<u32> {
        let known = self.finished.iter().find(|f| (f.chain, f.token) == id)?;
        known.runs.last().filter(|(_, len)| *len == CUT).map(|(from, _)| *from)
    }

    /// Whether the torn end behind a segment's first `count` records was reported.
    pub fn torn(&self, id: (Chain, u64), count: u32) -> bool {
        self.finished.iter().any(|f| (f.chain, f.token) == id && f.runs.last() == Some(&(count, TORN)))
    }

    /// Reads a slot.
    pub fn decode(slot: &[u8]) -> Option<State> {
        let slot = slot.get(..SLOT)?;
        let (body, sum) = slot.split_at_checked(SLOT - 4)?;
        if Cursor(sum).u32()? != crc32c::crc32c(body) {
            return None;
        }
        let mut c = Cursor(body);
        if c.bytes(8)? != MAGIC || c.bytes(2)? != VERSION.to_le_bytes() {
            return None;
        }
        let (generation, seq_limit, next_token) = (c.u64()?, c.u64()?, c.u64()?);
        let mut dropped = [0; REASONS.len()];
        for v in &mut dropped {
            *v = c.varint()?;
        }
        let dead = c.varint()?;
        let mut gaps = Vec::new();
        for _ in 0..c.varint()?.min((MAX_GAPS + REASONS.len()) as u64) {
            let (from, to, count) = (c.varint()?, c.varint()?, c.varint()?);
            let reason = REASONS.get(usize::from(c.u8()?)).copied().unwrap_or(REASONS[0]);
            let len = usize::from(c.u8()?);
            let source = String::from_utf8_lossy(c.bytes(len)?).into_owned();
            gaps.push(Gap { from, to, count, reason, source: (!source.is_empty()).then_some(source) });
        }
        let mut finished = Vec::new();
        while c.u8() == Some(1) {
            let (rank, bits, token) = (c.u8()?, c.u8()?, c.u64()?);
            let mut runs = Vec::new();
            for _ in 0..c.varint()? {
                runs.push((c.varint()? as u32, c.varint()? as u32));
            }
            finished.push(Finished { chain: Chain { rank, latest: bits & 1 != 0 }, token, gone: bits & 2 != 0, runs });
        }
        Some(State { generation, seq_limit, next_token, dropped, dead, gaps, finished })
    }

    /// The newer of a state file's two slots, and which slot it lies in.
    pub fn newest(file: &[u8]) -> Option<(State, usize)> {
        let slots = file.chunks(SLOT).take(2).enumerate();
        slots.filter_map(|(i, s)| Some((State::decode(s)?, i))).max_by_key(|(s, _)| s.generation)
    }
}

/// A set of record indices, one bit each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks {
    words: Vec<u64>,
    /// How many are marked.
    pub count: u32,
}

impl Marks {
    /// Whether `index` is marked.
    pub fn has(&self, index: u32) -> bool {
        self.words.get(index as usize / 64).is_some_and(|w| w >> (index % 64) & 1 == 1)
    }
    /// Marks `index`; whether it was not marked before.
    pub fn add(&mut self, index: u32) -> bool {
        let word = index as usize / 64;
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        let Some(w) = self.words.get_mut(word) else { return false };
        let bit = 1 << (index % 64);
        let new = *w & bit == 0;
        *w |= bit;
        self.count += u32::from(new);
        new
    }
    /// Takes the mark away; whether there was one.
    pub fn take(&mut self, index: u32) -> bool {
        let bit = 1 << (index % 64);
        let Some(w) = self.words.get_mut(index as usize / 64).filter(|w| **w & bit != 0) else { return false };
        *w &= !bit;
        self.count -= 1;
        true
    }
    /// First and length of each run.
    pub fn runs(&self) -> Vec<(u32, u32)> {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for (i, word) in self.words.iter().enumerate() {
            let base = i as u32 * 64;
            match (*word, runs.last_mut()) {
                (0, _) => {}
                (u64::MAX, Some((from, len))) if *from + *len == base => *len += 64,
                _ => {
                    for index in (base..base + 64).filter(|index| word >> (index % 64) & 1 == 1) {
                        match runs.last_mut() {
                            Some((from, len)) if *from + *len == index => *len += 1,
                            _ => runs.push((index, 1)),
                        }
                    }
                }
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn state() -> impl Strategy<Value = State> {
        let gap = (any::<u64>(), any::<u64>(), any::<u64>(), 0..REASONS.len(), proptest::option::of("[a-z]{1,20}"))
            .prop_map(|(from, to, count, r, source)| Gap { from, to, count, reason: REASONS[r], source });
        let fin = (
            any::<u8>(),
            any::<bool>(),
            any::<u64>(),
            any::<bool>(),
            proptest::collection::vec(any::<(u32, u32)>(), 0..8),
        )
            .prop_map(|(rank, latest, token, gone, runs)| Finished {
                chain: Chain { rank, latest },
                token,
                gone,
                runs,
            });
        let numbers = any::<(u64, u64, u64, [u64; REASONS.len()], u64)>();
        (numbers, proptest::collection::vec(gap, 0..5), proptest::collection::vec(fin, 0..20)).prop_map(
            |((generation, seq_limit, next_token, dropped, dead), gaps, mut finished)| {
                finished.sort_by_key(|f| !f.gone);
                State { generation, seq_limit, next_token, dropped, dead, gaps, finished }
            },
        )
    }

    proptest! {
        #[test]
        fn a_state_comes_back_as_it_was(s in state()) {
            prop_assert_eq!(State::decode(&s.encode()), Some(s));
        }

        #[test]
        fn a_damaged_slot_leaves_the_other(s in state(), at in 0usize..SLOT, with in 1u8..) {
            let older = State { generation: 1, ..State::default() };
            let newer = State { generation: 2, ..s };
            let mut file = older.encode();
            file.extend(newer.encode());
            prop_assert_eq!(State::newest(&file), Some((newer, 1)));
            file[SLOT + at] ^= with;
            prop_assert_eq!(State::newest(&file), Some((older, 0)));
        }

        #[test]
        fn any_bytes_as_a_state_file_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..SLOT * 2)) {
            prop_assert_eq!(State::newest(&bytes), None);
        }

        #[test]
        fn any_bytes_with_a_good_checksum_are_answered(mut bytes in proptest::collection::vec(any::<u8>(), SLOT - 14)) {
            let mut slot = [MAGIC.as_slice(), &VERSION.to_le_bytes()].concat();
            slot.append(&mut bytes);
            slot.extend(crc32c::crc32c(&slot).to_le_bytes());
            let _ = State::decode(&slot);
        }

        #[test]
        fn marks_remember_exactly_what_they_were_told(adds in proptest::collection::vec(0u32..300, 0..200), takes in proptest::collection::vec(0u32..300, 0..50)) {
            let (mut marks, mut set) = (Marks::default(), std::collections::BTreeSet::new());
            for a in adds { prop_assert_eq!(marks.add(a), set.insert(a)); }
            for t in takes { prop_assert_eq!(marks.take(t), set.remove(&t)); }
            let runs: Vec<u32> = marks.runs().into_iter().flat_map(|(f, n)| f..f + n).collect();
            prop_assert_eq!(&runs, &set.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(marks.count as usize, set.len());
            prop_assert!((0..300).all(|i| marks.has(i) == set.contains(&i)));
        }
    }

    #[test]
    fn a_state_too_large_for_its_slot_keeps_what_is_gone_and_what_fits() {
        let partial = |token| Finished {
            chain: Chain { rank: 1, latest: false },
            token,
            gone: false,
            runs: (0..200).map(|i| (i * 3, 1)).collect(),
        };
        let mut finished = (0..50).map(partial).collect::<Vec<_>>();
        finished.push(Finished { gone: true, runs: Vec::new(), ..partial(99) });
        let back = State::decode(&State { finished, ..State::default() }.encode()).unwrap();
        assert_eq!((back.finished[0].token, back.finished[0].gone), (99, true));
        assert!(back.finished.len() > 3);
    }
}
