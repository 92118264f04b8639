//! SPARKPLUG B'S DIALECT, pure (Eclipse Sparkplug 3.0, https://sparkplug.eclipse.org/specification): topics, what an
//! edge node says, and in which order.
//!
//! The engine says what is so ([`Word`]); the [`Speaker`] stands where messages leave and makes messages of it and of
//! the readings. Only there it is known in which order they go out, and the numbers (`seq`) and what may be said at all
//! hang on that: nothing before the births of a connection, no data of a device that was not born. A reading of a device
//! that is dead now, but was not when it was taken, is said all the same: the device is born for it and dies again when
//! nothing waits any more. A metric's type follows what is read: it is told anew with a birth, and never narrows again.

use std::collections::BTreeMap;

use serde_json::Value as Json;

#[cfg(test)]
pub use super::sparkplug_payload::write_command;
pub use super::sparkplug_payload::{DataType, Metric, Wished, command};
use super::sparkplug_payload::{Style, encode};
use crate::model::{Message, Properties, Qos, Quality, Value, Wall};

/// The metric by which a host asks for all births.
pub const REBIRTH: &str = "Node Control/Rebirth";
/// The metric that ties a birth to its will.
const BD_SEQ: &str = "bdSeq";
/// Longest STATE that is looked at.
const MAX_STATE: usize = 1024;

/// What the file says of Sparkplug.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The group.
    pub group: String,
    /// The edge node: this gateway.
    pub node: String,
    /// The host without which nothing is said.
    pub primary_host: Option<String>,
    /// Whether there are several brokers among which the host is looked for.
    pub several: bool,
    /// What the values of the points probably are, in their order.
    pub guesses: Vec<DataType>,
}

impl Settings {
    fn topic(&self, kind: &str, device: Option<&str>) -> String {
        let below = device.map_or(String::new(), |d| format!("/{d}"));
        format!("spBv1.0/{}/{kind}/{}{below}", self.group, self.node)
    }
    /// Where the node is commanded.
    pub fn node_command(&self) -> String {
        self.topic("NCMD", None)
    }
    /// Where a device is commanded.
    pub fn device_command(&self, device: &str) -> String {
        self.topic("DCMD", Some(device))
    }
    /// Where the primary host says whether it is there.
    pub fn state(&self) -> Option<String> {
        self.primary_host.as_ref().map(|host| format!("spBv1.0/STATE/{host}"))
    }
    /// NDEATH: the will of a connection, and the goodbye.
    pub fn death(&self, bd_seq: u8, now: Wall) -> Message {
        let metric = bd_seq_metric(bd_seq, now);
        let payload = encode(now, None, [(metric, Style::Birth)]);
        message(self.topic("NDEATH", None), payload, Qos::AtLeastOnce)
    }
}

/// The `bdSeq` of the `n`th connection (from 1) of a run that follows one whose last was `last`.
pub fn bd_seq(last: Option<u8>, n: u64) -> u8 {
    let first = last.map_or(0, |last| u64::from(last) + 1);
    (first.wrapping_add(n).wrapping_sub(1) % 256) as u8
}

fn bd_seq_metric(bd_seq: u8, now: Wall) -> Metric {
    Metric::named(BD_SEQ, DataType::Int64, Value::Number(f64::from(bd_seq)), now)
}

/// Judges a group's, node's or host's name.
pub fn check_id(id: &str) -> Result<(), &'static str> {
    if id.is_empty() {
        return Err("it is empty");
    }
    if id.contains(['+', '#', '/']) || id.chars().any(char::is_control) || id.len() > 128 {
        return Err("it holds none of + # / and no control characters, and has at most 128 bytes");
    }
    Ok(())
}

/// What a primary host says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostState {
    /// Whether it listens.
    pub online: bool,
    /// When it said so, by its clock.
    pub time: u64,
}

