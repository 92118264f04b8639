//! The queue in words and figures: for `bridge/health`, `bridge/response/queue` and `pinpost queue`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use serde_json::{Map, Value as Json, json};

use crate::clock::Clock;
use crate::model::{Mono, Now, Priority, Stamp, Wall};
use crate::queue::{DiskState, Inspector, Kept, Overview, Shared, Stats, Which};
use crate::wire::record::{ReadingRecord, Sending};
use crate::wire::{Record, payload};

use super::outbox::QueueOutbox;

/// How long a purge is waited for.
const PURGE: Duration = Duration::from_secs(10);
/// How often it is looked after, where nothing is told.
const STEP: Duration = Duration::from_millis(100);

/// The queue's figures.
pub fn figures(stats: &Stats, words: &[String]) -> Map<String, Json> {
    let (disk, trouble) = match &stats.disk {
        DiskState::Memory => ("memory", None),
        DiskState::Durable => ("durable", None),
        DiskState::Failing { text, .. } => ("failing", Some(text)),
    };
    let priority = priorities(&stats.by_rank);
    let figures = json!({
        "waiting": stats.waiting, "bytes": stats.bytes, "max_bytes": stats.max_bytes,
        "oldest_s": stats.oldest.map(|d| d.as_secs()), "priority": priority,
        "dropped": stats.dropped, "dropped_total": stats.dropped_total(), "dropped_ever": stats.dropped_ever,
        "dead": stats.dead, "dead_ever": stats.dead_ever,
        "per_minute": stats.per_minute, "lasts_s": stats.lasts.map(|d| d.as_secs()),
        "memory_bytes": stats.memory_bytes, "unsynced": stats.unsynced, "accepted": stats.accepted,
        "found": stats.found, "delivered": stats.delivered, "replaced": stats.replaced, "next_seq": stats.next_seq,
        "disk": disk,
    });
    let mut map = match figures {
        Json::Object(map) => map,
        _ => Map::new(),
    };
    map.extend(trouble.map(|text| ("trouble".to_owned(), json!(text))));
    if !words.is_empty() {
        map.insert("notes".into(), json!(words));
    }
    map
}

fn priorities(by_rank: &BTreeMap<u8, u64>) -> Map<String, Json> {
    by_rank.iter().map(|(rank, n)| (Priority::word(*rank).to_owned(), json!(n))).collect()
}

/// The figures of a queue that no daemon runs on, by the same names. `max_bytes`, where that is known.
pub fn figures_at_rest(o: &Overview, max_bytes: Option<u64>, now: Wall) -> Map<String, Json> {
    let rate = o.per_minute.filter(|r| *r > 0);
    let room = max_bytes.map(|m| m.saturating_sub(o.bytes));
    let figures = json!({
        "waiting": o.waiting, "bytes": o.bytes, "max_bytes": max_bytes,
        "oldest_s": o.oldest.map(|s| now.0.saturating_sub(s.wall).max(0) / 1000), "priority": priorities(&o.by_rank),
        "dropped_ever": o.dropped, "dead_ever": o.dead,
        "per_minute": o.per_minute, "lasts_s": room.zip(rate).map(|(room, rate)| room.saturating_mul(60) / rate),
        "next_seq": o.next_seq, "set_aside": o.set_aside, "gaps_to_report": o.gaps.len(),
    });
    match figures {
        Json::Object(map) => map,
        _ => Map::new(),
    }
}

