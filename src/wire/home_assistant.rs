//! HOME ASSISTANT'S DIALECT, pure: what its MQTT discovery is told of every device (home-assistant.io, integration
//! `mqtt`, "device discovery"), and its words for classes and units.
//!
//! One device of Home Assistant per device of the file, each by way of the gateway, which is one too and has what is
//! the machine's own: the link, the queue, the errors, the points of `system`, and what is computed. Each is one retained
//! message on `<prefix>/device/<gateway>/<device>/config` (the gateway's: `<prefix>/device/<gateway>/config`).

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use crate::model::{DeviceSpec, PayloadFormat, PointSpec, Scale, Takes, VerbSpec};

use super::Topics;
use super::home_assistant_words::wrong_class;

/// What the file says of Home Assistant.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    /// First level(s) of the topics of discovery.
    pub prefix: String,
    /// Where Home Assistant says `online`.
    pub status_topic: String,
    /// What it wants to know of the points, in their order.
    pub hints: Vec<Hint>,
}

/// What nobody but Home Assistant wants to know of a point.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Hint {
    /// What its values are, in the words of `explain`.
    pub values: &'static str,
    /// `measurement`, `total` …
    pub state_class: Option<String>,
    /// `mdi:…`
    pub icon: Option<String>,
}

/// Who announces.
#[derive(Debug, Clone, Copy)]
pub struct Gateway<'a> {
    /// Its name in topics.
    pub id: &'a str,
    /// Its name for people.
    pub name: Option<&'a str>,
    /// Where it stands.
    pub area: Option<&'a str>,
    /// The board, for people.
    pub board: &'a str,
    /// The program's version.
    pub version: &'a str,
}

/// One device as it is told to Home Assistant.
#[derive(Debug, Clone, PartialEq)]
pub struct Announcement {
    /// Where, retained.
    pub topic: String,
    /// What.
    pub config: Map<String, Json>,
}

impl Announcement {
    /// Its entities and the platform of each.
    pub fn components(&self) -> BTreeMap<String, String> {
        let all = self.config.get("components").and_then(Json::as_object).into_iter().flatten();
        all.filter_map(|(id, c)| Some((id.clone(), c.get("platform")?.as_str()?.to_owned()))).collect()
    }
    /// The message, in which entities that are `gone` are taken back.
    pub fn payload(&self, gone: &BTreeMap<String, String>) -> Vec<u8> {
        let mut config = self.config.clone();
        if let Some(Json::Object(components)) = config.get_mut("components") {
            for (id, platform) in gone {
                components.entry(id.clone()).or_insert_with(|| json!({ "platform": platform }));
            }
        }
        Json::Object(config).to_string().into_bytes()
    }
}

/// Kinds whose points are the gateway's own.
fn is_inner(kind: &str) -> bool {
    matches!(kind, "system" | "computed")
}

/// Everything that Home Assistant is to know.
pub fn announcements(
    gateway: &Gateway,
    settings: &Settings,
    topics: &Topics,
    devices: &[DeviceSpec],
    points: &[PointSpec],
) -> Vec<Announcement> {
    let teller = Teller { gateway, topics, settings, points };
    let mut inner = teller.gateway_entities();
    for device in devices.iter().filter(|d| is_inner(d.kind)) {
        inner.extend(teller.entities(device));
    }
    let mut about = json!({
        "identifiers": [teller.identifier(None)],
        "name": gateway.name.unwrap_or(gateway.id),
        "manufacturer": "pinpost",
        "model": gateway.board,
        "sw_version": gateway.version,
    });
    teller.place(&mut about);
    let mut all = vec![teller.announcement(None, about, inner)];
    for device in devices.iter().filter(|d| !is_inner(d.kind)) {
        let entities = teller.entities(device);
        if entities.is_empty() {
            continue;
        }
        let mut about = json!({
            "identifiers": [teller.identifier(Some(&device.name))],
            "name": pretty(&device.name),
            "manufacturer": "pinpost",
            "model": device.kind,
            "via_device": teller.identifier(None),
        });
        teller.place(&mut about);
        all.push(teller.announcement(Some(&device.name), about, entities));
    }
    all
}

struct Teller<'a> {
    gateway: &'a Gateway<'a>,
    topics: &'a Topics,
    settings: &'a Settings,
    points: &'a [PointSpec],
}

/// An entity: its key among the components, and what is said of it.
type Entity = (String, Map<String, Json>);

