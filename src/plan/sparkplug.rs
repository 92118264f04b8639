//! The Sparkplug edge node: its names, what it listens to, and what does not go with it.

use crate::model::Problem;
use crate::wire::sparkplug::{DataType, Settings, check_id};
use crate::wire::{Route, Topics};

use super::points::Points;
use super::{DevicePlan, Resolver};

impl Resolver<'_> {
    pub(super) fn sparkplug(
        &mut self,
        id: &str,
        devices: &[DevicePlan],
        all: &Points,
        topics: &mut Topics,
    ) -> Option<Settings> {
        let keys = self.raw.sparkplug.as_ref()?;
        let mut settings = Settings {
            group: keys.group.clone(),
            node: keys.node.clone().unwrap_or_else(|| id.to_owned()),
            primary_host: keys.primary_host.clone(),
            several: self.raw.mqtt.url.as_ref().is_some_and(|urls| urls.count() > 1),
            guesses: all.values.iter().map(|values| guess(values)).collect(),
        };
        for (key, name) in
            [("group", Some(&keys.group)), ("node", keys.node.as_ref()), ("primary_host", keys.primary_host.as_ref())]
        {
            if let Some(Err(text)) = name.map(|name| check_id(name)) {
                let text = format!("`{key}` is no name of Sparkplug: {text}");
                self.error(&["sparkplug", key], text, "write the name that the host uses");
            }
        }
        if settings.group == "STATE" {
            let text = "`STATE` is where hosts say whether they are there";
            self.error(&["sparkplug", "group"], text, "give the group another name");
        }
        if self.raw.mqtt.session_expiry.is_some_and(|s| !s.0.is_zero()) {
            let place = self.places.key(&["mqtt", "session_expiry"]);
            let text =
                "`session_expiry` and `sparkplug` do not go together: a Sparkplug node begins every session anew";
            self.problems.push(Problem::error(place, text).help("remove `session_expiry`"));
        }
        topics.listen_as(settings.node_command(), Route::Sparkplug(None));
        for device in devices {
            topics.listen_as(settings.device_command(&device.spec.name), Route::Sparkplug(Some(device.spec.id)));
        }
        if let Some(state) = settings.state() {
            topics.listen_as(state, Route::SparkplugHost);
        } else {
            settings.several = false;
        }
        Some(settings)
    }
}

/// What is told of a point before anything was read, by the words of `explain`.
fn guess(values: &str) -> DataType {
    match values {
        "ON or OFF" => DataType::Boolean,
        "text" | "click, double or long" => DataType::String,
        "bytes" => DataType::Bytes,
        _ => DataType::Double,
    }
}
