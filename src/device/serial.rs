//! `serial`: an instrument on a port. Bytes become frames, frames become readings (`codec`), `/send` writes bytes.
//!
//! A bad frame is counted by its reason and never ends the task. A port that is gone ends it: the supervisor says
//! `offline` and waits for the node to come back.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep_until, timeout};

use crate::codec::{
    CheckKeys, DecodeKeys, DecodeType, FieldKeys, FieldType, FrameKeys, Joined, KeyError, Output, Pipeline,
};
use crate::config::Word;
use crate::config::raw::{Params, PointKeys};
use crate::hal::port::{self, PortKind, PortSpec};
use crate::model::{Action, Problem, Quality, Value};

use super::{Built, Context, Counters, Desk, DeviceError, Driver, Kind, Order, PointDraft, Task};

/// The word.
pub const KIND: Kind = Kind {
    word: Word {
        name: "serial",
        summary: "an instrument on a port: frames to readings",
        schema: |generator| generator.subschema_for::<Keys>(),
    },
    build,
};

/// Bytes taken from a port at once.
const READ: usize = 4096;
/// Longest time a write may take before the port counts as stuck.
const WRITE_PATIENCE: Duration = Duration::from_secs(4);
/// Time between two lines about bad frames.
const COMPLAIN: Duration = Duration::from_secs(60);

/// Keys of `serial`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
struct Keys {
    /// Name of a port.
    port: String,
    /// How frames are cut; default: lines, `{delimiter: "\n"}`.
    frame: Option<FrameKeys>,
    /// How frames are checked; default: not at all.
    check: Option<CheckKeys>,
    /// How frames are decoded; default: the whole frame as text.
    decode: Option<DecodeKeys>,
    /// Points by name.
    #[serde(default)]
    points: IndexMap<String, SerialPoint>,
}

/// A point of a serial device.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
struct SerialPoint {
    #[serde(flatten)]
    field: FieldKeys,
    #[serde(flatten)]
    keys: PointKeys,
}

struct Serial {
    port: PortSpec,
    pipeline: Mutex<Pipeline>,
}

fn build(params: &Params, desk: &mut Desk) -> Option<Built> {
    let keys: Keys = desk.read(params)?;
    let port = desk.claim_port(&keys.port, &["port"]);
    if keys.points.is_empty() && !desk.places.dropped(&["devices", desk.name, "points"]) {
        let help = "name what it reads: points: { temperature: { field: T } }";
        let place = desk.place(&[]);
        desk.problems.push(Problem::error(place, "a serial device without points publishes nothing").help(help));
    }
    let frame = keys.frame.clone().unwrap_or_else(FrameKeys::lines);
    let decode = keys.decode.clone().unwrap_or_default();
    let fields: Vec<(&str, &FieldKeys)> = keys.points.iter().map(|(name, p)| (name.as_str(), &p.field)).collect();
    let pipeline = match Pipeline::new(&frame, keys.check.as_ref(), &decode, &fields) {
        Ok(pipeline) => Some(pipeline),
        Err(errors) => {
            let wrong = |key: &str| desk.places.dropped(&["devices", desk.name, key]);
            let (frame, decode) = (wrong("frame"), wrong("decode"));
            for KeyError { path, text, help } in errors {
                let path: Vec<&str> = path.split('.').collect();
                // only follows from what was left out there as wrong
                let follows = match path.as_slice() {
                    ["points", point] => {
                        frame || decode || desk.places.dropped(&["devices", desk.name, "points", point])
                    }
                    ["points", ..] => frame || decode,
                    ["check", ..] => frame || wrong("check"),
                    [section, ..] => wrong(section),
                    [] => false,
                };
                if follows {
                    continue;
                }
                let problem = Problem::error(desk.place(&path), text);
                desk.problems.push(match help {
                    Some(help) => problem.help(help),
                    None => problem,
                });
            }
            None
        }
    };
    let (port, pipeline) = (port?, pipeline?);
    let points = keys
        .points
        .into_iter()
        .map(|(name, point)| {
            let path = vec!["points".to_owned(), name.clone()];
            let values = values(&point.field, decode.kind);
            PointDraft { name, keys: point.keys, path, values, stateful: false }
        })
        .collect();
    Some(Built {
        points,
        point_verbs: vec!["get"],
        device_verbs: vec!["send"],
        own_verbs: vec![],
        output: None,
        safe: None,
        notes: vec![format!("port {}: {}", port.name, port.kind)],
        driver: Box::new(Serial { port, pipeline: Mutex::new(pipeline) }),
    })
}

/// What a point's values are.
fn values(field: &FieldKeys, decode: DecodeType) -> &'static str {
    match (field.kind, decode) {
        (Some(FieldType::Number), _) => "a number",
        (Some(FieldType::Text), _) => "text",
        (Some(FieldType::Bool), _) => "ON or OFF",
        (None, DecodeType::Binary | DecodeType::Tlv) if field.bit.is_some() => "ON or OFF",
        (None, DecodeType::Binary | DecodeType::Tlv) if field.text.is_some() => "text",
        (None, DecodeType::Binary | DecodeType::Tlv) if field.bytes.is_none() && says_number(field) => "a number",
        (None, DecodeType::Binary | DecodeType::Tlv) => "bytes",
        (None, DecodeType::Raw) if field.pattern.is_none() => "bytes",
        (None, _) => "a number or text",
    }
}

