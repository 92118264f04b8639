//! WHAT FOLLOWS from what the disk did.

use std::sync::Arc;
use std::time::Duration;

use super::Queue;
use super::chains::{Place, Rec, Seg};
use super::cursor::{State, TORN};
use super::faults::Bug;
use super::jobs::{Gone, RETRY, Trouble};
use super::purge::Drop;
use super::record::Item;
use super::recover::Recovered;
use super::segment::Summary;
use super::work::{Done, Failure, Lost, Page, Placed, Report, SegmentId, Standing};

/// A segment whose end is damaged, as the next one's header remembers it.
fn with_torn_end(mut a: Standing, next: Option<&Standing>) -> Standing {
    let Some(next) = next.filter(|n| n.id.0 == a.id.0 && n.base.before.token == a.id.1 as u32 && !a.cut) else {
        return a;
    };
    if next.base.before.count > a.summary.count {
        a.summary.count = next.base.before.count;
        a.summary.last_seq = a.summary.last_seq.max(next.base.seq.checked_sub(1));
    }
    a
}

/// Attempts to read a page before its segment is left for later.
const TRIES: u32 = 5;

impl Queue {
    /// Takes note of a job's outcome. Whether something new may be taken now.
    pub fn finished(&mut self, done: Done, now: Duration) -> bool {
        let now = self.tick(now);
        let Some(disk) = &mut self.disk else { return false };
        disk.busy = false;
        disk.other_bytes = done.other_bytes;
        match done.report {
            Report::Recovered(Ok(found)) => {
                self.adopt(*found, now);
                true
            }
            Report::Recovered(Err(f)) => {
                self.trouble(f, now);
                false
            }
            Report::Committed { placed, standings, failure } => {
                self.placed(placed, standings, now);
                self.settle(failure.map_or(Ok(()), Err), now);
                true
            }
            Report::Page(id, page) if self.disk.as_mut().is_some_and(|d| d.fetching.take() == Some(id)) => {
                self.fetched(id, page);
                true
            }
            Report::Page(id, page) => match self.disk.as_mut().and_then(|d| d.dropping.take()) {
                Some((dropped, what)) if dropped == id => {
                    self.dropped(id, what, page);
                    self.books.has_gaps()
                }
                _ => {
                    self.page(id, page, now);
                    true
                }
            },
            Report::Saved(result) => {
                self.saved(result, now);
                false
            }
            Report::Removed(list, result) => {
                if let (Ok(()), Some(disk)) = (&result, &mut self.disk) {
                    disk.gone.retain(|id, _| !list.contains(id));
                }
                self.settle(result, now);
                false
            }
            Report::Buried(result) => {
                let mut buried = self.disk.as_mut().map(|d| std::mem::take(&mut d.burying)).unwrap_or_default();
                if result.is_err()
                    && let Some(disk) = &mut self.disk
                {
                    buried.append(&mut disk.obituaries);
                    disk.obituaries = std::mem::take(&mut buried);
                }
                for (token, _) in buried {
                    if let Some(disk) = &mut self.disk {
                        disk.refused.remove(&token);
                    }
                    self.forget(token);
                }
                self.settle(result, now);
                false
            }
        }
    }

    fn settle(&mut self, result: Result<(), Failure>, now: i64) {
        match result {
            Ok(()) => {
                if let Some(disk) = &mut self.disk {
                    disk.trouble = None;
                }
            }
            Err(f) => self.trouble(f, now),
        }
    }

    fn trouble(&mut self, f: Failure, now: i64) {
        let Some(disk) = &mut self.disk else { return };
        let since = disk.trouble.as_ref().map_or(now, |t| t.since);
        disk.trouble = Some(Trouble { since, text: f.text, full: f.full });
        disk.retry_at = now + RETRY;
        if disk.stopping {
            disk.stopped = true;
        }
    }

    fn saved(&mut self, result: Result<(), Failure>, now: i64) {
        let Some(disk) = &mut self.disk else { return };
        let saving = disk.saving.take();
        match (&result, saving) {
            (Ok(()), Some(state)) => {
                self.seq_limit = state.seq_limit;
                disk.told = state.gaps.len();
                self.unreserved = self.unreserved && self.next_seq >= self.seq_limit;
                for f in state.finished.iter().filter(|f| f.gone) {
                    if let Some(gone) = disk.gone.get_mut(&(f.chain, f.token)) {
                        gone.saved = true;
                    }
                }
                disk.stopped |= disk.last_save;
            }
            _ => disk.unsaved += 1,
        }
        self.settle(result, now);
    }

