//! THE BOOKS: what came, what became of it, and how the disk is. They balance at every moment:
//! `accepted + found = delivered + waiting + dead + dropped + replaced`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::policy::duration;
use super::record::Item;
use super::{Gap, Queue, REASONS, Rank, Stamp};

/// How the disk is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DiskState {
    /// There is none: the queue lives in memory by intent.
    #[default]
    Memory,
    /// What waits longer than `sync` is on it.
    Durable,
    /// It cannot be written: the queue lives in memory until it can.
    Failing {
        /// Since when, time since the daemon's start.
        since: Duration,
        /// What is wrong, for people.
        text: String,
    },
}

/// Figures for `bridge/health` and `queue status`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Records waiting, those being sent included.
    pub waiting: u64,
    /// Bytes that count against the limit: of all files, or of memory if there is no directory.
    pub bytes: u64,
    /// Bytes of memory that records take.
    pub memory_bytes: u64,
    /// The limit.
    pub max_bytes: u64,
    /// Records taken in since the start.
    pub accepted: u64,
    /// Records found on disk at the start.
    pub found: u64,
    /// Records the broker has.
    pub delivered: u64,
    /// Records the broker refused for good.
    pub dead: u64,
    /// Records of `latest` lanes that a newer one replaced, and of `none` lanes that came without a link.
    pub replaced: u64,
    /// Records dropped since the start, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Records dropped since the directory was made, by reason.
    pub dropped_ever: BTreeMap<&'static str, u64>,
    /// Records that the broker refused for good since the directory was made.
    pub dead_ever: u64,
    /// Waiting records by rank.
    pub by_rank: BTreeMap<Rank, u64>,
    /// Waiting records that only memory has.
    pub unsynced: u64,
    /// Age of the oldest that waits.
    pub oldest: Option<Duration>,
    /// Bytes written to segments.
    pub written: u64,
    /// Segment files.
    pub segments: u64,
    /// Bytes a minute that come in to be kept, as they take space, over the last minute.
    pub per_minute: u64,
    /// How long the space lasts at that rate if nothing is delivered; `None`: nothing comes in.
    pub lasts: Option<Duration>,
    /// The next reading's sequence number.
    pub next_seq: u64,
    /// How the disk is.
    pub disk: DiskState,
}

impl Stats {
    /// All that was dropped.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.values().sum()
    }
    /// Whether the books balance.
    pub fn balance(&self) -> bool {
        let out = self.delivered + self.waiting + self.dead + self.dropped_total() + self.replaced;
        self.accepted + self.found == out
    }
}

/// How the queue is, in words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// How the disk is.
    pub disk: DiskState,
    /// What people should know: files left alone, damage found. At most some dozens.
    pub words: Vec<String>,
    /// Bytes that were no record, since the start.
    pub bad_bytes: u64,
}

/// Reports that are kept until they are fetched; of more, the nearest are merged.
const MAX_GAPS: usize = 128;
/// A report is given when it has not grown for this many microseconds…
const QUIET: i64 = 1_000_000;
/// …or is this old.
const LONG: i64 = 10_000_000;
/// Words that are kept.
const MAX_WORDS: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Books {
    pub accepted: u64,
    pub found: u64,
    pub delivered: u64,
    pub dead: u64,
    pub replaced: u64,
    pub written: u64,
    dropped: BTreeMap<&'static str, u64>,
    /// Of earlier lives of the directory: dropped, in the order of the reasons, and refused for good.
    pub earlier: ([u64; REASONS.len()], u64),
    gaps: Vec<Held>,
    /// Not all of them are in the saved state.
    pub gaps_unsaved: bool,
    /// The present moment, microseconds.
    pub now: i64,
    /// Fetched, but perhaps not safe: the next token then.
    unsaid: Vec<(Gap, u64)>,
    pub words: Vec<String>,
    pub bad_bytes: u64,
    pub minute: Minute,
}

/// What came in during the last minute, in steps of five seconds.
#[derive(Debug, Default)]
pub(super) struct Minute {
    slots: [u64; SLOTS as usize],
    /// The step that was written to last, and the first.
    at: Option<(i64, i64)>,
}

const STEP: i64 = 5_000_000;
const SLOTS: i64 = 12;

impl Minute {
    /// Counts `bytes` that came at `now`, microseconds.
    pub fn add(&mut self, bytes: u64, now: i64) {
        let step = now.div_euclid(STEP);
        let (last, first) = self.at.unwrap_or((step, step));
        for old in (last + 1..=step).rev().take(SLOTS as usize) {
            self.slot(old, |s| *s = 0);
        }
        self.slot(step.max(last), |s| *s = s.saturating_add(bytes));
        self.at = Some((step.max(last), first));
    }

    fn slot(&mut self, step: i64, f: impl FnOnce(&mut u64)) {
        if let Some(slot) = self.slots.get_mut(step.rem_euclid(SLOTS) as usize) {
            f(slot);
        }
    }

