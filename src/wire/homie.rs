//! HOMIE'S DIALECT, pure (Homie Convention 5.0, https://homieiot.github.io): topics, descriptions, and how values are
//! written and read.
//!
//! The gateway is a root device and each device of the file a child of it. A child has a node `points` with a property
//! for each point, and a node `commands` for the verbs of an instrument. Ids know no `_`: it becomes `-`.

use serde_json::{Map, Value as Json, json};

use crate::model::{DeviceId, DeviceSpec, Message, PointId, PointSpec, Properties, Qos, Scale, Takes, Value, VerbSpec};

/// The version of the convention, as descriptions say it.
const VERSION: &str = "5.0";
/// The node of points.
const POINTS: &str = "points";
/// The node of verbs.
const COMMANDS: &str = "commands";
/// What a button is told.
const PRESS: &str = "press";

/// What the file says of Homie.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The first level of its topics.
    pub domain: String,
    /// The root device's id.
    pub root: String,
    /// What the values of the points are, in their order, in the words of `explain`.
    pub values: Vec<&'static str>,
}

impl Settings {
    /// `<domain>/5/<device>/<attribute>`.
    pub fn attribute(&self, device: &str, attribute: &str) -> String {
        format!("{}/5/{device}/{attribute}", self.domain)
    }
    /// The root's `$state`: the will, and the goodbye.
    pub fn root_state(&self, state: &str) -> Message {
        Message {
            topic: self.attribute(&self.root, "$state"),
            payload: state.into(),
            qos: Qos::AtLeastOnce,
            retain: true,
            properties: Properties::default(),
        }
    }
    /// The id of a child.
    pub fn child(&self, device: &str) -> String {
        format!("{}-{}", self.root, id_of(device))
    }
}

/// A name as Homie takes it.
pub fn id_of(name: &str) -> String {
    name.replace('_', "-")
}

/// What a property holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Datatype {
    /// `true` or `false`
    Boolean,
    /// A decimal number.
    Float,
    /// Text.
    String,
    /// One of these words.
    Enum(Vec<String>),
}

impl Datatype {
    /// The convention's word for it.
    pub fn word(&self) -> &'static str {
        match self {
            Datatype::Boolean => "boolean",
            Datatype::Float => "float",
            Datatype::String => "string",
            Datatype::Enum(_) => "enum",
        }
    }

    /// The type of a word that needs no format.
    pub fn of_word(word: &str) -> Option<Datatype> {
        [Datatype::Boolean, Datatype::Float, Datatype::String].into_iter().find(|d| d.word() == word)
    }

    /// A value as it is written; `None` where it is none of this type.
    pub fn write(&self, value: &Value) -> Option<Vec<u8>> {
        Some(match (self, value) {
            (Datatype::Boolean, Value::Bool(on)) => if *on { "true" } else { "false" }.into(),
            (Datatype::Float, Value::Number(_)) => value.to_string().into_bytes(),
            (Datatype::Enum(words), Value::Text(text)) if words.contains(text) => text.clone().into_bytes(),
            (Datatype::String, Value::Bytes(_)) => return None,
            // an empty payload would delete what is retained: the convention has a NUL for it
            (Datatype::String, Value::Text(text)) if text.is_empty() => vec![0],
            (Datatype::String, other) => other.to_string().into_bytes(),
            _ => return None,
        })
    }

    /// A value as a controller writes it. The error is for people.
    pub fn read(&self, payload: &[u8]) -> Result<Value, String> {
        let text = match payload {
            [0] => "",
            other => std::str::from_utf8(other).map_err(|_| "it is not UTF-8".to_owned())?,
        };
        match self {
            Datatype::Boolean => match text {
                "true" => Ok(Value::Bool(true)),
                "false" => Ok(Value::Bool(false)),
                _ => Err("a boolean of Homie is `true` or `false`".into()),
            },
            Datatype::Float => match Value::parse(text) {
                number @ Value::Number(_) if !text.contains(char::is_whitespace) => Ok(number),
                _ => Err("a float of Homie is a decimal number".into()),
            },
            Datatype::String => Ok(Value::Text(text.to_owned())),
            Datatype::Enum(words) if words.iter().any(|w| w == text) => Ok(Value::Text(text.to_owned())),
            Datatype::Enum(words) => Err(format!("it is one of {}", words.join(", "))),
        }
    }
}

/// What a property is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A point.
    Point(PointId),
    /// A verb of the device.
    Verb(String),
}

