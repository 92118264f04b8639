//! What Home Assistant is told, when, and what is taken back: announcements of earlier runs are remembered, so that a
//! device or entity that was renamed or removed does not stay there as a ghost.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::model::{Deliver, DeviceSpec, Incoming, Mono, Now, PointSpec};
use crate::wire::Topics;
use crate::wire::home_assistant::{Announcement, Gateway, Settings, announcements};

use super::bridge::{Info, own};
use super::{Effect, Engine};

/// Keys in the memory begin so; the topic follows.
const KEY: &str = "discovery/";

/// So many entities of a device are taken back again and again, for a Home Assistant that was away.
const GONE: usize = 64;

/// How long Home Assistant may take to subscribe to what is new to it; a state told earlier it does not hear, and would
/// show "unknown" until the next change.
const SETTLE: Duration = Duration::from_secs(5);

/// What is announced.
#[derive(Default)]
pub(super) struct Discovery {
    list: Vec<Known>,
    /// Topics of earlier runs that are no more.
    gone: Vec<String>,
    /// When the states are told again for the sake of what was new.
    states_at: Option<Mono>,
}

struct Known {
    announcement: Announcement,
    /// Entities of earlier runs that are no more, with their platforms.
    gone: BTreeMap<String, String>,
    remembered: bool,
}

impl Discovery {
    pub(super) fn new(
        settings: Option<&Settings>,
        info: &Info,
        topics: &Topics,
        (devices, points): (&[DeviceSpec], &[PointSpec]),
        memory: &BTreeMap<String, Json>,
    ) -> Discovery {
        let gateway = Gateway {
            id: &info.id,
            name: info.name.as_deref(),
            area: info.area.as_deref(),
            board: &info.board,
            version: &info.version,
        };
        let all = settings.map(|s| announcements(&gateway, s, topics, devices, points)).unwrap_or_default();
        let topics: Vec<_> = all.iter().map(|a| format!("{KEY}{}", a.topic)).collect();
        let old = memory.keys().filter(|key| key.starts_with(KEY) && !topics.contains(key));
        let gone = old.filter_map(|key| Some(key.strip_prefix(KEY)?.to_owned())).collect();
        let known = |announcement: Announcement| {
            let kept = memory.get(&format!("{KEY}{}", announcement.topic));
            let now = announcement.components();
            let of = |word: &str| {
                let map = kept.and_then(|k| k.get(word)).and_then(Json::as_object);
                map.into_iter().flatten().filter_map(|(id, p)| Some((id.clone(), p.as_str()?.to_owned())))
            };
            // the latest first: where there are too many, the older ones are let go
            let gone = of("components").chain(of("gone")).filter(|(id, _)| !now.contains_key(id)).take(GONE).collect();
            let remembered = kept == Some(&memory_of(&announcement, &gone));
            Known { announcement, gone, remembered }
        };
        Discovery { list: all.into_iter().map(known).collect(), gone, states_at: None }
    }

    /// When [`Discovery::due`] has something.
    pub(super) fn next_wake(&self) -> Option<Mono> {
        self.states_at
    }

    /// Whether the states are to be told again now.
    pub(super) fn due(&mut self, now: Mono) -> bool {
        self.states_at.take_if(|at| *at <= now).is_some()
    }

    /// Tells everything.
    pub(super) fn announce(&mut self, now: Mono, fx: &mut Vec<Effect>) {
        if self.states_at.is_some() || self.list.iter().any(|known| !known.remembered) {
            self.states_at = Some(now.after(SETTLE));
        }
        for topic in self.gone.drain(..) {
            let key = format!("{KEY}{topic}");
            fx.push(own(topic, Vec::new(), true, Deliver::Latest, "application/json"));
            fx.push(Effect::Remember { key, value: None, urgent: true });
        }
        for known in &mut self.list {
            let topic = known.announcement.topic.clone();
            if !std::mem::replace(&mut known.remembered, true) {
                let value = Some(memory_of(&known.announcement, &known.gone));
                fx.push(Effect::Remember { key: format!("{KEY}{topic}"), value, urgent: true });
            }
            let payload = known.announcement.payload(&known.gone);
            fx.push(own(topic, payload, true, Deliver::Latest, "application/json"));
        }
    }
}

fn memory_of(announcement: &Announcement, gone: &BTreeMap<String, String>) -> Json {
    json!({ "components": announcement.components(), "gone": gone })
}

impl Engine {
    /// Everything that others must know, whatever the broker may remember of it.
    pub(super) fn introduce(&mut self, now: &Now, fx: &mut Vec<Effect>) {
        self.bridge.announce(&self.topics, &self.devices, now, fx);
        self.discovery.announce(now.mono, fx);
    }

