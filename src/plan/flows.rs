//! Relays, resolved: templates compiled, targets found, loops told.

use crate::config::flows::{Relay as RawRelay, RelayFrom, RelayTo};
use crate::config::raw::Protocol;
use crate::engine::relays::{From, Plan, Relay, To};
use crate::expr::Template;
use crate::model::{PointId, Qos};
use crate::wire::Topics;
use crate::wire::topics::{Route, check_filter, check_topic, matches, overlap};

use super::points::Points;
use super::rules::House;
use super::{DevicePlan, Resolver};

impl Resolver<'_> {
    pub(super) fn relays(&mut self, devices: &[DevicePlan], all: &Points, topics: &mut Topics) -> Plan {
        let scope = self.scope(devices, all).with_value().with_word("payload").with_word("topic");
        let house = House { devices, all, scope: &scope };
        let raw = self.raw;
        let relays: Vec<Relay> =
            raw.relays.iter().filter_map(|(name, relay)| self.relay(name, relay, &house)).collect();
        self.loops(&relays, &house, topics);
        for relay in &relays {
            if let From::Topic(filter) = &relay.from {
                topics.listen_to(filter, relay.qos.max(Qos::AtLeastOnce));
            }
        }
        let properties = raw.mqtt.protocol.unwrap_or_default() == Protocol::V5;
        Plan { relays, properties }
    }

    fn relay(&mut self, name: &str, raw: &RawRelay, house: &House) -> Option<Relay> {
        let at = |key: &'static str| ["relays", name, key];
        let from = match &raw.from {
            RelayFrom::Topic(filter) => match check_filter(filter) {
                Ok(()) => Some(From::Topic(filter.clone())),
                Err(text) => {
                    self.error(&at("from"), text, "write a topic such as house/+/alarm or house/#");
                    None
                }
            },
            RelayFrom::Point(from) => {
                let path = ["relays", name, "from", "point"];
                self.point_of(&path, &from.point, house).map(|(id, topic)| From::Point(id, topic))
            }
        };
        let to = match &raw.to {
            RelayTo::Topic(topic) => self.topic_template(&at("to"), topic, house).map(To::Topic),
            RelayTo::Set(to) => {
                let path = ["relays", name, "to", "set"];
                for (key, written) in [("qos", raw.qos.is_some()), ("retain", raw.retain.is_some())] {
                    if written {
                        self.error(&at(key), format!("`{key}` does not go with `set`"), "leave it out");
                    }
                }
                self.target(&path, "set", &to.set, house).map(|(device, point, _)| To::Set(device, point))
            }
        };
        let payload = raw.payload.as_ref().map(|text| self.template(&at("payload"), &text.0, house.scope));
        let when = raw.when.as_ref().map(|text| self.expression(&at("when"), text, house.scope));
        Some(Relay {
            name: name.to_owned(),
            from: from?,
            to: to?,
            payload: payload.map_or(Some(None), |p| p.map(Some))?,
            when: when.map_or(Some(None), |w| w.map(Some))?,
            qos: raw.qos.and_then(Qos::from_number).unwrap_or_default(),
            retain: raw.retain.is_some_and(|r| r.0),
        })
    }

    /// A template that gives a topic to publish on.
    pub(super) fn topic_template(&mut self, path: &[&str], text: &str, house: &House) -> Option<Template> {
        let template = self.template(path, text, house.scope)?;
        if template.is_plain()
            && let Err(wrong) = check_topic(text)
        {
            self.error(path, wrong, "write a topic such as house/garden/alarm");
            return None;
        }
        Some(template)
    }

    /// Finds `door` or `weather.temperature`, and its topic.
    fn point_of(&mut self, path: &[&str], text: &str, house: &House) -> Option<(PointId, String)> {
        let found = self.expression(path, text, house.scope)?;
        let spec = match found.points() {
            [id] => house.all.specs.get(id.0 as usize),
            _ => None,
        };
        if spec.is_none() {
            self.error(path, format!("`{text}` is not the name of a point"), "write { point: weather.temperature }");
        }
        spec.map(|p| (p.id, p.topic.clone()))
    }

    /// Relays that feed themselves, or each other in a ring.
    fn loops(&mut self, relays: &[Relay], house: &House, topics: &Topics) {
        let feeds = |a: &Relay, b: &Relay| feeds(a, b, house, topics);
        let mut told = vec![false; relays.len()];
        for start in 0..relays.len() {
            if told.get(start).copied().unwrap_or(true) {
                continue;
            }
            // the shortest way from a relay back to itself
            let mut came: Vec<Option<usize>> = vec![None; relays.len()];
            let mut open = std::collections::VecDeque::from([start]);
            let mut end = None;
            while let Some(at) = open.pop_front() {
                let Some(from) = relays.get(at) else { break };
                if relays.get(start).is_some_and(|first| feeds(from, first)) {
                    end = Some(at);
                    break;
                }
                for (next, to) in relays.iter().enumerate() {
                    if next != start && came.get(next).is_some_and(Option::is_none) && feeds(from, to) {
                        came.iter_mut().skip(next).take(1).for_each(|c| *c = Some(at));
                        open.push_back(next);
                    }
                }
            }
            let Some(end) = end else { continue };
            let mut way = vec![end];
            while let Some(Some(before)) = way.last().and_then(|at| came.get(*at)) {
                way.push(*before);
            }
            way.reverse();
            way.iter().for_each(|at| told.iter_mut().skip(*at).take(1).for_each(|t| *t = true));
            let names: Vec<&str> = way.iter().filter_map(|at| relays.get(*at)).map(|r| r.name.as_str()).collect();
            let first = names.first().copied().unwrap_or_default();
            let text = match names.as_slice() {
                [_] => format!("relay `{first}` feeds itself: what it sends comes in by its own `from`"),
                several => format!("relays feed each other in a ring: {} to {first}", several.join(" to ")),
            };
            self.error(&["relays", first, "to"], text, "send to a topic that none of them takes from");
        }
    }
}

/// Whether what one relay sends comes in at another. A template is fixed up to its first `{{`, and may be anything
/// behind; that may be a loop, so only what is sure is told.
fn feeds(a: &Relay, b: &Relay, house: &House, topics: &Topics) -> bool {
    let moved = match &a.to {
        To::Topic(template) if template.is_plain() => {
            if let From::Topic(filter) = &b.from
                && matches(filter, template.text())
            {
                return true;
            }
            match topics.route(template.text()) {
                Some(Route::Device { device, verb, .. }) if verb == "set" => Some(*device),
                _ => None,
            }
        }
        To::Topic(_) => None,
        To::Set(device, _) => Some(*device),
    };
    // an output's state answers its command
    let Some(device) = moved.and_then(|id| house.devices.get(id.0 as usize)) else { return false };
    device.spec.points.iter().filter_map(|id| house.all.specs.get(id.0 as usize)).any(|point| match &b.from {
        From::Topic(filter) => overlap(filter, &point.topic),
        From::Point(id, _) => *id == point.id,
    })
}