    /// Bytes a second at `now`.
    pub fn rate(&self, now: i64) -> f64 {
        let Some((last, first)) = self.at else { return 0.0 };
        let step = now.div_euclid(STEP);
        let recent = (step - SLOTS + 1..=step).filter(|s| *s <= last && *s > last - SLOTS);
        let sum: u64 = recent.filter_map(|s| self.slots.get(s.rem_euclid(SLOTS) as usize)).sum();
        let since = (step - SLOTS + 1).max(first) * STEP;
        sum as f64 / ((now - since).max(STEP) as f64 / 1e6)
    }
}

impl Books {
    /// Counts a record that is dropped and reports it if it is a reading.
    pub fn lose(&mut self, item: &Item, reason: &'static str) {
        *self.dropped.entry(reason).or_default() += 1;
        self.say_lost(item, reason);
    }

    /// Reports a loss that is counted elsewhere.
    pub fn say_lost(&mut self, item: &Item, reason: &'static str) {
        if let Some(seq) = item.seq {
            self.gap(gap_of(item, seq, reason));
        }
    }

    /// Counts `records` that are dropped of which nothing more is known than the range of their readings.
    pub fn lose_range(&mut self, records: u64, from: u64, to: u64, reason: &'static str) {
        if records == 0 {
            return;
        }
        *self.dropped.entry(reason).or_default() += records;
        if from < to {
            self.gap(Gap { from, to: to - 1, count: records.min(to - from), reason, source: None });
        }
    }

    /// Reports a loss.
    pub fn gap(&mut self, gap: Gap) {
        self.gaps_unsaved = true;
        merge(&mut self.gaps, Held { gap, since: self.now, grew: self.now }, MAX_GAPS);
    }

    /// When the first report should be given. Without a link they can as well grow: they are in the state.
    pub fn gap_due(&self, up: bool) -> Option<i64> {
        let due = |h: &Held| (h.grew + QUIET).min(h.since + LONG);
        match up || self.gaps.len() > MAX_GAPS / 2 {
            true => self.gaps.iter().map(due).min(),
            false => None,
        }
    }

    pub fn take_gaps(&mut self, next_token: u64, durable: bool, all: bool) -> Vec<Gap> {
        let now = self.now;
        let due = |h: &mut Held| all || h.grew + QUIET <= now || h.since + LONG <= now;
        let gaps: Vec<Gap> = self.gaps.extract_if(.., due).map(|h| h.gap).collect();
        if durable {
            self.unsaid.extend(gaps.iter().map(|g| (g.clone(), next_token)));
        }
        gaps
    }

    /// What a crash now must not silence. `next`: the next token; `first_unsynced_from`: the first token from one on
    /// that only memory has; `homeless`: readings that are lost only if their sending fails.
    pub fn unsaid<'a>(
        &mut self,
        next: u64,
        first_unsynced_from: impl Fn(u64) -> Option<u64>,
        homeless: impl Iterator<Item = &'a Item>,
    ) -> Vec<Gap> {
        let reports = self.unsaid.len() as u64 + 16;
        // The reports were appended right behind the fetching.
        self.unsaid.retain(|(_, at)| *at >= next || first_unsynced_from(*at).is_some_and(|t| t < at + reports));
        let fetched = self.unsaid.iter().map(|(g, _)| g.clone());
        let sending = homeless.filter_map(|i| Some(gap_of(i, i.seq?, "full")));
        let mut all = Vec::new();
        for (n, gap) in self.gaps.iter().map(|h| h.gap.clone()).chain(fetched).chain(sending).enumerate() {
            merge(&mut all, Held { gap, since: n as i64, grew: 0 }, super::cursor::MAX_GAPS);
        }
        all.into_iter().map(|h| h.gap).collect()
    }

    pub fn say(&mut self, word: String) {
        if self.words.len() < MAX_WORDS && !self.words.contains(&word) {
            self.words.push(word);
        }
    }

    /// All that was dropped since the directory was made, and all that was refused for good.
    pub fn ever(&self) -> ([u64; REASONS.len()], u64) {
        let (mut dropped, dead) = self.earlier;
        for (sum, reason) in dropped.iter_mut().zip(REASONS) {
            *sum += self.dropped.get(reason).copied().unwrap_or(0);
        }
        (dropped, dead + self.dead)
    }

    /// Whether there is something to report.
    pub fn has_gaps(&self) -> bool {
        !self.gaps.is_empty()
    }
}

fn gap_of(item: &Item, seq: u64, reason: &'static str) -> Gap {
    Gap { from: seq, to: seq, count: 1, reason, source: Some(item.source.to_string()) }
}

/// A report that may still grow.
#[derive(Debug, Clone)]
struct Held {
    gap: Gap,
    /// When it began and when it last grew, microseconds.
    since: i64,
    grew: i64,
}