/// Reads a STATE: `{"online":true,"timestamp":1700000000000}`.
pub fn host_state(payload: &[u8]) -> Result<HostState, &'static str> {
    const WANTED: &str = "it is not {\"online\":true,\"timestamp\":…}";
    if payload.len() > MAX_STATE {
        return Err(WANTED);
    }
    let json: Json = serde_json::from_slice(payload).map_err(|_| WANTED)?;
    match (json.get("online").and_then(Json::as_bool), json.get("timestamp").and_then(Json::as_u64)) {
        (Some(online), Some(time)) => Ok(HostState { online, time }),
        _ => Err(WANTED),
    }
}

/// A device as it is born.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// All its metrics.
    pub metrics: Vec<Metric>,
    /// Whether it works.
    pub alive: bool,
}

/// The node as it is born.
#[derive(Debug, Clone, PartialEq)]
pub struct Birth {
    /// Which connection it is for, from 1.
    pub connection: u64,
    /// That connection's number.
    pub bd_seq: u8,
    /// The node's own metrics.
    pub node: Vec<Metric>,
    /// All devices, also those that do not work: their readings may wait.
    pub devices: Vec<Device>,
}

/// What the engine says.
#[derive(Debug, Clone, PartialEq)]
pub enum Word {
    /// Everything, from the beginning: at a connection, or because a host asks.
    Born(Birth),
    /// A device works again, or its metrics are others.
    Device(Device),
    /// A device does not work any more.
    Dead(String),
    /// Metrics of the node.
    Node(Vec<Metric>),
}

/// A reading's place in Sparkplug, kept with it while it waits: names, since numbers may be others by then.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// The device.
    pub device: String,
    /// The metric.
    pub metric: String,
    /// The value, where the reading's own is written by a template.
    pub value: Option<Value>,
}

/// A reading as it leaves.
#[derive(Debug, Clone, Copy)]
pub struct Data<'a> {
    /// The device.
    pub device: &'a str,
    /// The metric.
    pub metric: &'a str,
    /// The value.
    pub value: &'a Value,
    /// Whether to believe it.
    pub quality: Quality,
    /// When it was taken.
    pub time: Wall,
    /// It waited, or was sent before.
    pub historical: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Dead,
    Alive,
    /// Born only for readings of its past.
    Ghost,
}

struct Known {
    metrics: BTreeMap<String, Metric>,
    order: Vec<String>,
    life: Life,
}

/// Who speaks on one connection.
pub struct Speaker {
    settings: Settings,
    /// The next number.
    seq: u8,
    born: bool,
    devices: BTreeMap<String, Known>,
    /// What was read of each metric, by device, whatever was guessed before.
    types: BTreeMap<String, BTreeMap<String, DataType>>,
}

impl Speaker {
    /// It is silent until the first [`Word::Born`].
    pub fn new(settings: Settings) -> Speaker {
        Speaker { settings, seq: 0, born: false, devices: BTreeMap::new(), types: BTreeMap::new() }
    }

    /// The connection has ended.
    pub fn silence(&mut self) {
        self.born = false;
        self.devices.clear();
    }

    /// The messages for a word, in their order.
    pub fn say(&mut self, word: Word, now: Wall) -> Vec<Message> {
        match word {
            Word::Born(birth) => self.births(birth, now),
            _ if !self.born => Vec::new(),
            Word::Device(device) => {
                let (name, alive) = (device.name.clone(), device.alive);
                let was_dead = self.devices.get(&name).is_none_or(|d| d.life == Life::Dead);
                self.learn(device);
                match (alive, was_dead) {
                    (false, true) => Vec::new(),
                    _ => self
                        .device_birth(&name, if alive { Life::Alive } else { Life::Ghost }, now)
                        .into_iter()
                        .collect(),
                }
            }
            Word::Dead(name) => self.device_death(&name, now).into_iter().collect(),
            Word::Node(metrics) => {
                let style = Style::Data { historical: false, quality: false };
                let metrics = metrics.into_iter().map(|metric| (metric, style)).collect();
                vec![self.send("NDATA", None, metrics, now)]
            }
        }
    }

