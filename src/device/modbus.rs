//! `modbus`: registers and coils of a unit, read at intervals and written on command, over a serial line (RTU) or TCP.
//!
//! Several units, and other devices that ask, may share a port. Neighbouring cells are read in one request; where a unit
//! has a hole between them it is asked for the parts. A unit that does not answer is asked less and less often and costs
//! the others one patience a round. What is written is read back, and that is the answer.

mod registers;
mod talk;

use std::time::Duration;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::time::{Instant, sleep_until};

use crate::backoff::Backoff;
use crate::config::Word;
use crate::config::raw::{Params, PointKeys};
use crate::config::scalar::{OnOff, Span};
use crate::hal::bus::{AskError, Bus, Heard, Member, Urgency};
use crate::model::{Action, OutcomeKind, Quality, Refusal, Takes, Value, VerbSpec};

use super::{Built, Context, Counters, Desk, DeviceError, Driver, Kind, Order, PointDraft, Task};
use registers::{Form, Number, Table, WordOrder};
use talk::{Answer, Asked, Frames, Question, Refused};

/// The word.
pub const KIND: Kind = Kind {
    word: Word {
        name: "modbus",
        summary: "registers and coils of a Modbus unit, by RTU or TCP",
        schema: |generator| generator.subschema_for::<Keys>(),
    },
    build,
};

/// Cells that may lie between two points of one request, where nobody says otherwise.
const GAP: u16 = 8;
/// Longest time between two tries to reach a unit that is silent, unless `every` is longer.
const SELDOM: Duration = Duration::from_secs(60);

/// Keys of `modbus`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
struct Keys {
    /// Name of a port; several units may share it.
    port: String,
    /// The unit's address, 1 to 247; with TCP also 0 and 255; default 1.
    unit_id: Option<u8>,
    /// `rtu` or `tcp`; default: tcp where the port is `tcp`, else rtu. `rtu` on a tcp port is for ser2net and friends.
    protocol: Option<Frames>,
    /// Time between two readings of all points; default 10s.
    every: Option<Span>,
    /// How long an answer may take; default 1s.
    timeout: Option<Span>,
    /// How often a request is repeated that got no answer; default 2.
    retries: Option<u8>,
    /// How many cells that nobody wants may lie between two points that are read in one request; default 8.
    gap: Option<u16>,
    /// Which register of a number comes first; default high_first.
    word_order: Option<WordOrder>,
    /// Points by name.
    #[serde(default)]
    points: IndexMap<String, ModbusPoint>,
}

/// A point of a Modbus unit.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
struct ModbusPoint {
    /// Address of an input register, from 0 as on the wire.
    input: Option<u16>,
    /// Address of a holding register, from 0 as on the wire.
    holding: Option<u16>,
    /// Address of a coil, from 0 as on the wire.
    coil: Option<u16>,
    /// Address of a discrete input, from 0 as on the wire.
    discrete: Option<u16>,
    /// How a number is written, default u16.
    #[serde(rename = "as")]
    number: Option<Number>,
    /// One bit of the register, 0 is the lowest: ON or OFF.
    bit: Option<u32>,
    /// Bits of the register from and to, both included.
    bits: Option<[u32; 2]>,
    /// So many bytes of text.
    text: Option<u16>,
    /// Which register of the number comes first.
    word_order: Option<WordOrder>,
    /// What one step of the number is worth, default 1.
    scale: Option<f64>,
    /// Whether `/set` writes it; default no.
    writable: Option<OnOff>,
    /// Least value that may be written.
    min: Option<f64>,
    /// Greatest value that may be written.
    max: Option<f64>,
    /// Function 6 (`single`) or 16 (`multiple`); default: single for one register, multiple for more.
    write: Option<Write>,
    #[serde(flatten)]
    keys: PointKeys,
}

/// By which function registers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Write {
    /// Function 6.
    Single,
    /// Function 16.
    Multiple,
}

/// A point as it is read and written.
#[derive(Debug, Clone, PartialEq)]
struct Cells {
    table: Table,
    at: u16,
    form: Form,
    /// Function 6 rather than 16.
    single: bool,
}

