//! THE DOOR ITSELF: taking records in, handing them out, forgetting them. Bookkeeping only.

use std::sync::Arc;
use std::time::Duration;

use super::books::Books;
use super::chains::{ChainState, Rec};
use super::policy::{Replayer, TimeBase, Turn, duration, us};
use super::record::{Item, MAX_BODY, MAX_SOURCE};
use super::segment::Chain;
use super::{Entry, Gap, Keep, Limits, Out, Queue, Rank, Replay, Stamp, Sync, WhenFull};

impl Queue {
    /// An empty queue in memory whose first reading takes `next_seq`.
    pub fn new(limits: Limits, next_seq: u64) -> Queue {
        Queue {
            memory: limits.max_bytes,
            limits,
            sync: Sync::Within(Duration::ZERO),
            replay: Replayer::new(Replay::default()),
            clock: TimeBase::default(),
            next_seq,
            seq_limit: u64::MAX,
            unreserved: false,
            next_token: 1,
            up: false,
            records: Default::default(),
            chains: Default::default(),
            out: Default::default(),
            unsynced: Default::default(),
            unsynced_bytes: 0,
            mem_bytes: 0,
            evictable: false,
            latest: Default::default(),
            books: Books::default(),
            disk: None,
            now: 0,
        }
    }

    /// Changes how the backlog is sent.
    pub fn set_replay(&mut self, replay: Replay) {
        self.replay = Replayer::new(replay);
    }

    /// Tells what the clocks say at `now`; to be called again when the clock is set, so that the age of what is left
    /// from earlier boots becomes known.
    pub fn set_clock(&mut self, now: Duration, stamp: Stamp) {
        self.tick(now);
        self.clock.set(us(now), stamp);
    }

    pub(super) fn tick(&mut self, now: Duration) -> i64 {
        self.now = self.now.max(us(now));
        self.books.now = self.now;
        self.now
    }

    /// Takes a record in. Gives the sequence number if it is a reading, whether or not it could be kept: a reading
    /// that is dropped has its number in a [`Gap`].
    pub fn append(&mut self, entry: Entry, now: Duration) -> Option<u64> {
        let now = self.tick(now);
        self.books.accepted += 1;
        let seq = entry.reading.then(|| self.number(now));
        let token = self.next_token;
        self.next_token += 1;
        if entry.keep == Keep::None && !self.up {
            self.books.replaced += 1;
            return seq;
        }
        let chain = Chain { rank: entry.rank, latest: entry.keep == Keep::Latest };
        let mut source = entry.source;
        if source.len() > MAX_SOURCE {
            let end = (0..=MAX_SOURCE).rev().find(|i| source.is_char_boundary(*i)).unwrap_or(0);
            source.truncate(end);
        }
        let item = Item {
            token,
            seq,
            lane: entry.lane,
            keep: entry.keep,
            in_order: entry.in_order,
            ttl: entry.expires.map(|e| u64::try_from((us(e) - now).max(0) / 1000).unwrap_or(0)),
            stamp: if entry.stamp.boot == 0 { self.clock.stamp(now) } else { entry.stamp },
            source: source.into(),
            body: entry.body,
        };
        let mut rec =
            Rec { item: Arc::new(item), chain, at: now, place: None, instead_of: Vec::new(), homeless: false };
        let live = self.up && self.is_live(chain, rec.item.lane, rec.item.in_order);
        let older = if chain.latest { self.latest.get(&rec.item.lane).copied() } else { None };
        let cost = rec.cost();
        let freed = older.and_then(|t| self.records.get(&t)).map_or(0, Rec::cost);
        if rec.item.body.len() > MAX_BODY || !self.make_room(cost.saturating_sub(freed), chain.rank, older) {
            let newest = rec.item.body.len() <= MAX_BODY && self.limits.when_full == WhenFull::DropNewest;
            self.books.lose(&rec.item, if newest { "newest dropped" } else { "full" });
            return seq;
        }
        if let Some(older) = older {
            self.replace(older, &mut rec);
        }
        if self.disk.is_some() && rec.item.keep != Keep::None {
            self.unsynced.insert(token);
            self.unsynced_bytes += cost;
        }
        if chain.latest && !live {
            self.latest.insert(rec.item.lane, token);
        }
        if rec.item.keep == Keep::All {
            let bytes = if self.disk.is_some() { rec.item.body.len() as u64 + super::record::USUAL } else { cost };
            self.books.minute.add(bytes, now);
        }
        self.mem_bytes += cost;
        let state = self.chains.entry(chain).or_default();
        if live {
            state.live.insert(token);
        } else {
            state.add_back(rec.item.lane, token)
        }
        self.records.insert(token, rec);
        seq
    }

