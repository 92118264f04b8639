//! WHERE A RECORD IS: in memory, in a segment, or both; and what of a segment is still wanted.
//!
//! A chain's backlog leaves in the order of tokens: first what memory holds below `lower`, then what is read from
//! the segments, then what memory holds above. A record that memory holds is marked `held` in its segment, so that
//! the reader passes over it; a finished one is marked `held` and `finished`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Queue;
use super::cursor::Marks;
use super::record::Item;
use super::segment::Chain;
use super::work::{SegmentId, Standing};

/// What a record costs in memory beside its body and name, bytes.
pub const OVERHEAD: u64 = 256;

/// A record's place on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Segment.
    pub id: SegmentId,
    /// Index in it.
    pub index: u32,
}

/// A record in memory.
#[derive(Debug, Clone)]
pub struct Rec {
    /// The record.
    pub item: Arc<Item>,
    /// Where it waits.
    pub chain: Chain,
    /// When it came, microseconds since the start.
    pub at: i64,
    /// Where it is on disk, once it is.
    pub place: Option<Place>,
    /// Older copies and records that this one replaces, on disk: finished as soon as this one is safe.
    pub instead_of: Vec<Place>,
    /// Its segment was dropped while it was being sent: it is lost if that fails.
    pub homeless: bool,
}

impl Rec {
    /// Bytes of memory.
    pub fn cost(&self) -> u64 {
        cost(&self.item)
    }
    /// When it is worth nothing.
    pub fn expires(&self) -> Option<i64> {
        let ttl = i64::try_from(self.item.ttl?).unwrap_or(i64::MAX);
        Some(self.at.saturating_add(ttl.saturating_mul(1000)))
    }
}

/// Bytes of memory that a record takes.
pub fn cost(item: &Item) -> u64 {
    OVERHEAD + item.body.len() as u64 + item.source.len() as u64
}

/// A segment, as far as it is known.
#[derive(Debug, Clone)]
pub struct Seg {
    /// As the log last reported it.
    pub standing: Standing,
    /// Not to be read: finished or in memory.
    pub held: Marks,
    /// Finished.
    pub finished: Marks,
    /// From this token on its records are also in the next segment.
    pub doubled_from: Option<u64>,
    /// Reading failed so often that the rest waits for the next start.
    pub unreadable: bool,
    /// When it was last written, microseconds.
    pub written: i64,
}

impl Seg {
    /// A segment of which nothing is held or finished.
    pub fn new(standing: Standing, written: i64) -> Seg {
        let (held, finished) = (Marks::default(), Marks::default());
        Seg { standing, held, finished, doubled_from: None, unreadable: false, written }
    }
    /// Records that only the disk has.
    pub fn unread(&self) -> u64 {
        u64::from(self.standing.summary.count.saturating_sub(self.held.count))
    }
    /// Whether all its records are finished.
    pub fn is_finished(&self) -> bool {
        self.finished.count >= self.standing.summary.count
    }
}

/// One chain: records that wait in memory, and segments.
#[derive(Debug, Clone, Default)]
pub struct ChainState {
    /// Came while the link was up.
    pub live: BTreeSet<u64>,
    /// Has waited.
    pub back: BTreeSet<u64>,
    /// By first token.
    pub segs: BTreeMap<u64, Seg>,
    /// Records that only the disk has.
    pub unread: u64,
    /// Where reading goes on: segment and index.
    pub reader: (u64, u32),
    /// No unread record has a lesser token.
    pub lower: u64,
    /// Records of the last page that were not taken yet, and how many it had.
    pub page: (usize, usize),
    /// Failed attempts to read at the present place.
    pub tries: u32,
    /// The backlog by lanes.
    pub lanes: super::lanes::Lanes,
}

impl ChainState {
    /// The first waiting record that may leave in order; `None` too if the next one must be read first.
    pub fn next_back(&self) -> Option<u64> {
        self.back.first().copied().filter(|t| self.unread == 0 || *t < self.lower)
    }
    /// Whether anything has waited here.
    pub fn has_backlog(&self) -> bool {
        self.unread > 0 || !self.back.is_empty()
    }
    /// Moves the reader on to the next segment with something unread.
    pub fn advance(&mut self) {
        let (seg, index) = self.reader;
        let readable = |s: &Seg| s.unread() > 0 && !s.unreadable;
        let here = self.segs.get(&seg).is_some_and(|s| readable(s) && index < s.standing.summary.count);
        if here {
            return;
        }
        if let Some((token, _)) = self.segs.range(seg.saturating_add(1)..).find(|(_, s)| readable(s)) {
            self.reader = (*token, 0);
            self.lower = self.lower.max(*token);
            self.tries = 0;
        }
    }
    /// Marks a record as read into memory.
    pub fn hold(&mut self, place: Place) -> bool {
        let Some(seg) = self.segs.get_mut(&place.id.1) else { return false };
        let new = seg.held.add(place.index);
        self.unread = self.unread.saturating_sub(u64::from(new));
        if self.unread == 0 {
            self.lanes.all_read();
        }
        new
    }
}

