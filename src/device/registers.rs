//! What `i2c` and `spi` share: a chip's registers, declared in the file, read and turned into values.
//!
//! A reading writes `convert` (where it is given), waits `delay`, reads every register that a point names (once, however
//! many name it) and decodes them as `binary` frames are. `init` is written when the chip is first reached, and again
//! when it was lost: it may have been without power.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::codec::{Bytes, DecodeKeys, Decoder, FieldKeys, Frame};
use crate::config::raw::PointKeys;
use crate::config::scalar::Span;
use crate::expr::{Expression, Lookup, Scope};
use crate::hal::chip::{Chip, ChipSpec};
use crate::hal::machine::Machine;
use crate::model::{Now, Problem, Value};

use super::sensor::{self, AskKeys, Asked, Got, Probe};
use super::{Built, Desk};

/// The most bytes of one register.
const LONGEST: usize = 256;
/// The longest conversion.
const DELAY: Duration = Duration::from_secs(10);

/// Keys of a chip's registers.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(super) struct RegisterKeys {
    /// Written when the chip is first reached: a register with its value each.
    #[serde(default)]
    init: Vec<Bytes>,
    /// Written before every reading, to begin a conversion.
    convert: Option<Bytes>,
    /// Time from `convert` to the reading, at most 10s; default 0ms.
    delay: Option<Span>,
    #[serde(flatten)]
    ask: AskKeys,
    /// Points by name.
    #[serde(default)]
    points: IndexMap<String, RegisterPoint>,
}

/// A point in a register.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
struct RegisterPoint {
    /// What is written to read it: the register's number.
    register: Bytes,
    /// How many bytes are read; default: as many as the value takes.
    length: Option<usize>,
    /// Computed from `value` and from `fields.<point>`, the others as they were read.
    formula: Option<String>,
    #[serde(flatten)]
    field: FieldKeys,
    #[serde(flatten)]
    keys: PointKeys,
}

/// A register as it is read.
struct Register {
    bytes: Vec<u8>,
    length: usize,
}

struct Registers {
    chip: ChipSpec,
    init: Vec<Vec<u8>>,
    convert: Option<Vec<u8>>,
    delay: Duration,
    registers: Vec<Register>,
    points: Vec<Taken>,
    /// Whether `init` was written and nothing failed since.
    ready: Mutex<bool>,
}

struct Taken {
    name: String,
    register: usize,
    decoder: Mutex<Decoder>,
    formula: Option<Expression>,
}

/// Builds a device of such a chip.
pub(super) fn build(keys: RegisterKeys, chip: ChipSpec, desk: &mut Desk) -> Option<Built> {
    let name = desk.name;
    if keys.points.is_empty() && !desk.places.dropped(&["devices", name, "points"]) {
        let help = "name what it reads: points: { temperature: { register: \"00\", as: i16be } }";
        desk.error(&[], "a chip without points publishes nothing", help);
    }
    let delay = keys.delay.map_or(Duration::ZERO, |s| s.0);
    if delay > DELAY {
        desk.error(&["delay"], format!("`delay` of {}", Span(delay)), "write at most 10s");
    }
    let decode: DecodeKeys = serde_json::from_value(serde_json::json!({ "type": "binary" })).ok()?;
    let (mut registers, mut points, mut drafts) = (Vec::<Register>::new(), Vec::new(), Vec::new());
    let mut whole = true;
    for (point, keys) in keys.points {
        let at = usize::try_from(keys.field.at.unwrap_or(0)).unwrap_or(0);
        let length = keys.length.or_else(|| keys.field.width().map(|width| at + width)).unwrap_or(1);
        if !(1..=LONGEST).contains(&length) {
            desk.error(&["points", &point, "length"], format!("{length} bytes of a register"), "write 1 to 256");
            whole = false;
            continue;
        }
        let at = registers.iter().position(|r| r.bytes == keys.register.0);
        let register = at.unwrap_or(registers.len());
        match registers.get_mut(register) {
            Some(known) => known.length = known.length.max(length),
            None => registers.push(Register { bytes: keys.register.0.clone(), length }),
        }
        let field = FieldKeys { at: keys.field.at.or(Some(0)), ..keys.field };
        let decoder = match Decoder::new(&decode, &[(&point, &field)]) {
            Ok(decoder) => Mutex::new(decoder),
            Err(errors) => {
                whole = false;
                for error in errors {
                    let path: Vec<&str> = error.path.split('.').collect();
                    let problem = Problem::error(desk.place(&path), error.text);
                    desk.problems.push(match error.help {
                        Some(help) => problem.help(help),
                        None => problem,
                    });
                }
                continue;
            }
        };
        let formula =
            match keys.formula.map(|text| Expression::compile(&text, &Scope::new().with_value().with_fields())) {
                Some(Err(e)) => {
                    let path = ["devices", name, "points", &point, "formula"];
                    let place = desk.places.inside(&path, e.offset);
                    desk.problems.push(e.problem(place));
                    whole = false;
                    None
                }
                Some(Ok(formula)) => Some(formula),
                None => None,
            };
        let mut draft = sensor::point(&point, keys.keys, &["points", &point], "", "");
        draft.values = "a number, text, ON or OFF, or bytes";
        draft.keys.state_class = None;
        drafts.push(draft);
        points.push(Taken { name: point, register, decoder, formula });
    }
    if !whole {
        return None;
    }
    let what = format!("chip {chip}, {} registers", registers.len());
    let probe = Registers {
        chip,
        init: keys.init.into_iter().map(|b| b.0).collect(),
        convert: keys.convert.map(|b| b.0),
        delay,
        registers,
        points,
        ready: Mutex::new(false),
    };
    let asked = Asked::new(&keys.ask, probe, desk);
    Some(sensor::built(drafts, what, asked))
}