impl Teller<'_> {
    /// Names hold no dot, so that none of these can be two things.
    fn identifier(&self, device: Option<&str>) -> String {
        match device {
            Some(device) => format!("pinpost.{}.{device}", self.gateway.id),
            None => format!("pinpost.{}", self.gateway.id),
        }
    }

    fn place(&self, about: &mut Json) {
        if let (Some(map), Some(area)) = (about.as_object_mut(), self.gateway.area) {
            map.insert("suggested_area".into(), json!(area));
        }
    }

    fn announcement(&self, device: Option<&str>, about: Json, entities: Vec<Entity>) -> Announcement {
        let below = device.map_or(String::new(), |d| format!("/{d}"));
        let topic = format!("{}/device/{}{below}/config", self.settings.prefix, self.gateway.id);
        let components: Map<String, Json> = entities.into_iter().map(|(id, e)| (id, Json::Object(e))).collect();
        let mut config = Map::new();
        config.insert("device".into(), about);
        config.insert("origin".into(), json!({ "name": "pinpost", "sw_version": self.gateway.version }));
        config.insert("components".into(), Json::Object(components));
        Announcement { topic, config }
    }

    fn entity(&self, platform: &str, path: &[&str], name: Option<String>) -> Entity {
        let mut map = Map::new();
        let id = [&[self.gateway.id], path].concat().join("_").replace('-', "_");
        map.insert("platform".into(), json!(platform));
        map.insert("unique_id".into(), json!(format!("{}.{}", self.identifier(None), path.join("."))));
        map.insert("default_entity_id".into(), json!(format!("{platform}.{id}")));
        map.insert("name".into(), json!(name));
        (format!("{platform}_{}", path.join("_")), map)
    }

    fn available(&self, map: &mut Map<String, Json>, device: Option<&str>) {
        let mut list = vec![json!({ "topic": self.topics.bridge("state") })];
        list.extend(device.map(|d| json!({ "topic": self.topics.availability(d) })));
        map.insert("availability".into(), json!(list));
        map.insert("availability_mode".into(), json!("all"));
    }

    /// What the gateway says of itself.
    fn gateway_entities(&self) -> Vec<Entity> {
        let (mut id, mut link) = self.entity("binary_sensor", &["bridge", "link"], Some("Link".into()));
        put(
            &mut link,
            json!({
                "entity_category": "diagnostic", "device_class": "connectivity", "state_topic": self.topics.bridge("state"),
                "payload_on": "online", "payload_off": "offline", "qos": 1,
            }),
        );
        let mut all = vec![(std::mem::take(&mut id), link)];
        let errors = "{{ value_json.devices.values() | map(attribute='errors') | sum }}";
        for (word, name, template, more) in [
            ("queue", "Queue waiting", "{{ value_json.queue.waiting }}", json!({ "state_class": "measurement" })),
            (
                "dropped",
                "Readings dropped",
                "{{ value_json.queue.dropped_total }}",
                json!({ "state_class": "total_increasing" }),
            ),
            ("errors", "Errors", errors, json!({ "state_class": "total_increasing" })),
            (
                "uptime",
                "Uptime",
                "{{ value_json.uptime_s }}",
                json!({ "device_class": "duration", "unit_of_measurement": "s", "enabled_by_default": false }),
            ),
        ] {
            let (id, mut map) = self.entity("sensor", &["bridge", word], Some(name.into()));
            put(
                &mut map,
                json!({
                    "entity_category": "diagnostic", "state_topic": self.topics.bridge("health"),
                    "value_template": template, "qos": 1,
                }),
            );
            put(&mut map, more);
            self.available(&mut map, None);
            all.push((id, map));
        }
        all
    }

    fn entities(&self, device: &DeviceSpec) -> Vec<Entity> {
        let mut all = Vec::new();
        for (i, id) in device.points.iter().enumerate() {
            let at = id.0 as usize;
            let (Some(point), Some(hint)) = (self.points.get(at), self.settings.hints.get(at)) else { continue };
            let writes = device.own.iter().find(|v| v.point == Some(i) && v.verb == "set");
            let Some(shape) = shape(device, point, hint, writes) else { continue };
            let only = device.points.len() == 1;
            let path: &[&str] = if only { &[&device.name] } else { &[&device.name, &point.name] };
            let name = match (device.kind, only) {
                ("computed", _) => Some(pretty(&device.name)),
                ("system", _) | (_, false) => Some(pretty(&point.name)),
                (_, true) => None,
            };
            let (id, mut map) = self.entity(shape.platform, path, name);
            put(&mut map, shape.more);
            if device.kind == "system" {
                map.insert("entity_category".into(), json!("diagnostic"));
            }
            let icon = hint.icon.as_ref().map(|icon| ("icon".to_owned(), json!(icon)));
            map.extend(icon);
            map.insert("qos".into(), json!(point.qos.number()));
            self.available(&mut map, Some(&device.name));
            all.push((id, map));
        }
        for verb in device.own.iter().filter(|v| v.point.is_none()) {
            let Some((platform, more)) = takes(&verb.takes) else { continue };
            let (id, mut map) = self.entity(platform, &[&device.name, &verb.verb, "command"], Some(pretty(&verb.verb)));
            put(&mut map, more);
            let topic = Topics::verb(&self.topics.device(&device.name), &verb.verb);
            map.insert("command_topic".into(), json!(topic));
            map.insert("qos".into(), json!(1));
            self.available(&mut map, Some(&device.name));
            all.push((id, map));
        }
        all
    }
}