impl Cells {
    fn end(&self) -> u32 {
        u32::from(self.at) + u32::from(self.form.cells())
    }
}

/// One request: cells of a table, and the points in them.
#[derive(Debug, Clone, PartialEq)]
struct Range {
    table: Table,
    from: u16,
    count: u16,
    points: Vec<usize>,
}

/// Puts points together that lie in one table with at most `gap` cells between them.
fn ranges(cells: &[Cells], gap: u16) -> Vec<Range> {
    let mut order: Vec<usize> = (0..cells.len()).collect();
    order.sort_by_key(|&i| cells.get(i).map(|c| (c.table, c.at)));
    let mut ranges: Vec<Range> = Vec::new();
    for i in order {
        let Some(cell) = cells.get(i) else { continue };
        if let Some(last) = ranges.last_mut().filter(|r| r.table == cell.table) {
            let end = u32::from(last.from) + u32::from(last.count);
            let count = cell.end().max(end) - u32::from(last.from);
            if u32::from(cell.at) <= end + u32::from(gap) && count <= u32::from(cell.table.longest()) {
                last.count = count as u16;
                last.points.push(i);
                continue;
            }
        }
        ranges.push(Range { table: cell.table, from: cell.at, count: cell.form.cells(), points: vec![i] });
    }
    ranges
}

struct Modbus {
    bus: Bus,
    frames: Frames,
    unit: u8,
    every: Duration,
    timeout: Duration,
    retries: u8,
    gap: u16,
    points: Vec<Cells>,
}

fn build(params: &Params, desk: &mut Desk) -> Option<Built> {
    let keys: Keys = desk.read(params)?;
    let bus = desk.share_port(&keys.port, &["port"]);
    let frames = keys.protocol.or_else(|| bus.as_ref().map(|b| Frames::of(&b.spec().kind))).unwrap_or(Frames::Rtu);
    let unit = keys.unit_id.unwrap_or(1);
    if frames == Frames::Rtu && !(1..=247).contains(&unit) {
        let help = "write the address that the unit is set to, 1 to 247";
        desk.error(&["unit_id"], format!("{unit} is no address of a unit on a serial line"), help);
    }
    let every = keys.every.map_or(Duration::from_secs(10), |s| s.0);
    let timeout = keys.timeout.map_or(Duration::from_secs(1), |s| s.0);
    for (key, time) in [("every", every), ("timeout", timeout)] {
        if time < Duration::from_millis(10) {
            desk.error(&[key], format!("`{key}` is too short"), "write at least 10ms");
        }
    }
    if keys.points.is_empty() && !desk.places.dropped(&["devices", desk.name, "points"]) {
        desk.error(
            &[],
            "a unit without points is not read",
            "name what it has: points: { power: { input: 12, as: f32 } }",
        );
    }
    let mut points = Vec::new();
    let mut drafts = Vec::new();
    let mut own_verbs = Vec::new();
    let attempts = u32::from(keys.retries.unwrap_or(2)) + 1;
    for (i, (name, point)) in keys.points.iter().enumerate() {
        let Some(cells) = cells(name, point, &keys, desk) else { continue };
        if point.writable.is_some_and(|w| w.0) {
            // a bit is read before it is written, and everything after
            let time = timeout * attempts * 3;
            own_verbs.push(VerbSpec { verb: "set".into(), point: Some(i), takes: takes(point, &cells), time });
        }
        drafts.push(PointDraft {
            name: name.clone(),
            keys: point.keys.clone(),
            path: vec!["points".to_owned(), name.clone()],
            values: match cells.form {
                Form::Cell | Form::Bit(_) => "ON or OFF",
                Form::Number { .. } | Form::Bits(..) => "a number",
                Form::Text(_) => "text",
            },
            stateful: false,
        });
        points.push(cells);
    }
    let bus = bus.filter(|_| points.len() == keys.points.len())?;
    let gap = keys.gap.unwrap_or(GAP);
    let requests = ranges(&points, gap).len();
    let notes = vec![
        format!("port {}: {}", bus.spec().name, bus.spec().kind),
        format!(
            "unit {unit} by {}, every {} with {requests} request{}",
            if frames == Frames::Rtu { "RTU" } else { "TCP" },
            Span(every),
            if requests == 1 { "" } else { "s" }
        ),
    ];
    let retries = keys.retries.unwrap_or(2);
    Some(Built {
        points: drafts,
        point_verbs: vec!["get"],
        device_verbs: vec![],
        own_verbs,
        output: None,
        safe: None,
        notes,
        driver: Box::new(Modbus { bus, frames, unit, every, timeout, retries, gap, points }),
    })
}

