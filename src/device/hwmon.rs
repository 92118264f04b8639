//! `hwmon`: a chip that a kernel driver reads as a hardware monitor: the processor's temperature, INA219, LM75, fans.
//!
//! A channel is `temp1`, `in0`, `curr1`, `power1`, `fan1`, or what its `_label` says. Units as in the kernel's
//! Documentation/hwmon/sysfs-interface.rst, turned into those that people use.

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
        name: "hwmon",
        summary: "a sensor of a kernel hwmon driver (INA219, LM75, fans)",
        schema: |generator| generator.subschema_for::<Keys>(),
    },
    build,
};

/// Where they are.
const DIR: &str = "sys/class/hwmon";

/// Keys of `hwmon`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
struct Keys {
    /// The chip's name, as its driver says it: cpu_thermal, ina219.
    name: String,
    /// Where it is at its bus, where several have the name: 1-0040.
    at: Option<String>,
    #[serde(flatten)]
    ask: AskKeys,
    /// Points by name.
    #[serde(default)]
    points: IndexMap<String, Channel>,
}

/// A point of a hardware monitor.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
struct Channel {
    /// The channel (temp1, in0, curr1, power1, fan1) or its label; default: the point's name.
    channel: Option<String>,
    #[serde(flatten)]
    keys: PointKeys,
}

/// What the kernel's units are in those of people: divisor, unit, Home Assistant's class.
fn units(channel: &str) -> (f64, &'static str, &'static str) {
    match channel.trim_end_matches(|c: char| c.is_ascii_digit()) {
        "temp" => (1000.0, "°C", "temperature"),
        "in" => (1000.0, "V", "voltage"),
        "curr" => (1000.0, "A", "current"),
        "power" => (1e6, "W", "power"),
        "energy" => (1e6, "J", "energy"),
        "humidity" => (1000.0, "%", "humidity"),
        "fan" => (1.0, "rpm", ""),
        "freq" => (1.0, "Hz", "frequency"),
        _ => (1.0, "", ""),
    }
}

fn build(params: &Params, desk: &mut Desk) -> Option<Built> {
    let keys: Keys = desk.read(params)?;
    if keys.points.is_empty() && !desk.places.dropped(&["devices", desk.name, "points"]) {
        let help = "name what it reads: points: { temperature: { channel: temp1 } }";
        desk.error(&[], "a hwmon device without points publishes nothing", help);
    }
    let mut points = Vec::new();
    let mut channels = Vec::new();
    for (name, point) in keys.points {
        let channel = point.channel.unwrap_or_else(|| name.clone());
        if channel.is_empty() || channel.contains('/') {
            let help = "write it as in temp1_input, or its label: channel: temp1";
            desk.error(&["points", &name, "channel"], format!("`{channel}` is not a channel"), help);
        }
        let (_, unit, class) = units(&channel);
        points.push(sensor::point(&name, point.keys, &["points", &name], unit, class));
        channels.push(channel);
    }
    let what = format!("hwmon {}{}", keys.name, keys.at.as_ref().map_or(String::new(), |at| format!(" at {at}")));
    let asked = Asked::new(&keys.ask, Chip { name: keys.name, at: keys.at, channels }, desk);
    Some(sensor::built(points, what, asked))
}

struct Chip {
    name: String,
    at: Option<String>,
    channels: Vec<String>,
}

impl Chip {
    fn channel(machine: &Machine, dir: &str, names: &[String], wanted: &str) -> Result<Value, String> {
        let of = |name: &String| name.strip_suffix("_input").map(str::to_owned);
        let labelled = |name: &String| {
            let channel = name.strip_suffix("_label")?;
            (machine.text(format!("{dir}/{name}")).ok()? == wanted).then(|| channel.to_owned())
        };
        let channel = names.iter().filter_map(of).find(|c| c == wanted);
        let Some(channel) = channel.or_else(|| names.iter().find_map(labelled)) else {
            let known: Vec<_> = names.iter().filter_map(of).collect();
            return Err(format!("it has no channel `{wanted}`; it has {}", known.join(", ")));
        };
        let n = machine.number(format!("{dir}/{channel}_input")).map_err(|e| e.text)?;
        sensor::number(n / units(&channel).0)
    }
}

impl Probe for Chip {
    fn read(&self, machine: &Machine) -> Result<Got, String> {
        let dir = sensor::find(machine, DIR, &self.name, self.at.as_deref())?;
        let names = machine.names(&dir);
        let channels = self.channels.iter().enumerate();
        Ok(channels.map(|(i, channel)| (i, Chip::channel(machine, &dir, &names, channel))).collect())
    }
}
