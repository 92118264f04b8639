//! WHAT THE DISK SHOULD DO NEXT, and when. Decides, does nothing; see `log.rs` for the doing and `outcomes.rs` for
//! what follows from it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::cursor::{CUT, Finished, State, TORN};
use super::faults::{Bug, Faults};
use super::policy::us;
use super::purge::Drop;
use super::record::Item;
use super::segment::Chain;
use super::work::{Job, SegmentId, Sizes};
use super::{Queue, Sync, WhenFull};

/// Sequence numbers reserved at a time, at first. An end without order skips what is left of them.
pub(super) const BLOCK: u64 = 1 << 16;
/// The most: at ten readings a second one write in a day.
const MAX_BLOCK: u64 = 1 << 20;
/// A block that lasts less than this many microseconds is followed by a larger one, for the disk's sake.
const LASTS: i64 = 43_200_000_000;
/// Microseconds between attempts while the disk fails.
pub(super) const RETRY: i64 = 2_000_000;
/// Microseconds between saves of what is finished.
const SAVE_EVERY: i64 = 1_000_000;
/// Microseconds between saves for the sake of reports that are yet to be given.
const SAVE_GAPS: i64 = 60_000_000;
/// Microseconds between looks for what has grown too old.
const LOOK_EVERY: i64 = 1_000_000;
/// A finished segment that is still open for writing goes after this many idle microseconds.
const IDLE: i64 = 30_000_000;
/// A disk that answers nothing for so many microseconds does not work.
const HUNG: i64 = 10_000_000;
/// Bodies written in one go.
const BATCH: u64 = 1 << 20;
/// Refused messages that wait to be written.
pub(super) const MAX_OBITUARIES: usize = 256;
/// Removed at a time, so that the state has room for them.
const MAX_GONE: usize = 100;

/// A segment that is to be removed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gone {
    pub bytes: u64,
    /// The state on disk says so.
    pub saved: bool,
}

/// What is wrong with the disk.
#[derive(Debug, Clone)]
pub(super) struct Trouble {
    pub since: i64,
    pub text: String,
    pub full: bool,
}

/// The queue's knowledge of its disk.
#[derive(Debug)]
pub(super) struct DiskSide {
    pub sizes: Sizes,
    pub faults: Faults,
    pub recovered: bool,
    /// A job is being done.
    pub busy: bool,
    /// Since when, if it is.
    pub busy_since: i64,
    pub trouble: Option<Trouble>,
    pub retry_at: i64,
    pub read_retry_at: i64,
    pub gone: BTreeMap<SegmentId, Gone>,
    /// Finished records that the state does not know of.
    pub unsaved: u64,
    pub saved_at: i64,
    pub generation: u64,
    /// Sequence numbers to reserve at a time, and since when the present ones are.
    pub block: (u64, Option<i64>),
    /// Reports of loss in the saved state.
    pub told: usize,
    /// The state that is being saved.
    pub saving: Option<State>,
    pub other_bytes: u64,
    pub drops: VecDeque<(SegmentId, Drop)>,
    pub dropping: Option<(SegmentId, Drop)>,
    /// What is read for the sake of live records.
    pub fetching: Option<SegmentId>,
    pub obituaries: Vec<(u64, String)>,
    pub burying: Vec<(u64, String)>,
    /// Refused records whose line is not on disk yet.
    pub refused: BTreeSet<u64>,
    pub looked_at: i64,
    pub wrote_last: bool,
    pub stopping: bool,
    /// The state being saved is the last one.
    pub last_save: bool,
    pub stopped: bool,
}

