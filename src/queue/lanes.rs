//! WHO WAITS FOR WHOM under [`super::Order::LiveFirst`]: a live record waits behind the backlog of its own lane while
//! that is short, and behind no other. How long it is, is counted here, for records in memory and on disk; what of a
//! short one is still on disk is fetched ahead of everything else.
//!
//! Counts of what is on disk may be too high after damage, never for long: what was fetched and is not there is
//! forgotten. Damage may also have taken the name of a record's lane and left the record: such a *stray* may be of any
//! lane, so that every live record of its chain waits for it.

use std::collections::{BTreeSet, HashMap};

use super::Queue;
use super::chains::{ChainState, Rec};
use super::segment::Chain;
use super::work::{Job, Page, SegmentId};
use super::{Order, Rank};

/// A backlog of more records than this is passed by the live ones of its lane.
pub const SHORT: u64 = 4096;
/// A count that is certainly long: the lane cannot be read.
const LONG: u64 = 1 << 40;

/// The lane of strays where it makes no difference which.
const STRAY: u64 = 0xB5C0_FBCF_EC4D_0000;

/// A lane for a record whose source, the one of this number in its segment, nobody knows any more.
pub fn stray(source: u64) -> u64 {
    STRAY | (source & 0xFFFF)
}

/// Whether it is that of a stray.
pub fn is_stray(lane: u64) -> bool {
    lane & !0xFFFF == STRAY
}

/// The lane as it is counted: all strays are one.
fn counted(lane: u64) -> u64 {
    if is_stray(lane) { STRAY } else { lane }
}

/// A lane's place in a set of sixty-four; a segment whose set lacks it has nothing of the lane.
pub fn bit(lane: u64) -> u64 {
    1 << (counted(lane).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 58)
}

/// The backlog of one chain by lanes.
#[derive(Debug, Clone, Default)]
pub struct Lanes {
    /// Tokens of the backlog in memory.
    memory: HashMap<u64, BTreeSet<u64>>,
    /// Records that only the disk has.
    disk: HashMap<u64, u64>,
    /// Lanes that are being fetched.
    wanted: BTreeSet<u64>,
    /// All of them is in memory up to here: segment and index.
    fetched: (u64, u32),
}

/// Whether a live record may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    Free,
    /// Not before this one of its backlog.
    First(u64),
    /// Not before its backlog was fetched.
    Fetch,
}

impl Lanes {
    /// One of the backlog is in memory.
    pub fn add(&mut self, lane: u64, token: u64) {
        self.memory.entry(counted(lane)).or_default().insert(token);
    }
    /// It no longer is.
    pub fn remove(&mut self, lane: u64, token: u64) {
        let lane = counted(lane);
        if let Some(tokens) = self.memory.get_mut(&lane) {
            tokens.remove(&token);
            if tokens.is_empty() {
                self.memory.remove(&lane);
            }
        }
    }
    /// So many are only on disk.
    pub fn left(&mut self, lane: u64, n: u64) {
        *self.disk.entry(counted(lane)).or_default() += n;
    }
    /// One is left to the disk, at this place.
    pub fn evicted(&mut self, lane: u64, place: (u64, u32)) {
        self.left(lane, 1);
        if self.wanted.contains(&counted(lane)) {
            self.fetched = self.fetched.min(place);
        }
    }
    /// One was read from the disk.
    pub fn read(&mut self, lane: u64) {
        let lane = counted(lane);
        if let Some(n) = self.disk.get_mut(&lane) {
            *n -= 1;
            if *n == 0 {
                self.disk.remove(&lane);
            }
        }
    }
    /// Nothing is only on disk.
    pub fn all_read(&mut self) {
        self.disk.clear();
        self.wanted.clear();
    }
    /// Records of a lane's backlog, and strays.
    pub fn waiting(&self, lane: u64) -> u64 {
        let memory = |lane| self.memory.get(&lane).map_or(0, |t| t.len() as u64);
        let disk = |lane| self.disk.get(&lane).copied().unwrap_or(0);
        [Some(counted(lane)), Some(STRAY).filter(|s| *s != counted(lane))]
            .into_iter()
            .flatten()
            .map(|lane| memory(lane) + disk(lane))
            .sum()
    }
    /// The first of them in memory.
    fn first(&self, lane: u64) -> Option<u64> {
        [counted(lane), STRAY].iter().filter_map(|lane| self.memory.get(lane)?.first().copied()).min()
    }
    /// The lanes of which only the disk has something for whom a record of this lane waits.
    fn on_disk(&self, lane: u64) -> impl Iterator<Item = u64> + '_ {
        [counted(lane), STRAY].into_iter().filter(|lane| self.disk.contains_key(lane))
    }
    /// Whether something is to be fetched.
    pub fn wanting(&self) -> bool {
        !self.wanted.is_empty()
    }
}