impl Held {
    fn take_in(&mut self, other: Held) {
        let g = &mut self.gap;
        g.from = g.from.min(other.gap.from);
        g.to = g.to.max(other.gap.to);
        g.count = g.count.saturating_add(other.gap.count).min((g.to - g.from).saturating_add(1));
        if g.source != other.gap.source {
            g.source = None;
        }
        self.since = self.since.min(other.since);
        self.grew = self.grew.max(other.grew);
    }
    /// Readings between the two; 0: they adjoin or overlap.
    fn apart(&self, gap: &Gap) -> u64 {
        let between = |low: &Gap, high: &Gap| high.from.saturating_sub(low.to).saturating_sub(1);
        between(&self.gap, gap).max(between(gap, &self.gap))
    }
}

/// Adds a report to a list, together with those that it adjoins, or with the nearest if the list is full.
fn merge(list: &mut Vec<Held>, mut new: Held, max: usize) {
    loop {
        let alike = list.iter().enumerate().filter(|(_, h)| h.gap.reason == new.gap.reason);
        let nearest = alike.map(|(i, h)| (h.apart(&new.gap), i)).min();
        match nearest {
            Some((apart, i)) if apart == 0 || list.len() >= max => {
                let mut old = list.remove(i);
                old.take_in(new);
                new = old;
            }
            _ => break,
        }
    }
    let place = list.partition_point(|h| h.since <= new.since);
    list.insert(place, new);
}

/// One line of the dead-letter file.
pub(super) fn obituary(item: &Item, now: &Stamp, reason: &str) -> String {
    let time = |ms: i64| jiff::Timestamp::from_millisecond(ms).map(|t| format!("{t:.3}")).unwrap_or_default();
    let mut line = serde_json::Map::new();
    line.insert("time".into(), time(now.wall).into());
    line.insert("taken".into(), time(item.stamp.wall).into());
    line.insert("seq".into(), item.seq.into());
    line.insert("source".into(), (&*item.source).into());
    line.insert("reason".into(), reason.into());
    match std::str::from_utf8(&item.body) {
        Ok(text) => line.insert("body".into(), text.into()),
        Err(_) => {
            line.insert("body_hex".into(), item.body.iter().map(|b| format!("{b:02x}")).collect::<String>().into())
        }
    };
    serde_json::Value::Object(line).to_string()
}

impl Queue {
    /// Figures, as of the last call that told the time.
    pub fn stats(&self) -> Stats {
        let mut by_rank: BTreeMap<Rank, u64> = BTreeMap::new();
        let mut oldest: Option<i64> = None;
        for (id, chain) in &self.chains {
            *by_rank.entry(id.rank).or_default() += chain.unread;
            let first = chain.segs.values().find(|s| s.unread() > 0);
            if let Some(seg) = first {
                let at = self.clock.at_of(&seg.standing.first_stamp());
                oldest = Some(oldest.map_or(at, |o| o.min(at)));
            }
        }
        for (token, rec) in &self.records {
            if self.disk.as_ref().is_some_and(|d| d.refused.contains(token)) {
                continue;
            }
            *by_rank.entry(rec.chain.rank).or_default() += 1;
            oldest = Some(oldest.map_or(rec.at, |o| o.min(rec.at)));
        }
        by_rank.retain(|_, n| *n > 0);
        let b = &self.books;
        let bytes = if self.disk.is_some() { self.disk_bytes() } else { self.mem_bytes };
        let room = self.limits.max_bytes.saturating_sub(bytes) as f64;
        let fill_rate = b.minute.rate(self.now);
        let lasts = (fill_rate > 0.0).then(|| Duration::from_secs_f64((room / fill_rate).min(1e9)));
        let (ever, dead_ever) = b.ever();
        Stats {
            waiting: by_rank.values().sum(),
            bytes,
            memory_bytes: self.mem_bytes,
            max_bytes: self.limits.max_bytes,
            accepted: b.accepted,
            found: b.found,
            delivered: b.delivered,
            dead: b.dead,
            replaced: b.replaced,
            dropped: b.dropped.clone(),
            dropped_ever: REASONS.into_iter().zip(ever).filter(|(_, n)| *n > 0).collect(),
            dead_ever,
            by_rank,
            unsynced: self.unsynced.len() as u64,
            oldest: oldest.map(|at| duration(self.now.saturating_sub(at))),
            written: b.written,
            segments: self.chains.values().map(|c| c.segs.len() as u64).sum(),
            per_minute: (fill_rate * 60.0).ceil() as u64,
            lasts,
            next_seq: self.next_seq,
            disk: self.disk_state(),
        }
    }

    /// How the queue is, in words.
    pub fn health(&self) -> Health {
        Health { disk: self.disk_state(), words: self.books.words.clone(), bad_bytes: self.books.bad_bytes }
    }

    /// How the disk is.
    pub fn disk_state(&self) -> DiskState {
        if let Some(d) = self.disk.as_ref().filter(|d| d.hangs(self.now)) {
            let seconds = (self.now - d.busy_since) / 1_000_000;
            let text = format!("the disk has not answered for {seconds} s");
            return DiskState::Failing { since: duration(d.busy_since), text };
        }
        match self.disk.as_ref().map(|d| &d.trouble) {
            None => DiskState::Memory,
            Some(None) => DiskState::Durable,
            Some(Some(t)) => DiskState::Failing { since: duration(t.since), text: t.text.clone() },
        }
    }
}