impl DiskSide {
    pub fn new(sizes: Sizes, faults: Faults) -> DiskSide {
        DiskSide {
            sizes,
            faults,
            recovered: false,
            busy: false,
            busy_since: 0,
            trouble: None,
            retry_at: 0,
            read_retry_at: 0,
            gone: BTreeMap::new(),
            unsaved: 0,
            saved_at: 0,
            generation: 0,
            block: (BLOCK, None),
            told: 0,
            saving: None,
            other_bytes: 0,
            drops: VecDeque::new(),
            dropping: None,
            fetching: None,
            obituaries: Vec::new(),
            burying: Vec::new(),
            refused: BTreeSet::new(),
            looked_at: 0,
            wrote_last: false,
            stopping: false,
            last_save: false,
            stopped: false,
        }
    }
}

impl DiskSide {
    /// Whether it works, as far as is known at `now`: what it was given last did not fail and does not hang.
    pub fn works(&self, now: i64) -> bool {
        self.trouble.is_none() && !self.hangs(now)
    }

    /// Whether it does not answer.
    pub fn hangs(&self, now: i64) -> bool {
        self.busy && now - self.busy_since > HUNG
    }
}

impl Queue {
    pub(super) fn planted_done_before_ack(&self) -> bool {
        self.disk.as_ref().is_some_and(|d| d.faults.has(Bug::DoneBeforeAck))
    }

    pub(super) fn planted_pending_cleared(&self) -> bool {
        self.disk.as_ref().is_some_and(|d| d.faults.has(Bug::PendingCleared))
    }

    /// Bytes of all files.
    pub(super) fn disk_bytes(&self) -> u64 {
        let Some(disk) = &self.disk else { return 0 };
        let segs = self.chains.values().flat_map(|c| c.segs.values());
        let gone: u64 = disk.gone.values().map(|g| g.bytes).sum();
        segs.map(|s| s.standing.len).sum::<u64>() + gone + disk.other_bytes
    }

    /// From now on everything is written at once and the state exactly; over when [`Queue::stopped`] says so.
    /// Nothing may be appended afterwards.
    pub fn stop(&mut self) {
        if let Some(disk) = &mut self.disk {
            disk.stopping = true;
            disk.retry_at = 0;
        }
    }

    /// Whether [`Queue::stop`] was called.
    pub(super) fn stopping(&self) -> bool {
        self.disk.as_ref().is_some_and(|d| d.stopping)
    }

    /// Whether all that a clean stop needs is done, or cannot be.
    pub fn stopped(&self) -> bool {
        self.disk.as_ref().is_none_or(|d| d.stopped && !d.busy)
    }

    /// The next thing to be done on the disk at `now`; its report goes to [`Queue::finished`], and until then there
    /// is no other. `None`: nothing, see [`Queue::next_wake`].
    pub fn next_job(&mut self, now: Duration) -> Option<Job> {
        let now = self.tick(now);
        if self.disk.as_ref()?.busy {
            return None;
        }
        let job = self.pick(now)?;
        let disk = self.disk.as_mut()?;
        (disk.busy, disk.busy_since) = (true, now);
        disk.wrote_last = matches!(job, Job::Commit(_));
        Some(job)
    }

    /// How long until [`Queue::next_job`] may have something; `None`: not before another call changes that.
    pub fn next_wake(&self, now: Duration) -> Option<Duration> {
        let at = self.wake_at()?;
        Some(Duration::from_micros((at - us(now).max(self.now)).max(0) as u64))
    }

    pub(super) fn wake_at(&self) -> Option<i64> {
        let disk = self.disk.as_ref()?;
        if disk.busy || disk.stopped {
            return None;
        }
        if !disk.recovered || disk.stopping {
            return Some(disk.retry_at);
        }
        let mut at = i64::MAX;
        let writing = |t: i64| t.max(disk.retry_at);
        if self.needs_save() || !disk.gone.is_empty() || !disk.obituaries.is_empty() {
            at = at.min(writing(0));
        }
        if disk.unsaved > 0 {
            at = at.min(writing(disk.saved_at + SAVE_EVERY));
        }
        if let Some(due) = self.due() {
            at = at.min(writing(due));
        }
        if !disk.drops.is_empty() || self.chains.values().any(|c| self.wants_page(c) || self.wants_fetch(c)) {
            at = at.min(disk.read_retry_at);
        }
        if disk.told > 0 || self.chains.values().any(|c| !c.segs.is_empty()) {
            at = at.min(disk.looked_at + LOOK_EVERY * 10);
        }
        (at < i64::MAX).then_some(at)
    }