    /// Home Assistant says whether it is there. One that has just come is told everything, and every state.
    pub(super) fn home_assistant(&mut self, message: &Incoming, now: &Now, fx: &mut Vec<Effect>) {
        // a retained word is from before we came, and then it has been told
        if message.payload == b"online" && !message.retain {
            self.introduce(now, fx);
            self.repeat_states(now, fx);
        }
        fx.push(Effect::Ack(message.ack));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Outgoing;
    use crate::model::{DeviceId, Message, PointId};
    use crate::wire::Record;
    use crate::wire::home_assistant::Hint;

    /// A run in which there are these devices with a point each; gives what it publishes.
    fn run(memory: &mut BTreeMap<String, Json>, told: bool, devices: &[(&str, &'static str)]) -> Vec<(String, Json)> {
        let list: Vec<DeviceSpec> = (0..)
            .zip(devices)
            .map(|(i, (name, _))| DeviceSpec {
                id: DeviceId(i),
                name: (*name).to_owned(),
                kind: if *name == "pi" { "system" } else { "serial" },
                points: vec![PointId(i)],
                verbs: vec![],
                own: vec![],
                output: None,
            })
            .collect();
        let points: Vec<PointSpec> = list.iter().map(|d| point(d.id.0, &d.name)).collect();
        let hints = devices.iter().map(|(_, values)| Hint { values, ..Hint::default() }).collect();
        let settings = Settings { prefix: "ha".into(), status_topic: "ha/status".into(), hints };
        let info = Info { id: "shed".into(), ..Info::default() };
        let settings = told.then_some(settings);
        let topics = Topics::new("shed");
        let mut discovery = Discovery::new(settings.as_ref(), &info, &topics, (&list, &points), memory);
        let mut fx = Vec::new();
        discovery.announce(Mono::default(), &mut fx);
        let mut sent = Vec::new();
        for effect in fx {
            match effect {
                Effect::Remember { key, value: Some(value), .. } => drop(memory.insert(key, value)),
                Effect::Remember { key, value: None, .. } => drop(memory.remove(&key)),
                Effect::Send(Outgoing { record: Record::Message(message), retain: true, .. }) => {
                    let Message { topic, payload, .. } = *message;
                    sent.push((topic, serde_json::from_slice(&payload).unwrap_or(Json::Null)));
                }
                other => panic!("{other:?}"),
            }
        }
        sent
    }

    fn point(id: u32, name: &str) -> PointSpec {
        PointSpec {
            id: PointId(id),
            device: DeviceId(id),
            name: "p".into(),
            topic: format!("shed/{name}"),
            qos: Default::default(),
            retain: false,
            deliver: Deliver::All,
            priority: Default::default(),
            expiry: None,
            payload: Default::default(),
            own_payload: false,
            batch: None,
            payload_on: "ON".into(),
            payload_off: "OFF".into(),
            unit: None,
            device_class: None,
            stateful: false,
        }
    }

    #[test]
    fn what_is_no_more_is_taken_back_by_the_next_run() {
        let mut memory = BTreeMap::from([("output/x".to_owned(), json!(1))]);
        run(&mut memory, true, &[("door", "ON or OFF"), ("pump", "text"), ("pi", "a number")]);
        assert_eq!(memory.len(), 4);
        // the pump is called otherwise, the door's platform is another, the machine is not asked any more
        let sent = run(&mut memory, true, &[("door", "a number"), ("well", "text")]);
        let find = |sent: &[(String, Json)], topic: &str| sent.iter().find(|(t, _)| t == topic).unwrap().1.clone();
        assert_eq!(find(&sent, "ha/device/shed/pump/config"), Json::Null);
        let door = find(&sent, "ha/device/shed/door/config");
        assert_eq!(door["components"]["binary_sensor_door"], json!({ "platform": "binary_sensor" }));
        assert_eq!(door["components"]["sensor_door"]["state_topic"], "shed/door");
        let gateway = find(&sent, "ha/device/shed/config");
        assert_eq!(gateway["components"]["sensor_pi"], json!({ "platform": "sensor" }));
        // a Home Assistant that was away then hears of it still
        let sent = run(&mut memory, true, &[("door", "a number"), ("well", "text")]);
        assert!(sent.iter().all(|(topic, _)| topic != "ha/device/shed/pump/config"), "once is enough: it is retained");
        assert_eq!(find(&sent, "ha/device/shed/door/config"), door);
        // what comes back is no longer gone
        let sent = run(&mut memory, true, &[("door", "ON or OFF"), ("well", "text")]);
        let door = find(&sent, "ha/device/shed/door/config");
        assert_eq!(door["components"]["sensor_door"], json!({ "platform": "sensor" }));
        assert_eq!(door["components"]["binary_sensor_door"]["state_topic"], "shed/door");
        let sent = run(&mut memory, false, &[]);
        assert_eq!(sent.len(), 3);
        assert!(sent.iter().all(|(_, payload)| *payload == Json::Null));
        assert_eq!(memory.len(), 1);
    }
}