    /// Whether memory is nearly full and relief is in sight: who can hold back what comes in should do so for a moment.
    /// Else, with the link up, a part would be left to the disk and come behind what comes next; with the link down,
    /// the policy would drop what the disk could take.
    pub fn pressed(&self) -> bool {
        // live records are left to the disk from one half of the memory on (`make_lean`): stay well below
        let enough = self.memory / 8 * 3;
        match &self.disk {
            _ if self.up => self.mem_bytes > enough,
            Some(disk) => disk.works(self.now) && self.unsynced_bytes > enough,
            None => false,
        }
    }

    /// The next sequence number.
    fn number(&mut self, now: i64) -> u64 {
        if self.next_seq >= self.seq_limit && !self.unreserved {
            // The disk could not reserve more: numbers that only this moment can have.
            self.unreserved = true;
            let seconds = (self.clock.stamp(now).wall / 1000).max(0) as u64;
            self.next_seq = self.next_seq.max(seconds.saturating_mul(1_000_000));
        }
        let seq = self.next_seq;
        self.next_seq += 1;
        seq
    }

    /// `rec` comes in the place of the waiting record `older` of its lane.
    pub(super) fn replace(&mut self, older: u64, rec: &mut Rec) {
        // What is on disk of the old one stays unfinished until the new one is there too.
        if let Some(old) = self.records.get_mut(&older) {
            rec.instead_of.extend(old.place.take());
            rec.instead_of.append(&mut old.instead_of);
        }
        if self.forget(older).is_some() {
            self.books.replaced += 1;
        }
        if rec.place.is_some() {
            for place in std::mem::take(&mut rec.instead_of) {
                self.finish(place);
            }
        }
    }

    /// Makes room in memory for `cost` bytes of a record of `rank`; `spare` goes anyway.
    fn make_room(&mut self, cost: u64, rank: Rank, spare: Option<u64>) -> bool {
        while self.mem_bytes + cost > self.memory {
            if self.evictable {
                self.evict_all();
                continue;
            }
            let waiting = |c: &ChainState| {
                let back = c.back.iter().find(|t| Some(**t) != spare);
                back.or_else(|| c.live.iter().find(|t| Some(**t) != spare)).copied()
            };
            // Of a rank, records of which all are wanted go before the only one of a lane.
            let Some((chain, token)) = self.chains.iter().find_map(|(id, c)| Some((*id, waiting(c)?))) else {
                return false;
            };
            let goes = match self.limits.when_full {
                WhenFull::DropOldest => chain.rank <= rank,
                WhenFull::DropNewest => chain.rank < rank,
            };
            if !goes {
                return false;
            }
            self.lose(token, "full");
        }
        true
    }

    /// Drops a record that memory holds, and reports it.
    pub(super) fn lose(&mut self, token: u64, reason: &'static str) {
        if let Some(rec) = self.forget(token) {
            self.books.lose(&rec.item, reason);
        }
    }

    /// Whether a record may be sent already: with [`Sync::Always`] only from the disk, as long as that works.
    pub(super) fn may_leave(&self, token: u64) -> bool {
        self.sync != Sync::Always
            || !self.unsynced.contains(&token)
            || self.disk.as_ref().is_none_or(|d| !d.works(self.now))
    }