    fn pick(&mut self, now: i64) -> Option<Job> {
        let disk = self.disk.as_ref()?;
        if disk.stopped || (!disk.recovered && now < disk.retry_at) {
            return None;
        }
        if !disk.recovered {
            return Some(Job::Recover);
        }
        if disk.stopping {
            let upkeep = |q: &mut Queue| if q.disk.as_ref()?.gone.is_empty() { q.bury_job() } else { q.upkeep(now) };
            let job = self.drop_job().or_else(|| upkeep(self)).or_else(|| self.commit(now));
            return job.or_else(|| {
                self.disk.as_mut()?.last_save = true;
                Some(self.save(now))
            });
        }
        let writable = now >= disk.retry_at;
        let readable = now >= disk.read_retry_at;
        if now - disk.looked_at >= LOOK_EVERY {
            self.look(now);
        }
        if writable && let Some(job) = self.upkeep(now) {
            return Some(job);
        }
        if readable && let Some(job) = self.drop_job() {
            return Some(job);
        }
        let after_write = self.disk.as_ref().is_some_and(|d| d.wrote_last);
        if after_write
            && readable
            && let Some(job) = self.fetch_job().or_else(|| self.page_job())
        {
            return Some(job);
        }
        if writable && let Some(job) = self.commit(now) {
            return Some(job);
        }
        if readable { self.fetch_job().or_else(|| self.page_job()) } else { None }
    }

    /// Saving, removing, burying.
    fn upkeep(&mut self, now: i64) -> Option<Job> {
        let disk = self.disk.as_mut()?;
        if disk.faults.has(Bug::UnlinkBeforeCursor) {
            disk.gone.values_mut().for_each(|g| g.saved = true);
        }
        let gone: Vec<SegmentId> = disk.gone.iter().filter(|(_, g)| g.saved).map(|(id, _)| *id).collect();
        if !gone.is_empty() {
            return Some(Job::Remove(gone));
        }
        let overdue = disk.unsaved > 0 && now >= disk.saved_at + SAVE_EVERY;
        if overdue || !disk.gone.is_empty() || self.needs_save() {
            return Some(self.save(now));
        }
        self.bury_job()
    }

    fn bury_job(&mut self) -> Option<Job> {
        let disk = self.disk.as_mut()?;
        if disk.obituaries.is_empty() {
            return None;
        }
        disk.burying = std::mem::take(&mut disk.obituaries);
        let lines = disk.burying.iter().map(|(_, line)| line.clone()).collect();
        Some(Job::Bury(lines))
    }

    /// Whether the first numbers are reserved.
    pub(super) fn has_numbers(&self) -> bool {
        self.disk.as_ref().is_some_and(|d| d.recovered) && !self.needs_save()
    }

    /// Whether numbers run short.
    fn needs_save(&self) -> bool {
        let block = self.disk.as_ref().map_or(BLOCK, |d| d.block.0);
        self.next_seq.saturating_add(block / 4) > self.seq_limit
    }

    fn save(&mut self, now: i64) -> Job {
        let short = self.needs_save();
        if let Some(disk) = self.disk.as_mut().filter(|_| short) {
            if disk.block.1.is_some_and(|since| now - since < LASTS) {
                disk.block.0 = (disk.block.0 * 4).min(MAX_BLOCK);
            }
            disk.block.1 = Some(now);
        }
        let state = self.state();
        if let Some(disk) = &mut self.disk {
            disk.saving = Some(state.clone());
            disk.saved_at = now;
            disk.unsaved = 0;
        }
        Job::Save(state)
    }

