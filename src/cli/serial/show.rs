//! What a line says, as text: bytes with their time, and what a device's pipeline makes of them. Pure: time is given.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use crate::codec::{Output, Pipeline};
use crate::config::scalar::Span;

/// Bytes in a row.
const ROW: usize = 16;
/// Bytes of a frame that are shown beside it; all of them stand above.
const SHOWN: usize = 24;
/// How far what is said of frames is moved in.
const INDENT: &str = "              ";

/// A device that listens, and the names of its points.
pub struct Device {
    /// Its own.
    pub pipeline: Pipeline,
    /// In the order of the device.
    pub points: Vec<String>,
}

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Counts {
    pub reads: u64,
    pub bytes: u64,
    pub frames: u64,
    pub others: u64,
    pub refused: BTreeMap<&'static str, u64>,
    pub lost: u64,
}

impl Counts {
    /// Frames, good or not.
    pub fn all_frames(&self) -> u64 {
        self.frames + self.others + self.refused.values().sum::<u64>()
    }
}

/// Turns what is heard into text.
pub struct Screen {
    device: Option<Device>,
    /// Since when the line is silent, while that may mean something.
    silent: Option<Duration>,
    pub counts: Counts,
}

impl Screen {
    /// With a device or without.
    pub fn new(device: Option<Device>) -> Screen {
        Screen { device, silent: None, counts: Counts::default() }
    }

    /// Whether frames are looked for.
    pub fn has_device(&self) -> bool {
        self.device.is_some()
    }

    /// When a silence will mean something, if nothing comes.
    pub fn wakes(&self) -> Option<Duration> {
        self.silent?.checked_add(self.device.as_ref()?.pipeline.idle_after()?)
    }

    /// So late it is, and nothing has come since.
    pub fn silence(&mut self, now: Duration, text: &mut String) {
        let Some(wakes) = self.wakes().filter(|t| *t <= now) else { return };
        let Some(Device { pipeline, points }) = &mut self.device else { return };
        let waited = wakes.saturating_sub(self.silent.take().unwrap_or_default());
        let mut said = String::new();
        let counts = &mut self.counts;
        pipeline.idle(&mut |output| judge(output, points, counts, &mut said));
        if !said.is_empty() {
            let _ = writeln!(text, "{:>12}  {} of silence", stamp(wakes), Span(waited));
            text.push_str(&said);
        }
    }

    /// Bytes, and when they came.
    pub fn heard(&mut self, at: Duration, bytes: &[u8], text: &mut String) {
        self.silence(at, text);
        self.counts.reads += 1;
        self.counts.bytes += bytes.len() as u64;
        for (i, row) in bytes.chunks(ROW).enumerate() {
            let time = if i == 0 { stamp(at) } else { String::new() };
            let _ = writeln!(text, "{time:>12}  {:<47}  |{}|", hex(row), readable(row));
        }
        if let Some(Device { pipeline, points }) = &mut self.device {
            let counts = &mut self.counts;
            pipeline.push(bytes, &mut |output| judge(output, points, counts, text));
            self.silent = Some(at);
        }
    }

    /// In one line, for people.
    pub fn summary(&self) -> String {
        let c = &self.counts;
        let mut text = format!("{}, {}", count(c.reads, "read"), count(c.bytes, "byte"));
        let Some(device) = &self.device else { return text };
        let _ = write!(text, ", {}", count(c.frames, "good frame"));
        if c.others > 0 {
            let _ = write!(text, ", {} for others", c.others);
        }
        if !c.refused.is_empty() {
            let list: Vec<String> = c.refused.iter().map(|(reason, n)| format!("{n} × {reason}")).collect();
            let _ = write!(text, ", refused: {}", list.join(", "));
        }
        let _ = write!(text, ", {} in no frame", count(c.lost, "byte"));
        match device.pipeline.buffered() as u64 {
            0 => {}
            n => {
                let _ = write!(text, "; {} at the end make no whole frame yet", count(n, "byte"));
            }
        }
        text
    }
}

fn count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn judge(output: Output<'_>, points: &[String], counts: &mut Counts, text: &mut String) {
    let _ = match output {
        Output::Frame { frame, readings, .. } => {
            counts.frames += 1;
            let _ = writeln!(text, "{INDENT}frame    {}", shown(frame.bytes));
            if readings.is_empty() {
                let _ = writeln!(text, "{INDENT}         none of its points is in it");
            }
            for reading in readings.iter() {
                let name = points.get(reading.point).map_or("?", String::as_str);
                let value = reading.value.to_string();
                let bad = if reading.bad { "   (bad: not of its type)" } else { "" };
                let _ = writeln!(text, "{INDENT}         {name} = {}{bad}", value.escape_debug());
            }
            Ok(())
        }
        Output::NotOurs(frame) => {
            counts.others += 1;
            writeln!(text, "{INDENT}other    {}: `match` leaves it to others", shown(frame.bytes))
        }
        Output::Rejected { reason, frame, bytes } => {
            *counts.refused.entry(reason.as_str()).or_default() += 1;
            counts.lost += bytes as u64;
            writeln!(text, "{INDENT}refused  {}\n{INDENT}         {}: {reason}", shown(frame), reason.as_str())
        }
        Output::Dropped(bytes) => {
            counts.lost += bytes.len() as u64;
            writeln!(text, "{INDENT}dropped  {}: in no frame", shown(bytes))
        }
    };
}

/// Seconds with microseconds.
fn stamp(at: Duration) -> String {
    format!("{}.{:06}", at.as_secs(), at.subsec_micros())
}

fn hex(bytes: &[u8]) -> String {
    let pairs: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
    pairs.join(" ")
}

/// ASCII as it is, all else as a dot.
fn readable(bytes: &[u8]) -> String {
    bytes.iter().map(|b| if b.is_ascii_graphic() || *b == b' ' { *b as char } else { '.' }).collect()
}

/// A frame's bytes: all text as text, else hex; the first of many.
fn shown(bytes: &[u8]) -> String {
    let text = std::str::from_utf8(bytes)
        .ok()
        .filter(|t| !t.is_empty() && t.bytes().all(|b| b >= b' ' || b.is_ascii_whitespace()));
    let size = count(bytes.len() as u64, "byte");
    match text {
        Some(text) => {
            let mut short: String = text.chars().take(3 * SHOWN).collect();
            let more = if short.len() < text.len() { " …" } else { "" };
            short = short.escape_debug().to_string();
            format!("{size} \"{short}\"{more}")
        }
        None => {
            let more = if bytes.len() > SHOWN { " …" } else { "" };
            format!("{size} {}{more}", hex(bytes.get(..SHOWN).unwrap_or(bytes)))
        }
    }
}
