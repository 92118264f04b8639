//! `iio`: a chip that a kernel driver reads as an Industrial I/O device: BME280, ADS1115, BH1750, HX711, DHT22 …
//!
//! A channel is its `in_<channel>_input`, or (`_raw` + `_offset`) × `_scale`, each of the channel or of its type, in the
//! units of the kernel's ABI (Documentation/ABI/testing/sysfs-bus-iio), turned into those that people use.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::Word;
use crate::config::raw::{Params, PointKeys};
use crate::hal::machine::Machine;
use crate::model::Value;

use super::sensor::{self, AskKeys, Asked, Got, Probe};
use super::{Built, Desk, Kind};

/// The word.
pub const KIND: Kind = Kind {
    word: Word {
        name: "iio",
        summary: "a sensor of a kernel IIO driver (BME280, ADS1115)",
        schema: |generator| generator.subschema_for::<Keys>(),
    },
    build,
};

/// Where they are.
const DIR: &str = "sys/bus/iio/devices";

/// Keys of `iio`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
struct Keys {
    /// The chip's name, as its driver says it, or its label: bme280.
    name: String,
    /// Where it is at its bus, where several have the name: 1-0076.
    at: Option<String>,
    #[serde(flatten)]
    ask: AskKeys,
    /// Points by name.
    #[serde(default)]
    points: IndexMap<String, Channel>,
}

/// A point of an IIO device.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
struct Channel {
    /// The channel: temp, pressure, humidityrelative, voltage0; default: the point's name.
    channel: Option<String>,
    #[serde(flatten)]
    keys: PointKeys,
}

/// What the kernel's units are in those of people: divisor, unit, Home Assistant's class.
fn units(kind: &str) -> (f64, &'static str, &'static str) {
    match kind {
        "temp" => (1000.0, "°C", "temperature"),
        "humidityrelative" => (1000.0, "%", "humidity"),
        // the kernel's are kilopascal
        "pressure" => (0.1, "hPa", "pressure"),
        "voltage" | "altvoltage" => (1000.0, "V", "voltage"),
        "current" => (1000.0, "A", "current"),
        "power" => (1000.0, "W", "power"),
        "illuminance" => (1.0, "lx", "illuminance"),
        "distance" | "proximity" => (1.0, "m", "distance"),
        "accel" => (1.0, "m/s²", ""),
        "anglvel" => (1.0, "rad/s", ""),
        "resistance" => (1.0, "Ω", ""),
        _ => (1.0, "", ""),
    }
}

/// The type of a channel: `voltage` of `voltage0` and of `voltage0-voltage1`.
fn kind_of(channel: &str) -> &str {
    let end = channel.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(channel.len());
    channel.get(..end).unwrap_or(channel)
}

fn build(params: &Params, desk: &mut Desk) -> Option<Built> {
    let keys: Keys = desk.read(params)?;
    if keys.points.is_empty() && !desk.places.dropped(&["devices", desk.name, "points"]) {
        let help = "name what it reads: points: { temperature: { channel: temp } }";
        desk.error(&[], "an iio device without points publishes nothing", help);
    }
    let mut points = Vec::new();
    let mut channels = Vec::new();
    for (name, point) in keys.points {
        let channel = point.channel.unwrap_or_else(|| name.clone());
        if channel.is_empty() || !channel.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            let help = "write it as in in_temp_input: channel: temp";
            desk.error(&["points", &name, "channel"], format!("`{channel}` is not a channel"), help);
        }
        let (_, unit, class) = units(kind_of(&channel));
        points.push(sensor::point(&name, point.keys, &["points", &name], unit, class));
        channels.push(channel);
    }
    let what = format!("IIO device {}{}", keys.name, keys.at.as_ref().map_or(String::new(), |at| format!(" at {at}")));
    let asked = Asked::new(&keys.ask, Chip { name: keys.name, at: keys.at, channels }, desk);
    Some(sensor::built(points, what, asked))
}

struct Chip {
    name: String,
    at: Option<String>,
    channels: Vec<String>,
}

impl Chip {
    fn channel(machine: &Machine, dir: &str, channel: &str) -> Result<Value, String> {
        let kind = kind_of(channel);
        let (divisor, ..) = units(kind);
        let file = |what: &str, of: &str| format!("{dir}/in_{of}_{what}");
        if machine.path(file("input", channel)).exists() {
            let n = machine.number(file("input", channel)).map_err(|e| e.text)?;
            return sensor::number(n / divisor);
        }
        if !machine.path(file("raw", channel)).exists() {
            let names = machine.names(dir);
            let known: Vec<_> = names
                .iter()
                .filter_map(|n| n.strip_prefix("in_"))
                .filter_map(|n| n.strip_suffix("_input").or_else(|| n.strip_suffix("_raw")))
                .collect();
            return Err(format!("it has no channel `{channel}`; it has {}", known.join(", ")));
        }
        // of the channel, or of all of its type
        let shared = |what: &str, none: f64| {
            let own = [channel, kind].into_iter().find(|of| machine.path(file(what, of)).exists());
            own.map_or(Ok(none), |of| machine.number(file(what, of)).map_err(|e| e.text))
        };
        let raw = machine.number(file("raw", channel)).map_err(|e| e.text)?;
        sensor::number((raw + shared("offset", 0.0)?) * shared("scale", 1.0)? / divisor)
    }
}

impl Probe for Chip {
    fn read(&self, machine: &Machine) -> Result<Got, String> {
        let dir = sensor::find(machine, DIR, &self.name, self.at.as_deref())?;
        let channels = self.channels.iter().enumerate();
        Ok(channels.map(|(i, channel)| (i, Chip::channel(machine, &dir, channel))).collect())
    }
}