/// A record as `queue export` writes it: whose it is and what would be sent. `now`, where this run of the daemon took
/// it: its time may be put right.
pub fn describe(kept: &Kept, ours: Option<Now>) -> Map<String, Json> {
    let taken = Stamp {
        wall: Wall(kept.stamp.wall),
        mono: Mono(Duration::from_millis(kept.stamp.mono)),
        synced: kept.stamp.synced,
    };
    let now = ours.unwrap_or(Now { wall: taken.wall, mono: taken.mono, synced: taken.synced });
    let (time, synced) = if ours.is_some() { taken.resolve(&now) } else { (taken.wall, taken.synced) };
    let mut map = Map::new();
    map.insert("seq".into(), json!(kept.seq));
    map.insert("time".into(), json!(payload::time_text(time)));
    if !synced {
        map.insert("clock".into(), json!("unsynced"));
    }
    map.insert("priority".into(), json!(Priority::word(kept.rank)));
    map.insert("point".into(), json!(kept.source));
    let record = match Record::decode(&kept.body) {
        Ok(record) => record,
        Err(why) => {
            map.insert("unreadable".into(), json!(why.to_string()));
            return map;
        }
    };
    if let Record::Reading(reading) = &record {
        let ReadingRecord { value, quality, words, .. } = &**reading;
        map.insert("value".into(), payload::to_json(value, &words.0, &words.1));
        map.insert("quality".into(), json!(quality.as_str()));
    }
    let sending = Sending { seq: kept.seq, replayed: true, taken, ours: ours.is_some(), expires_in: None, now };
    let message = record.into_message(&sending);
    map.insert("topic".into(), json!(message.topic));
    map.insert("qos".into(), json!(message.qos as u8));
    map.insert("retain".into(), json!(message.retain));
    map.insert("size".into(), json!(message.payload.len()));
    match String::from_utf8(message.payload) {
        Ok(text) => map.insert("payload".into(), json!(text)),
        Err(e) => map.insert("payload_hex".into(), json!(hex(e.as_bytes()))),
    };
    map
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// What the control socket needs of a daemon.
pub(super) struct Desk {
    pub queue: Shared,
    /// Where the queue lies.
    pub dir: PathBuf,
    pub clock: Arc<Clock>,
    /// Tells when the queue's thread has done something, and wakes the hub for the gaps that a purge leaves.
    pub outbox: Arc<QueueOutbox>,
}

impl Desk {
    pub(super) fn figures(&self) -> Map<String, Json> {
        let (stats, words) = {
            let queue = self.queue.lock();
            (queue.stats(), queue.health().words)
        };
        figures(&stats, &words)
    }

    /// What waits now, one after the other, read while it is asked for: the queue goes on meanwhile.
    pub(super) fn records(&self) -> impl Iterator<Item = Map<String, Json>> + use<> {
        let (epoch, now) = (self.clock.epoch(), self.clock.now());
        let now = Now { mono: Mono(now.mono.0 + Duration::from_millis(epoch.start)), ..now };
        let view = self.queue.lock().view();
        let ours = move |k: &Kept| (k.stamp.boot == epoch.id).then_some(now);
        Inspector::live(&self.dir, view).map(move |kept| describe(&kept, ours(&kept)))
    }

    /// Drops what waits; gives how many records went so far, which are all unless the disk takes too long.
    pub(super) async fn purge(&self, all: &[Which]) -> u64 {
        let purged = |stats: Stats| stats.dropped.get("purged").copied().unwrap_or(0);
        let before = {
            let mut queue = self.queue.lock();
            let before = purged(queue.stats());
            for which in all {
                queue.purge(*which, self.clock.now().mono.0);
            }
            before
        };
        let until = Instant::now() + PURGE;
        loop {
            let done = self.outbox.stirred();
            if !self.queue.lock().purging() || Instant::now() > until {
                break;
            }
            // not everything that the thread does is told
            let _ = tokio::time::timeout(STEP, done).await;
        }
        self.outbox.news();
        purged(self.queue.lock().stats()) - before
    }
}

/// What a purge takes that names no importance: not the gateway's own words, among which are reports of loss.
pub fn purged_ranks(word: Option<&str>) -> Result<Vec<u8>, String> {
    const WORDS: [&str; 4] = ["bulk", "normal", "alarm", "control"];
    match word {
        None => Ok(vec![0, 1, 2]),
        Some(word) => match WORDS.iter().position(|w| *w == word) {
            Some(rank) => Ok(vec![rank as u8]),
            None => Err(format!("`{word}` is no priority; there are {}", WORDS.join(", "))),
        },
    }
}
