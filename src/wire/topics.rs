//! The only place that builds or takes apart a topic.
//!
//! With P the prefix: a device with one point speaks on `P/<device>`, one with several on `P/<device>/<point>`, and a
//! point's own `topic` replaces either. A verb hangs below the topic of what it is said to: `…/set`, `…/result`.

use std::collections::HashMap;

use crate::model::{DeviceId, DeviceSpec, PointId, PointSpec};

/// What a subscribed topic means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// A verb for a device or one of its points.
    Device {
        /// Whom.
        device: DeviceId,
        /// Which point, where the verb is said to one.
        point: Option<PointId>,
        /// What.
        verb: String,
    },
    /// `P/bridge/request/<verb>`.
    Request(String),
    /// `P/sim/pin/<n>/set`: drive an input pin of the simulated board.
    SimPin(u8),
    /// Home Assistant says whether it is there.
    HomeAssistant,
}

/// The gateway's topics.
#[derive(Debug, Clone, Default)]
pub struct Topics {
    prefix: String,
    routes: HashMap<String, Route>,
}

/// The verbs of `P/bridge/request/…` that are answered.
pub const REQUESTS: &[&str] = &["command", "health", "log_level", "queue", "rediscover", "reload"];

impl Topics {
    /// Topics below `prefix`, which [`check_topic`] has passed.
    pub fn new(prefix: &str) -> Topics {
        let mut topics = Topics { prefix: prefix.to_owned(), routes: HashMap::new() };
        for verb in REQUESTS {
            topics.routes.insert(format!("{prefix}/bridge/request/{verb}"), Route::Request((*verb).to_owned()));
        }
        topics
    }

    /// `P/<device>`, or `P/<device>/<point>` where it has several.
    pub fn point(&self, device: &str, point: &str, only: bool) -> String {
        if only { format!("{}/{device}", self.prefix) } else { format!("{}/{device}/{point}", self.prefix) }
    }

    /// `P/<device>`, below which a device's own verbs hang.
    pub fn device(&self, device: &str) -> String {
        format!("{}/{device}", self.prefix)
    }

    /// `P/<device>/availability`.
    pub fn availability(&self, device: &str) -> String {
        format!("{}/{device}/availability", self.prefix)
    }

    /// `P/bridge/<word>`.
    pub fn bridge(&self, word: &str) -> String {
        format!("{}/bridge/{word}", self.prefix)
    }

    /// `P/bridge/response/<verb>`.
    pub fn response(&self, verb: &str) -> String {
        format!("{}/bridge/response/{verb}", self.prefix)
    }

    /// `P/sim/pin/<n>`.
    pub fn sim_pin(&self, pin: u8) -> String {
        format!("{}/sim/pin/{pin}", self.prefix)
    }

    /// Where the outcome of a command on `topic` goes: the verb's place is taken by `result`.
    pub fn result_of(topic: &str) -> String {
        Topics::beside(topic, "result")
    }

    /// The topic beside `topic` whose last level is `word`.
    pub fn beside(topic: &str, word: &str) -> String {
        match topic.rsplit_once('/') {
            Some((base, _)) => format!("{base}/{word}"),
            None => word.to_owned(),
        }
    }

    /// Where a verb is said to what speaks on `topic`.
    pub fn verb(topic: &str, verb: &str) -> String {
        format!("{topic}/{verb}")
    }

    /// Listens to the verbs of a device: a point's verbs below the point's topic, `device_verbs` below the device's.
    pub fn listen(
        &mut self,
        device: &DeviceSpec,
        points: &[&PointSpec],
        point_verbs: &[String],
        device_verbs: &[String],
    ) {
        for point in points {
            for verb in point_verbs {
                let route = Route::Device { device: device.id, point: Some(point.id), verb: verb.clone() };
                self.routes.insert(Topics::verb(&point.topic, verb), route);
            }
        }
        for verb in device_verbs {
            let route = Route::Device { device: device.id, point: None, verb: verb.clone() };
            self.routes.insert(Topics::verb(&self.device(&device.name), verb), route);
        }
    }

    /// Listens to the verbs of a device's own ([`DeviceSpec::own`]).
    pub fn listen_own(&mut self, device: &DeviceSpec, points: &[&PointSpec]) {
        for own in &device.own {
            let point = own.point.and_then(|i| points.get(i));
            let below = point.map_or_else(|| self.device(&device.name), |p| p.topic.clone());
            let point = point.map(|p| p.id);
            let route = Route::Device { device: device.id, point, verb: own.verb.clone() };
            self.routes.insert(Topics::verb(&below, &own.verb), route);
        }
    }

    /// Listens to `P/sim/pin/<n>/set`.
    pub fn listen_sim(&mut self, pin: u8) {
        self.routes.insert(format!("{}/set", self.sim_pin(pin)), Route::SimPin(pin));
    }

    /// Listens to Home Assistant, which says on this topic whether it is there.
    pub fn listen_home_assistant(&mut self, status_topic: &str) {
        self.routes.insert(status_topic.to_owned(), Route::HomeAssistant);
    }

    /// What a topic means to us.
    pub fn route(&self, topic: &str) -> Option<&Route> {
        self.routes.get(topic)
    }

    /// Everything to subscribe to, sorted.
    pub fn subscriptions(&self) -> Vec<String> {
        let mut all: Vec<_> = self.routes.keys().cloned().collect();
        all.sort();
        all
    }
}

/// Whether an answer can be published on a topic that a sender has named. MQTT allows more than we would write.
pub fn can_answer_on(topic: &str) -> bool {
    (1..=65_535).contains(&topic.len()) && !topic.contains(['+', '#']) && !topic.chars().any(char::is_control)
}

/// Judges a topic to publish on, or a prefix of topics.
pub fn check_topic(topic: &str) -> Result<(), String> {
    if topic.is_empty() {
        return Err("a topic cannot be empty".into());
    }
    if topic.contains(['+', '#']) {
        return Err("a topic to publish on holds no wildcard (+ or #)".into());
    }
    if topic.chars().any(|c| c.is_control() || matches!(c, '\u{FFFE}' | '\u{FFFF}')) {
        return Err("a topic holds no control characters".into());
    }
    if topic.starts_with('$') {
        return Err("topics that begin with $ belong to the broker".into());
    }
    if topic.starts_with('/') || topic.ends_with('/') || topic.contains("//") {
        return Err("a topic has no empty level: no / at its start or end, no //".into());
    }
    if topic.len() > 512 {
        return Err("a topic has at most 512 bytes".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_takes_the_place_of_the_verb() {
        assert_eq!(Topics::result_of("shed/pump/set"), "shed/pump/result");
        assert_eq!(Topics::result_of("a/b/c/pulse"), "a/b/c/result");
    }

    #[test]
    fn an_answer_goes_where_mqtt_allows_it() {
        assert!(can_answer_on("/answers//7") && can_answer_on("$aws/x"));
        assert!(!can_answer_on("") && !can_answer_on("a/+") && !can_answer_on("a\0b"));
    }

    #[test]
    fn wildcards_and_empty_levels_are_no_topics() {
        for bad in ["", "a/+", "a#", "/a", "a/", "a//b", "$SYS/x", "a\nb"] {
            assert!(check_topic(bad).is_err(), "{bad:?}");
        }
        assert!(check_topic("home/Küche/1").is_ok());
    }
}
