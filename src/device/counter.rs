//! `counter`: pulses of a meter, a flow sensor, an anemometer.
//!
//! - Pulses are counted in the backend's own thread, by the kernel's times: nothing that the daemon does can cost one.
//! - `rate` comes from the time between pulses, not from how many fell between two reports. While no pulse comes it
//!   sinks, since the next one can no longer have come sooner; after ten times the last gap it is 0.
//! - `total` survives: it is remembered [`SAVE`] after the first pulse that is not, so that a crash or a power cut costs
//!   at most the pulses of that time and of the memory's own minute; an orderly stop costs none. While nothing is
//!   counted nothing is written.
//! - Edges that were missed are counted as such and not guessed at.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::config::Word;
use crate::config::raw::{Params, PointKeys};
use crate::config::scalar::{OnOff, Pin, Span};
use crate::hal::{Bounce, Edge, EdgeSender, EdgeSink, InputPin, Level, Pull};
use crate::model::{Action, Quality, Refusal, Takes, Value, VerbSpec};

use super::input::{self, Debouncer, EDGE_DELAY, Guard, PAUSE, PullKey};
use super::{Built, Context, Counters, Desk, DeviceError, Driver, Kind, Order, PointDraft, Task};

/// The word.
pub const KIND: Kind = Kind {
    word: Word {
        name: "counter",
        summary: "pulses on a pin: a total and a rate",
        schema: |generator| generator.subschema_for::<Keys>(),
    },
    build,
};

/// More edges a second than any meter gives, and about what a Pi can take.
const LIMIT: u32 = 25_000;
/// How long after a pulse the total is handed to the memory, which writes it within its own minute.
const SAVE: Duration = Duration::from_secs(10);
/// Under this key.
const KEY: &str = "total";
/// The rate is 0 after so many times the last gap between two pulses …
const QUIET_GAPS: u32 = 10;
/// … but not before so many reports, and not after this time.
const QUIET_REPORTS: u32 = 2;
const QUIET_MOST: Duration = Duration::from_secs(3600);
/// Every number up to this is a whole one in an `f64`.
const MOST: f64 = 9_007_199_254_740_992.0;

/// Keys of `counter`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
struct Keys {
    /// BCM number (17), GPIO17 or header:11.
    pin: Pin,
    /// Bias: up, down or off (default).
    pull: Option<PullKey>,
    /// Turns rising and falling round; default no.
    inverted: Option<OnOff>,
    /// What is counted: rising (default), falling or both.
    edge: Option<EdgeKey>,
    /// Time a level must hold to count; default 0ms.
    debounce: Option<Span>,
    /// Pulses of one unit of `total`; default 1.
    #[schemars(range(min = 0.000001, max = 1000000000))]
    per_unit: Option<f64>,
    /// Time between two reports, 100ms to 1d; default 10s.
    every: Option<Span>,
    /// The time of which `rate` is: s (default), min or h.
    rate_unit: Option<RateUnit>,
    /// Keys of the point `rate`; those that stand beside `pin` are those of `total`.
    rate: Option<PointKeys>,
    #[serde(flatten)]
    point: PointKeys,
}

/// Which changes are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum EdgeKey {
    /// To high.
    Rising,
    /// To low.
    Falling,
    /// Every change.
    Both,
}

/// The time of a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum RateUnit {
    /// Second.
    S,
    /// Minute.
    Min,
    /// Hour.
    H,
}

impl RateUnit {
    fn seconds(self) -> f64 {
        match self {
            RateUnit::S => 1.0,
            RateUnit::Min => 60.0,
            RateUnit::H => 3600.0,
        }
    }
    fn word(self) -> &'static str {
        match self {
            RateUnit::S => "s",
            RateUnit::Min => "min",
            RateUnit::H => "h",
        }
    }
}