    /// What was found in the directory, at the start or whenever it could first be read.
    fn adopt(&mut self, found: Recovered, now: i64) {
        let Some(disk) = &mut self.disk else { return };
        disk.recovered = true;
        disk.trouble = None;
        let reuse = disk.faults.has(Bug::SeqReuse);
        let fresh = found.segments.is_empty() && !found.state_lost;
        let known = found.state.is_some();
        let state = found.state.unwrap_or_default();
        disk.generation = state.generation;
        self.books.earlier = (state.dropped, state.dead);
        let last_seq = found.segments.iter().filter_map(|s| s.summary.last_seq).max().map_or(0, |s| s + 1);
        // No name is used twice, not even that of a file in which nothing is left.
        let used = found.segments.iter().map(|s| s.summary.last_token.saturating_add(1));
        let last_token = used.max().unwrap_or(0).max(found.next_token);
        self.next_token = self.next_token.max(state.next_token).max(last_token);
        self.next_seq = self.next_seq.max(last_seq);
        let seconds = (self.clock.stamp(now).wall / 1000).max(0) as u64;
        if found.unread {
            // Beyond whatever it holds, or a later start that can read it takes the one for a copy of the other.
            self.next_token = self.next_token.max(seconds << 24);
        }
        if known && !reuse {
            self.next_seq = self.next_seq.max(state.seq_limit);
        } else if !known && !fresh {
            // Which numbers were used is lost with the state: only this moment's are certain to be new.
            self.next_seq = self.next_seq.max(last_seq + super::jobs::BLOCK).max(seconds.saturating_mul(1_000_000));
            self.books.say("the queue's state was lost; what was delivered lately is sent again".into());
        }
        // Nothing is reserved before the next save.
        self.seq_limit = self.next_seq;
        for text in found.foreign {
            self.books.say(text);
        }
        for gap in &state.gaps {
            self.books.gap(gap.clone());
        }
        for torn in &found.torn {
            self.books.found += torn.records;
            self.books.lose_range(torn.records, torn.from, torn.to, "corrupt");
        }
        for (chain, token) in &found.unreadable {
            self.unreadable((*chain, *token), &found.segments);
        }
        for (i, standing) in found.segments.iter().enumerate() {
            let standing = with_torn_end(*standing, found.segments.get(i + 1));
            self.adopt_segment(standing, &state, now);
        }
        self.double(&found.segments);
        for (chain, lanes) in &found.lanes {
            if let Some(chain) = self.chains.get_mut(chain).filter(|c| c.unread > 0) {
                lanes.iter().for_each(|(lane, n)| chain.lanes.left(*lane, *n));
            }
        }
        for (id, index, item) in found.latest {
            self.read_back(Place { id, index }, item);
        }
        for chain in self.chains.values_mut() {
            chain.reader = (0, 0);
            chain.lower = 0;
            chain.advance();
        }
        if !self.up {
            self.only_latest();
        }
    }

    fn adopt_segment(&mut self, standing: Standing, state: &State, now: i64) {
        let id = standing.id;
        let mut seg = Seg::new(standing, now);
        let finished = state.finished.iter().find(|f| (f.chain, f.token) == id);
        // A torn end that was reported may have been written over since.
        for (from, len) in finished.iter().flat_map(|f| &f.runs).filter(|(_, len)| *len != TORN) {
            let count = standing.summary.count;
            for index in *from..from.saturating_add(*len).min(count) {
                seg.held.add(index);
                seg.finished.add(index);
            }
        }
        let gone = finished.is_some_and(|f| f.gone);
        if gone || seg.is_finished() {
            if let Some(disk) = &mut self.disk {
                // The state that was read need not be durable: it is saved again before the file goes.
                disk.gone.insert(id, Gone { bytes: standing.len, saved: false });
            }
            return;
        }
        self.books.found += seg.unread();
        let chain = self.chains.entry(id.0).or_default();
        chain.unread += seg.unread();
        chain.segs.insert(id.1, seg);
    }

    /// Finds segments whose ends were written again into the next after a failed sync.
    fn double(&mut self, segments: &[Standing]) {
        for pair in segments.windows(2) {
            let [a, b] = pair else { continue };
            let doubled = a.id.0 == b.id.0 && !a.id.0.latest && b.id.1 <= a.summary.last_token;
            if doubled && let Some(seg) = self.chains.get_mut(&a.id.0).and_then(|c| c.segs.get_mut(&a.id.1)) {
                seg.doubled_from = Some(b.id.1);
            }
        }
    }