/// Why Home Assistant would refuse a point's words, or could not show it; it is then told without them.
pub fn doubt(device: &DeviceSpec, point: &PointSpec, hint: &Hint, place: usize) -> Option<(&'static str, String)> {
    let writes = device.own.iter().find(|v| v.point == Some(place) && v.verb == "set");
    let Some(shape) = shape(device, point, hint, writes) else {
        if point.batch.is_some() {
            return None;
        }
        let picture = matches!(point.device_class.as_deref(), Some("camera" | "image"));
        let told = hint.values == "bytes" && !picture && !point.own_payload;
        return (!told).then(|| ("payload", "Home Assistant cannot read this payload".to_owned()));
    };
    if let Some(state) = &hint.state_class
        && !["measurement", "measurement_angle", "total", "total_increasing"].contains(&state.as_str())
    {
        return Some(("state_class", format!("Home Assistant knows no state class `{state}`")));
    }
    let class = point.device_class.as_deref().filter(|c| !c.is_empty())?;
    if shape.by_class {
        return None;
    }
    let unit = point.unit.as_deref().unwrap_or_default();
    Some(("device_class", wrong_class(shape.platform, class, unit)?))
}

struct Shape {
    platform: &'static str,
    more: Json,
    /// Whether the device class chose the platform.
    by_class: bool,
}

/// What a point is there; `None`: nothing that it can show.
fn shape(device: &DeviceSpec, point: &PointSpec, hint: &Hint, writes: Option<&VerbSpec>) -> Option<Shape> {
    let raw = match point.payload {
        _ if point.own_payload || point.batch.is_some() => return None,
        PayloadFormat::Plain => "value",
        PayloadFormat::Json => "value_json.value",
        PayloadFormat::Cbor => return None,
    };
    let class = point.device_class.as_deref().unwrap_or_default();
    let set = Topics::verb(&point.topic, "set");
    let mut more = Map::new();
    let topic = json!(point.topic);
    let mut by_class = false;
    let scale = device.output.as_ref().map(|o| o.scale);
    let platform = match (scale, hint.values, writes.map(|w| &w.takes)) {
        (Some(Scale::Switch), ..) => {
            put(&mut more, switch(&set));
            put(&mut more, json!({ "state_on": point.payload_on, "state_off": point.payload_off }));
            "switch"
        }
        (Some(Scale::Duty { min, max }), ..) if class == "light" || class == "fan" => {
            by_class = true;
            let on = format!("{{{{ 'ON' if ({raw} | float(0)) > 0 else 'OFF' }}}}");
            put(&mut more, switch(&set));
            put(&mut more, json!({ "state_topic": topic, "state_value_template": on }));
            let number = format!("{{{{ {raw} | float(0) | round }}}}");
            let (least, most) = (min.ceil().max(1.0) as i64, max.floor().max(2.0) as i64);
            if class == "light" {
                put(
                    &mut more,
                    json!({
                        "brightness_state_topic": topic, "brightness_value_template": number,
                        "brightness_command_topic": set, "brightness_scale": most, "on_command_type": "brightness",
                        "brightness_command_template": format!("{{{{ [value, {least}] | max }}}}"),
                    }),
                );
                return Some(Shape { platform: "light", more: Json::Object(more), by_class });
            }
            let least = least.min(most - 1);
            // one below the range is its 0 %; Home Assistant complains of anything lower
            let number = format!("{{{{ [{raw} | float(0) | round, {}] | max }}}}", least - 1);
            put(
                &mut more,
                json!({
                    "percentage_state_topic": topic, "percentage_value_template": number,
                    "percentage_command_topic": set, "speed_range_min": least, "speed_range_max": most,
                }),
            );
            return Some(Shape { platform: "fan", more: Json::Object(more), by_class });
        }
        (Some(Scale::Duty { max, .. }), ..) => {
            put(&mut more, json!({ "command_topic": set, "min": 0, "max": max, "step": 1, "mode": "slider" }));
            put(&mut more, json!({ "unit_of_measurement": point.unit.as_deref().unwrap_or("%") }));
            "number"
        }
        (Some(Scale::Angle { from, to }), ..) => {
            let (min, max) = (from.min(to), from.max(to));
            put(&mut more, json!({ "command_topic": set, "min": min, "max": max, "step": 1, "mode": "slider" }));
            put(&mut more, json!({ "unit_of_measurement": point.unit.as_deref().unwrap_or("°") }));
            "number"
        }
        // a meter's total is a sensor, with its statistics, though it may be set
        (None, _, Some(what)) if !hint.state_class.as_deref().unwrap_or_default().starts_with("total") => {
            let (platform, said) = takes(what)?;
            put(&mut more, said);
            more.insert("command_topic".into(), json!(set));
            if platform == "switch" {
                put(&mut more, json!({ "state_on": point.payload_on, "state_off": point.payload_off }));
            }
            platform
        }
        (None, "bytes", _) if matches!(class, "camera" | "image") && point.payload == PayloadFormat::Plain => {
            let (key, platform) = if class == "camera" { ("topic", "camera") } else { ("image_topic", "image") };
            more.insert(key.into(), topic);
            return Some(Shape { platform, more: Json::Object(more), by_class: true });
        }
        (None, "bytes", _) => return None,
        (None, "click, double or long", _) => {
            let template = format!("{{\"event_type\": \"{{{{ {raw} }}}}\"}}");
            put(
                &mut more,
                json!({
                    "state_topic": topic, "value_template": template, "device_class": "button",
                    "event_types": ["click", "double", "long"],
                }),
            );
            return Some(Shape { platform: "event", more: Json::Object(more), by_class: true });
        }
        (None, "ON or OFF", _) => {
            put(&mut more, json!({ "payload_on": point.payload_on, "payload_off": point.payload_off }));
            "binary_sensor"
        }
        _ => {
            let state = state_class(hint, class, point.unit.as_deref()).filter(|s| !s.is_empty());
            more.extend(state.map(|s| ("state_class".to_owned(), json!(s))));
            "sensor"
        }
    };
    more.insert("state_topic".into(), topic);
    if point.payload == PayloadFormat::Json {
        more.insert("value_template".into(), json!(format!("{{{{ {raw} }}}}")));
    }
    let unit = point.unit.as_deref().unwrap_or_default();
    if matches!(platform, "sensor" | "number") && !unit.is_empty() {
        more.insert("unit_of_measurement".into(), json!(unit));
    }
    if !class.is_empty() && wrong_class(platform, class, unit).is_none() {
        more.insert("device_class".into(), json!(class));
    }
    Some(Shape { platform, more: Json::Object(more), by_class })
}