fn build(params: &Params, desk: &mut Desk) -> Option<Built> {
    let keys: Keys = desk.read(params)?;
    desk.claim_pin(keys.pin.0, &["pin"]);
    let edge = keys.edge.unwrap_or(EdgeKey::Rising);
    let per_unit = keys.per_unit.unwrap_or(1.0);
    let every = keys.every.map_or(Duration::from_secs(10), |s| s.0);
    let rate_unit = keys.rate_unit.unwrap_or(RateUnit::S);
    if !(Duration::from_millis(100)..=Duration::from_secs(86_400)).contains(&every) {
        desk.error(&["every"], format!("`every` of {}", Span(every)), "write a time from 100ms to 1d");
    }
    let hold = input::hold(keys.debounce).unwrap_or_else(|| {
        desk.error(&["debounce"], "a level that must hold for more than a minute", "write at most 60s");
        Duration::ZERO
    });
    let inverted = keys.inverted.unwrap_or_default().0;
    let pull = keys.pull.map_or(Pull::Off, Pull::from);
    let what = match edge {
        EdgeKey::Rising => "rising edges",
        EdgeKey::Falling => "falling edges",
        EdgeKey::Both => "both edges",
    };
    let debounce = if hold.is_zero() { String::new() } else { format!(", debounce {}", Span(hold)) };
    let pin = input::note(&[keys.pin], pull, inverted);
    let notes = vec![
        format!("{pin}{debounce}: {what}, {per_unit} per unit, every {}", Span(every)),
        "after a crash or power cut the total lacks at most the pulses of 70 seconds".to_owned(),
    ];
    let mut total = keys.point;
    let mut rate = keys.rate.unwrap_or_default();
    // what is of the device and not of a value holds for both
    rate.qos = rate.qos.or(total.qos);
    rate.retain = rate.retain.or(total.retain);
    rate.deliver = rate.deliver.or(total.deliver);
    rate.priority = rate.priority.or(total.priority);
    rate.expiry = rate.expiry.or(total.expiry);
    rate.payload = rate.payload.or(total.payload.clone());
    if rate.unit.is_none() {
        rate.unit = total.unit.as_ref().map(|unit| format!("{unit}/{}", rate_unit.word()));
    }
    rate.state_class.get_or_insert_with(|| "measurement".into());
    total.state_class.get_or_insert_with(|| "total_increasing".into());
    let draft = |name: &str, keys: PointKeys, path: &[&str], stateful: bool| PointDraft {
        name: name.into(),
        keys,
        path: path.iter().map(|s| (*s).to_owned()).collect(),
        values: "a number",
        stateful,
    };
    let set = VerbSpec {
        verb: "set".into(),
        point: Some(0),
        takes: Takes::Number { min: Some(0.0), max: Some(MOST / per_unit.max(1.0)) },
        time: Duration::ZERO,
    };
    Some(Built {
        points: vec![draft("total", total, &[], true), draft("rate", rate, &["rate"], false)],
        point_verbs: vec!["get"],
        device_verbs: vec![],
        own_verbs: vec![set],
        output: None,
        safe: None,
        notes,
        driver: Box::new(Counter {
            pin: keys.pin.0,
            pull,
            inverted,
            edge,
            hold,
            per_unit,
            every,
            per: rate_unit.seconds(),
        }),
    })
}

/// Pulses and the times between them. Pure.
#[derive(Debug, Default)]
struct Meter {
    /// The pulse that the time is measured from.
    from: Option<Instant>,
    /// The last pulse, and how many there were since `from`.
    last: Option<(Instant, u32)>,
    /// Time between two pulses, when there were two.
    gap: Option<Duration>,
    /// Pulses a second.
    rate: f64,
}

impl Meter {
    fn pulse(&mut self, at: Instant) {
        match self.from {
            None => self.from = Some(at),
            Some(_) => self.last = Some((at, self.last.map_or(0, |(_, n)| n).saturating_add(1))),
        }
    }

    /// Pulses a second, as can be said now.
    fn rate(&mut self, now: Instant, every: Duration) -> f64 {
        let Some(from) = self.from else { return 0.0 };
        if let Some((last, n)) = self.last
            && last > from
        {
            let time = last - from;
            self.rate = f64::from(n) / time.as_secs_f64();
            self.gap = Some(time / n.max(1));
            (self.from, self.last) = (Some(last), None);
            return self.rate;
        }
        let silence = now.saturating_duration_since(self.from.unwrap_or(now));
        let gaps = self.gap.map_or(Duration::ZERO, |gap| gap * QUIET_GAPS);
        if silence > gaps.max(every * QUIET_REPORTS).min(QUIET_MOST.max(every)) {
            // the next pulse begins anew: the time since the last one says nothing of its rate
            *self = Meter::default();
        } else if !silence.is_zero() {
            self.rate = self.rate.min(1.0 / silence.as_secs_f64());
        }
        self.rate
    }
}

/// What the backend's thread does.
struct Count {
    edge: EdgeKey,
    inverted: bool,
    hold: Duration,
    /// Once the level is known, where there is a debounce.
    debounce: Option<Debouncer>,
    guard: Guard,
    meter: Meter,
    /// Not taken yet.
    pulses: u64,
    edges: u64,
    lost: u64,
    storm: bool,
    gone: bool,
    /// There are pulses that the driver was not called for.
    called: bool,
}