impl ChainState {
    /// Puts a record among the backlog in memory.
    pub fn add_back(&mut self, lane: u64, token: u64) {
        self.back.insert(token);
        self.lanes.add(lane, token);
    }

    /// Takes one from there; whether it was there.
    pub fn remove_back(&mut self, lane: u64, token: u64) -> bool {
        self.lanes.remove(lane, token);
        self.back.remove(&token)
    }

    fn gate(&self, rec: &Rec, limit: u64, place: impl Fn(u64) -> Option<(u64, u32)>) -> Gate {
        let lane = rec.item.lane;
        let on_disk = self.lanes.on_disk(lane).next().is_some();
        let first = self.lanes.first(lane);
        if (first.is_none() && !on_disk) || (!rec.item.in_order && self.lanes.waiting(lane) > limit) {
            return Gate::Free;
        }
        match first {
            Some(first) if !on_disk || first < self.lower => Gate::First(first),
            Some(first)
                if self.lanes.on_disk(lane).all(|lane| self.lanes.wanted.contains(&lane))
                    && place(first).is_some_and(|p| p < self.lanes.fetched) =>
            {
                Gate::First(first)
            }
            _ => Gate::Fetch,
        }
    }

    /// Where fetching goes on.
    fn next_fetch(&mut self) -> Option<(u64, u32)> {
        let bits = self.lanes.wanted.iter().fold(0, |bits, lane| bits | bit(*lane));
        let (at, index) = self.lanes.fetched;
        let here = |t: u64, count: u32| t > at || index < count;
        let mut rest = self.segs.range(at..);
        let next = rest.find(|(t, s)| {
            here(**t, s.standing.summary.count) && s.unread() > 0 && !s.unreadable && s.standing.lanes & bits != 0
        });
        match next {
            Some((t, _)) => Some((*t, if *t == at { index } else { 0 })),
            None => {
                for lane in std::mem::take(&mut self.lanes.wanted) {
                    self.lanes.disk.remove(&lane);
                }
                None
            }
        }
    }
}

impl Queue {
    /// The first live record that may leave, or the one of its lane's backlog that goes before it: rank, token, and
    /// whether it is one of the backlog. `slow`: none of the backlog may leave now.
    pub(super) fn first_live(&mut self, slow: bool) -> Option<(Rank, u64, bool)> {
        let in_turn = self.replay.backlog_first();
        let limit = self.replay.short();
        let mut want: Vec<(Chain, u64)> = Vec::new();
        let mut found: Option<(Rank, u64, bool)> = None;
        for (id, chain) in self.chains.iter().rev().filter(|(_, c)| !in_turn || !c.has_backlog()) {
            if found.is_some_and(|(rank, ..)| rank > id.rank) {
                break;
            }
            for token in &chain.live {
                let Some(rec) = self.records.get(token) else { continue };
                let place = |t: u64| self.records.get(&t)?.place.map(|p| (p.id.1, p.index));
                match chain.gate(rec, limit, place) {
                    // Nobody's backlog holds this one up.
                    Gate::Free if self.may_leave(*token) => {
                        found = Some((id.rank, *token, false));
                        break;
                    }
                    // Behind it others of its lane may wait.
                    Gate::Free => break,
                    Gate::First(first) if found.is_none() && !slow && self.may_leave(first) => {
                        found = Some((id.rank, first, true));
                    }
                    Gate::First(_) => {}
                    Gate::Fetch => want.push((*id, rec.item.lane)),
                }
            }
            if found.is_some_and(|(.., old)| !old) {
                break;
            }
        }
        for (id, lane) in want {
            let Some(chain) = self.chains.get_mut(&id) else { continue };
            let lanes: Vec<u64> = chain.lanes.on_disk(lane).collect();
            for lane in lanes {
                if chain.lanes.wanted.insert(lane) {
                    chain.lanes.fetched = (0, 0);
                }
            }
        }
        found
    }