/// A property of a child.
#[derive(Debug, Clone, PartialEq)]
pub struct Property {
    /// Its id within its node.
    pub id: String,
    /// What it is of.
    pub target: Target,
    /// What it holds.
    pub datatype: Datatype,
    /// Whether that is only what is probable: nothing was read yet.
    pub open: bool,
    /// Bounds of a number: `5:30`.
    pub format: Option<String>,
    /// Whether it can be written.
    pub settable: bool,
    /// Whether its `$target` is told: an output of our own, where what is wished is known.
    pub aims: bool,
    /// Whether it is a state; else an event or a command.
    pub retained: bool,
    /// Unit, for people.
    pub unit: Option<String>,
}

impl Property {
    fn node(&self) -> &'static str {
        match self.target {
            Target::Point(_) => POINTS,
            Target::Verb(_) => COMMANDS,
        }
    }

    fn description(&self) -> Json {
        let mut map = Map::new();
        let mut put = |key: &str, value: Json| drop(map.insert(key.to_owned(), value));
        put("name", json!(pretty(&self.id)));
        put("datatype", json!(self.datatype.word()));
        match (&self.datatype, &self.format) {
            (Datatype::Enum(words), _) => put("format", json!(words.join(","))),
            (_, Some(format)) => put("format", json!(format)),
            _ => {}
        }
        put("settable", json!(self.settable));
        put("retained", json!(self.retained));
        if let Some(unit) = &self.unit {
            put("unit", json!(unit));
        }
        Json::Object(map)
    }
}

/// A child.
#[derive(Debug, Clone, PartialEq)]
pub struct Child {
    /// Its id.
    pub id: String,
    /// The device of the file.
    pub device: DeviceId,
    /// Its name for people.
    pub name: String,
    /// Its kind.
    pub kind: &'static str,
    /// Its properties, the points first.
    pub properties: Vec<Property>,
}

impl Child {
    /// The topic of a property.
    pub fn topic(&self, settings: &Settings, property: &Property) -> String {
        settings.attribute(&self.id, &format!("{}/{}", property.node(), property.id))
    }

    /// Every topic that is retained, the state last.
    pub fn topics(&self, settings: &Settings) -> Vec<String> {
        let mut topics = Vec::new();
        for property in self.properties.iter().filter(|p| p.retained) {
            let topic = self.topic(settings, property);
            topics.extend(property.aims.then(|| format!("{topic}/$target")));
            topics.push(topic);
        }
        topics.extend(["$description", "$state"].map(|a| settings.attribute(&self.id, a)));
        topics
    }

    /// `$description` without its version, which is made of it.
    pub fn description(&self, settings: &Settings) -> Map<String, Json> {
        let mut nodes = Map::new();
        for (id, name) in [(POINTS, "Points"), (COMMANDS, "Commands")] {
            let properties = self.properties.iter().filter(|p| p.node() == id);
            let properties: Map<String, Json> = properties.map(|p| (p.id.clone(), p.description())).collect();
            if !properties.is_empty() {
                nodes.insert(id.into(), json!({ "name": name, "type": self.kind, "properties": properties }));
            }
        }
        object(json!({
            "homie": VERSION, "name": self.name, "type": self.kind, "root": settings.root, "parent": settings.root,
            "nodes": nodes,
        }))
    }
}

/// The root's `$description` without its version.
pub fn root(name: &str, children: &[Child]) -> Map<String, Json> {
    let children: Vec<&str> = children.iter().map(|c| c.id.as_str()).collect();
    object(json!({ "homie": VERSION, "name": name, "type": "pinpost", "nodes": {}, "children": children }))
}

fn object(json: Json) -> Map<String, Json> {
    match json {
        Json::Object(map) => map,
        _ => Map::new(),
    }
}

/// The children of the devices.
pub fn children(settings: &Settings, devices: &[DeviceSpec], points: &[PointSpec]) -> Vec<Child> {
    let child = |device: &DeviceSpec| {
        let of_point = |(i, id): (usize, &PointId)| {
            let values = settings.values.get(id.0 as usize).copied().unwrap_or_default();
            property(device, points.get(id.0 as usize)?, i, values)
        };
        let of_verb = |own: &VerbSpec| {
            let (datatype, format) = taken(&own.takes);
            Property {
                id: id_of(&own.verb),
                target: Target::Verb(own.verb.clone()),
                datatype,
                open: false,
                format,
                settable: true,
                aims: false,
                retained: false,
                unit: None,
            }
        };
        let verbs = device.own.iter().filter(|own| own.point.is_none()).map(of_verb);
        Child {
            id: settings.child(&device.name),
            device: device.id,
            name: pretty(&device.name),
            kind: device.kind,
            properties: device.points.iter().enumerate().filter_map(of_point).chain(verbs).collect(),
        }
    };
    devices.iter().map(child).collect()
}