    /// The next record to send, most important first; `None` when nothing waits or may go yet
    /// ([`Queue::next_take`] tells which).
    pub fn take(&mut self, now: Duration) -> Option<Out> {
        let now = self.tick(now);
        loop {
            let slow = self.replay.wait(now).is_some();
            let live = self
                .first_live(slow)
                .map(|(rank, token, old)| (rank, token, if old { Turn::Backlog } else { Turn::Live }));
            let back = if slow { None } else { self.first_back() };
            let (token, turn) = match (live, back) {
                (Some((_, token, turn)), None) => (token, turn),
                (None, Some((_, token))) => (token, Turn::Backlog),
                (Some(l), Some(b)) => match self.replay.turn(l.0, b.0) {
                    Turn::Live => (l.1, l.2),
                    Turn::Backlog => (b.1, Turn::Backlog),
                },
                (None, None) => return None,
            };
            let (rec_at, expires) = self.records.get(&token).map(|r| (r.at, r.expires()))?;
            let age = now.saturating_sub(rec_at);
            if turn == Turn::Backlog {
                self.took_back(token);
            }
            if age > us(self.limits.max_age) || expires.is_some_and(|e| e <= now) {
                self.lose(token, "expired");
                continue;
            }
            if turn == Turn::Backlog {
                self.replay.took();
            }
            return self.hand_out(token, turn == Turn::Backlog, age, expires.map(|e| duration(e - now)));
        }
    }

    /// The first of the backlog that may leave: greatest rank, then least token.
    fn first_back(&self) -> Option<(Rank, u64)> {
        let mut best: Option<(Rank, u64)> = None;
        for (id, chain) in self.chains.iter().rev() {
            if best.is_some_and(|(rank, _)| rank > id.rank) {
                break;
            }
            if let Some(token) = chain.next_back().filter(|t| self.may_leave(*t))
                && best.is_none_or(|(_, other)| token < other)
            {
                best = Some((id.rank, token));
            }
        }
        best
    }

    fn took_back(&mut self, token: u64) {
        if let Some(chain) = self.records.get(&token).map(|r| r.chain)
            && let Some(chain) = self.chains.get_mut(&chain)
        {
            chain.page.0 = chain.page.0.saturating_sub(1);
        }
    }

    fn hand_out(&mut self, token: u64, replayed: bool, age: i64, expires_in: Option<Duration>) -> Option<Out> {
        let rec = self.records.get(&token)?;
        let chain = self.chains.get_mut(&rec.chain)?;
        if !chain.remove_back(rec.item.lane, token) {
            chain.live.remove(&token);
        }
        if rec.chain.latest && self.latest.get(&rec.item.lane) == Some(&token) {
            self.latest.remove(&rec.item.lane);
        }
        let out = Out {
            token,
            seq: rec.item.seq,
            replayed,
            stamp: rec.item.stamp,
            age: duration(age),
            expires_in,
            body: rec.item.body.clone(),
        };
        self.out.insert(token);
        if self.planted_done_before_ack() {
            self.done(token);
        }
        Some(out)
    }

    /// Whether the reading numbered `seq` is on disk or done with, of those that were appended since the opening:
    /// with [`Sync::Always`] what an answer to the sensor may wait for. Looks through what only memory has.
    pub fn is_durable(&self, seq: u64) -> bool {
        let unsynced = self.unsynced.iter().filter_map(|t| self.records.get(t));
        seq < self.next_seq && !unsynced.into_iter().any(|r| r.item.seq == Some(seq))
    }

    /// How long until [`Queue::take`] may give something that it does not give now; `None`: not before something
    /// comes in, is read or is synced.
    pub fn next_take(&mut self, now: Duration) -> Option<Duration> {
        let now = self.tick(now);
        let wait = self.replay.wait(now)?;
        self.first_back().map(|_| wait)
    }

    /// The broker has it: forget it.
    pub fn done(&mut self, token: u64) {
        if self.out.contains(&token) && self.forget(token).is_some() {
            self.books.delivered += 1;
        }
    }

    /// The broker cannot take it now: it waits again, in its old place.
    pub fn retry(&mut self, token: u64) {
        if self.out.remove(&token) {
            self.wait_again(token);
        }
    }

