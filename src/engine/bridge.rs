//! What the gateway says of itself: info, availability, events, the levels of simulated outputs, when health is due.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value as Json, json};

use crate::model::{Deliver, DeviceId, DeviceSpec, DeviceStatus, Message, Mono, Now, Priority, Properties, Qos, Value};
use crate::wire::payload::time_text;
use crate::wire::{Record, Topics};

use super::{Effect, Outgoing};

/// Time between two `bridge/health`.
pub const HEALTH: Duration = Duration::from_secs(60);

/// How long a device may take to say whether it works, before it is called offline.
const SILENT: Duration = Duration::from_secs(2);

/// A problem is said at most once in this time, and so many different ones.
const REPEAT: Duration = Duration::from_secs(60);
const PROBLEMS: usize = 16;

/// What `bridge/info` says.
#[derive(Debug, Clone, Default)]
pub struct Info {
    /// The program's version.
    pub version: String,
    /// Short digest of the configuration.
    pub config: String,
    /// The gateway's id.
    pub id: String,
    /// Its name for people.
    pub name: Option<String>,
    /// Where it stands.
    pub area: Option<String>,
    /// The board, for people.
    pub board: String,
}

/// Readings that were lost, both ends included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GapReport {
    /// First number lost.
    pub from: u64,
    /// Last number lost.
    pub to: u64,
    /// How many.
    pub count: u64,
    /// Why.
    pub reason: String,
    /// Whose, where all are of one point.
    pub point: Option<String>,
}

/// What the gateway says of itself.
pub struct Bridge {
    info: Info,
    status: Vec<Option<DeviceStatus>>,
    levels: BTreeMap<u8, f64>,
    health_at: Mono,
    /// When devices that have not spoken yet are called offline, whatever the broker remembers of an earlier run.
    silent_at: Option<Mono>,
    /// What was said to be wrong, and when.
    problems: Vec<(String, Mono)>,
    /// Whether the broker is there: while it is not, what it must know is kept for [`Bridge::announce`].
    up: bool,
}

/// Lanes of the bridge's own messages have this bit; those of points do not.
const LANE: u64 = 1 << 32;

/// The lane of a topic: the same in every run, whatever else the file says, since what waits in the queue may have been
/// put there before the file was changed.
pub(super) fn lane(topic: &str) -> u64 {
    let hash = topic.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    hash & !LANE
}

/// A message of the bridge's own, for the queue.
pub(super) fn own(topic: String, payload: Vec<u8>, retain: bool, deliver: Deliver, content_type: &str) -> Effect {
    let lane = lane(&topic) | LANE;
    let properties = Properties { content_type: Some(content_type.into()), ..Properties::default() };
    let record = Record::Message(Box::new(Message { topic, payload, qos: Qos::AtLeastOnce, retain, properties }));
    Effect::Send(Outgoing {
        reading: false,
        priority: Priority::Control,
        lane,
        deliver,
        expires: None,
        retain,
        taken: None,
        source: "bridge".into(),
        record,
    })
}

impl Bridge {
    /// Nothing is known of any device yet.
    pub fn new(info: Info, devices: usize, now: Mono) -> Bridge {
        let health_at = now.after(HEALTH);
        Bridge {
            info,
            status: vec![None; devices],
            levels: BTreeMap::new(),
            health_at,
            silent_at: None,
            problems: Vec::new(),
            up: false,
        }
    }

    /// Everything a broker must know that has just come (back).
    pub fn announce(&mut self, topics: &Topics, devices: &[DeviceSpec], now: &Now, fx: &mut Vec<Effect>) {
        self.up = true;
        let list: Map<String, Json> =
            devices.iter().map(|d| (d.name.clone(), json!({ "kind": d.kind, "verbs": d.verbs }))).collect();
        let info = json!({
            "version": self.info.version,
            "config": self.info.config,
            "id": self.info.id,
            "name": self.info.name,
            "area": self.info.area,
            "board": self.info.board,
            "devices": list,
        });
        fx.push(own(topics.bridge("info"), info.to_string().into_bytes(), true, Deliver::Latest, "application/json"));
        for (device, status) in devices.iter().zip(&self.status) {
            match status {
                Some(status) => fx.push(availability(topics, device, status)),
                None => self.silent_at = Some(now.mono.after(SILENT)),
            }
        }
        for (pin, high) in &self.levels {
            fx.push(level(topics, *pin, *high));
        }
        self.health_sent(now.mono);
        fx.push(Effect::Health(None));
    }