/// Where a point's cells are and what they mean; `None` if that was reported as wrong.
fn cells(name: &str, point: &ModbusPoint, keys: &Keys, desk: &mut Desk) -> Option<Cells> {
    let tables = [
        (Table::Input, point.input),
        (Table::Holding, point.holding),
        (Table::Coil, point.coil),
        (Table::Discrete, point.discrete),
    ];
    let written: Vec<(Table, u16)> = tables.iter().filter_map(|(t, at)| Some((*t, (*at)?))).collect();
    let path = ["points", name];
    let at = |key: &'static str| ["points", name, key];
    let (table, address) = match written.as_slice() {
        [one] => *one,
        [] => {
            let dropped =
                tables.iter().any(|(t, _)| desk.places.gone(&[&["devices", desk.name], &at(t.word())[..]].concat()));
            if !dropped && !desk.places.dropped(&["devices", desk.name, "points", name]) {
                let help = "write one of input: ADDRESS, holding: ADDRESS, coil: ADDRESS, discrete: ADDRESS";
                desk.error(&path, format!("point `{name}` does not say where it is read"), help);
            }
            return None;
        }
        [(first, _), (second, _), ..] => {
            let text = format!("`{}` and `{}`: a point is in one table", first.word(), second.word());
            desk.error(&at(second.word()), text, "remove one of the two");
            return None;
        }
    };
    let forms = [
        ("as", point.number.is_some()),
        ("bit", point.bit.is_some()),
        ("bits", point.bits.is_some()),
        ("text", point.text.is_some()),
    ];
    let said: Vec<&'static str> = forms.iter().filter_map(|(key, is)| is.then_some(*key)).collect();
    if let [first, second, ..] = said.as_slice() {
        desk.error(&at(second), format!("`{first}` and `{second}`: a point is one of them"), "remove one of the two");
        return None;
    }
    let numeric = [("scale", point.scale.is_some()), ("min", point.min.is_some()), ("max", point.max.is_some())];
    if table.is_bits()
        && let Some(key) = said.first().copied().or_else(|| numeric.iter().find(|(_, is)| *is).map(|(key, _)| *key))
    {
        let text = format!("`{key}` does not go with `{}`, which is ON or OFF", table.word());
        desk.error(&at(key), text, "remove it");
        return None;
    }
    let form = if table.is_bits() {
        Form::Cell
    } else if let Some(bit) = point.bit {
        if bit > 15 {
            desk.error(&at("bit"), format!("a register has no bit {bit}"), "write 0 (the lowest) to 15");
            return None;
        }
        Form::Bit(bit)
    } else if let Some([from, to]) = point.bits {
        if from > to || to > 15 {
            desk.error(
                &at("bits"),
                format!("[{from}, {to}] are no bits of a register"),
                "write [4, 7]: from and to, 0 to 15",
            );
            return None;
        }
        Form::Bits(from, to)
    } else if let Some(bytes) = point.text {
        if !(1..=240).contains(&bytes) {
            desk.error(&at("text"), format!("a text of {bytes} bytes"), "write 1 to 240, two for each register");
            return None;
        }
        Form::Text(bytes.into())
    } else {
        let scale = point.scale.unwrap_or(1.0);
        if !(scale.is_finite() && scale != 0.0) {
            desk.error(&at("scale"), "a scale of nothing", "write what one step is worth: scale: 0.1");
            return None;
        }
        let order = point.word_order.or(keys.word_order).unwrap_or_default();
        Form::Number { number: point.number.unwrap_or(Number::U16), order, scale }
    };
    if u32::from(address) + u32::from(form.cells()) > 0x1_0000 {
        let key = table.word();
        desk.error(
            &at(key),
            format!("`{key}`: its last cell would be behind 65535"),
            "addresses are 0-based wire addresses",
        );
        return None;
    }
    let writable = point.writable.is_some_and(|w| w.0);
    if writable && matches!(table, Table::Input | Table::Discrete) {
        let text = format!("`{}` cells can only be read", table.word());
        desk.error(&at("writable"), text, "remove it, or use holding or coil");
        return None;
    }
    if writable && matches!(form, Form::Bits(..) | Form::Text(_)) {
        desk.error(&at("writable"), "only numbers and bits can be written", "remove it");
        return None;
    }
    if let (Some(min), Some(max)) = (point.min, point.max)
        && min > max
    {
        desk.error(&at("min"), format!("min {min} is above max {max}"), "write the smaller one as min");
        return None;
    }
    let single = match point.write {
        Some(Write::Single) if form.cells() > 1 => {
            let text = format!("function 6 writes one register, and this number has {}", form.cells());
            desk.error(&at("write"), text, "remove it, or write: multiple");
            return None;
        }
        Some(write) => write == Write::Single,
        None => form.cells() == 1,
    };
    Some(Cells { table, at: address, form, single })
}