    /// The messages for a reading, in their order: none where nobody was told of such a metric.
    pub fn reading(&mut self, data: &Data, now: Wall) -> Vec<Message> {
        let Some(known) = self.devices.get_mut(data.device).filter(|_| self.born) else { return Vec::new() };
        if !known.metrics.contains_key(data.metric) {
            return Vec::new();
        }
        let mut messages = Vec::with_capacity(1);
        let (life, good) = (known.life, data.quality == Quality::Good);
        let retyped = good && self.retype(data.device, data.metric, data.value);
        if life == Life::Dead || retyped {
            let life = if life == Life::Dead { Life::Ghost } else { life };
            messages.extend(self.device_birth(data.device, life, now));
        }
        let Some(metric) = self.devices.get_mut(data.device).and_then(|d| d.metrics.get_mut(data.metric)) else {
            return messages;
        };
        let changed = metric.quality != data.quality;
        metric.quality = data.quality;
        let said =
            Metric { name: String::new(), value: Some(data.value.clone()), time: data.time, unit: None, ..*metric };
        if !data.historical && !matches!(data.value, Value::Bytes(_)) {
            (metric.value, metric.time) = (Some(data.value.clone()), data.time);
        }
        let style = Style::Data { historical: data.historical, quality: changed };
        messages.push(self.send("DDATA", Some(data.device), vec![(said, style)], now));
        messages
    }

    /// Nothing waits any more: a device that was born only for its past dies again.
    pub fn idle(&mut self, now: Wall) -> Option<Message> {
        let (name, _) = self.devices.iter().find(|(_, known)| known.life == Life::Ghost)?;
        let name = name.clone();
        self.device_death(&name, now)
    }

    /// Whether [`Speaker::idle`] has something to say.
    pub fn haunted(&self) -> bool {
        self.devices.values().any(|known| known.life == Life::Ghost)
    }

    fn births(&mut self, birth: Birth, now: Wall) -> Vec<Message> {
        (self.seq, self.born) = (0, true);
        self.devices.clear();
        let rebirth = Metric::named(REBIRTH, DataType::Boolean, Value::Bool(false), now);
        let own = [bd_seq_metric(birth.bd_seq, now), rebirth];
        let node = own.into_iter().chain(birth.node).map(|metric| (metric, Style::Birth)).collect();
        let mut messages = vec![self.send("NBIRTH", None, node, now)];
        for device in birth.devices {
            let (name, alive) = (device.name.clone(), device.alive);
            self.learn(device);
            if alive {
                messages.extend(self.device_birth(&name, Life::Alive, now));
            }
        }
        messages
    }

    fn learn(&mut self, device: Device) {
        let order = device.metrics.iter().map(|m| m.name.clone()).collect();
        let values: Vec<_> = device.metrics.iter().map(|m| (m.name.clone(), m.value.clone(), m.quality)).collect();
        let metrics = device.metrics.into_iter().map(|m| (m.name.clone(), m)).collect();
        let life = self.devices.get(&device.name).map_or(Life::Dead, |d| d.life);
        let name = device.name;
        self.devices.insert(name.clone(), Known { metrics, order, life });
        for (metric, value, quality) in values {
            match value.filter(|_| quality != Quality::Bad) {
                Some(value) => drop(self.retype(&name, &metric, &value)),
                None => self.adopt(&name, &metric),
            }
        }
    }

    /// Notes the type of a value; gives whether the metric has another one for it.
    fn retype(&mut self, device: &str, name: &str, value: &Value) -> bool {
        let Some(known) = self.devices.get_mut(device) else { return false };
        let Some(metric) = known.metrics.get_mut(name) else { return false };
        let seen = DataType::of(value);
        let wider = match self.types.get(device).and_then(|d| d.get(name)) {
            // only guessed so far
            None => seen,
            Some(before) => before.wider(seen),
        };
        if self.types.get(device).and_then(|d| d.get(name)) != Some(&wider) {
            self.types.entry(device.to_owned()).or_default().insert(name.to_owned(), wider);
        }
        std::mem::replace(&mut metric.datatype, wider) != wider
    }

