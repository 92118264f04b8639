//! Points: what a device and `defaults` leave open is filled in; topics are given and kept apart.

use std::time::Duration;

use crate::config::logic::Alarm as RawAlarm;
use crate::config::raw::{Deliver as RawDeliver, Params, Payload, Priority as RawPriority};
use crate::config::scalar::Span;
use crate::device::PointDraft;
use crate::engine::filters::{BuildError, Chain};
use crate::expr::Scope;
use crate::model::{Batch, Deliver, DeviceId, PayloadFormat, Place, PointId, PointSpec, Priority, Problem, Qos};
use crate::wire::Topics;
use crate::wire::home_assistant::Hint;
use crate::wire::topics::check_topic;

use super::Resolver;

/// How long the first reading of a batch waits, where the file does not say; and what it may say.
const BATCH_EVERY: Duration = Duration::from_secs(10);
const BATCH_LEAST: Duration = Duration::from_millis(100);
const BATCH_MOST: Duration = Duration::from_secs(3600);
/// With how many readings a batch goes, where the file does not say.
const BATCH_MAX: u16 = 100;

/// All points so far.
#[derive(Default)]
pub(super) struct Points {
    pub specs: Vec<PointSpec>,
    pub filters: Vec<Vec<String>>,
    pub chains: Vec<Chain>,
    /// Where the keys of each stand, and what of them waits for the names of all points.
    pub drafts: Vec<Draft>,
    pub values: Vec<&'static str>,
    pub hints: Vec<Hint>,
    /// Who publishes where: topic, owner, place.
    taken: Vec<(String, String, Option<Place>)>,
}

/// What of a point waits for the names of all points.
pub(super) struct Draft {
    /// The path of its keys.
    pub path: Vec<String>,
    pub filters: Vec<Params>,
    pub alarm: Option<RawAlarm>,
    pub payload: Option<Template>,
}

/// A payload of the user's own that is still a text.
pub(super) struct Template {
    pub text: String,
    /// At the point itself, not at `defaults`.
    pub written: bool,
}

impl Points {
    /// Each topic with the place to blame for it.
    pub fn places(&self) -> impl Iterator<Item = (&str, Option<Place>)> {
        self.taken.iter().map(|(topic, _, place)| (topic.as_str(), *place))
    }
}

/// The engine's word for it.
pub(super) fn priority(raw: RawPriority) -> Priority {
    match raw {
        RawPriority::Alarm => Priority::Alarm,
        RawPriority::Normal => Priority::Normal,
        RawPriority::Bulk => Priority::Bulk,
    }
}