    /// Reports of loss that a crash now must not silence.
    fn unsaid(&mut self) -> Vec<super::Gap> {
        let unsynced = &self.unsynced;
        let sending = self.out.iter().filter_map(|t| self.records.get(t)).filter(|r| r.homeless).map(|r| &*r.item);
        self.books.unsaid(self.next_token, |at| unsynced.range(at..).next().copied(), sending)
    }

    /// The state as it is now.
    fn state(&mut self) -> State {
        let gaps = self.unsaid();
        self.books.gaps_unsaved = false;
        let Some(disk) = &mut self.disk else { return State::default() };
        disk.generation += 1;
        let mut finished: Vec<Finished> = Vec::new();
        for (chain, token) in disk.gone.keys().take(MAX_GONE) {
            finished.push(Finished { chain: *chain, token: *token, gone: true, runs: Vec::new() });
        }
        let ahead = disk.faults.has(Bug::CursorAhead);
        for (chain, state) in &self.chains {
            let special = |s: &super::chains::Seg| s.standing.cut || s.standing.torn || ahead;
            for (token, seg) in state.segs.iter().filter(|(_, s)| s.finished.count > 0 || special(s)) {
                let mut marks = seg.finished.clone();
                if ahead {
                    for place in self.out.iter().filter_map(|t| self.records.get(t)?.place) {
                        if place.id == (*chain, *token) {
                            marks.add(place.index);
                        }
                    }
                }
                let mut runs = marks.runs();
                if seg.standing.cut {
                    runs.push((seg.standing.summary.count, CUT));
                } else if seg.standing.torn {
                    runs.push((seg.standing.summary.count, TORN));
                }
                finished.push(Finished { chain: *chain, token: *token, gone: false, runs });
            }
        }
        let seq_limit = match disk.stopping {
            true => self.next_seq,
            // A save for another reason moves nothing: the disk is told when numbers run short.
            false => self.seq_limit.max(self.next_seq.saturating_add(disk.block.0)),
        };
        let (dropped, dead) = self.books.ever();
        let (generation, next_token) = (disk.generation, self.next_token);
        State { generation, seq_limit, next_token, dropped, dead, gaps, finished }
    }

    /// Looks for what has grown too old or is of no more use.
    fn look(&mut self, now: i64) {
        if self.disk.as_ref().is_some_and(|d| d.told > 0)
            && self.unsaid().len() < self.disk.as_ref().map_or(0, |d| d.told)
            && let Some(disk) = &mut self.disk
        {
            // Reports that are safe by now need not be given again.
            disk.unsaved += 1;
        }
        let oldest = now.saturating_sub(us(self.limits.max_age));
        let mut idle = Vec::new();
        let mut expired = Vec::new();
        let Some(disk) = &mut self.disk else { return };
        disk.looked_at = now;
        for (id, chain) in &self.chains {
            if let Some((token, seg)) = chain.segs.first_key_value()
                && self.clock.at_of(&seg.standing.summary.last_stamp) < oldest
                && !disk.drops.iter().any(|(d, _)| *d == (*id, *token))
            {
                disk.drops.push_back(((*id, *token), "expired".into()));
            }
            for (token, seg) in &chain.segs {
                if seg.is_finished() && now - seg.written > IDLE {
                    idle.push((*id, *token));
                }
            }
            if !self.up {
                let old = |t: &&u64| self.records.get(t).is_some_and(|r| r.at < oldest && r.place.is_none());
                expired.extend(chain.back.iter().take(1000).take_while(old).copied());
            }
        }
        // What is lost from memory alone changes no file: it is said in the state now and then.
        if self.books.gaps_unsaved && now - disk.saved_at > SAVE_GAPS {
            disk.unsaved += 1;
        }
        for token in expired {
            self.lose(token, "expired");
        }
        for id in idle {
            self.doom(id);
        }
        let latest: Vec<Chain> = self.chains.keys().filter(|c| c.latest && !self.up).copied().collect();
        for id in latest {
            self.compact(id);
        }
    }