    /// A segment without a readable header: what is lost lies between its neighbours.
    fn unreadable(&mut self, (chain, token): SegmentId, segments: &[Standing]) {
        let same = || segments.iter().filter(|s| s.id.0 == chain);
        let before = same().rev().find(|s| s.id.1 < token).and_then(|s| s.summary.last_seq);
        let after = same().find(|s| s.id.1 > token).map(|s| s.base.seq);
        if let (Some(before), Some(after)) = (before, after)
            && after > before + 1
        {
            self.books.found += after - before - 1;
            self.books.lose_range(after - before - 1, before + 1, after, "corrupt");
        }
        let name = super::segment::name(chain, token);
        self.books.say(format!("{name} is damaged beyond reading and was set aside as bad-{name}"));
    }

    fn placed(&mut self, placed: Vec<Placed>, standings: Vec<Standing>, now: i64) {
        for standing in standings {
            let chain = self.chains.entry(standing.id.0).or_default();
            let seg = chain.segs.entry(standing.id.1).or_insert_with(|| {
                let nothing = Summary::default();
                Seg::new(Standing { summary: nothing, end: 0, ..standing }, now)
            });
            // The new ones are unread until they are marked as held below.
            let (unread, end) = (seg.unread(), seg.standing.end);
            seg.standing = standing;
            seg.written = now;
            chain.unread += seg.unread().saturating_sub(unread);
            self.books.written += standing.end.saturating_sub(end);
        }
        let mut touched: Vec<(SegmentId, u64)> = Vec::new();
        for p in placed {
            let place = Place { id: p.id, index: p.index };
            match self.records.get_mut(&p.token) {
                Some(rec) => {
                    rec.place = Some(place);
                    let safe = std::mem::take(&mut rec.instead_of);
                    let cost = rec.cost();
                    if self.unsynced.remove(&p.token) {
                        self.unsynced_bytes = self.unsynced_bytes.saturating_sub(cost);
                    }
                    if let Some(chain) = self.chains.get_mut(&p.id.0) {
                        chain.hold(place);
                    }
                    safe.into_iter().for_each(|old| self.finish(old));
                    touched.push((p.id, p.token));
                }
                // Done with while it was being written.
                None => self.finish(place),
            }
        }
        self.evictable = true;
        for (id, token) in &touched {
            self.make_lean(*id, *token);
        }
        self.doom_finished();
    }

    /// Leaves a record that just became durable to the disk if memory is better used otherwise.
    fn make_lean(&mut self, (id, _): SegmentId, token: u64) {
        let Some(chain) = self.chains.get(&id) else { return };
        let crowded = |part: u64| self.mem_bytes > self.memory / part;
        let leave = if chain.back.contains(&token) {
            chain.unread > 0 || crowded(4)
        } else {
            chain.live.contains(&token) && crowded(2)
        };
        if leave {
            self.evict(token);
        }
    }

    /// Segments that were sealed after their last record was finished.
    pub(super) fn doom_finished(&mut self) {
        let all = self.chains.iter().flat_map(|(id, c)| c.segs.iter().map(|(t, s)| ((*id, *t), s)));
        let list: Vec<SegmentId> =
            all.filter(|(_, s)| s.standing.sealed && s.is_finished()).map(|(id, _)| id).collect();
        for id in list {
            self.doom(id);
        }
    }

    /// A record that was read from the disk waits in memory again.
    pub(super) fn read_back(&mut self, place: Place, item: Item) {
        let chain = place.id.0;
        let Some(state) = self.chains.get_mut(&chain) else { return };
        if state.segs.get(&place.id.1).is_none_or(|s| s.held.has(place.index)) {
            return;
        }
        state.hold(place);
        state.lanes.read(item.lane);
        let doubled = state.segs.get(&place.id.1).and_then(|s| s.doubled_from).is_some_and(|t| item.token >= t);
        if doubled || self.records.contains_key(&item.token) {
            self.books.found = self.books.found.saturating_sub(1);
            self.finish(place);
            return;
        }
        state.add_back(item.lane, item.token);
        let at = self.clock.at_of(&item.stamp);
        let rec = Rec { item: Arc::new(item), chain, at, place: Some(place), instead_of: Vec::new(), homeless: false };
        self.mem_bytes += rec.cost();
        self.evictable = true;
        self.records.insert(rec.item.token, rec);
    }

    fn page(&mut self, id: SegmentId, page: Result<Page, Failure>, now: i64) {
        let page = match page {
            Ok(page) => page,
            Err(f) => return self.page_failed(id, f, now),
        };
        self.bad(id, page.bad_bytes);
        self.lost(id, &page.lost);
        let last = page.items.last().map(|(_, i)| i.token);
        let before = self.records.len();
        for (index, item) in page.items {
            self.read_back(Place { id, index }, item);
        }
        let read = self.records.len() - before;
        let Some(chain) = self.chains.get_mut(&id.0) else { return };
        chain.tries = 0;
        chain.reader = (id.1, page.next);
        chain.lower = chain.lower.max(last.map_or(0, |t| t + 1));
        chain.page = (chain.page.0 + read, chain.page.0 + read);
        chain.advance();
        self.doom_finished();
    }