/// What a formula sees.
struct Seen<'a> {
    value: &'a Value,
    all: &'a [(&'a str, Value)],
}

impl Lookup for Seen<'_> {
    fn now(&self) -> Now {
        Now::default()
    }
    fn value(&self) -> Option<&Value> {
        Some(self.value)
    }
    fn field(&self, name: &str) -> Option<&Value> {
        self.all.iter().find(|(point, _)| *point == name).map(|(_, value)| value)
    }
}

impl Registers {
    fn bytes(&self, machine: &Machine) -> Result<Vec<Vec<u8>>, String> {
        let text = |e: crate::hal::HalError| e.text;
        let mut ready = self.ready.lock().unwrap_or_else(|e| e.into_inner());
        let was_ready = std::mem::replace(&mut *ready, false);
        let mut chip = Chip::open(&self.chip, machine).map_err(text)?;
        if !was_ready {
            for bytes in &self.init {
                chip.write(bytes).map_err(text)?;
            }
        }
        if let Some(bytes) = &self.convert {
            chip.write(bytes).map_err(text)?;
        }
        // a simulated chip has its answer at once
        if !machine.simulated() {
            wait(self.delay);
        }
        let registers = self.registers.iter();
        let read = registers.map(|r| chip.read(&r.bytes, r.length).map_err(text)).collect::<Result<_, _>>()?;
        *ready = true;
        Ok(read)
    }
}

/// In the sensor's own thread.
fn wait(time: Duration) {
    let begun = Instant::now();
    while let Some(left) = time.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
}

impl Probe for Registers {
    fn read(&self, machine: &Machine) -> Result<Got, String> {
        let read = self.bytes(machine)?;
        let decode = |point: &Taken| {
            let bytes = read.get(point.register)?;
            let mut found = Vec::new();
            let mut decoder = point.decoder.lock().unwrap_or_else(|e| e.into_inner());
            decoder.decode(&Frame::plain(bytes), &mut found).ok()?;
            found.pop()
        };
        let decoded: Vec<_> = self.points.iter().map(decode).collect();
        let good = self.points.iter().zip(&decoded);
        let good = good.filter_map(|(p, d)| Some((p.name.as_str(), d.as_ref().filter(|d| !d.bad)?.value.clone())));
        let all: Vec<(&str, Value)> = good.collect();
        let values = self.points.iter().zip(decoded).map(|(point, found)| match (found, &point.formula) {
            (None, _) => Err(format!("`{}` lies behind the end of its register", point.name)),
            (Some(found), _) if found.bad => Err(format!("`{}` reads {}", point.name, found.value)),
            (Some(found), None) => Ok(found.value),
            (Some(found), Some(formula)) => formula
                .value(&Seen { value: &found.value, all: &all })
                .map_err(|why| format!("`{}`: {}", point.name, why.say(|_| String::new()))),
        });
        Ok(values.enumerate().collect())
    }
}