/// What `/set` of a point takes.
fn takes(point: &ModbusPoint, cells: &Cells) -> Takes {
    match &cells.form {
        Form::Number { number, scale, .. } => {
            let (low, high) = match number.range() {
                Some((a, b)) => (Some((a * scale).min(b * scale)), Some((a * scale).max(b * scale))),
                None => (None, None),
            };
            Takes::Number { min: point.min.or(low), max: point.max.or(high) }
        }
        _ => Takes::Bool,
    }
}

/// Why a request came to nothing.
enum Trouble {
    /// The port is gone.
    Lost(String),
    /// Nobody answered, or nothing that counts.
    Silent(String),
    /// The unit refused.
    Refused(Refused),
}

impl Trouble {
    fn refusal(self) -> Refusal {
        match self {
            Trouble::Lost(why) => Refusal::new(OutcomeKind::Failed, format!("the port is gone: {why}")),
            Trouble::Silent(why) => Refusal::new(OutcomeKind::Timeout, why),
            Trouble::Refused(refused) => Refusal::new(OutcomeKind::Failed, refused.text),
        }
    }
}

/// A unit on an open port.
struct Talk<'a> {
    unit: &'a Modbus,
    member: Member,
    quiet: Duration,
    transaction: u16,
}

impl Talk<'_> {
    async fn ask(&mut self, urgency: Urgency, question: Question, cx: &Context) -> Result<Vec<u16>, Trouble> {
        let mut silent = String::new();
        for _ in 0..=self.unit.retries {
            self.transaction = self.transaction.wrapping_add(1);
            let (asked, request) = Asked::new(self.unit.frames, self.unit.unit, self.transaction, question.clone())
                .map_err(Trouble::Silent)?;
            let answer =
                self.member.ask(urgency, request, self.quiet, self.unit.timeout, |bytes| asked.answer(bytes)).await;
            match answer {
                Ok(Answer::Cells(cells)) => {
                    Counters::add(&cx.counters.frames, 1);
                    return Ok(cells);
                }
                Ok(Answer::Refused(refused)) => {
                    Counters::add(&cx.counters.frames, 1);
                    return Err(Trouble::Refused(refused));
                }
                Err(AskError::Lost(why)) => return Err(Trouble::Lost(why)),
                Err(AskError::NotTaken(why)) => silent = format!("the port did not take the request: {why}"),
                Err(AskError::Silent(bytes)) => {
                    Counters::add(&cx.counters.missed, 1);
                    silent = format!("unit {} did not answer", self.unit.unit);
                    if !bytes.is_empty() {
                        Counters::add(&cx.counters.bad_frames, 1);
                        Counters::add(&cx.counters.dropped_bytes, bytes.len() as u64);
                        silent =
                            format!("unit {} answered with {} bytes that are no answer", self.unit.unit, bytes.len());
                    }
                }
            }
        }
        Err(Trouble::Silent(silent))
    }

    /// Reads a range and hands its points on; a range with holes that the unit does not have is cut up for good.
    async fn read(&mut self, ranges: &mut Vec<Range>, at: usize, cx: &Context) -> Result<(), Trouble> {
        let Some(range) = ranges.get(at).cloned() else { return Ok(()) };
        let question = Question::Read { table: range.table, from: range.from, count: range.count };
        match self.ask(Urgency::Poll, question, cx).await {
            Ok(cells) => {
                let now = Instant::now();
                for &i in &range.points {
                    let Some(point) = self.unit.points.get(i) else { continue };
                    let from = usize::from(point.at - range.from);
                    match cells.get(from..).and_then(|cells| point.form.read(cells)) {
                        Some(value) => cx.reading(i, value, Quality::Good, now).await,
                        None => cx.reading(i, Value::Text("nan".into()), Quality::Bad, now).await,
                    }
                }
                Ok(())
            }
            Err(Trouble::Refused(refused)) if refused.address && range.points.len() > 1 => {
                log::info!(device = cx.name.as_str(); "{} at {}: {}; it is read in parts from now on",
                    range.table.word(), range.from, refused.text);
                let points = &self.unit.points;
                let parts = range.points.iter().filter_map(|&i| {
                    let cell = points.get(i)?;
                    Some(Range { table: cell.table, from: cell.at, count: cell.form.cells(), points: vec![i] })
                });
                ranges.splice(at..=at, parts);
                Box::pin(self.read(ranges, at, cx)).await
            }
            Err(Trouble::Refused(refused)) => {
                Counters::add(&cx.counters.errors, 1);
                log::warn!(device = cx.name.as_str(); "{} at {}: {}", range.table.word(), range.from, refused.text);
                Ok(())
            }
            Err(other) => Err(other),
        }
    }

    /// Writes a point and reads it back: what it reads back is the answer.
    async fn write(&mut self, i: usize, value: &Value, cx: &Context) -> Result<Value, Refusal> {
        let Some(point) = self.unit.points.get(i) else {
            return Err(Refusal::new(OutcomeKind::Rejected, "there is no such point"));
        };
        let whole = Question::Read { table: point.table, from: point.at, count: point.form.cells() };
        let question = match (&point.form, value) {
            (Form::Cell, Value::Bool(on)) => Question::Coil { at: point.at, on: *on },
            (Form::Bit(_), Value::Bool(on)) => {
                let before = self.ask(Urgency::Command, whole.clone(), cx).await.map_err(Trouble::refusal)?;
                let word = before.first().and_then(|word| point.form.with_bit(*word, *on));
                let words = vec![word.ok_or_else(|| Refusal::from("the register could not be read".to_owned()))?];
                Question::Registers { at: point.at, words, single: point.single }
            }
            (Form::Number { .. }, Value::Number(n)) => {
                let words = point.form.write(*n).map_err(|why| Refusal::new(OutcomeKind::Rejected, why))?;
                Question::Registers { at: point.at, words, single: point.single }
            }
            _ => return Err(Refusal::new(OutcomeKind::Rejected, "it cannot be written")),
        };
        self.ask(Urgency::Command, question.clone(), cx).await.map_err(Trouble::refusal)?;
        let cells = self.ask(Urgency::Command, whole, cx).await.map_err(Trouble::refusal)?;
        let Some(read) = point.form.read(&cells) else {
            return Err(Refusal::from("it holds no number now".to_owned()));
        };
        cx.reading(i, read.clone(), Quality::Good, Instant::now()).await;
        let taken = match &question {
            Question::Registers { words, .. } if !matches!(point.form, Form::Bit(_)) => *words == cells,
            _ => read == *value,
        };
        if taken { Ok(read) } else { Err(Refusal::from(format!("it reads back {read}"))) }
    }

    /// Carries an order out.
    async fn obey(&mut self, order: Order, cx: &Context) {
        match order.in_time() {
            Err((ticket, refusal)) => cx.acted(ticket, Err(refusal)).await,
            Ok((ticket, Action::Verb { point: Some(i), value, .. })) => {
                let result = self.write(i, &value, cx).await;
                cx.acted(ticket, result.map(Some)).await;
            }
            Ok((ticket, _)) => {
                let refusal = Refusal::new(OutcomeKind::Rejected, "only its writable points can be set");
                cx.acted(ticket, Err(refusal)).await;
            }
        }
    }
}