impl Count {
    fn logical(&self, level: Level) -> bool {
        (level == Level::High) != self.inverted
    }
    fn changed(&mut self, on: bool, at: Instant) {
        let counts = match self.edge {
            EdgeKey::Both => true,
            EdgeKey::Rising => on,
            EdgeKey::Falling => !on,
        };
        if counts {
            self.pulses += 1;
            self.meter.pulse(at);
        }
    }
    fn edge(&mut self, edge: Edge) {
        self.edges += 1;
        if self.storm {
            return;
        }
        self.storm = self.guard.storms(edge.at, 1);
        let on = self.logical(edge.level);
        if self.hold.is_zero() {
            return self.changed(on, edge.at);
        }
        let hold = self.hold;
        let debounce = self.debounce.get_or_insert_with(|| Debouncer::new(hold, hold, !on));
        if let Some((on, at)) = debounce.level(on, edge.at) {
            self.changed(on, at);
        }
    }
    /// A level that has held until `now` counts, though no edge says that it is over.
    fn settle(&mut self, now: Instant) {
        if let Some((on, at)) = self.debounce.as_mut().and_then(|d| d.expire(now)) {
            self.changed(on, at);
        }
    }
}

struct Tally {
    count: Mutex<Count>,
    notify: Notify,
}

impl Tally {
    fn lock(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl EdgeSink for Tally {
    fn edge(&self, edge: Edge) {
        let mut count = self.lock();
        let stormed = count.storm;
        count.edge(edge);
        let call = (count.pulses > 0 && !count.called) || count.storm != stormed;
        count.called |= call;
        drop(count);
        if call {
            self.notify.notify_one();
        }
    }
    fn lost(&self, n: u64) {
        self.lock().lost += n;
        self.notify.notify_one();
    }
    fn storm(&self) {
        self.lock().storm = true;
        self.notify.notify_one();
    }
    fn gone(&self) {
        self.lock().gone = true;
        self.notify.notify_one();
    }
}

struct Counter {
    pin: u8,
    pull: Pull,
    inverted: bool,
    edge: EdgeKey,
    hold: Duration,
    per_unit: f64,
    every: Duration,
    /// Seconds of the rate's unit.
    per: f64,
}

/// What goes on over a storm.
struct Run {
    pulses: u64,
    next: Instant,
    save: Option<Instant>,
    calm: Option<Instant>,
}

impl Counter {
    /// `calm`: the kernel may keep bounces back; in a storm it must not, since then nobody would count them.
    fn take(&self, cx: &Context, calm: bool) -> Result<(Arc<Tally>, Box<dyn InputPin>), DeviceError> {
        let tally = Arc::new(Tally {
            count: Mutex::new(Count {
                edge: self.edge,
                inverted: self.inverted,
                hold: self.hold,
                debounce: None,
                guard: Guard::new(LIMIT),
                meter: Meter::default(),
                pulses: 0,
                edges: 0,
                lost: 0,
                storm: false,
                gone: false,
                called: false,
            }),
            notify: Notify::new(),
        });
        let edges = EdgeSender::to(tally.clone());
        let pin = match calm {
            true => cx.board.contact(self.pin, self.pull, Bounce { hold: self.hold, limit: LIMIT }, edges)?,
            false => cx.board.input(self.pin, self.pull, edges)?,
        };
        let level = pin.read()?;
        let mut count = tally.lock();
        if !self.hold.is_zero() && count.debounce.is_none() {
            count.debounce = Some(Debouncer::new(self.hold, self.hold, count.logical(level)));
        }
        drop(count);
        Ok((tally, pin))
    }

    /// The total of the runs before, in pulses. After a change of `per_unit` it is still so many units.
    fn recalled(&self, cx: &Context) -> u64 {
        let kept = cx.recall(KEY);
        let pulses = kept.and_then(|v| v.get("pulses")).and_then(Json::as_u64).unwrap_or(0);
        match kept.and_then(|v| v.get("per_unit")).and_then(Json::as_f64) {
            Some(then) if then != self.per_unit && then > 0.0 => {
                (pulses as f64 / then * self.per_unit).round().min(MOST) as u64
            }
            _ => pulses,
        }
    }

    fn kept(&self, pulses: u64) -> Option<Json> {
        Some(json!({ "pulses": pulses, "per_unit": self.per_unit }))
    }

    fn total(&self, pulses: u64) -> Value {
        Value::Number(pulses as f64 / self.per_unit)
    }

    /// Takes what was counted until `now`; the rate.
    fn collect(&self, cx: &Context, tally: &Tally, run: &mut Run, now: Instant) -> f64 {
        let mut count = tally.lock();
        count.settle(now);
        count.called = false;
        run.pulses = run.pulses.saturating_add(std::mem::take(&mut count.pulses));
        let (edges, lost) = (std::mem::take(&mut count.edges), std::mem::take(&mut count.lost));
        let rate = count.meter.rate(now, self.every) / self.per_unit * self.per;
        drop(count);
        Counters::add(&cx.counters.edges, edges);
        input::lost(cx, lost);
        rate
    }

    async fn obey(&self, cx: &mut Context, run: &mut Run, order: Order) {
        let (ticket, action) = match order.in_time() {
            Ok(in_time) => in_time,
            Err((ticket, why)) => return cx.acted(ticket, Err(why)).await,
        };
        match action {
            Action::Verb { point: Some(0), value: Value::Number(n), .. } => {
                run.pulses = (n * self.per_unit).round().clamp(0.0, MOST) as u64;
                cx.remember_now(KEY, self.kept(run.pulses)).await;
                let total = self.total(run.pulses);
                cx.reading(0, total.clone(), Quality::Good, Instant::now()).await;
                cx.acted(ticket, Ok(Some(total))).await;
            }
            _ => cx.acted(ticket, Err(Refusal::from("only the total can be set"))).await,
        }
    }

    /// `false`: the daemon is done with it.
    async fn pause(&self, cx: &mut Context, run: &mut Run) -> bool {
        let until = Instant::now() + PAUSE;
        loop {
            tokio::select! {
                () = sleep_until(until) => return true,
                order = cx.orders.recv() => match order {
                    Some(order) => self.obey(cx, run, order).await,
                    None => return false,
                },
            }
        }
    }
}

/// Six digits are more than any pulse is worth.
fn rounded(n: f64) -> f64 {
    if n == 0.0 || !n.is_finite() {
        return 0.0;
    }
    let digits = 5 - n.abs().log10().floor() as i32;
    let scale = 10f64.powi(digits.clamp(-300, 300));
    (n * scale).round() / scale
}

impl Driver for Counter {
    fn run<'a>(&'a self, cx: &'a mut Context) -> Task<'a, Result<(), DeviceError>> {
        Box::pin(async move {
            let (mut tally, mut pin) = self.take(cx, true)?;
            let mut run = Run { pulses: self.recalled(cx), next: Instant::now() + self.every, save: None, calm: None };
            cx.counters.flooding.store(false, Ordering::Relaxed);
            cx.online().await;
            cx.reading(0, self.total(run.pulses), Quality::Good, Instant::now()).await;
            loop {
                let (save, calm) = (run.save, run.calm);
                tokio::select! {
                    biased;
                    order = cx.orders.recv() => match order {
                        Some(order) => {
                            // what came before the order is in what it sets
                            self.collect(cx, &tally, &mut run, Instant::now());
                            self.obey(cx, &mut run, order).await;
                        }
                        None => {
                            self.collect(cx, &tally, &mut run, Instant::now());
                            cx.remember(KEY, self.kept(run.pulses)).await;
                            return Ok(());
                        }
                    },
                    () = tally.notify.notified() => {
                        let (storm, gone) = {
                            let count = tally.lock();
                            (count.storm, count.gone)
                        };
                        if !storm && !gone {
                            run.save = run.save.or_else(|| Some(Instant::now() + SAVE));
                            continue;
                        }
                        self.collect(cx, &tally, &mut run, Instant::now());
                        cx.remember(KEY, self.kept(run.pulses)).await;
                        if gone {
                            return Err(DeviceError(format!("the board gave GPIO{} up", self.pin)));
                        }
                        drop(pin);
                        input::flooding(cx, true, LIMIT);
                        if !self.pause(cx, &mut run).await {
                            cx.remember(KEY, self.kept(run.pulses)).await;
                            return Ok(());
                        }
                        (tally, pin) = self.take(cx, false)?;
                        run.calm = Some(Instant::now() + PAUSE);
                    }
                    () = sleep_until(run.next) => {
                        let now = Instant::now();
                        while run.next <= now {
                            run.next += self.every;
                        }
                        // an edge that happened just now may still be on its way
                        let settled = if self.hold.is_zero() { now } else { now.checked_sub(EDGE_DELAY).unwrap_or(now) };
                        let rate = self.collect(cx, &tally, &mut run, settled);
                        cx.reading(0, self.total(run.pulses), Quality::Good, now).await;
                        cx.reading(1, Value::Number(rounded(rate)), Quality::Good, now).await;
                    }
                    () = async { sleep_until(save.unwrap_or(run.next)).await }, if save.is_some() => {
                        run.save = None;
                        self.collect(cx, &tally, &mut run, Instant::now());
                        cx.remember(KEY, self.kept(run.pulses)).await;
                    }
                    () = async { sleep_until(calm.unwrap_or(run.next)).await }, if calm.is_some() => {
                        run.calm = None;
                        input::flooding(cx, false, LIMIT);
                    }
                }
            }
        })
    }
}

#[cfg(test)]
mod tests;
