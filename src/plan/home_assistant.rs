//! What Home Assistant is told, and whether it can make anything of it.

use crate::config::scalar::OnOff;
use crate::model::Problem;
use crate::wire::Topics;
use crate::wire::home_assistant::{Settings, doubt};
use crate::wire::topics::check_topic;

use super::points::Points;
use super::{DevicePlan, Resolver};

impl Resolver<'_> {
    pub(super) fn home_assistant(
        &mut self,
        devices: &[DevicePlan],
        all: &Points,
        topics: &mut Topics,
    ) -> Option<Settings> {
        let keys = self.raw.homeassistant.as_ref()?;
        if !keys.enabled.unwrap_or(OnOff(true)).0 {
            return None;
        }
        let prefix = keys.discovery_prefix.clone().unwrap_or_else(|| "homeassistant".into());
        let status_topic = keys.status_topic.clone().unwrap_or_else(|| format!("{prefix}/status"));
        for (key, topic) in [("discovery_prefix", &keys.discovery_prefix), ("status_topic", &keys.status_topic)] {
            if let Some(Err(text)) = topic.as_deref().map(check_topic) {
                self.error(&["homeassistant", key], text, "write the word that Home Assistant's MQTT settings show");
            }
        }
        if topics.route(&status_topic).is_some() {
            let text = format!("the gateway listens for commands on `{status_topic}`");
            self.error(&["homeassistant", "status_topic"], text, "write homeassistant/status");
        }
        topics.listen_home_assistant(&status_topic);
        for device in devices {
            for (i, id) in device.spec.points.iter().enumerate() {
                let at = id.0 as usize;
                let (Some(point), Some(hint), Some(draft)) = (all.specs.get(at), all.hints.get(at), all.drafts.get(at))
                else {
                    continue;
                };
                let Some((key, text)) = doubt(&device.spec, point, hint, i) else { continue };
                let path: Vec<&str> = draft.path.iter().map(String::as_str).collect();
                let place = match self.places.value(&[&path[..], &[key]].concat()) {
                    Some(place) => Some(place),
                    None => self.places.key(&path),
                };
                let help = "Home Assistant is told of the point without it";
                let help = if key == "payload" { "it is not told of the point; write payload: plain" } else { help };
                self.problems.push(Problem::warning(place, text).help(help));
            }
        }
        Some(Settings { prefix, status_topic, hints: all.hints.clone() })
    }
}