impl Driver for Modbus {
    fn run<'a>(&'a self, cx: &'a mut Context) -> Task<'a, Result<(), DeviceError>> {
        Box::pin(async move {
            let member = self.bus.join().await.map_err(DeviceError)?;
            let quiet = if self.frames == Frames::Rtu { talk::silence(&self.bus.spec().kind) } else { Duration::ZERO };
            let mut talk = Talk { unit: self, member, quiet, transaction: fastrand::u16(..) };
            let mut ranges = ranges(&self.points, self.gap);
            let mut backoff = Backoff::new(self.every, SELDOM.max(self.every));
            let mut answers: Option<bool> = None;
            let mut due = Instant::now();
            let mut at = 0;
            loop {
                tokio::select! {
                    biased;
                    // a command goes before the next request of a round
                    order = cx.orders.recv() => match order {
                        Some(order) => talk.obey(order, cx).await,
                        None => return Ok(()),
                    },
                    // what others have on the line
                    heard = talk.member.next() => if let Heard::Lost(why) = heard {
                        return Err(DeviceError(why));
                    },
                    () = sleep_until(due) => {
                        let began = Instant::now();
                        match talk.read(&mut ranges, at, cx).await {
                            Ok(()) => {
                                if answers != Some(true) {
                                    answers = Some(true);
                                    cx.online().await;
                                }
                                backoff.held();
                                at += 1;
                                if at >= ranges.len() {
                                    at = 0;
                                    due = (due + self.every).max(began);
                                }
                            }
                            Err(Trouble::Lost(why)) => return Err(DeviceError(why)),
                            Err(Trouble::Silent(why)) => {
                                if answers != Some(false) {
                                    answers = Some(false);
                                    cx.silent(why).await;
                                }
                                // the rest of the round would be silent too, and others wait for the line
                                at = 0;
                                due = Instant::now() + backoff.failed();
                            }
                            Err(Trouble::Refused(_)) => at += 1,
                        }
                    }
                }
            }
        })
    }

