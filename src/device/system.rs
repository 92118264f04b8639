//! `system`: the machine itself: how warm and how busy it is, and on a Pi whether its supply holds.
//!
//! What a machine does not have (Wi-Fi, the Pi's supply) is not published. `under_voltage` and `throttled` are bits 0 and
//! 2 of the firmware's `get_throttled`, the state of now (Raspberry Pi documentation, `vcgencmd get_throttled`).

use std::path::PathBuf;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::Word;
use crate::config::raw::{Params, PointKeys};
use crate::hal::HalErrorKind;
use crate::hal::machine::Machine;
use crate::model::Value;

use super::sensor::{self, AskKeys, Asked, Got, Probe};
use super::{Built, Desk, Kind};

/// The word.
pub const KIND: Kind = Kind {
    word: Word {
        name: "system",
        summary: "the machine's own health",
        schema: |generator| generator.subschema_for::<Keys>(),
    },
    build,
};

/// Keys of `system`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
struct Keys {
    #[serde(flatten)]
    ask: AskKeys,
    /// A path on the file system that `disk` is about; default /.
    disk: Option<PathBuf>,
    /// Which of them, with the keys of any point; default: all that the machine has.
    points: Option<Points>,
}

/// Points of the machine.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
struct Points {
    /// Temperature of the processor, °C.
    cpu_temperature: Option<PointKeys>,
    /// Processes that run or wait, mean of a minute.
    load: Option<PointKeys>,
    /// Memory in use, %.
    memory: Option<PointKeys>,
    /// File system in use, %.
    disk: Option<PointKeys>,
    /// Signal of the Wi-Fi, dBm.
    wifi_signal: Option<PointKeys>,
    /// Whether the supply is too low now.
    under_voltage: Option<PointKeys>,
    /// Whether the processor is slowed down now.
    throttled: Option<PointKeys>,
}

/// What can be read.
#[derive(Debug, Clone, Copy, PartialEq)]
enum What {
    CpuTemperature,
    Load,
    Memory,
    Disk,
    WifiSignal,
    /// This bit of the firmware's word.
    Throttled(u32),
}

fn build(params: &Params, desk: &mut Desk) -> Option<Built> {
    let keys: Keys = desk.read(params)?;
    let all = keys.points.is_none();
    let p = keys.points.unwrap_or_default();
    let list: IndexMap<&str, _> = IndexMap::from([
        ("cpu_temperature", (p.cpu_temperature, What::CpuTemperature, "°C", "temperature")),
        ("load", (p.load, What::Load, "", "")),
        ("memory", (p.memory, What::Memory, "%", "")),
        ("disk", (p.disk, What::Disk, "%", "")),
        ("wifi_signal", (p.wifi_signal, What::WifiSignal, "dBm", "signal_strength")),
        ("under_voltage", (p.under_voltage, What::Throttled(0), "", "problem")),
        ("throttled", (p.throttled, What::Throttled(2), "", "problem")),
    ]);
    let (mut points, mut whats) = (Vec::new(), Vec::new());
    for (name, (keys, what, unit, class)) in list {
        if keys.is_none() && !all {
            continue;
        }
        let mut point = sensor::point(name, keys.unwrap_or_default(), &["points", name], unit, class);
        if let What::Throttled(_) = what {
            point.values = "ON or OFF";
            point.keys.state_class = None;
        }
        points.push(point);
        whats.push(what);
    }
    if points.is_empty() && !desk.places.dropped(&["devices", desk.name, "points"]) {
        desk.error(&["points"], "it publishes nothing", "name some, such as points: { load: {} }, or remove `points`");
    }
    let disk = keys.disk.unwrap_or_else(|| "/".into());
    let asked = Asked::new(&keys.ask, Machinery { whats, disk }, desk);
    Some(sensor::built(points, "this machine".into(), asked))
}

struct Machinery {
    whats: Vec<What>,
    disk: PathBuf,
}

impl Machinery {
    /// `None`: this machine has none.
    fn read(&self, what: What, machine: &Machine) -> Option<Result<Value, String>> {
        let text = |name: &str| match machine.text(name) {
            Err(e) if e.kind == HalErrorKind::NotFound => None,
            other => Some(other.map_err(|e| e.text)),
        };
        match what {
            What::CpuTemperature => {
                let zones = machine.names("sys/class/thermal");
                let zone = zones.iter().map(|z| format!("sys/class/thermal/{z}")).find(|zone| {
                    machine.text(format!("{zone}/type")).is_ok_and(|t| t.starts_with("cpu") || t == "x86_pkg_temp")
                })?;
                let milli = machine.number(format!("{zone}/temp")).map_err(|e| e.text);
                Some(milli.and_then(|n| sensor::number(n / 1000.0)))
            }
            What::Load => Some(text("proc/loadavg")?.and_then(|t| field(t.split_whitespace().next(), "proc/loadavg"))),
            What::Memory => Some(text("proc/meminfo")?.and_then(|t| {
                let kib = |name: &str| {
                    let line = t.lines().find_map(|l| l.strip_prefix(name))?;
                    line.trim_start_matches(':').split_whitespace().next()?.parse::<f64>().ok()
                };
                match (kib("MemTotal"), kib("MemAvailable")) {
                    (Some(all), Some(free)) if all > 0.0 => rounded((all - free) / all * 100.0),
                    _ => Err("proc/meminfo does not say what is free".into()),
                }
            })),
            What::Disk => Some(machine.disk_used(&self.disk).map_err(|e| e.text).and_then(rounded)),
            What::WifiSignal => {
                let table = match text("proc/net/wireless")? {
                    Ok(table) => table,
                    Err(e) => return Some(Err(e)),
                };
                // two lines of head, then `wlan0: 0000   54.  -56.  -256 …`
                let line = table.lines().skip(2).find(|l| l.contains(':'))?;
                let level = line.split_whitespace().nth(3).map(|n| n.trim_end_matches('.'));
                Some(field(level, "proc/net/wireless"))
            }
            What::Throttled(bit) => {
                let text = text(&throttled(machine)?)?;
                Some(text.and_then(|t| match u32::from_str_radix(t.trim_start_matches("0x"), 16) {
                    Ok(word) => Ok(Value::Bool(word >> bit & 1 == 1)),
                    Err(_) => Err(format!("get_throttled says `{t}`")),
                }))
            }
        }
    }
}

/// Where the firmware's word is: its folder has other names on other models.
fn throttled(machine: &Machine) -> Option<String> {
    let dir = "sys/devices/platform";
    let socs = machine.names(dir).into_iter().filter(|n| n.starts_with("soc"));
    let firmware = socs.flat_map(|soc| {
        let inside = machine.names(format!("{dir}/{soc}")).into_iter().filter(|n| n.ends_with("firmware"));
        inside.map(|n| format!("{dir}/{soc}/{n}")).chain([format!("{dir}/{soc}")]).collect::<Vec<_>>()
    });
    let mut files = firmware.map(|f| format!("{f}/get_throttled"));
    files.find(|f| machine.path(f).exists())
}

fn field(text: Option<&str>, file: &str) -> Result<Value, String> {
    let n = text.and_then(crate::model::value::parse_number);
    n.map(Value::Number).ok_or_else(|| format!("{file} is not of the form that is known"))
}

fn rounded(percent: f64) -> Result<Value, String> {
    sensor::number((percent * 10.0).round() / 10.0)
}

impl Probe for Machinery {
    fn read(&self, machine: &Machine) -> Result<Got, String> {
        let whats = self.whats.iter().enumerate();
        Ok(whats.filter_map(|(i, what)| Some((i, Machinery::read(self, *what, machine)?))).collect())
    }
}