impl Resolver<'_> {
    pub(super) fn point(
        &mut self,
        (section, device, device_name): (&'static str, DeviceId, &str),
        draft: &PointDraft,
        only: bool,
        topics: &Topics,
        all: &mut Points,
    ) {
        let below: Vec<&str> =
            [section, device_name].into_iter().chain(draft.path.iter().map(String::as_str)).collect();
        let at = |key: &'static str| below.iter().copied().chain([key]).collect::<Vec<_>>();
        let (keys, defaults) = (&draft.keys, &self.raw.defaults);
        let qos = keys.qos.or(defaults.qos).and_then(Qos::from_number).unwrap_or_default();
        let retain = keys.retain.or(defaults.retain).unwrap_or_default().0;
        let deliver = match keys.deliver.or(defaults.deliver).unwrap_or(RawDeliver::All) {
            RawDeliver::All => Deliver::All,
            RawDeliver::Latest => Deliver::Latest,
            RawDeliver::None => Deliver::None,
        };
        let priority = keys.priority.map_or(Priority::Normal, priority);
        let written = keys.payload.is_some();
        let (payload, template) = match keys.payload.as_ref().or(defaults.payload.as_ref()) {
            None | Some(Payload::Plain) => (PayloadFormat::Plain, None),
            Some(Payload::Json) => (PayloadFormat::Json, None),
            Some(Payload::Cbor) => (PayloadFormat::Cbor, None),
            // a picture is no text: a template for all others leaves it as it is
            Some(Payload::Template(_)) if draft.values == "bytes" && !written => (PayloadFormat::Plain, None),
            Some(Payload::Template(text)) => (PayloadFormat::Plain, Some(text.clone())),
        };
        if template.is_some() && draft.values == "bytes" {
            self.error(&at("payload"), "a template cannot write raw bytes", "write payload: plain");
        }
        let expiry = keys.expiry.or(defaults.expiry).map(|s| s.0);
        let batch = self.raw.devices.get(device_name).filter(|_| section == "devices").and_then(|d| d.batch);
        let (payload, template) = match batch {
            // in a batch a reading needs its map; what others are written as does not matter
            Some(_) if !written && payload != PayloadFormat::Cbor => (PayloadFormat::Json, None),
            Some(_) if payload == PayloadFormat::Plain => {
                let text = "what goes in a batch is written in `json` or `cbor`";
                self.error(&at("payload"), text, "write payload: json, or remove the key");
                (PayloadFormat::Json, None)
            }
            _ => (payload, template),
        };
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
        let batch = batch.map(|batch| {
            let topic = if keys.topic.is_some() { topic.clone() } else { topics.device(device_name) };
            let every = batch.every.map_or(BATCH_EVERY, |s| s.0).clamp(BATCH_LEAST, BATCH_MOST);
            if expiry.is_some_and(|expiry| expiry <= every) {
                let text = format!("a reading is worth nothing after its `expiry`, and a batch waits {}", Span(every));
                let path = if keys.expiry.is_some() { at("expiry") } else { vec!["devices", device_name, "batch"] };
                self.error(&path, text, "write an `expiry` that is longer than `every`");
            }
            Batch { topic, every, max: batch.max.unwrap_or(BATCH_MAX) }
        });
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
            own_payload: template.is_some(),
            batch,
            payload_on: on,
            payload_off: off,
            unit: keys.unit.clone(),
            device_class: keys.device_class.clone(),
            stateful: draft.stateful,
        });
        let shown =
            keys.filters.iter().filter_map(|f| f.word().map(|(name, value)| format!("{name} {}", value.shown())));
        all.filters.push(shown.collect());
        all.values.push(draft.values);
        let (state_class, icon) = (keys.state_class.clone(), keys.icon.clone());
        all.hints.push(Hint { values: draft.values, state_class, icon });
        let path = below.iter().map(|s| (*s).to_owned()).collect();
        let payload = template.map(|text| Template { text, written });
        all.drafts.push(Draft { path, filters: keys.filters.clone(), alarm: keys.alarm.clone(), payload });
    }

    /// What a batch says of itself, and that no point publishes where it goes.
    pub(super) fn batch(&mut self, device: &str, only: bool, topics: &Topics, all: &mut Points) {
        let Some(batch) = self.raw.devices.get(device).and_then(|d| d.batch) else { return };
        if batch.every.is_some_and(|every| every.0 < BATCH_LEAST || every.0 > BATCH_MOST) {
            let (least, most) = (Span(BATCH_LEAST), Span(BATCH_MOST));
            let text = format!("a batch waits from {least} to {most}");
            self.error(&["devices", device, "batch", "every"], text, "write every: 10s");
        }
        if only {
            return;
        }
        let topic = topics.device(device);
        let place = self.places.key(&["devices", device, "batch"]);
        if let Some((_, owner, first)) = all.taken.iter().find(|(t, ..)| *t == topic) {
            let problem = Problem::error(place, format!("`{owner}` publishes on `{topic}` already"));
            let problem = problem.related(*first, format!("`{owner}` is here"));
            self.problems.push(problem.help("give the point another topic"));
        }
        all.taken.push((topic, device.to_owned(), place));
    }

    /// Builds the filters of all points, now that all names are known.
    pub(super) fn chains(&mut self, all: &mut Points, scope: &Scope) {
        for draft in &all.drafts {
            let below: Vec<&str> = draft.path.iter().map(String::as_str).collect();
            let chain = match Chain::build(&draft.filters, scope) {
                Ok(chain) => chain,
                Err(errors) => {
                    self.wrong_filters(&below, &draft.filters, errors);
                    Chain::default()
                }
            };
            all.chains.push(chain);
        }
    }

    fn wrong_filters(&mut self, below: &[&str], filters: &[Params], errors: Vec<(usize, BuildError)>) {
        // the chain was built of those that were right in form
        let path = [below, &["filters"]].concat();
        let index = |i: &usize| i.to_string();
        let kept: Vec<String> = (0..)
            .take_while(|i| self.places.has(&[&path[..], &[index(i).as_str()]].concat()))
            .filter(|i| !self.places.gone(&[&path[..], &[index(i).as_str()]].concat()))
            .map(|i| index(&i))
            .collect();
        for (i, BuildError { text, help, offset }) in errors {
            let word = filters.get(i).and_then(|f| f.word()).map_or("", |(name, _)| name);
            let index = kept.get(i).map_or("", String::as_str);
            let text = if text.starts_with('`') || offset.is_some() { text } else { format!("`{word}`: {text}") };
            let path = [&path[..], &[index, word]].concat();
            let place = match offset {
                Some(offset) => self.places.inside(&path, offset),
                None => self.places.value(&path),
            };
            let problem = Problem::error(place, text);
            self.problems.push(match help {
                Some(help) => problem.help(help),
                None => problem,
            });
        }
    }
}
