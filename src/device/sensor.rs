//! What the kinds share that ask a sensor now and then: `every`, a timeout, retries, and who is told when it fails.
//!
//! A sensor that fails is asked again after a short pause, so often as `retries` says; then the device is `offline` with
//! the reason, and asked more and more seldom until it answers. No read ever holds the rest of the daemon up.

use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use tokio::time::{Instant, sleep_until};

use crate::backoff::Backoff;
use crate::config::raw::PointKeys;
use crate::config::scalar::Span;
use crate::hal::machine::{Machine, Worker};
use crate::model::{Quality, Value};

use super::{Built, Context, Counters, Desk, DeviceError, Driver, PointDraft, Task};

/// First pause before a retry; it doubles.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest time between two tries of a sensor that fails, unless `every` is longer.
const SELDOM: Duration = Duration::from_secs(60);

/// Keys of a sensor that is asked.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
pub(super) struct AskKeys {
    /// Time between two readings, 100ms to 1d; default 60s.
    pub every: Option<Span>,
    /// How long a read may take, 10ms to 1m; default 5s.
    pub timeout: Option<Span>,
    /// How often a failed read is tried again at once, 0 to 10; default 2.
    #[schemars(range(min = 0, max = 10))]
    pub retries: Option<u8>,
}

/// A point of a sensor with its unit and class where the file says nothing.
pub(super) fn point(name: &str, mut keys: PointKeys, path: &[&str], unit: &str, class: &str) -> PointDraft {
    let or = |key: &mut Option<String>, word: &str| {
        if key.is_none() && !word.is_empty() {
            *key = Some(word.to_owned());
        }
    };
    or(&mut keys.unit, unit);
    or(&mut keys.device_class, class);
    or(&mut keys.state_class, "measurement");
    let path = path.iter().map(|s| (*s).to_owned()).collect();
    PointDraft { name: name.to_owned(), keys, path, values: "a number", stateful: false }
}

/// A device of such points.
pub(super) fn built(points: Vec<PointDraft>, what: String, asked: Asked) -> Built {
    Built {
        points,
        point_verbs: vec!["get"],
        device_verbs: vec![],
        own_verbs: vec![],
        output: None,
        safe: None,
        notes: vec![format!("{what}, {}", asked.note())],
        driver: Box::new(asked),
    }
}

/// As many digits as a sensor has.
pub(super) fn number(n: f64) -> Result<Value, String> {
    if !n.is_finite() {
        return Err("what it says is no finite number".into());
    }
    // 0.1 × 3 is 0.3
    let text = format!("{n:.9e}");
    Ok(Value::Number(text.parse().unwrap_or(n)))
}

/// Looks a chip up by its name among the entries of a directory: never by the number that the kernel gave it.
pub(super) fn find(machine: &Machine, dir: &str, name: &str, at: Option<&str>) -> Result<String, String> {
    let mut found = Vec::new();
    let mut others = Vec::new();
    for entry in machine.names(dir) {
        let entry = format!("{dir}/{entry}");
        let says = |file: &str| machine.text(format!("{entry}/{file}")).ok();
        let names = [says("name"), says("label")];
        if names.iter().flatten().any(|n| n == name) {
            let parts = machine.parts(&entry);
            if at.is_none_or(|at| parts.iter().any(|part| part == at)) {
                found.push((entry, parts));
                continue;
            }
        }
        others.extend(names.into_iter().flatten());
    }
    match found.as_slice() {
        [(entry, _)] => Ok(entry.clone()),
        [] => {
            others.dedup();
            let known = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
            let place = at.map_or(String::new(), |at| format!(" at {at}"));
            Err(format!("the kernel knows no `{name}`{place} in /{dir}; there is {known}"))
        }
        several => {
            // the part above the entry's own number tells where a chip is
            let places: Vec<&str> = several.iter().filter_map(|(_, parts)| place_of(parts)).collect();
            Err(format!("there are {} called `{name}`; say which: at: {}", several.len(), places.join(" or ")))
        }
    }
}

/// Where a chip is at its bus: `1-0076` of `…/i2c-1/1-0076/iio:device0`.
fn place_of(parts: &[String]) -> Option<&str> {
    let above = |part: &&String| !part.contains("iio:device") && !part.starts_with("hwmon");
    parts.iter().rev().find(above).map(String::as_str)
}

/// What was read of a point, or why not.
pub(super) type Got = Vec<(usize, Result<Value, String>)>;

/// Reads a sensor. Blocks; one call at a time.
pub(super) trait Probe: Send + Sync + 'static {
    /// All points, in any order; a point that this machine has not is left out. An error is one of the whole device.
    fn read(&self, machine: &Machine) -> Result<Got, String>;
}