/// As it is written; of a number, else what its class allows. What may be a number is one where it has a unit: Home
/// Assistant itself takes nothing else of such a sensor.
fn state_class<'a>(hint: &'a Hint, class: &str, unit: Option<&str>) -> Option<&'a str> {
    let number = match hint.values {
        "a number or text" | "as computed" => unit.is_some_and(|u| !u.is_empty()),
        values => values == "a number",
    };
    match hint.state_class.as_deref() {
        Some(s @ ("measurement" | "measurement_angle" | "total" | "total_increasing")) => Some(s),
        Some(_) => None,
        None if !number => None,
        None => Some(match class {
            "energy" | "gas" | "water" | "reactive_energy" => "total_increasing",
            "volume" | "monetary" => "total",
            "date" | "timestamp" | "enum" => "",
            _ => "measurement",
        }),
    }
}

fn switch(set: &str) -> Json {
    json!({ "command_topic": set, "payload_on": "ON", "payload_off": "OFF" })
}

/// The platform that says such a thing, and its keys but for the topic.
fn takes(takes: &Takes) -> Option<(&'static str, Json)> {
    Some(match takes {
        Takes::Anything => return None,
        Takes::Nothing => ("button", json!({ "payload_press": "PRESS" })),
        Takes::Number { min, max } => {
            let (min, max) = (min.unwrap_or(-1e6), max.unwrap_or(1e6));
            ("number", json!({ "min": min, "max": max, "step": 0.01, "mode": "box" }))
        }
        Takes::Text { min, max } => ("text", json!({ "min": min.min(&255), "max": max.min(&255) })),
        Takes::Bool => ("switch", json!({ "payload_on": "ON", "payload_off": "OFF" })),
        Takes::Choice(words) => ("select", json!({ "options": words })),
    })
}

fn put(map: &mut Map<String, Json>, more: Json) {
    if let Json::Object(more) = more {
        map.extend(more);
    }
}

/// `blind_up` as people write it: `Blind up`.
fn pretty(name: &str) -> String {
    let words = name.replace(['_', '-'], " ");
    let mut letters = words.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
#[path = "home_assistant_tests.rs"]
mod tests;