    fn bad(&mut self, (chain, token): SegmentId, bytes: u64) {
        if bytes > 0 {
            self.books.bad_bytes += bytes;
            self.books.say(format!("damaged bytes in {} were set aside", super::segment::name(chain, token)));
        }
    }

    /// Records that turned out to be unreadable.
    fn lost(&mut self, id: SegmentId, lost: &[Lost]) {
        for l in lost {
            let mut n = 0;
            for index in l.from..l.to {
                let place = Place { id, index };
                if self.chains.get_mut(&id.0).is_some_and(|c| c.hold(place)) {
                    n += 1;
                    self.finish(place);
                }
            }
            self.books.lose_range(n, l.from_seq, l.to_seq, "corrupt");
        }
    }

    fn page_failed(&mut self, id: SegmentId, f: Failure, now: i64) {
        let Some(chain) = self.chains.get_mut(&id.0) else { return };
        chain.tries += 1;
        let Some(seg) = chain.segs.get_mut(&id.1) else { return };
        if f.missing {
            let s = seg.standing;
            let from_seq = if seg.held.count == 0 { s.base.seq } else { s.summary.first_seq };
            let to_seq = s.summary.last_seq.map_or(from_seq, |l| l + 1);
            self.books.say(format!("{} is gone or unreadable", super::segment::name(id.0, id.1)));
            self.lost(id, &[Lost { from: 0, to: s.summary.count, from_seq, to_seq }]);
            self.unplace(id);
            self.doom(id);
        } else if chain.tries >= TRIES {
            // Perhaps a bad spot, perhaps the whole disk: nothing is given up, but the rest goes on.
            seg.unreadable = true;
            chain.advance();
            self.books.say(format!("{}; left for later", f.text));
        } else {
            self.books.say(f.text);
        }
        if let Some(disk) = &mut self.disk {
            disk.read_retry_at = now + RETRY;
        }
    }

    /// A segment is dropped, or what is old of it: what goes and is not finished is counted and reported.
    fn dropped(&mut self, id: SegmentId, Drop { reason, before }: Drop, page: Result<Page, Failure>) {
        match page {
            Ok(page) if before.is_some() => {
                for (index, item) in page.items {
                    if before.is_some_and(|b| self.clock.at_of(&item.stamp) < b) {
                        self.drop_one(Place { id, index }, &item, reason);
                    }
                }
                return self.doom_finished();
            }
            // Perhaps another time.
            Err(_) if before.is_some() => return,
            Ok(page) => {
                self.bad(id, page.bad_bytes);
                self.lost(id, &page.lost);
                for (index, item) in page.items {
                    self.drop_one(Place { id, index }, &item, reason);
                }
            }
            Err(_) => {
                let Some(seg) = self.chains.get(&id.0).and_then(|c| c.segs.get(&id.1)) else { return };
                let s = seg.standing.summary;
                let to_seq = s.last_seq.map_or(s.first_seq, |l| l + 1);
                self.lost(id, &[Lost { from: 0, to: s.count, from_seq: s.first_seq, to_seq }]);
                self.unplace(id);
            }
        }
        self.doom(id);
    }

    /// What memory holds of a segment that could not be read is all that is left of it.
    fn unplace(&mut self, id: SegmentId) {
        for rec in self.records.values_mut().filter(|r| r.place.is_some_and(|p| p.id == id)) {
            rec.place = None;
        }
    }

    fn drop_one(&mut self, place: Place, item: &Item, reason: &'static str) {
        let Some(seg) = self.chains.get(&place.id.0).and_then(|c| c.segs.get(&place.id.1)) else { return };
        if seg.finished.has(place.index) {
            return;
        }
        if !seg.held.has(place.index) {
            let doubled = seg.doubled_from.is_some_and(|t| item.token >= t);
            self.finish(place);
            if let Some(chain) = self.chains.get_mut(&place.id.0) {
                chain.lanes.read(item.lane);
            }
            if doubled {
                self.books.found = self.books.found.saturating_sub(1);
            } else {
                self.books.lose(item, reason);
            }
            return;
        }
        match self.records.get_mut(&item.token).filter(|r| r.place == Some(place)) {
            // Being sent: it is lost only if that fails.
            Some(rec) if self.out.contains(&item.token) => {
                rec.place = None;
                rec.homeless = true;
            }
            Some(_) => self.lose(item.token, reason),
            // Replaced, and counted so, by one that only memory has; a crash could take that one too.
            None => self.books.say_lost(item, reason),
        }
    }
}
