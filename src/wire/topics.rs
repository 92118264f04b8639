//! The only place that builds or takes apart a topic.
//!
//! With P the prefix: a device with one point speaks on `P/<device>`, one with several on `P/<device>/<point>`, and a
//! point's own `topic` replaces either. A verb hangs below the topic of what it is said to: `…/set`, `…/result`.

use std::collections::HashMap;

use super::homie;
use crate::model::{DeviceId, DeviceSpec, PointId, PointSpec, Qos};

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
    /// A Sparkplug host commands the node, or one of its devices.
    Sparkplug(Option<DeviceId>),
    /// Sparkplug's primary host says whether it is there.
    SparkplugHost,
    /// A Homie controller sets a property.
    Homie(DeviceId, homie::Target),
}

/// The gateway's topics.
#[derive(Debug, Clone, Default)]
pub struct Topics {
    prefix: String,
    routes: HashMap<String, Route>,
    /// Filters that are listened to beside the routes.
    filters: Vec<(String, Qos)>,
}

/// The verbs of `P/bridge/request/…` that are answered.
pub const REQUESTS: &[&str] = &["command", "health", "log_level", "queue", "rediscover", "reload"];

impl Topics {
    /// Topics below `prefix`, which [`check_topic`] has passed.
    pub fn new(prefix: &str) -> Topics {
        let mut topics = Topics { prefix: prefix.to_owned(), routes: HashMap::new(), filters: Vec::new() };
        for verb in REQUESTS {
            topics.routes.insert(format!("{prefix}/bridge/request/{verb}"), Route::Request((*verb).to_owned()));
        }
        // who asks for what is not there is told so
        topics.listen_to(&format!("{prefix}/bridge/request/+"), Qos::AtLeastOnce);
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

    /// Listens to a topic of a dialect's own.
    pub fn listen_as(&mut self, topic: String, route: Route) {
        self.routes.insert(topic, route);
    }

    /// What a topic means to us.
    pub fn route(&self, topic: &str) -> Option<&Route> {
        self.routes.get(topic)
    }

    /// The verb of `P/bridge/request/<verb>`, whether it is known or not.
    pub fn asked<'t>(&self, topic: &'t str) -> Option<&'t str> {
        let verb = topic.strip_prefix(&self.prefix)?.strip_prefix("/bridge/request/")?;
        (!verb.contains('/')).then_some(verb)
    }

    /// The first levels of every topic of the gateway's own.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Listens to a filter beside the routes, for relays and sessions.
    pub fn listen_to(&mut self, filter: &str, qos: Qos) {
        self.filters.push((filter.to_owned(), qos));
    }

    /// Everything to subscribe to and at which QoS, sorted. What another filter covers is left out: some brokers send
    /// a message once for each subscription that it meets.
    pub fn subscriptions(&self) -> Vec<(String, Qos)> {
        let routes = self.routes.keys().map(|topic| (topic.clone(), Qos::AtLeastOnce));
        let mut all: Vec<(String, Qos)> = Vec::new();
        for (filter, qos) in self.filters.iter().cloned() {
            all.retain(|(other, _)| other == &filter || !covers(&filter, other));
            let qos = self.filters.iter().filter(|(f, _)| covers(&filter, f)).map(|(_, q)| *q).max().unwrap_or(qos);
            match all.iter_mut().find(|(other, _)| covers(other, &filter)) {
                Some((_, known)) => *known = qos.max(*known),
                None => all.push((filter, qos)),
            }
        }
        let free: Vec<_> = routes.filter(|(topic, _)| !all.iter().any(|(f, _)| covers(f, topic))).collect();
        for (filter, qos) in &mut all {
            if self.routes.keys().any(|topic| covers(filter, topic)) {
                *qos = (*qos).max(Qos::AtLeastOnce);
            }
        }
        all.extend(free);
        all.sort();
        all
    }
}

/// Whether a topic meets a filter.
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    !topic.contains(['+', '#']) && covers(filter, topic)
}

/// Whether a filter meets every topic that another one meets.
pub fn covers(filter: &str, other: &str) -> bool {
    let (mut ours, mut theirs) = (filter.split('/'), other.split('/'));
    loop {
        match (ours.next(), theirs.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(level)) if level != "#" => {}
            (Some(a), Some(b)) if a == b => {}
            _ => return false,
        }
    }
}

/// Whether there is a topic that meets both.
pub fn overlap(a: &str, b: &str) -> bool {
    let (mut a, mut b) = (a.split('/'), b.split('/'));
    loop {
        match (a.next(), b.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some(x), Some(y)) if x == y || x == "+" || y == "+" => {}
            _ => return false,
        }
    }
}

/// Judges a filter to subscribe to.
pub fn check_filter(filter: &str) -> Result<(), String> {
    if filter.is_empty() {
        return Err("a topic cannot be empty".into());
    }
    if filter.chars().any(|c| c.is_control() || matches!(c, '\u{FFFE}' | '\u{FFFF}')) || filter.len() > 512 {
        return Err("a topic holds no control characters and has at most 512 bytes".into());
    }
    let levels: Vec<&str> = filter.split('/').collect();
    for (i, level) in levels.iter().enumerate() {
        if level.contains('#') && (*level != "#" || i + 1 != levels.len()) {
            return Err("`#` stands alone in the last level".into());
        }
        if level.contains('+') && *level != "+" {
            return Err("`+` stands alone in its level".into());
        }
    }
    Ok(())
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
    fn filters_meet_cover_and_overlap_as_mqtt_has_it() {
        for (filter, topic, meets) in [
            ("a/+/c", "a/b/c", true),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/+", "a", false),
            ("+/b", "a/b/c", false),
            ("#", "$SYS/broker", false),
            ("$SYS/#", "$SYS/broker", true),
        ] {
            assert_eq!(matches(filter, topic), meets, "{filter} {topic}");
        }
        assert!(covers("a/+", "a/b") && covers("#", "a/+") && !covers("a/+", "a/#") && !covers("a/b", "a/+"));
        assert!(overlap("a/+", "+/b") && overlap("a/b/c", "a/#") && !overlap("a/+", "b/+") && !overlap("a", "a/b"));
        for bad in ["", "a#", "#/a", "a+/b", "a\nb"] {
            assert!(check_filter(bad).is_err(), "{bad:?}");
        }
        assert!(check_filter("+/tele/#").is_ok());
    }

    #[test]
    fn what_another_filter_covers_is_not_subscribed_twice() {
        let mut topics = Topics::new("gw");
        topics.listen_to("a/b", Qos::ExactlyOnce);
        topics.listen_to("a/+", Qos::AtMostOnce);
        assert!(topics.subscriptions().contains(&("gw/bridge/request/+".into(), Qos::AtLeastOnce)));
        topics.listen_to("gw/#", Qos::AtMostOnce);
        let want = [("a/+", Qos::ExactlyOnce), ("gw/#", Qos::AtLeastOnce)];
        assert_eq!(topics.subscriptions(), want.map(|(f, q)| (f.to_owned(), q)));
    }

    #[test]
    fn wildcards_and_empty_levels_are_no_topics() {
        for bad in ["", "a/+", "a#", "/a", "a/", "a//b", "$SYS/x", "a\nb"] {
            assert!(check_topic(bad).is_err(), "{bad:?}");
        }
        assert!(check_topic("home/Küche/1").is_ok());
    }
}