impl Queue {
    /// Marks a record on disk as finished, whoever holds it.
    pub(super) fn finish(&mut self, place: Place) {
        let Some(chain) = self.chains.get_mut(&place.id.0) else { return };
        chain.hold(place);
        let Some(seg) = chain.segs.get_mut(&place.id.1) else { return };
        if seg.finished.add(place.index)
            && let Some(disk) = &mut self.disk
        {
            disk.unsaved += 1;
            if seg.is_finished() && seg.standing.sealed {
                self.doom(place.id);
            }
        }
    }

    /// Puts a segment on the list of those to be removed.
    pub(super) fn doom(&mut self, id: SegmentId) {
        let Some(chain) = self.chains.get_mut(&id.0) else { return };
        let Some(seg) = chain.segs.remove(&id.1) else { return };
        chain.unread = chain.unread.saturating_sub(seg.unread());
        if chain.segs.is_empty() {
            chain.unread = 0;
        }
        if chain.unread == 0 {
            chain.lanes.all_read();
        }
        if let Some(disk) = &mut self.disk {
            disk.gone.insert(id, super::jobs::Gone { bytes: seg.standing.len, saved: false });
        }
    }

    /// Takes a record out of memory for good.
    pub(super) fn forget(&mut self, token: u64) -> Option<Rec> {
        let rec = self.records.remove(&token)?;
        self.out.remove(&token);
        if let Some(chain) = self.chains.get_mut(&rec.chain)
            && !chain.remove_back(rec.item.lane, token)
        {
            chain.live.remove(&token);
        }
        if self.unsynced.remove(&token) {
            self.unsynced_bytes = self.unsynced_bytes.saturating_sub(rec.cost());
        }
        if rec.chain.latest && self.latest.get(&rec.item.lane) == Some(&token) {
            self.latest.remove(&rec.item.lane);
        }
        self.mem_bytes = self.mem_bytes.saturating_sub(rec.cost());
        for place in rec.place.iter().chain(&rec.instead_of) {
            self.finish(*place);
        }
        Some(rec)
    }

    /// Leaves a waiting record to the disk; it is read back when its turn comes.
    pub(super) fn evict(&mut self, token: u64) {
        let Some(rec) = self.records.get(&token) else { return };
        let (Some(place), false) = (rec.place, rec.chain.latest) else { return };
        let (cost, chain_id, lane) = (rec.cost(), rec.chain, rec.item.lane);
        let Some(chain) = self.chains.get_mut(&chain_id) else { return };
        if !chain.segs.contains_key(&place.id.1) {
            return;
        }
        if chain.live.remove(&token) {
            // What came before it must not leave after what comes behind it.
            let later = chain.live.split_off(&token);
            for before in std::mem::replace(&mut chain.live, later) {
                if let Some(rec) = self.records.get(&before) {
                    chain.add_back(rec.item.lane, before);
                }
            }
        } else {
            chain.remove_back(lane, token);
        }
        let Some(seg) = chain.segs.get_mut(&place.id.1) else { return };
        if seg.held.take(place.index) {
            let here = (place.id.1, place.index);
            if chain.unread == 0 {
                (chain.reader, chain.lower, chain.page) = (here, token, (0, 0));
            } else if chain.reader > here {
                (chain.reader, chain.page) = (here, (0, 0));
                chain.lower = chain.lower.min(token);
            } else {
                chain.lower = chain.lower.min(token);
            }
            chain.unread += 1;
            chain.lanes.evicted(lane, here);
        }
        self.records.remove(&token);
        self.mem_bytes = self.mem_bytes.saturating_sub(cost);
    }

    /// Leaves everything to the disk that is there and waits.
    pub(super) fn evict_all(&mut self) {
        let waiting = self.records.iter().filter(|(t, r)| r.place.is_some() && !self.out.contains(t));
        let list: Vec<u64> = waiting.map(|(t, _)| *t).collect();
        for token in list {
            self.evict(token);
        }
        self.evictable = false;
    }
}
