//! `onewire`: a temperature sensor of the DS18B20 family at the kernel's 1-Wire bus (`dtoverlay=w1-gpio`).
//!
//! Read from `w1_slave` of the sensor's own id, whose first line says whether the check of the bytes held. 85 °C is what
//! the chip says before it has measured: refused, unless the reading before was near it. So are nine zero bytes, whose
//! check holds though nothing answers. Source: Linux, Documentation/w1/slaves/w1_therm.rst; the DS18B20's data sheet.

use std::sync::Mutex;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::Word;
use crate::config::raw::{Params, PointKeys};
use crate::hal::machine::Machine;

use super::sensor::{self, AskKeys, Asked, Got, Probe};
use super::{Built, Desk, Kind};

/// The word.
pub const KIND: Kind = Kind {
    word: Word {
        name: "onewire",
        summary: "a 1-Wire temperature sensor (DS18B20)",
        schema: |generator| generator.subschema_for::<Keys>(),
    },
    build,
};

/// What the chip says before it has measured, in thousandths.
const POWER_ON: i64 = 85_000;
/// A reading before that lies so near makes it believable.
const NEAR: i64 = 5_000;

/// Keys of `onewire`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
struct Keys {
    /// The sensor's id, as in /sys/bus/w1/devices: 28-3c01d607c2a1.
    id: String,
    #[serde(flatten)]
    ask: AskKeys,
    #[serde(flatten)]
    point: PointKeys,
}

fn build(params: &Params, desk: &mut Desk) -> Option<Built> {
    let keys: Keys = desk.read(params)?;
    let hex = |s: &str| s.bytes().all(|b| b.is_ascii_hexdigit());
    let good = keys.id.split_once('-').is_some_and(|(f, n)| f.len() == 2 && n.len() == 12 && hex(f) && hex(n));
    if !good {
        let help = "write it as `ls /sys/bus/w1/devices` does: 28-3c01d607c2a1";
        desk.error(&["id"], format!("`{}` is not the id of a 1-Wire sensor", keys.id), help);
    }
    let probe = Therm { id: keys.id.to_ascii_lowercase(), last: Mutex::new(None) };
    let what = format!("1-Wire sensor {}", probe.id);
    let asked = Asked::new(&keys.ask, probe, desk);
    let point = sensor::point("temperature", keys.point, &[], "°C", "temperature");
    Some(sensor::built(vec![point], what, asked))
}

struct Therm {
    id: String,
    /// The last temperature that was believed, in thousandths.
    last: Mutex<Option<i64>>,
}

impl Therm {
    /// Thousandths of a degree from the two lines of `w1_slave`.
    fn parse(&self, text: &str) -> Result<i64, String> {
        let mut lines = text.lines();
        let (first, second) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        if !first.trim_end().ends_with("YES") {
            return Err(format!("{}: the check of its bytes failed; look at cable and pull-up", self.id));
        }
        if first.split_whitespace().take_while(|word| *word != ":").all(|word| word == "00") {
            return Err(format!("{}: nothing but zeros; nobody answers on the bus", self.id));
        }
        let milli = second.rsplit_once("t=").and_then(|(_, n)| n.trim().parse::<i64>().ok());
        let milli = milli.ok_or_else(|| format!("{}: no temperature in `{second}`", self.id))?;
        let mut last = self.last.lock().unwrap_or_else(|e| e.into_inner());
        if milli == POWER_ON && last.is_none_or(|last| (last - milli).abs() > NEAR) {
            return Err(format!("{}: 85 °C is what it says before it has measured; look at its supply", self.id));
        }
        *last = Some(milli);
        Ok(milli)
    }
}

impl Probe for Therm {
    fn read(&self, machine: &Machine) -> Result<Got, String> {
        let dir = format!("sys/bus/w1/devices/{}", self.id);
        if !machine.path(&dir).exists() {
            let others = machine.names("sys/bus/w1/devices");
            let known: Vec<_> = others.iter().filter(|n| !n.starts_with("w1_bus")).map(String::as_str).collect();
            let known = if known.is_empty() { "no sensor at all".to_owned() } else { known.join(", ") };
            return Err(format!("there is no 1-Wire sensor {}; the kernel sees {known}", self.id));
        }
        let text = machine.text(format!("{dir}/w1_slave")).map_err(|e| e.text)?;
        let milli = self.parse(&text)?;
        Ok(vec![(0, sensor::number(milli as f64 / 1000.0))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn therm() -> Therm {
        Therm { id: "28-3c01d607c2a1".into(), last: Mutex::new(None) }
    }
    fn slave(bytes: &str, crc: &str, t: i64) -> String {
        format!("{bytes} : crc=5a {crc}\n{bytes} t={t}")
    }
    const BYTES: &str = "72 01 4b 46 7f ff 0e 10 5a";

    #[test]
    fn what_cannot_be_is_refused_and_says_why() {
        let t = therm();
        assert_eq!(t.parse(&slave(BYTES, "YES", 23125)), Ok(23125));
        for (text, want) in [
            (slave(BYTES, "NO", 23125), "check of its bytes"),
            (slave("00 00 00 00 00 00 00 00 00", "YES", 0), "zeros"),
            (slave(BYTES, "YES", 85000), "before it has measured"),
            (format!("{BYTES} : crc=5a YES\n{BYTES}"), "no temperature"),
            (String::new(), "check of its bytes"),
        ] {
            let why = t.parse(&text).unwrap_err();
            assert!(why.contains(want) && why.contains("28-3c01d607c2a1"), "{why}");
        }
    }

    #[test]
    fn in_a_sauna_85_degrees_are_believed() {
        let t = therm();
        for milli in [79_000, 82_500, 85_000, 85_000] {
            assert_eq!(t.parse(&slave(BYTES, "YES", milli)), Ok(milli));
        }
        assert!(therm().parse(&slave(BYTES, "YES", 85_000)).is_err());
    }
}