/// Bytes are no property: Homie has no type for them.
fn property(device: &DeviceSpec, point: &PointSpec, i: usize, values: &str) -> Option<Property> {
    let gesture = values == "click, double or long";
    let writes = device.own.iter().find(|own| own.verb == "set" && own.point == Some(i));
    let scale = device.output.as_ref().filter(|_| i == 0).map(|o| o.scale);
    let (datatype, format) = match (scale, writes.map(|w| taken(&w.takes))) {
        (Some(Scale::Switch), _) => (Datatype::Boolean, None),
        (Some(Scale::Duty { max, .. }), _) => (Datatype::Float, Some(format!("0:{max}"))),
        (Some(Scale::Angle { from, to }), _) => (Datatype::Float, Some(format!("{}:{}", from.min(to), from.max(to)))),
        (None, Some(taken)) => taken,
        (None, None) if gesture => (Datatype::Enum(["click", "double", "long"].map(Into::into).into()), None),
        (None, None) => (
            match values {
                "bytes" => return None,
                "ON or OFF" => Datatype::Boolean,
                "text" => Datatype::String,
                _ => Datatype::Float,
            },
            None,
        ),
    };
    Some(Property {
        id: id_of(&point.name),
        target: Target::Point(point.id),
        open: scale.is_none() && writes.is_none() && !gesture && values != "text",
        datatype,
        format,
        settable: scale.is_some() || writes.is_some(),
        aims: scale.is_some(),
        retained: !gesture,
        unit: point.unit.clone(),
    })
}

fn taken(takes: &Takes) -> (Datatype, Option<String>) {
    match takes {
        Takes::Number { min: None, max: None } => (Datatype::Float, None),
        Takes::Number { min, max } => {
            let text = |n: &Option<f64>| n.map_or(String::new(), |n| Value::Number(n).to_string());
            (Datatype::Float, Some(format!("{}:{}", text(min), text(max))))
        }
        Takes::Bool => (Datatype::Boolean, None),
        Takes::Choice(words) => (Datatype::Enum(words.clone()), None),
        Takes::Nothing => (Datatype::Enum(vec![PRESS.into()]), None),
        Takes::Anything | Takes::Text { .. } => (Datatype::String, None),
    }
}

fn pretty(name: &str) -> String {
    let words = name.replace(['_', '-'], " ");
    let mut letters = words.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_are_written_as_the_convention_has_it() {
        let choice = Datatype::Enum(vec!["auto".into(), "off".into()]);
        for (datatype, value, want) in [
            (Datatype::Boolean, Value::Bool(true), Some("true")),
            (Datatype::Boolean, Value::Number(1.0), None),
            (Datatype::Float, Value::Number(-0.0), Some("0")),
            (Datatype::Float, Value::Number(1e21), Some("1000000000000000000000")),
            (Datatype::Float, Value::Text("23".into()), None),
            (Datatype::String, Value::Text(String::new()), Some("\0")),
            (Datatype::String, Value::Number(2.5), Some("2.5")),
            (Datatype::String, Value::Bytes(vec![1]), None),
            (choice.clone(), Value::Text("auto".into()), Some("auto")),
            (choice, Value::Text("on".into()), None),
        ] {
            assert_eq!(datatype.write(&value), want.map(|w| w.as_bytes().to_vec()), "{datatype:?} {value:?}");
        }
    }

    #[test]
    fn what_a_controller_writes_is_of_the_type_or_refused() {
        assert_eq!(Datatype::Boolean.read(b"true"), Ok(Value::Bool(true)));
        for bad in ["ON", "1", "True", "", " true"] {
            assert!(Datatype::Boolean.read(bad.as_bytes()).is_err(), "{bad}");
        }
        assert_eq!(Datatype::Float.read(b"21.5"), Ok(Value::Number(21.5)));
        for bad in ["", "nan", "Infinity", " 5", "5,1", "0x10"] {
            assert!(Datatype::Float.read(bad.as_bytes()).is_err(), "{bad}");
        }
        assert_eq!(Datatype::String.read(&[0]), Ok(Value::Text(String::new())));
        assert!(Datatype::String.read(&[0xff]).is_err());
        assert!(Datatype::Enum(vec!["press".into()]).read(b"Press").is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(n in -1e15f64..1e15, text in ".{0,20}", on: bool, payload in proptest::collection::vec(any::<u8>(), 0..40)) {
            for (datatype, value) in [
                (Datatype::Float, Value::Number(n)),
                (Datatype::Boolean, Value::Bool(on)),
                (Datatype::String, Value::Text(text.replace('\0', ""))),
            ] {
                prop_assert_eq!(datatype.read(&datatype.write(&value).unwrap()), Ok(value));
                let _ = datatype.read(&payload);
            }
        }
    }
}
