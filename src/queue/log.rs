//! THE LOG: everything that is done to the disk, one [`Job`] at a time, each answered by a [`Report`].
//!
//! The log decides nothing. It promises: what it reports as placed is durable (the file synced, and its name, if it
//! was new); after a failed write or sync it never trusts that file again, and the batch is written anew elsewhere;
//! it never panics, whatever the disk says.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use super::aside::Aside;
use super::cursor::{SLOT, State};
use super::disk::{Disk, Handle};
use super::faults::{Bug, Faults};
use super::lanes;
use super::record::{Base, Before, Item};
use super::recover;
use super::segment::{self, Builder, Chain, FIRST, FOOTER, Header, Scanner, Step};
use super::work::{Done, Failure, Job, Lost, Page, Placed, Report, SegmentId, Sizes, Standing};

/// The file that [`State`] lives in.
pub const STATE: &str = "state";
/// A longer file is not of our making; it is not read into memory.
pub const MAX_FILE: u64 = 16 << 20;
/// The file that it is first written to by each process.
pub const NEW_STATE: &str = "state.new";
/// Space that is given up when the disk is full, so that the state can always be saved.
pub const RESERVE: &str = "reserve";
/// Bytes of that space.
pub const RESERVE_BYTES: usize = 8192;
/// Smaller batches are followed by zeros, so that the next ones overwrite instead of growing the file: growing costs
/// a journal commit of four blocks each time.
const SMALL_BATCH: usize = 16 * 1024;

/// A segment that is being written.
pub(super) struct Active {
    pub(super) token: u64,
    pub(super) file: Handle,
    pub(super) builder: Builder,
    /// Durable entries end here.
    pub(super) end: u64,
    /// The file ends here.
    pub(super) len: u64,
    /// Junk behind `end` must go before the next write.
    pub(super) trim: bool,
}

struct Cache {
    id: SegmentId,
    bytes: Vec<u8>,
    scan: Scanner,
    /// Index of the next record that a step will give.
    next: u32,
    /// Sequence number expected after the last good one.
    seq: u64,
}

/// What of a segment is to be read.
struct Wanted {
    count: u32,
    last_seq: Option<u64>,
    /// Bytes.
    limit: usize,
    names_only: bool,
    lanes: Vec<u64>,
}

/// The log on a disk.
pub struct Log {
    pub(super) disk: Box<dyn Disk>,
    pub(super) sizes: Sizes,
    pub(super) faults: Faults,
    pub(super) active: BTreeMap<Chain, Active>,
    pub(super) aside: Aside,
    pub(super) state: Option<Handle>,
    /// Slot of the state file that is written next.
    pub(super) slot: usize,
    /// Of the segment that is being read, and of the one that some lanes are fetched from.
    caches: [Option<Cache>; 2],
    late: Vec<Handle>,
    /// New files that failed and were removed; the removal is not durable yet.
    suspects: BTreeSet<String>,
    /// The segment that was finished last in each chain.
    finished: BTreeMap<Chain, Before>,
}