    /// Whether a record that comes now, the link being up, counts as live.
    pub(super) fn is_live(&self, chain: Chain, lane: u64, in_order: bool) -> bool {
        let Some(state) = self.chains.get(&chain).filter(|_| in_order) else { return true };
        match self.replay.backlog_first() {
            true => !state.has_backlog(),
            // Behind a long backlog of its own it waits as a part of that.
            false => state.lanes.waiting(lane) <= self.replay.short(),
        }
    }

    /// Whether [`Queue::fetch_job`] may have something.
    pub(super) fn wants_fetch(&self, chain: &ChainState) -> bool {
        let room = self.mem_bytes < self.memory / 4 * 3;
        self.up
            && chain.lanes.wanting()
            && (room || chain.lanes.wanted.iter().all(|l| !chain.lanes.memory.contains_key(l)))
    }

    /// Reads what live records wait for.
    pub(super) fn fetch_job(&mut self) -> Option<Job> {
        let ids: Vec<Chain> =
            self.chains.iter().rev().filter(|(_, c)| self.wants_fetch(c)).map(|(id, _)| *id).collect();
        for id in ids {
            let chain = self.chains.get_mut(&id)?;
            let Some((token, from)) = chain.next_fetch() else { continue };
            let lanes = chain.lanes.wanted.iter().copied().collect();
            if let Some(seg) = chain.segs.get(&token) {
                let job = super::jobs::read_job((id, token), seg, from, false);
                self.disk.as_mut()?.fetching = Some((id, token));
                return Some(match job {
                    Job::Read { id, from, end, count, last_seq, names_only, .. } => {
                        Job::Read { id, from, end, count, last_seq, names_only, lanes }
                    }
                    other => other,
                });
            }
        }
        None
    }

    /// What [`Queue::fetch_job`] brought. Damage is left to the reader of the whole.
    pub(super) fn fetched(&mut self, id: SegmentId, page: Result<Page, super::work::Failure>) {
        let Ok(page) = page else {
            if let Some(chain) = self.chains.get_mut(&id.0) {
                for lane in std::mem::take(&mut chain.lanes.wanted) {
                    chain.lanes.disk.insert(lane, LONG);
                }
            }
            return;
        };
        for (index, item) in page.items {
            self.read_back(super::chains::Place { id, index }, item);
        }
        if let Some(chain) = self.chains.get_mut(&id.0).filter(|c| c.lanes.fetched <= (id.1, page.next)) {
            chain.lanes.fetched = (id.1, page.next);
        }
        self.doom_finished();
    }
}

