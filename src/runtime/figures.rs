//! The queue in words and figures: for `bridge/health`, `bridge/response/queue` and `pinpost queue`.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value as Json, json};
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::model::{Mono, Now, Priority, Stamp, Wall};
use crate::queue::{DiskState, Kept, Shared, Stats};
use crate::wire::record::{ReadingRecord, Sending};
use crate::wire::{Record, payload};

/// Bytes of records in one page.
const PAGE: usize = 256 << 10;

/// The queue's figures.
pub fn figures(stats: &Stats, words: &[String]) -> Map<String, Json> {
    let (disk, trouble) = match &stats.disk {
        DiskState::Memory => ("memory", None),
        DiskState::Durable => ("durable", None),
        DiskState::Failing { text, .. } => ("failing", Some(text)),
    };
    let priority: Map<String, Json> =
        stats.by_rank.iter().map(|(rank, n)| (Priority::word(*rank).to_owned(), json!(n))).collect();
    let figures = json!({
        "waiting": stats.waiting, "bytes": stats.bytes, "max_bytes": stats.max_bytes,
        "oldest_s": stats.oldest.map(|d| d.as_secs()), "priority": priority,
        "dropped": stats.dropped, "dropped_total": stats.dropped_total(), "dead": stats.dead,
        "lasts_s": stats.lasts.map(|d| d.as_secs()),
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
    pub clock: Arc<Clock>,
    /// Names this run's clock.
    pub run: u64,
    /// Wakes the hub, for the gaps that a purge leaves.
    pub hub: Arc<Notify>,
}

impl Desk {
    pub(super) fn figures(&self) -> Map<String, Json> {
        let (stats, words) = {
            let queue = self.queue.lock();
            (queue.stats(), queue.health().words)
        };
        figures(&stats, &words)
    }

    /// A page of the records that only memory has, those behind the token `after`.
    pub(super) fn page(&self, after: Option<u64>) -> Json {
        let now = self.clock.now();
        let (mut page, mut bytes, mut next) = (Vec::new(), 0, None);
        {
            let queue = self.queue.lock();
            for kept in queue.in_memory().filter(|k| after.is_none_or(|t| k.token > t)) {
                if bytes > PAGE {
                    next = page.last().map(|k: &Kept| k.token);
                    break;
                }
                bytes += kept.body.len() + 64;
                page.push(kept);
            }
        }
        let ours = |k: &Kept| (k.stamp.boot == self.run).then_some(now);
        let records: Vec<Json> =
            page.iter().map(|k| json!({ "token": k.token, "record": describe(k, ours(k)) })).collect();
        json!({ "records": records, "next": next })
    }

    /// Drops what waits; gives how many records.
    pub(super) async fn purge(&self) -> u64 {
        let count = {
            let mut queue = self.queue.lock();
            let before = queue.stats().waiting;
            queue.purge(crate::queue::Which::default(), self.clock.now().mono.0);
            before
        };
        self.hub.notify_one();
        count
    }
}