    /// A device's status, as far as it is news.
    pub fn status(
        &mut self,
        topics: &Topics,
        devices: &[DeviceSpec],
        device: DeviceId,
        status: DeviceStatus,
        now: &Now,
        fx: &mut Vec<Effect>,
    ) {
        let i = device.0 as usize;
        let (Some(spec), Some(slot)) = (devices.get(i), self.status.get_mut(i)) else { return };
        if slot.as_ref() == Some(&status) {
            return;
        }
        let word_changed = slot.as_ref().map(DeviceStatus::word) != Some(status.word());
        if word_changed && self.up {
            fx.push(availability(topics, spec, &status));
        }
        let was_offline = matches!(slot, Some(DeviceStatus::Offline(_) | DeviceStatus::Silent(_)));
        *slot = Some(status.clone());
        match &status {
            DeviceStatus::Offline(why) | DeviceStatus::Silent(why) => {
                let about = json!({ "event": "offline", "device": spec.name, "reason": why });
                self.event(topics, about, now, fx);
            }
            DeviceStatus::Online if was_offline => {
                self.event(topics, json!({ "event": "online", "device": spec.name }), now, fx);
            }
            DeviceStatus::Online => {}
        }
    }

    /// What `bridge/info` says.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// The status of a device, where it is known.
    pub fn status_of(&self, device: DeviceId) -> Option<&DeviceStatus> {
        self.status.get(device.0 as usize)?.as_ref()
    }

    /// The level of a simulated output.
    pub fn sim_level(&mut self, topics: &Topics, pin: u8, high: f64, fx: &mut Vec<Effect>) {
        if self.levels.insert(pin, high) != Some(high) && self.up {
            fx.push(level(topics, pin, high));
        }
    }

    /// Readings were lost.
    pub fn gap(&self, topics: &Topics, gap: &GapReport, now: &Now, fx: &mut Vec<Effect>) {
        let mut about = json!({
            "event": "gap", "from": gap.from, "to": gap.to, "count": gap.count, "reason": gap.reason,
        });
        if let (Some(map), Some(point)) = (about.as_object_mut(), &gap.point) {
            map.insert("point".into(), json!(point));
        }
        self.event(topics, about, now, fx);
    }

    /// Something a person should mend. What was just said is not said again: a broker that refuses the very report
    /// of a refusal must not be asked for ever.
    pub fn problem(&mut self, topics: &Topics, text: &str, now: &Now, fx: &mut Vec<Effect>) {
        self.problems.retain(|(_, said)| now.mono.since(*said) < REPEAT);
        if self.problems.len() == PROBLEMS || self.problems.iter().any(|(t, _)| t == text) {
            return;
        }
        self.problems.push((text.to_owned(), now.mono));
        self.event(topics, json!({ "event": "problem", "text": text }), now, fx);
    }

    /// An output was moved by a limit.
    pub fn limit(&self, topics: &Topics, device: &str, to: Json, reason: &str, now: &Now, fx: &mut Vec<Effect>) {
        let about = json!({ "event": "limit", "device": device, "to": to, "reason": reason });
        self.event(topics, about, now, fx);
    }

    /// Anything, on `bridge/event`.
    pub fn event(&self, topics: &Topics, mut about: Json, now: &Now, fx: &mut Vec<Effect>) {
        if let Some(map) = about.as_object_mut() {
            map.insert("time".into(), json!(time_text(now.wall)));
        }
        let payload = about.to_string().into_bytes();
        fx.push(own(topics.bridge("event"), payload, false, Deliver::All, "application/json"));
    }

    /// The broker is gone.
    pub fn broker_lost(&mut self) {
        self.up = false;
        self.silent_at = None;
    }

    /// When `bridge/health` is due, or something is to be said of silent devices.
    pub fn next_wake(&self) -> Mono {
        self.silent_at.map_or(self.health_at, |t| t.min(self.health_at))
    }

    /// Says what is due by now.
    pub fn due(&mut self, topics: &Topics, devices: &[DeviceSpec], now: &Now, fx: &mut Vec<Effect>) {
        if self.silent_at.is_some_and(|t| t <= now.mono) {
            self.silent_at = None;
            let silent = DeviceStatus::Offline(String::new());
            for (device, _) in devices.iter().zip(&self.status).filter(|(_, status)| status.is_none()) {
                fx.push(availability(topics, device, &silent));
            }
        }
        if self.health_at <= now.mono {
            self.health_sent(now.mono);
            fx.push(Effect::Health(None));
        }
    }

    fn health_sent(&mut self, now: Mono) {
        self.health_at = now.after(HEALTH);
    }
}

fn availability(topics: &Topics, device: &DeviceSpec, status: &DeviceStatus) -> Effect {
    let payload = status.word().as_bytes().to_vec();
    own(topics.availability(&device.name), payload, true, Deliver::Latest, "text/plain")
}

fn level(topics: &Topics, pin: u8, high: f64) -> Effect {
    let payload = Value::Number((high * 1e4).round() / 1e4).to_string();
    own(topics.sim_pin(pin), payload.into_bytes(), true, Deliver::Latest, "text/plain")
}