    /// The broker will never take it: it is kept in the dead-letter file with the reason, and counted.
    pub fn refuse(&mut self, token: u64, text: &str, now: Duration) {
        let now = self.tick(now);
        let Some(rec) = self.records.get(&token).filter(|_| self.out.contains(&token)) else { return };
        let line = super::books::obituary(&rec.item, &self.clock.stamp(now), text);
        match &mut self.disk {
            // It stays where it is until the line is on disk.
            Some(disk) if disk.obituaries.len() < super::jobs::MAX_OBITUARIES => {
                disk.obituaries.push((token, line));
                self.out.remove(&token);
                disk.refused.insert(token);
            }
            // The disk does not take them: what cannot be kept is lost, and said to be.
            Some(_) => return self.lose(token, "full"),
            None => drop(self.forget(token)),
        }
        self.books.dead += 1;
    }

    /// The link is up: from now on `keep` does not matter.
    pub fn link_up(&mut self) {
        self.up = true;
        for chain in self.chains.values_mut() {
            chain.tries = 0;
            for seg in chain.segs.values_mut() {
                seg.unreadable = false;
            }
        }
    }

    /// The link broke: whatever was handed out and not done waits again, ahead of the rest and in the old order.
    pub fn link_down(&mut self) {
        self.up = false;
        for chain in self.chains.values_mut() {
            for token in std::mem::take(&mut chain.live) {
                if let Some(rec) = self.records.get(&token) {
                    chain.add_back(rec.item.lane, token);
                }
            }
        }
        let out = std::mem::take(&mut self.out);
        if self.planted_pending_cleared() {
            for token in out {
                self.forget(token);
            }
        } else {
            for token in out {
                self.wait_again(token);
            }
        }
        let nothing_kept = |r: &&Rec| r.item.keep == Keep::None;
        let list: Vec<u64> = self.records.values().filter(nothing_kept).map(|r| r.item.token).collect();
        for token in list {
            if self.forget(token).is_some() {
                self.books.replaced += 1;
            }
        }
        self.only_latest();
    }

    /// Puts a record that was handed out back among the waiting.
    fn wait_again(&mut self, token: u64) {
        let Some(rec) = self.records.get(&token) else { return };
        if rec.homeless {
            self.lose(token, "full");
            return;
        }
        let (chain, lane) = (rec.chain, rec.item.lane);
        let newer = self.latest.get(&lane).copied().filter(|_| chain.latest && !self.up);
        match newer {
            Some(newer) if newer > token => {
                if let Some(mut rec) = self.records.remove(&newer) {
                    self.replace(token, &mut rec);
                    self.records.insert(newer, rec);
                }
            }
            _ => {
                self.chains.entry(chain).or_default().add_back(lane, token);
                if chain.latest {
                    self.latest.insert(lane, token);
                }
            }
        }
    }

    /// Of the lanes that keep only their latest, keeps only that.
    pub(super) fn only_latest(&mut self) {
        let chains = self.chains.iter().filter(|(id, _)| id.latest);
        let tokens: Vec<u64> = chains.flat_map(|(_, c)| c.back.iter().copied()).collect();
        for token in tokens {
            let Some(lane) = self.records.get(&token).map(|r| r.item.lane) else { continue };
            match self.latest.insert(lane, token) {
                Some(older) if older < token => {
                    if let Some(mut rec) = self.records.remove(&token) {
                        self.replace(older, &mut rec);
                        self.records.insert(token, rec);
                    }
                }
                Some(newer) if newer > token => {
                    self.latest.insert(lane, newer);
                }
                _ => {}
            }
        }
    }

    /// All reports of loss since the last call. They are given again after a crash, until what was appended within the
    /// same turn is safe.
    pub fn take_gaps(&mut self) -> Vec<Gap> {
        self.books.take_gaps(self.next_token, self.disk.is_some(), true)
    }

    /// Those reports that have stopped growing, so that many small losses make one; while the link is down none, as
    /// long as they are few.
    pub fn take_settled_gaps(&mut self, now: Duration) -> Vec<Gap> {
        let now = self.tick(now);
        match self.books.gap_due(self.up) {
            Some(due) if due <= now => self.books.take_gaps(self.next_token, self.disk.is_some(), false),
            _ => Vec::new(),
        }
    }

    /// How long until [`Queue::take_settled_gaps`] may give something; `None`: not before something is lost or the
    /// link comes.
    pub fn next_gap(&mut self, now: Duration) -> Option<Duration> {
        let now = self.tick(now);
        self.books.gap_due(self.up).map(|due| duration(due - now))
    }
}
