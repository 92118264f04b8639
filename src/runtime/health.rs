//! `bridge/health`: figures of the queue, the link and every device.

use serde_json::{Map, Value as Json, json};

use crate::model::{DeviceCounters, Mono, Now};
use crate::queue::Stats;
use crate::wire::payload::time_text;

/// How the link is, as the hub has seen it.
#[derive(Debug, Default)]
pub(super) struct LinkStatus {
    url: Option<String>,
    since: Mono,
    connects: u64,
    last_error: Option<String>,
}

impl LinkStatus {
    pub(super) fn up(&mut self, url: String, now: Mono) {
        self.url = Some(url);
        self.since = now;
        self.connects += 1;
    }
    pub(super) fn down(&mut self, reason: String, now: Mono) {
        if self.url.take().is_some() {
            self.since = now;
        }
        self.last_error = Some(reason);
    }
    /// Whether a failed attempt says something that the log has not just said.
    pub(super) fn is_news(&self, reason: &str, was_up: bool) -> bool {
        was_up || self.last_error.as_deref() != Some(reason)
    }
}

pub(super) fn collect<'a>(
    now: &Now,
    stats: &Stats,
    words: &[String],
    link: &LinkStatus,
    devices: impl Iterator<Item = (&'a str, DeviceCounters)>,
) -> Map<String, Json> {
    let queue = super::figures::figures(stats, words);
    let devices: Map<String, Json> = devices
        .map(|(name, c)| {
            let mut counts = json!({
                "frames": c.frames, "bad_frames": c.bad_frames, "dropped_bytes": c.dropped_bytes,
                "readings": c.readings, "errors": c.errors, "missed": c.missed, "late": c.late,
            });
            // only where pins are read
            let pins = [
                ("edges", c.edges),
                ("lost_edges", c.lost_edges),
                ("illegal_moves", c.illegal_moves),
                ("storms", c.storms),
            ];
            if let Some(map) = counts.as_object_mut() {
                map.extend(pins.into_iter().filter(|(_, n)| *n > 0).map(|(name, n)| (name.to_owned(), json!(n))));
                map.extend(c.flooding.then(|| ("flooding".to_owned(), json!(true))));
            }
            (name.to_owned(), counts)
        })
        .collect();
    let map = json!({
        "time": time_text(now.wall),
        "clock": if now.synced { "synced" } else { "unsynced" },
        "uptime_s": now.mono.0.as_secs(),
        "queue": queue,
        "link": {
            "connected": link.url.is_some(), "url": link.url, "connects": link.connects,
            "since_s": now.mono.since(link.since).as_secs(), "last_error": link.last_error,
        },
        "devices": devices,
    });
    match map {
        Json::Object(map) => map,
        _ => Map::new(),
    }
}
