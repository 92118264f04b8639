//! Points: what a device and `defaults` leave open is filled in; topics are given and kept apart.

use crate::config::raw::{Deliver as RawDeliver, Payload, Priority as RawPriority};
use crate::device::PointDraft;
use crate::engine::filters::Chain;
use crate::model::{Deliver, DeviceId, PayloadFormat, Place, PointId, PointSpec, Priority, Problem, Qos};
use crate::wire::Topics;
use crate::wire::topics::check_topic;

use super::Resolver;

/// All points so far.
#[derive(Default)]
pub(super) struct Points {
    pub specs: Vec<PointSpec>,
    pub filters: Vec<Vec<String>>,
    pub chains: Vec<Chain>,
    /// Who publishes where: topic, owner, place.
    taken: Vec<(String, String, Option<Place>)>,
}

impl Points {
    /// Each topic with the place to blame for it.
    pub fn places(&self) -> impl Iterator<Item = (&str, Option<Place>)> {
        self.taken.iter().map(|(topic, _, place)| (topic.as_str(), *place))
    }
}

impl Resolver<'_> {
    pub(super) fn point(
        &mut self,
        device: DeviceId,
        device_name: &str,
        draft: &PointDraft,
        only: bool,
        topics: &Topics,
        all: &mut Points,
    ) {
        let below: Vec<&str> =
            ["devices", device_name].into_iter().chain(draft.path.iter().map(String::as_str)).collect();
        let at = |key: &'static str| below.iter().copied().chain([key]).collect::<Vec<_>>();
        let (keys, defaults) = (&draft.keys, &self.raw.defaults);
        let qos = keys.qos.or(defaults.qos).and_then(Qos::from_number).unwrap_or_default();
        let retain = keys.retain.or(defaults.retain).unwrap_or_default().0;
        let deliver = match keys.deliver.or(defaults.deliver).unwrap_or(RawDeliver::All) {
            RawDeliver::All => Deliver::All,
            RawDeliver::Latest => Deliver::Latest,
            RawDeliver::None => Deliver::None,
        };
        let priority = match keys.priority.unwrap_or(RawPriority::Normal) {
            RawPriority::Alarm => Priority::Alarm,
            RawPriority::Normal => Priority::Normal,
            RawPriority::Bulk => Priority::Bulk,
        };
        let payload = match keys.payload.or(defaults.payload).unwrap_or(Payload::Plain) {
            Payload::Plain => PayloadFormat::Plain,
            Payload::Json => PayloadFormat::Json,
        };
        let expiry = keys.expiry.or(defaults.expiry).map(|s| s.0);
        let on = keys.payload_on.clone().unwrap_or_else(|| "ON".into());
        let off = keys.payload_off.clone().unwrap_or_else(|| "OFF".into());
        if on == off {
            self.error(&at("payload_on"), format!("ON and OFF are both written `{on}`"), "give them different words");
        }
        let own = topics.point(device_name, &draft.name, only);
        let topic = match &keys.topic {
            None => own,
            Some(topic) => match check_topic(topic) {
                Ok(()) => topic.clone(),
                Err(text) => {
                    self.error(&at("topic"), text, "write a topic such as house/garden/temperature");
                    own
                }
            },
        };
        let path = if keys.topic.is_some() { at("topic") } else { below.clone() };
        let place = self.places.key(&path);
        let name = if only { device_name.to_owned() } else { format!("{device_name}/{}", draft.name) };
        if let Some((_, owner, first)) = all.taken.iter().find(|(t, ..)| *t == topic) {
            self.problems.push(
                Problem::error(place, format!("`{owner}` publishes on `{topic}` already"))
                    .related(*first, format!("`{owner}` is here"))
                    .help("give one of the two another topic"),
            );
        }
        if topics.bridge("").trim_end_matches('/') == topic || topic.starts_with(&topics.bridge("")) {
            self.error(&path, format!("`{topic}` belongs to the gateway itself"), "choose another topic");
        }
        all.taken.push((topic.clone(), name, place));
        let chain = match Chain::build(&keys.filters) {
            Ok(chain) => chain,
            Err(errors) => {
                for (i, text) in errors {
                    let index = i.to_string();
                    let path: Vec<&str> = at("filters").into_iter().chain([index.as_str()]).collect();
                    self.problems.push(Problem::error(self.places.value(&path), text));
                }
                Chain::default()
            }
        };
        all.specs.push(PointSpec {
            id: PointId(all.specs.len() as u32),
            device,
            name: draft.name.clone(),
            topic,
            qos,
            retain,
            deliver,
            priority,
            expiry,
            payload,
            payload_on: on,
            payload_off: off,
            unit: keys.unit.clone(),
            device_class: keys.device_class.clone(),
            stateful: draft.stateful,
        });
        all.filters.push(keys.filters.iter().filter_map(|f| f.word().map(|(name, _)| name.to_owned())).collect());
        all.chains.push(chain);
    }
}