    fn drop_job(&mut self) -> Option<Job> {
        loop {
            let disk = self.disk.as_mut()?;
            let (id, what) = disk.drops.pop_front()?;
            let seg = self.chains.get(&id.0).and_then(|c| c.segs.get(&id.1));
            // It may be gone by itself by now.
            if let Some(job) = seg.map(|s| read_job(id, s, 0, true)) {
                disk.dropping = Some((id, what));
                return Some(job);
            }
        }
    }

    fn wants_page(&self, chain: &super::chains::ChainState) -> bool {
        self.up && chain.unread > 0 && {
            let room = chain.page.0 <= chain.page.1 / 2 && self.mem_bytes < self.memory / 4 * 3;
            (room || chain.next_back().is_none()) && chain.segs.values().any(|s| s.unread() > 0 && !s.unreadable)
        }
    }

    fn page_job(&mut self) -> Option<Job> {
        let ids: Vec<Chain> = self.chains.iter().rev().filter(|(_, c)| self.wants_page(c)).map(|(id, _)| *id).collect();
        for id in ids {
            let chain = self.chains.get_mut(&id)?;
            chain.advance();
            let (token, from) = chain.reader;
            if let Some(seg) = chain.segs.get(&token).filter(|s| s.unread() > 0 && from < s.standing.summary.count) {
                return Some(read_job((id, token), seg, from, false));
            }
            // Something behind the reader became unread again.
            if let Some((token, seg)) = chain.segs.iter().find(|(_, s)| s.unread() > 0 && !s.unreadable) {
                (chain.reader, chain.lower) = ((*token, 0), *token);
                return Some(read_job((id, *token), seg, 0, false));
            }
        }
        None
    }

    /// When the first record must be written.
    fn due(&self) -> Option<i64> {
        let first = self.records.get(self.unsynced.first()?)?;
        match self.sync {
            Sync::Within(time) if self.unsynced_bytes <= self.memory / 4 => Some(first.at.saturating_add(us(time))),
            _ => Some(0),
        }
    }

    /// The batch that is due, or what must be done to make room for it.
    fn commit(&mut self, now: i64) -> Option<Job> {
        // Each round either gives a job or drops something.
        for _ in 0..100_000 {
            let stopping = self.disk.as_ref()?.stopping;
            if self.due().is_none_or(|due| due > now) && !stopping {
                return None;
            }
            let (parts, need) = self.batch(now);
            let least = parts.first_key_value()?.0.rank;
            let disk = self.disk.as_ref()?;
            let short = disk.trouble.as_ref().is_some_and(|t| t.full)
                && self.unsynced_bytes > self.memory / 2
                && self.limits.when_full == WhenFull::DropOldest
                && !disk.wrote_last;
            let excess = (self.disk_bytes() + need + disk.sizes.chunk).saturating_sub(self.limits.max_bytes);
            let over = excess > 0;
            if !over && !short {
                return Some(Job::Commit(parts.into_iter().collect()));
            }
            let victim = self.chains.iter().find_map(|(id, c)| Some((*id, *c.segs.first_key_value()?.0)));
            let dropped = match victim {
                Some((id, token)) if self.may_go(id, least) => {
                    let disk = self.disk.as_mut()?;
                    disk.drops.push_front(((id, token), "full".into()));
                    return self.drop_job();
                }
                _ => self.drop_pending(least, excess),
            };
            if !dropped && over {
                // All of it is being sent. Not before some of that is done.
                self.disk.as_mut()?.retry_at = now + RETRY / 2;
                return None;
            }
            if !dropped {
                return Some(Job::Commit(parts.into_iter().collect()));
            }
        }
        None
    }

    fn may_go(&self, victim: Chain, least: u8) -> bool {
        victim.rank < least || (victim.rank == least && self.limits.when_full == WhenFull::DropOldest)
    }