/// The driver.
pub(super) struct Asked {
    probe: Arc<dyn Probe>,
    every: Duration,
    timeout: Duration,
    retries: u8,
}

impl Asked {
    /// With its keys judged.
    pub fn new(keys: &AskKeys, probe: impl Probe, desk: &mut Desk) -> Asked {
        let mut span = |key: &str, value: Option<Span>, default: u64, least: Span, most: Span| {
            let value = value.map_or(Duration::from_secs(default), |s| s.0);
            if value < least.0 || value > most.0 {
                let text = format!("`{key}` of {}", Span(value));
                desk.error(&[key], text, format!("write a time from {least} to {most}"));
            }
            value
        };
        let (ms, s) = (|n| Span(Duration::from_millis(n)), |n| Span(Duration::from_secs(n)));
        let every = span("every", keys.every, 60, ms(100), s(86_400));
        let timeout = span("timeout", keys.timeout, 5, ms(10), s(60));
        Asked { probe: Arc::new(probe), every, timeout, retries: keys.retries.unwrap_or(2) }
    }

    /// For `explain`.
    pub fn note(&self) -> String {
        format!("every {}, timeout {}, {} retries", Span(self.every), Span(self.timeout), self.retries)
    }

    /// One reading, with its retries.
    async fn ask(&self, machine: &Machine, worker: &mut Worker, errors: &Counters) -> Result<Got, String> {
        let mut pause = PAUSE;
        let mut left = self.retries;
        loop {
            let (probe, machine) = (self.probe.clone(), machine.clone());
            let got = match worker.run(self.timeout, move || probe.read(&machine)).await {
                Ok(got) => got,
                Err(e) => Err(e.text),
            };
            let failed = match &got {
                Ok(got) => got.iter().any(|(_, value)| value.is_err()),
                Err(_) => true,
            };
            if failed {
                Counters::add(&errors.errors, 1);
            }
            if !failed || left == 0 {
                return got;
            }
            left -= 1;
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    /// Publishes what was read; why the device is none, if nothing was.
    async fn publish(&self, cx: &Context, got: Result<Got, String>, said: &mut Option<String>) -> Result<(), String> {
        let got = got?;
        let mut why = Vec::new();
        let mut good = Vec::new();
        for (point, value) in got {
            match value {
                Ok(value) => good.push((point, value)),
                Err(text) => why.push(text),
            }
        }
        if good.is_empty() {
            return Err(if why.is_empty() { "this machine has none of its points".into() } else { why.join("; ") });
        }
        let complaint = (!why.is_empty()).then(|| why.join("; "));
        if *said != complaint {
            match &complaint {
                Some(text) => log::warn!(device = cx.name.as_str(); "not read: {text}"),
                None => log::info!(device = cx.name.as_str(); "everything is read again"),
            }
            *said = complaint;
        }
        let now = Instant::now();
        cx.online().await;
        for (point, value) in good {
            cx.reading(point, value, Quality::Good, now).await;
        }
        Ok(())
    }
}

impl Driver for Asked {
    fn run<'a>(&'a self, cx: &'a mut Context) -> Task<'a, Result<(), DeviceError>> {
        Box::pin(async move {
            let mut worker = cx.machine.worker();
            let mut backoff = Backoff::new(self.every.min(SELDOM), self.every.max(SELDOM));
            let (mut next, mut offline, mut said) = (Instant::now(), None::<String>, None);
            loop {
                let (machine, counters) = (cx.machine.clone(), cx.counters.clone());
                let due = next;
                let asked = async {
                    sleep_until(due).await;
                    self.ask(&machine, &mut worker, &counters).await
                };
                let mut asked = std::pin::pin!(asked);
                let got = loop {
                    tokio::select! {
                        got = &mut asked => break got,
                        order = cx.orders.recv() => match order {
                            Some(order) => cx.acted(order.ticket, Err("a sensor cannot be set".into())).await,
                            None => return Ok(()),
                        },
                    }
                };
                match self.publish(cx, got, &mut said).await {
                    Ok(()) => {
                        offline = None;
                        backoff.held();
                        let now = Instant::now();
                        next = (next + self.every).max(now);
                    }
                    Err(why) => {
                        if offline.as_ref() != Some(&why) {
                            log::warn!(device = cx.name.as_str(); "offline: {why}");
                            cx.silent(why.clone()).await;
                            offline = Some(why);
                        }
                        next = Instant::now() + backoff.failed();
                    }
                }
            }
        })
    }
}