/// Writes all of `bytes`.
pub(super) fn write_all(disk: &mut dyn Disk, file: Handle, mut at: u64, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match disk.write_at(file, at, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                at += n as u64;
                bytes = bytes.get(n..).unwrap_or_default();
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

impl Log {
    /// A log on `disk`; nothing is touched before [`Job::Recover`].
    pub fn new(disk: Box<dyn Disk>, sizes: Sizes, faults: Faults) -> Log {
        Log {
            disk,
            sizes,
            faults,
            active: BTreeMap::new(),
            aside: Aside::default(),
            state: None,
            slot: 0,
            caches: [None, None],
            late: Vec::new(),
            suspects: BTreeSet::new(),
            finished: BTreeMap::new(),
        }
    }

    /// Does a job. Blocks as long as the disk does.
    pub fn run(&mut self, job: Job) -> Done {
        for file in std::mem::take(&mut self.late) {
            let _ = self.disk.sync(file);
        }
        let report = match job {
            Job::Recover => Report::Recovered(recover::recover(self).map(Box::new)),
            Job::Commit(parts) => self.commit(parts),
            Job::Read { id, from, end, count, last_seq, names_only, lanes } => {
                let limit = if names_only { usize::MAX } else { self.sizes.read_ahead };
                Report::Page(id, self.read(id, from, end, Wanted { count, last_seq, limit, names_only, lanes }))
            }
            Job::Save(state) => Report::Saved(self.save(&state)),
            Job::Remove(list) => {
                let result = self.remove(&list);
                Report::Removed(list, result)
            }
            Job::Bury(lines) => {
                let limit = self.sizes.aside;
                Report::Buried(self.aside.bury(&mut *self.disk, &lines, limit))
            }
        };
        Done { report, other_bytes: self.aside.bytes }
    }

    fn commit(&mut self, parts: Vec<(Chain, Vec<Arc<Item>>)>) -> Report {
        let (mut placed, mut standings) = (Vec::new(), Vec::new());
        for (chain, items) in parts {
            let mut rest = items.as_slice();
            while !rest.is_empty() {
                match self.write_segment(chain, rest, &mut placed, &mut standings) {
                    Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                    Err(failure) => return Report::Committed { placed, standings, failure: Some(failure) },
                }
            }
        }
        Report::Committed { placed, standings, failure: None }
    }

    /// Writes as many of `items` as the chain's present segment takes, and makes them durable.
    fn write_segment(
        &mut self,
        chain: Chain,
        items: &[Arc<Item>],
        placed: &mut Vec<Placed>,
        standings: &mut Vec<Standing>,
    ) -> Result<usize, Failure> {
        let Some(first) = items.first() else { return Ok(0) };
        // A reboot begins a new segment, whose stamps then count from the new clock.
        if self.active.get(&chain).is_some_and(|a| a.builder.base().stamp.boot != first.stamp.boot)
            && let Some(old) = self.active.remove(&chain)
        {
            standings.push(standing(chain, &old, true));
            self.finished.insert(chain, as_before(&old));
            self.disk.close(old.file);
        }
        let mut bytes = Vec::new();
        let (mut active, new) = match self.active.remove(&chain) {
            Some(active) => (active, false),
            None => (self.begin(chain, items, first, &mut bytes)?, true),
        };
        let before = standing(chain, &active, true);
        let id = (chain, active.token);
        let mut indices = Vec::new();
        for item in items {
            let end = 64 + FOOTER + 20 + 10 * active.builder.lanes.len();
            if active.end + (bytes.len() + item.body.len() + end) as u64 > self.sizes.segment
                && active.builder.summary.count > 0
            {
                break;
            }
            indices.push((item.token, active.builder.push(item, &mut bytes)));
        }
        let full = indices.len() < items.len();
        if full {
            active.builder.finish(&mut bytes);
        }
        match self.put(&mut active, bytes, full, new) {
            Ok(()) => {
                placed.extend(indices.iter().map(|&(token, index)| Placed { token, id, index }));
                standings.push(standing(chain, &active, full));
                if full {
                    self.finished.insert(chain, as_before(&active));
                    self.disk.close(active.file);
                } else {
                    self.active.insert(chain, active);
                }
                Ok(indices.len())
            }
            Err(e) => {
                // The file is not written again. Half of the batch may lie in it: cut that off if the disk lets us,
                // else it may be sent twice after a restart.
                let name = segment::name(chain, id.1);
                if new {
                    self.disk.close(active.file);
                    let _ = self.disk.remove(&name);
                    self.suspects.insert(name.clone());
                } else {
                    let _ = self.disk.set_len(active.file, before.end);
                    self.disk.close(active.file);
                    standings.push(Standing { cut: true, ..before });
                }
                Err(Failure::new(&format!("cannot write {name}"), &e))
            }
        }
    }

    fn begin(
        &mut self,
        chain: Chain,
        items: &[Arc<Item>],
        first: &Item,
        bytes: &mut Vec<u8>,
    ) -> Result<Active, Failure> {
        let name = segment::name(chain, first.token);
        let failed = |e| Failure::new(&format!("cannot create {name}"), &e);
        let file = match self.disk.create(&name) {
            // Left behind by a batch of ours that failed: nothing in it ever counted.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && self.suspects.contains(&name) => {
                self.disk.remove(&name).map_err(failed)?;
                self.disk.create(&name)
            }
            other => other,
        }
        .map_err(failed)?;
        self.suspects.remove(&name);
        let seq = items.iter().find_map(|i| i.seq).unwrap_or(0);
        let before = self.finished.get(&chain).copied().unwrap_or_default();
        let builder = Builder::begin(chain, first, seq, before, bytes);
        Ok(Active { token: first.token, file, builder, end: 0, len: 0, trim: false })
    }

    fn put(&mut self, active: &mut Active, mut bytes: Vec<u8>, full: bool, new: bool) -> io::Result<()> {
        let disk = &mut *self.disk;
        if self.faults.has(Bug::TailKept) {
            active.end = if active.trim { active.len } else { active.end };
        } else if active.trim {
            disk.set_len(active.file, active.end)?;
            active.len = active.end;
        }
        let end = active.end + bytes.len() as u64;
        if full {
            if active.len > end {
                disk.set_len(active.file, end)?;
            }
            active.len = end;
        } else if end > active.len {
            if bytes.len() < SMALL_BATCH {
                let to = end.next_multiple_of(self.sizes.chunk).min(self.sizes.segment.max(end));
                bytes.resize(bytes.len() + (to - end) as usize, 0);
                active.len = to;
            } else {
                active.len = end;
            }
        }
        write_all(disk, active.file, active.end, &bytes)?;
        if self.faults.has(Bug::AckBeforeSync) {
            self.late.push(active.file);
        } else if !self.faults.has(Bug::NoSync)
            && let Err(e) = disk.sync(active.file)
        {
            if !self.faults.has(Bug::RetriedSync) {
                return Err(e);
            }
            disk.sync(active.file)?;
        }
        if new && !self.faults.has(Bug::NoDirSync) {
            disk.sync_dir()?;
        }
        active.end = end;
        active.trim = false;
        Ok(())
    }

    fn read(
        &mut self,
        id: SegmentId,
        from: u32,
        end: u64,
        Wanted { count, last_seq, limit, names_only, lanes }: Wanted,
    ) -> Result<Page, Failure> {
        let which = usize::from(!lanes.is_empty());
        let old = self.caches.get_mut(which).and_then(Option::take);
        let mut cache = self.cached(old, id, from, end)?;
        let mut page = Page::default();
        let mut bytes = 0;
        while bytes < limit {
            let mut step = cache.scan.step(&cache.bytes);
            if let Step::Bad(a, b) = step {
                if cache.next >= from {
                    page.bad_bytes += (b - a) as u64;
                    let junk = cache.bytes.get(a..b).unwrap_or_default();
                    self.aside.keep(&mut *self.disk, id, a, junk, self.sizes.aside);
                }
                continue;
            }
            if let Step::Item(index, _) = &step
                && *index >= count
            {
                // Behind what counts lies only what was written again elsewhere.
                step = Step::End(0, false);
            }
            let (index, seq) = match &step {
                Step::Item(index, item) => (*index, item.seq),
                _ => (count, last_seq.map(|s| s + 1)),
            };
            if index > cache.next && index > from {
                let to_seq = seq.unwrap_or(cache.seq + u64::from(index - cache.next));
                page.lost.push(Lost { from: cache.next.max(from), to: index, from_seq: cache.seq, to_seq });
            }
            cache.next = index + u32::from(index < count);
            let Step::Item(index, mut item) = step else { break };
            cache.seq = item.seq.map_or(cache.seq, |s| s + 1);
            if index >= from && (lanes.is_empty() || lanes.contains(&item.lane) || lanes::is_stray(item.lane)) {
                bytes += item.body.len() + 128;
                if names_only {
                    item.body = Vec::new();
                }
                page.items.push((index, item));
            }
        }
        page.next = cache.next;
        if cache.next < count
            && let Some(place) = self.caches.get_mut(which)
        {
            *place = Some(cache);
        }
        Ok(page)
    }

    /// The segment's bytes up to `end`, and a scan that has not yet passed `from`.
    fn cached(&mut self, old: Option<Cache>, id: SegmentId, from: u32, end: u64) -> Result<Cache, Failure> {
        let name = segment::name(id.0, id.1);
        let failed = |e| Failure::new(&format!("cannot read {name}"), &e);
        let old = old.filter(|c| c.id == id && c.next <= from);
        let mut bytes = old.as_ref().map_or(0, |c| c.bytes.len());
        let mut cache = match old {
            Some(cache) if cache.bytes.len() as u64 == end => return Ok(cache),
            Some(cache) => cache,
            None => {
                bytes = 0;
                let scan = Scanner::new(id.0, Base::default(), false);
                Cache { id, bytes: Vec::new(), scan, next: 0, seq: 0 }
            }
        };
        let file = self.disk.open(&name, false).map_err(failed)?;
        cache.bytes.resize(end as usize, 0);
        let rest = cache.bytes.get_mut(bytes..).unwrap_or_default();
        let read = self.disk.read_at(file, bytes as u64, rest);
        self.disk.close(file);
        read.map_err(failed)?;
        if bytes == 0 {
            let base = read_base(&cache.bytes, id);
            let Some(base) = base else {
                return Err(Failure { missing: true, ..Failure::new(&name, &io::ErrorKind::InvalidData.into()) });
            };
            cache.scan = Scanner::new(id.0, base, self.faults.has(Bug::CrcOff));
            cache.seq = base.seq;
        }
        Ok(cache)
    }

    fn save(&mut self, state: &State) -> Result<(), Failure> {
        for f in state.finished.iter().filter(|f| f.gone) {
            if self.active.get(&f.chain).is_some_and(|a| a.token == f.token)
                && let Some(active) = self.active.remove(&f.chain)
            {
                self.disk.close(active.file);
            }
        }
        self.clear_suspects().map_err(|e| Failure::new("cannot remove a file that failed", &e))?;
        let bytes = state.encode();
        let first = self.save_slot(&bytes);
        let result = match first {
            Err(e) if Failure::new("", &e).full && self.disk.remove(RESERVE).is_ok() => self.save_slot(&bytes),
            other => other,
        };
        result.map_err(|e| Failure::new("cannot save the queue's state", &e))
    }

    /// Once a state is saved, what it calls delivered must not come back with a file that was given up.
    fn clear_suspects(&mut self) -> io::Result<()> {
        if self.suspects.is_empty() {
            return Ok(());
        }
        for name in &self.suspects {
            match self.disk.remove(name) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        self.disk.sync_dir()?;
        self.suspects.clear();
        Ok(())
    }

    fn save_slot(&mut self, bytes: &[u8]) -> io::Result<()> {
        // A file whose write or sync failed is never written again: the next save makes a new one.
        let Some(file) = self.state.take() else { return self.new_state(bytes) };
        let written = write_all(&mut *self.disk, file, (self.slot * SLOT) as u64, bytes);
        match written.and_then(|()| self.sync_state(file)) {
            Ok(()) => {
                self.state = Some(file);
                self.slot ^= 1;
                Ok(())
            }
            Err(e) => {
                self.disk.close(file);
                Err(e)
            }
        }
    }

    /// Puts a new state file in the place of the old. Each process begins so: what it can read of the old file may
    /// be something that never reached the disk, and no slot of it could be overwritten safely.
    fn new_state(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.disk.remove(NEW_STATE) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let file = self.disk.create(NEW_STATE)?;
        let mut both = bytes.to_vec();
        both.resize(2 * SLOT, 0);
        let put = write_all(&mut *self.disk, file, 0, &both)
            .and_then(|()| self.sync_state(file))
            .and_then(|()| self.disk.rename(NEW_STATE, STATE))
            .and_then(|()| self.disk.sync_dir());
        match put {
            Ok(()) => {
                self.aside.state_bytes(2 * SLOT as u64);
                self.state = Some(file);
                self.slot = 1;
                Ok(())
            }
            Err(e) => {
                self.disk.close(file);
                let _ = self.disk.remove(NEW_STATE);
                Err(e)
            }
        }
    }

    fn sync_state(&mut self, file: Handle) -> io::Result<()> {
        if self.faults.has(Bug::UnsyncedCursor) { Ok(()) } else { self.disk.sync(file) }
    }

    fn remove(&mut self, list: &[SegmentId]) -> Result<(), Failure> {
        for &(chain, token) in list {
            let name = segment::name(chain, token);
            if self.active.get(&chain).is_some_and(|a| a.token == token)
                && let Some(active) = self.active.remove(&chain)
            {
                self.disk.close(active.file);
            }
            for cache in &mut self.caches {
                cache.take_if(|c| c.id == (chain, token));
            }
            match self.disk.remove(&name) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(Failure::new(&format!("cannot remove {name}"), &e));
                }
                _ => {}
            }
        }
        if self.faults.has(Bug::UnlinkBeforeCursor) {
            return Ok(());
        }
        self.disk.sync_dir().map_err(|e| Failure::new("cannot sync the queue's directory", &e))
    }
}

pub(super) fn standing(chain: Chain, a: &Active, sealed: bool) -> Standing {
    let (summary, base) = (a.builder.summary, a.builder.base());
    let lanes = a.builder.lanes.keys().fold(0, |bits, lane| bits | lanes::bit(*lane));
    Standing { id: (chain, a.token), summary, base, end: a.end, len: a.len, sealed, cut: false, torn: a.trim, lanes }
}

fn as_before(a: &Active) -> Before {
    Before { token: a.token as u32, count: a.builder.summary.count }
}

/// A segment's base by its header or, failing that, by its footer.
pub(super) fn read_base(bytes: &[u8], (chain, token): SegmentId) -> Option<Base> {
    match segment::read_header(bytes.get(..FIRST as usize).unwrap_or(bytes), chain, token) {
        Header::Good(base) => Some(base),
        _ => {
            let at = bytes.len().checked_sub(segment::FOOTER)?;
            Some(segment::read_footer(bytes.get(at..)?, chain, token)?.1)
        }
    }
}