fn says_number(field: &FieldKeys) -> bool {
    field.number.is_some() || field.bcd.is_some() || field.bits.is_some()
}

/// One reading that a push of bytes gave.
type Got = (usize, Value, Quality);

/// What a push of bytes gave, beside the readings.
#[derive(Default)]
struct Tally {
    frames: u64,
    bad: u64,
    dropped: u64,
    reasons: BTreeMap<&'static str, u64>,
    /// Reasons since the last line of the log, and when that was.
    complained: Option<Instant>,
}

impl Tally {
    fn note(&mut self, output: Output<'_>, got: &mut Vec<Got>) {
        match output {
            Output::Frame { readings, .. } => {
                self.frames += 1;
                got.extend(
                    readings.drain(..).map(|d| (d.point, d.value, if d.bad { Quality::Bad } else { Quality::Good })),
                );
            }
            Output::NotOurs(_) => self.frames += 1,
            Output::Rejected { reason, bytes, .. } => {
                self.bad += 1;
                self.dropped += bytes as u64;
                *self.reasons.entry(reason.as_str()).or_default() += 1;
            }
            Output::Dropped(bytes) => self.dropped += bytes.len() as u64,
        }
    }
    /// Moves the counts to the device's counters, and says now and then what is wrong.
    fn settle(&mut self, cx: &Context) {
        for (counter, n) in [
            (&cx.counters.frames, &mut self.frames),
            (&cx.counters.bad_frames, &mut self.bad),
            (&cx.counters.dropped_bytes, &mut self.dropped),
        ] {
            Counters::add(counter, std::mem::take(n));
        }
        if !self.reasons.is_empty() && self.complained.is_none_or(|t| t.elapsed() > COMPLAIN) {
            let list: Vec<_> = self.reasons.iter().map(|(reason, n)| format!("{n} × {reason}")).collect();
            log::warn!(device = cx.name.as_str(); "bad frames: {}", list.join(", "));
            self.reasons.clear();
            self.complained = Some(Instant::now());
        }
    }
}

impl Serial {
    fn pipeline(&self) -> std::sync::MutexGuard<'_, Pipeline> {
        self.pipeline.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Driver for Serial {
    fn run<'a>(&'a self, cx: &'a mut Context) -> Task<'a, Result<(), DeviceError>> {
        Box::pin(async move {
            let mut stream = port::open(&self.port).await?;
            // a program begins to speak at its beginning; any other line may be joined in mid-sentence
            let joined =
                if matches!(self.port.kind, PortKind::Command { .. }) { Joined::AtStart } else { Joined::Midway };
            self.pipeline().reset(joined);
            cx.online().await;
            let mut buffer = vec![0; READ];
            let mut got: Vec<Got> = Vec::new();
            let mut tally = Tally::default();
            // when a silence will mean something to the framing
            let mut idle: Option<Instant> = None;
            loop {
                let mut at = Instant::now();
                tokio::select! {
                    read = stream.read(&mut buffer) => {
                        at = Instant::now();
                        match read {
                            Ok(n) if n > 0 => {
                                let mut pipeline = self.pipeline();
                                pipeline.push(&buffer[..n], &mut |output| tally.note(output, &mut got));
                                idle = pipeline.idle_after().map(|d| at + d);
                            }
                            Ok(_) => return Err(DeviceError(stream.ended().map_or("the port was closed".into(), |e| e.to_string()))),
                            Err(e) => return Err(DeviceError(e.to_string())),
                        }
                    }
                    () = async { sleep_until(idle.unwrap_or(at).into()).await }, if idle.is_some() => {
                        idle = None;
                        self.pipeline().idle(&mut |output| tally.note(output, &mut got));
                    }
                    order = cx.orders.recv() => match order.map(Order::in_time) {
                        Some(Ok((ticket, Action::Send(bytes)))) => {
                            let write = async { stream.write_all(&bytes).await?; stream.flush().await };
                            match timeout(WRITE_PATIENCE, write).await {
                                Ok(Ok(())) => cx.acted(ticket, Ok(None)).await,
                                Ok(Err(e)) => cx.acted(ticket, Err(format!("the port did not take it: {e}").into())).await,
                                Err(_) => cx.acted(ticket, Err("the port did not take it in time".into())).await,
                            }
                        }
                        Some(Err((ticket, why))) => cx.acted(ticket, Err(why)).await,
                        Some(Ok((ticket, Action::Set(_) | Action::Fade { .. } | Action::Verb { .. }))) => {
                            cx.acted(ticket, Err("its points cannot be set; use /send".into())).await;
                        }
                        None => return Ok(()),
                    },
                }
                tally.settle(cx);
                for (point, value, quality) in got.drain(..) {
                    cx.reading(point, value, quality, at).await;
                }
            }
        })
    }

    fn wait(&self, longest: Duration) -> Task<'_, ()> {
        Box::pin(port::wait_for(&self.port, longest))
    }
}