    /// Gives a metric without a value the type that was read before.
    fn adopt(&mut self, device: &str, name: &str) {
        let metric = self.devices.get_mut(device).and_then(|d| d.metrics.get_mut(name));
        if let (Some(metric), Some(known)) = (metric, self.types.get(device).and_then(|d| d.get(name))) {
            metric.datatype = *known;
        }
    }

    fn device_birth(&mut self, name: &str, life: Life, now: Wall) -> Option<Message> {
        let known = self.devices.get_mut(name)?;
        known.life = life;
        let metrics = known.order.iter().filter_map(|name| known.metrics.get(name));
        let metrics = metrics.map(|metric| {
            let mut metric = metric.clone();
            if life == Life::Ghost {
                metric.quality = Quality::Stale;
            }
            (metric, Style::Birth)
        });
        let metrics = metrics.collect();
        Some(self.send("DBIRTH", Some(name), metrics, now))
    }

    fn device_death(&mut self, name: &str, now: Wall) -> Option<Message> {
        let known = self.devices.get_mut(name)?;
        if std::mem::replace(&mut known.life, Life::Dead) == Life::Dead {
            return None;
        }
        Some(self.send("DDEATH", Some(name), Vec::new(), now))
    }

    /// Everything but wills goes out at QoS 0, not retained, with the next number (chapter 6, "Payload requirements").
    fn send(&mut self, kind: &str, device: Option<&str>, metrics: Vec<(Metric, Style)>, now: Wall) -> Message {
        let payload = encode(now, Some(self.seq), metrics);
        self.seq = self.seq.wrapping_add(1);
        message(self.settings.topic(kind, device), payload, Qos::AtMostOnce)
    }
}

fn message(topic: String, payload: Vec<u8>, qos: Qos) -> Message {
    Message { topic, payload, qos, retain: false, properties: Properties::default() }
}

#[cfg(test)]
mod tests {
    use super::super::sparkplug_payload::shown;
    use super::*;
    use proptest::prelude::*;