    /// What is to be written now, in order, and the bytes it takes.
    fn batch(&self, now: i64) -> (BTreeMap<Chain, Vec<Arc<Item>>>, u64) {
        let stopping = self.disk.as_ref().is_some_and(|d| d.stopping);
        let young = match self.sync {
            // The link is quick: what came lately will be gone before its time.
            Sync::Within(time) if self.up && !stopping && self.unsynced_bytes <= self.memory / 4 => us(time) / 2,
            _ => i64::MIN,
        };
        let mut parts: BTreeMap<Chain, Vec<Arc<Item>>> = BTreeMap::new();
        let mut need = 0;
        for rec in self.unsynced.iter().filter_map(|t| self.records.get(t)) {
            if now - rec.at < young || need > BATCH {
                break;
            }
            need += rec.item.body.len() as u64 + 48;
            parts.entry(rec.chain).or_default().push(rec.item.clone());
        }
        (parts, need)
    }

    /// Drops records of `rank` that wait in memory and found no room on disk, some `excess` bytes of them.
    fn drop_pending(&mut self, rank: u8, excess: u64) -> bool {
        let waiting = |t: &&u64| {
            let of_rank = self.records.get(t).is_some_and(|r| r.chain.rank == rank);
            of_rank && !self.out.contains(t) && !self.disk.as_ref().is_some_and(|d| d.refused.contains(t))
        };
        let mut left = excess.max(1);
        let enough = |t: &&u64| {
            let more = left > 0;
            left = left.saturating_sub(self.records.get(t).map_or(0, |r| r.item.body.len() as u64 + 48));
            more
        };
        let (list, reason): (Vec<u64>, _) = match self.limits.when_full {
            WhenFull::DropOldest => {
                (self.unsynced.iter().filter(waiting).take_while(enough).copied().collect(), "full")
            }
            WhenFull::DropNewest => {
                let newest = self.unsynced.iter().rev().filter(waiting).take_while(enough).copied();
                (newest.collect::<Vec<u64>>().into_iter().rev().collect(), "newest dropped")
            }
        };
        for token in &list {
            self.lose(*token, reason);
        }
        !list.is_empty()
    }

    /// Writes the records of a chain that keeps only the latest anew, at its end, when what they replaced takes many
    /// times their space.
    fn compact(&mut self, id: Chain) {
        let Some(chain) = self.chains.get(&id).filter(|c| c.segs.len() > 1) else { return };
        let disk: u64 = chain.segs.values().map(|s| s.standing.len).sum();
        let sizes = self.disk.as_ref().map_or(0, |d| d.sizes.segment);
        let live: u64 = chain.back.iter().filter_map(|t| self.records.get(t)).map(|r| r.cost()).sum();
        if disk < 4 * live + 2 * sizes {
            return;
        }
        let tokens: Vec<u64> = chain.back.iter().copied().collect();
        for token in tokens {
            if self.records.get(&token).is_none_or(|r| r.place.is_none()) {
                continue;
            }
            let Some(mut rec) = self.records.remove(&token) else { continue };
            let lane = rec.item.lane;
            rec.instead_of.extend(rec.place.take());
            let new = self.next_token;
            self.next_token += 1;
            rec.item = Arc::new(Item { token: new, ..(*rec.item).clone() });
            if let Some(chain) = self.chains.get_mut(&id) {
                chain.remove_back(lane, token);
                chain.add_back(lane, new);
            }
            self.latest.insert(rec.item.lane, new);
            self.unsynced.insert(new);
            self.unsynced_bytes += rec.cost();
            self.records.insert(new, rec);
        }
    }
}

pub(super) fn read_job(id: SegmentId, seg: &super::chains::Seg, from: u32, names_only: bool) -> Job {
    let s = &seg.standing;
    Job::Read {
        id,
        from,
        end: s.end,
        count: s.summary.count,
        last_seq: s.summary.last_seq,
        names_only,
        lanes: Vec::new(),
    }
}