impl super::policy::Replayer {
    /// The longest backlog of a lane that its live records wait for.
    pub fn short(&self) -> u64 {
        let rule = self.rule();
        match (rule.order, rule.rate.filter(|r| *r > 0.0)) {
            (Order::LiveFirst, Some(rate)) => (rate as u64).clamp(1, SHORT),
            _ => SHORT,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::super::tests::{T0, options, reading, sec, work};
    use super::super::{Entry, Log, Options, Out, Replay};
    use super::*;
    use proptest::prelude::*;

    const A: u64 = 1;
    const B: u64 = 2;
    const C: u64 = 3;

    /// A backlog of `n` on disk: every `nth` of lane A, the others of lane B; found at a start if `again`.
    fn backlog(dir: &std::path::Path, n: u64, nth: u64, again: bool) -> (Queue, Log) {
        let opt = Options { memory: 256 << 10, ..options(dir) };
        let (mut q, mut log) = Queue::open(opt.clone(), T0).unwrap();
        for i in 0..n {
            q.append(reading(if i % nth == 0 { A } else { B }, &format!("{i}")), T0);
            if i % 500 == 0 {
                work(&mut q, &mut log, T0);
            }
        }
        work(&mut q, &mut log, sec(2));
        if again {
            drop((q, log));
            (q, log) = Queue::open(opt, T0).unwrap();
        }
        q.link_up();
        work(&mut q, &mut log, sec(2));
        (q, log)
    }

    fn take(q: &mut Queue, log: &mut Log) -> Option<Out> {
        if let Some(out) = q.take(sec(3)) {
            q.done(out.token);
            return Some(out);
        }
        work(q, log, sec(3));
        let out = q.take(sec(3))?;
        q.done(out.token);
        Some(out)
    }

    fn live(q: &mut Queue, lane: u64, body: &str) {
        q.append(reading(lane, body), sec(3));
    }

    #[test]
    fn a_live_record_waits_for_the_short_backlog_of_its_own_lane_only() {
        for again in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let (mut q, mut log) = backlog(dir.path(), 60_000, 300, again);
            for (lane, body) in [(A, "a1"), (B, "b1"), (C, "c1"), (A, "a2"), (C, "c2")] {
                live(&mut q, lane, body);
            }
            let mut got = Vec::new();
            while got.last().is_none_or(|b| b != "a2") {
                work(&mut q, &mut log, sec(3));
                got.push(String::from_utf8(take(&mut q, &mut log).unwrap().body).unwrap());
            }
            let at = |b: &str| got.iter().position(|g| g == b).unwrap_or_else(|| panic!("{b} has not come"));
            // Of a long backlog, the own one or another's, a live record sees no more than a page.
            assert!(at("b1") < 5 && at("c1") < 5 && at("c2") < 5, "{:?}", &got[..9]);
            let of_a: Vec<&String> =
                got.iter().filter(|b| b.parse().is_ok_and(|n: u64| n.is_multiple_of(300))).collect();
            assert_eq!(of_a.len(), 200, "all of its own backlog goes first");
            assert!(of_a.windows(2).all(|w| w[0].parse::<u64>().unwrap() < w[1].parse().unwrap()));
            assert!(got.len() < 20_000, "{} of others went before it", got.len());
            assert_eq!(at("a1") + 1, at("a2"));
        }
    }

    #[test]
    fn a_second_of_the_rate_is_what_a_live_record_waits_for() {
        let dir = tempfile::tempdir().unwrap();
        let (mut q, mut log) = backlog(dir.path(), 2000, 100, true);
        q.set_replay(Replay { order: Order::LiveFirst, rate: Some(50.0) });
        // Lane A has twenty, lane B has 1980.
        live(&mut q, A, "a1");
        live(&mut q, B, "b1");
        work(&mut q, &mut log, sec(3));
        let mut got = Vec::new();
        let mut now = sec(3);
        while !got.contains(&b"a1".to_vec()) {
            work(&mut q, &mut log, now);
            while let Some(out) = q.take(now) {
                q.done(out.token);
                got.push(out.body);
            }
            now += Duration::from_millis(10);
            assert!(now < sec(4), "{}", got.len());
        }
        assert!(got.contains(&b"b1".to_vec()));
        assert!(got.len() <= 30, "the rate is used for what is waited for: {}", got.len());
    }

    #[test]
    fn what_damage_has_taken_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let (mut q, mut log) = backlog(dir.path(), 60_000, 300, true);
        for entry in std::fs::read_dir(dir.path()).unwrap().filter_map(Result::ok) {
            if entry.file_name().to_string_lossy().ends_with(".seg") {
                let mut bytes = std::fs::read(entry.path()).unwrap();
                bytes.iter_mut().skip(50_000).for_each(|b| *b ^= 0x55);
                std::fs::write(entry.path(), bytes).unwrap();
            }
        }
        live(&mut q, A, "a1");
        let mut n = 0;
        while take(&mut q, &mut log).unwrap().body != b"a1" {
            n += 1;
            assert!(n < 10_000);
            work(&mut q, &mut log, sec(3));
        }
    }