    fn settings() -> Settings {
        Settings { group: "plant".into(), node: "shed".into(), ..Settings::default() }
    }
    fn metric(name: &str, alias: u64) -> Metric {
        Metric { alias: Some(alias), ..Metric::named(name, DataType::Double, Value::Number(1.0), Wall(1)) }
    }
    fn device(name: &str, alias: u64, alive: bool) -> Device {
        Device { name: name.into(), metrics: vec![metric("level", alias)], alive }
    }
    fn birth(devices: Vec<Device>) -> Word {
        Word::Born(Birth { connection: 1, bd_seq: 7, node: vec![], devices })
    }
    fn lines(messages: Vec<Message>) -> Vec<String> {
        messages
            .into_iter()
            .map(|m| format!("{} {}", m.topic.strip_prefix("spBv1.0/plant/").unwrap(), shown(&m.payload)))
            .collect()
    }
    fn data(device: &'static str, value: &'static Value, historical: bool) -> Data<'static> {
        Data { device, metric: "level", value, quality: Quality::Good, time: Wall(2), historical }
    }
    const FIVE: Value = Value::Number(5.0);

    #[test]
    fn nothing_is_said_before_the_births_and_a_rebirth_counts_anew() {
        let mut s = Speaker::new(settings());
        assert!(s.reading(&data("tank", &FIVE, false), Wall(9)).is_empty());
        assert!(s.say(Word::Dead("tank".into()), Wall(9)).is_empty());
        let born = ["NBIRTH/shed seq 0, bdSeq=7, Node Control/Rebirth=false", "DBIRTH/shed/tank seq 1, level=1"];
        assert_eq!(lines(s.say(birth(vec![device("tank", 3, true), device("well", 4, false)]), Wall(9))), born);
        assert_eq!(lines(s.reading(&data("tank", &FIVE, false), Wall(9))), ["DDATA/shed/tank seq 2, #3=5"]);
        assert_eq!(lines(s.say(birth(vec![device("tank", 3, true)]), Wall(9))), born);
        s.silence();
        assert!(s.reading(&data("tank", &FIVE, false), Wall(9)).is_empty());
    }

    #[test]
    fn a_device_that_is_dead_now_is_born_for_its_past_and_dies_again() {
        let mut s = Speaker::new(settings());
        s.say(birth(vec![device("well", 4, false)]), Wall(9));
        assert!(!s.haunted());
        let said = lines(s.reading(&data("well", &FIVE, true), Wall(9)));
        assert_eq!(said, ["DBIRTH/shed/well seq 1, level=1 Quality 500", "DDATA/shed/well seq 2, #4=5 historical"]);
        assert_eq!(lines(s.reading(&data("well", &FIVE, true), Wall(9))), ["DDATA/shed/well seq 3, #4=5 historical"]);
        assert!(s.haunted());
        assert_eq!(lines(s.idle(Wall(9)).into_iter().collect()), ["DDEATH/shed/well seq 4"]);
        assert_eq!(s.idle(Wall(9)), None);
        // one that really works is born as it is
        assert_eq!(lines(s.say(Word::Device(device("well", 4, true)), Wall(9))), ["DBIRTH/shed/well seq 5, level=1"]);
        assert_eq!(s.idle(Wall(9)), None);
        assert_eq!(lines(s.say(Word::Dead("well".into()), Wall(9))), ["DDEATH/shed/well seq 6"]);
        assert_eq!(lines(s.say(Word::Dead("well".into()), Wall(9))), Vec::<String>::new());
    }

    #[test]
    fn a_quality_is_taken_back_when_it_is_good_again() {
        let mut s = Speaker::new(settings());
        s.say(birth(vec![device("tank", 3, true)]), Wall(9));
        let bad = Data { quality: Quality::Bad, ..data("tank", &FIVE, false) };
        let property = |m: Vec<Message>| shown(&m[0].payload).contains("Quality");
        assert!(property(s.reading(&bad, Wall(9))));
        let good = s.reading(&data("tank", &FIVE, false), Wall(9));
        assert!(good[0].payload.windows(7).any(|w| w == b"Quality"), "told that it is good again");
        let still = s.reading(&data("tank", &FIVE, false), Wall(9));
        assert!(!still[0].payload.windows(7).any(|w| w == b"Quality"));
    }

    #[test]
    fn a_metric_of_another_type_is_told_with_a_birth_first_and_never_narrows() {
        let mut s = Speaker::new(settings());
        s.say(birth(vec![device("tank", 3, true)]), Wall(9));
        let text = Box::leak(Box::new(Value::Text("off".into())));
        let said = lines(s.reading(&data("tank", text, false), Wall(9)));
        assert_eq!(said, ["DBIRTH/shed/tank seq 2, level=\"1\"", "DDATA/shed/tank seq 3, #3=\"off\""]);
        assert_eq!(lines(s.reading(&data("tank", &FIVE, false), Wall(9))), ["DDATA/shed/tank seq 4, #3=\"5\""]);
        // also in the births of the next connection
        s.silence();
        let said = lines(s.say(birth(vec![device("tank", 3, true)]), Wall(9)));
        assert_eq!(said[1], "DBIRTH/shed/tank seq 1, level=\"1\"");
    }

    #[test]
    fn what_nobody_was_told_of_is_not_said() {
        let mut s = Speaker::new(settings());
        s.say(birth(vec![device("tank", 3, true)]), Wall(9));
        assert!(s.reading(&Data { metric: "gone", ..data("tank", &FIVE, true) }, Wall(9)).is_empty());
        assert!(s.reading(&data("sold", &FIVE, true), Wall(9)).is_empty());
    }

    #[test]
    fn bd_seq_goes_on_over_restarts_and_round_at_256() {
        assert_eq!((bd_seq(None, 1), bd_seq(None, 2)), (0, 1));
        assert_eq!((bd_seq(Some(0), 1), bd_seq(Some(254), 2), bd_seq(Some(255), 1)), (1, 0, 0));
        let death = settings().death(3, Wall(5));
        assert_eq!(
            (death.topic.as_str(), death.qos, death.retain),
            ("spBv1.0/plant/NDEATH/shed", Qos::AtLeastOnce, false)
        );
        assert_eq!(shown(&death.payload), "bdSeq=3");
    }

    #[test]
    fn a_state_that_is_none_is_refused() {
        let host = |text: &str| host_state(text.as_bytes());
        assert_eq!(host(r#"{"online":true,"timestamp":5}"#), Ok(HostState { online: true, time: 5 }));
        for bad in [
            "",
            "ONLINE",
            "{}",
            r#"{"online":1,"timestamp":5}"#,
            r#"{"online":true}"#,
            r#"{"online":true,"timestamp":-1}"#,
        ] {
            assert!(host(bad).is_err(), "{bad}");
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Born,
        Alive(usize),
        Dead(usize),
        Read(usize, bool),
        Idle,
        Silence,
    }

    proptest! {
        /// What a host checks: seq without a hole from NBIRTH on, and no word of a device between its death and birth.
        #[test]
        fn a_host_finds_the_order_right(steps in proptest::collection::vec(prop_oneof![
            1 => Just(Step::Born),
            3 => (0usize..3).prop_map(Step::Alive),
            3 => (0usize..3).prop_map(Step::Dead),
            9 => (0usize..3, any::<bool>()).prop_map(|(d, h)| Step::Read(d, h)),
            2 => Just(Step::Idle),
            1 => Just(Step::Silence),
        ], 0..400)) {
            let names = ["a", "b", "c"];
            let mut s = Speaker::new(settings());
            let (mut next, mut alive): (Option<u8>, Vec<String>) = (None, Vec::new());
            for step in steps {
                let said = match step {
                    Step::Born => s.say(birth(names.iter().map(|n| device(n, 1, *n != "c")).collect()), Wall(9)),
                    Step::Alive(d) => s.say(Word::Device(device(names[d], 1, true)), Wall(9)),
                    Step::Dead(d) => s.say(Word::Dead(names[d].into()), Wall(9)),
                    Step::Read(d, historical) => s.reading(&Data { device: names[d], ..data("", &FIVE, historical) }, Wall(9)),
                    Step::Idle => s.idle(Wall(9)).into_iter().collect(),
                    Step::Silence => { s.silence(); next = None; alive.clear(); Vec::new() }
                };
                for line in lines(said) {
                    let (topic, text) = line.split_once(' ').unwrap();
                    let seq: u8 = text.strip_prefix("seq ").unwrap().split(',').next().unwrap().parse().unwrap();
                    let (kind, rest) = topic.split_once('/').unwrap();
                    let device = rest.strip_prefix("shed/").map(str::to_owned);
                    if kind == "NBIRTH" { next = Some(0); alive.clear(); }
                    prop_assert_eq!(Some(seq), next, "{}", line);
                    next = Some(seq.wrapping_add(1));
                    match (kind, device) {
                        ("DBIRTH", Some(d)) => if !alive.contains(&d) { alive.push(d) },
                        ("DDEATH", Some(d)) => { prop_assert!(alive.contains(&d), "{}", line); alive.retain(|x| *x != d) }
                        ("DDATA", Some(d)) => prop_assert!(alive.contains(&d), "{}", line),
                        _ => prop_assert!(kind == "NBIRTH", "{}", line),
                    }
                }
            }
        }
        #[test]
        fn no_state_panics(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = host_state(&payload);
        }
    }
}