    fn wait(&self, longest: Duration) -> Task<'_, ()> {
        Box::pin(self.bus.wait(longest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(table: Table, at: u16, cells: u16) -> Cells {
        let form = if table.is_bits() { Form::Cell } else { Form::Text(usize::from(cells) * 2) };
        Cells { table, at, form, single: true }
    }
    fn shown(cells: &[Cells], gap: u16) -> Vec<(Table, u16, u16, Vec<usize>)> {
        ranges(cells, gap).into_iter().map(|r| (r.table, r.from, r.count, r.points)).collect()
    }
    use Table::{Coil, Holding, Input};

    #[test]
    fn neighbours_are_read_in_one_request() {
        let cells = [cell(Input, 10, 2), cell(Input, 0, 2), cell(Input, 2, 2), cell(Holding, 3, 1), cell(Input, 30, 1)];
        assert_eq!(
            shown(&cells, 6),
            [(Holding, 3, 1, vec![3]), (Input, 0, 12, vec![1, 2, 0]), (Input, 30, 1, vec![4])]
        );
        assert_eq!(shown(&cells, 0).len(), 4);
    }

    #[test]
    fn a_request_is_never_longer_than_a_frame_holds() {
        let cells: Vec<Cells> = (0..100).map(|i| cell(Holding, i * 2, 2)).collect();
        let counts: Vec<u16> = shown(&cells, 8).iter().map(|r| r.2).collect();
        assert_eq!(counts, [120, 80]);
        let coils: Vec<Cells> = (0..2000).map(|i| cell(Coil, i, 1)).collect();
        assert_eq!(shown(&coils, 0).iter().map(|r| r.2).collect::<Vec<_>>(), [1968, 32]);
    }

    #[test]
    fn points_may_share_a_register_and_lie_at_the_end() {
        let cells = [cell(Holding, 5, 1), cell(Holding, 5, 1), cell(Holding, 65_535, 1)];
        assert_eq!(shown(&cells, 8), [(Holding, 5, 1, vec![0, 1]), (Holding, 65_535, 1, vec![2])]);
    }
}