    #[test]
    fn a_live_record_waits_for_those_whose_lane_damage_has_made_unknown() {
        let dir = tempfile::tempdir().unwrap();
        let (mut q, mut log) = Queue::open(options(dir.path()), T0).unwrap();
        for n in 0..5 {
            let source = "the-name-of-lane-a".to_owned();
            q.append(Entry { source, ..reading(A, &format!("{n}")) }, T0);
        }
        work(&mut q, &mut log, sec(2));
        drop((q, log));
        let mut hit = 0;
        for entry in std::fs::read_dir(dir.path()).unwrap().filter_map(Result::ok) {
            let mut bytes = std::fs::read(entry.path()).unwrap();
            if let Some(at) = bytes.windows(18).position(|w| w == b"the-name-of-lane-a") {
                bytes[at] ^= 0x20;
                std::fs::write(entry.path(), bytes).unwrap();
                hit += 1;
            }
        }
        assert_eq!(hit, 1);
        let (mut q, mut log) = Queue::open(options(dir.path()), T0).unwrap();
        q.link_up();
        // what is there is found, and not read yet
        let found = log.run(q.next_job(sec(3)).unwrap());
        q.finished(found, sec(3));
        live(&mut q, A, "live");
        let mut got = Vec::new();
        while let Some(out) = take(&mut q, &mut log) {
            got.push(String::from_utf8(out.body).unwrap());
        }
        assert_eq!(got, ["0", "1", "2", "3", "4", "live"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

        /// The model: what came, lane by lane. Whatever the memory, the link and the acknowledgements do, no lane whose
        /// backlog is short ever goes out of order.
        #[test]
        fn lanes_with_short_backlogs_keep_their_order(memory in 4u64..60, steps in proptest::collection::vec((0u8..10, 0u64..4, 1u64..40), 1..120)) {
            let dir = tempfile::tempdir().unwrap();
            let opt = Options { memory: memory << 10, segment: 4096, ..options(dir.path()) };
            let (mut q, mut log) = Queue::open(opt, T0).unwrap();
            let (mut now, mut came) = (T0, 0u64);
            let mut last: BTreeMap<u64, u64> = BTreeMap::new();
            let mut flying = Vec::new();
            for (what, lane, n) in steps {
                now += Duration::from_millis(n * 20);
                match what {
                    0..=3 => for _ in 0..n {
                        if q.pressed() {
                            work(&mut q, &mut log, now);
                        }
                        came += 1;
                        q.append(Entry { in_order: lane == 3, ..reading(lane, &format!("{lane} {came}")) }, now);
                    },
                    4 => q.link_up(),
                    5 => {
                        q.link_down();
                        flying.clear();
                        last.clear();
                    }
                    6 => work(&mut q, &mut log, now).clear(),
                    _ => {
                        work(&mut q, &mut log, now);
                        while let Some(out) = q.take(now).filter(|_| flying.len() < n as usize) {
                            let text = String::from_utf8(out.body.clone()).unwrap();
                            let (lane, number) = text.split_once(' ').unwrap();
                            let (lane, number) = (lane.parse().unwrap(), number.parse().unwrap());
                            let before = last.insert(lane, number);
                            prop_assert!(before.is_none_or(|b| b < number), "{lane}: {number} after {before:?}");
                            flying.push(out.token);
                        }
                        flying.drain(..).for_each(|t| q.done(t));
                    }
                }
            }
        }
    }
}
