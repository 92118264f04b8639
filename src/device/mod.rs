//! KINDS: what a device of the YAML can be. A kind is one file and one word in [`KINDS`].
//!
//! A kind reads its keys at a [`Desk`], where it claims what only one device may hold and reports what is wrong at its
//! place. It gives a [`Built`]: points, verbs, limits, and a [`Driver`], the task that will run. A driver ends with an
//! error when its hardware fails; the supervisor says `offline`, waits and runs it again.

mod computed;
mod counter;
mod digital_in;
mod digital_out;
mod encoder;
mod hwmon;
mod i2c;
mod iio;
mod input;
mod modbus;
mod onewire;
mod output;
mod pwm;
mod registers;
mod sensor;
mod serial;
mod servo;
mod spi;
mod system;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value as Json;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::codec::{Joined, Pipeline};
use crate::config::raw::{Params, PointKeys};
use crate::config::{Places, Word};
use crate::hal::bus::{self, Bus};
use crate::hal::machine::Machine;
use crate::hal::port::PortSpec;
use crate::hal::{Board, HalError};
use crate::model::{
    Action, Begin, DeviceCounters, DeviceId, DeviceStatus, Frame, OutcomeKind, OutputLimits, Place, PointId, Problem,
    Quality, Refusal, Stamp, Ticket, Value, VerbSpec,
};

/// A word of the list of kinds.
pub struct Kind {
    /// Name, summary and schema, for the configuration.
    pub word: Word,
    /// Reads a device's keys; `None` if a problem was reported that leaves nothing to run.
    pub build: fn(&Params, &mut Desk) -> Option<Built>,
}

/// The list.
pub const KINDS: &[Kind] = &[
    counter::KIND,
    digital_in::KIND,
    digital_out::KIND,
    encoder::KIND,
    hwmon::KIND,
    i2c::KIND,
    iio::KIND,
    modbus::KIND,
    onewire::KIND,
    pwm::KIND,
    serial::KIND,
    servo::KIND,
    spi::KIND,
    system::KIND,
];

/// The task of a device that is computed by the engine.
pub fn computed() -> Box<dyn Driver> {
    Box::new(computed::Computed)
}

/// A point as its kind wants it.
pub struct PointDraft {
    /// Name within the device.
    pub name: String,
    /// The keys any point has.
    pub keys: PointKeys,
    /// Path of those keys below the device, for problems: empty, or `points`, name.
    pub path: Vec<String>,
    /// What its values are, for `explain`.
    pub values: &'static str,
    /// Whether it holds a state that lasts.
    pub stateful: bool,
}

/// An output's pin as `safe-state` needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SafePin {
    /// BCM number.
    pub pin: u8,
    /// Whether its safe state is the high level.
    pub high: bool,
}

/// A device, ready to be run.
pub struct Built {
    /// Its points.
    pub points: Vec<PointDraft>,
    /// Verbs said to its points.
    pub point_verbs: Vec<&'static str>,
    /// Verbs said to the device.
    pub device_verbs: Vec<&'static str>,
    /// Verbs of its own, said to single points or to the device; they come as [`Action::Verb`].
    pub own_verbs: Vec<VerbSpec>,
    /// Limits of its output.
    pub output: Option<OutputLimits>,
    /// Its pin's safe level.
    pub safe: Option<SafePin>,
    /// What it is made of, a line each, for `explain`.
    pub notes: Vec<String>,
    /// The task.
    pub driver: Box<dyn Driver>,
}

/// A pin of the header that a bus has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusPin {
    /// BCM number.
    pub pin: u8,
    /// What it is there: `SDA of I2C bus 1`.
    pub role: String,
    /// Who uses the bus: ``device `light` ``.
    pub user: String,
    /// Where that is written.
    pub place: Option<Place>,
}

/// Where a kind reads its keys.
pub struct Desk<'a> {
    /// The device's name.
    pub name: &'a str,
    /// Places of the file.
    pub places: &'a Places,
    /// Problems found so far.
    pub problems: &'a mut Vec<Problem>,
    /// Pins taken so far: who took them, and where.
    pub pins: &'a mut Vec<(u8, String, Option<Place>)>,
    /// Pins of the header's buses that devices use, which several may share.
    pub bus_pins: &'a mut Vec<BusPin>,
    /// Ports by name; `None` for one that is wrong itself.
    pub ports: &'a dyn Fn(&str) -> Option<Option<PortSpec>>,
    /// Names of all ports.
    pub port_names: &'a [String],
    /// Ports that devices have joined so far.
    pub buses: &'a mut Vec<Bus>,
    /// The tasks of the ports that devices share.
    pub port_tasks: &'a mut Vec<bus::Task>,
}

impl Desk<'_> {
    /// The place of a key's value below the device.
    pub fn place(&self, path: &[&str]) -> Option<Place> {
        self.places.value(&[&["devices", self.name], path].concat())
    }
    /// Whether a key was written.
    pub fn written(&self, path: &[&str]) -> bool {
        self.places.has(&[&["devices", self.name], path].concat())
    }
    /// Reports an error at a key.
    pub fn error(&mut self, path: &[&str], text: impl Into<String>, help: impl Into<String>) {
        let place = self.place(path);
        self.problems.push(Problem::error(place, text).help(help));
    }
    /// Reads the keys, or reports why they cannot be read.
    pub fn read<T: serde::de::DeserializeOwned>(&mut self, params: &Params) -> Option<T> {
        match params.read_at() {
            Ok(keys) => Some(keys),
            Err((path, text)) => {
                let path: Vec<&str> = path.iter().map(String::as_str).collect();
                let place = self.place(&path);
                let text = match path.last() {
                    Some(key) => format!("`{key}`: {text}"),
                    None => text,
                };
                self.problems.push(Problem::error(place, text));
                None
            }
        }
    }
    /// Takes a pin for this device alone.
    pub fn claim_pin(&mut self, pin: u8, path: &[&str]) {
        let place = self.place(path);
        match self.pins.iter().find(|(p, ..)| *p == pin) {
            Some((_, owner, first)) => self.problems.push(
                Problem::error(place, format!("GPIO{pin} is already used by device `{owner}`"))
                    .related(*first, format!("`{owner}` uses it here"))
                    .help("a pin belongs to one device; give one of the two another pin"),
            ),
            None => self.pins.push((pin, self.name.to_owned(), place)),
        }
    }
    /// Uses a bus of the header, which further devices may use too: its pins, with what they are there.
    pub fn use_bus(&mut self, bus: &str, pins: &[(u8, &str)], path: &[&str]) {
        let path = if self.written(path) { path } else { &[] };
        let (place, user) = (self.place(path), format!("device `{}`", self.name));
        self.bus_pins.extend(pins.iter().map(|(pin, role)| BusPin {
            pin: *pin,
            role: format!("{role} of {bus}"),
            user: user.clone(),
            place,
        }));
    }
    /// Joins a port, which further devices may join too: they take turns.
    pub fn share_port(&mut self, port: &str, path: &[&str]) -> Option<Bus> {
        let place = self.place(path);
        let spec = self.find_port(port, place)?;
        if let Some(bus) = self.buses.iter().find(|b| b.spec().name == port) {
            return Some(bus.clone());
        }
        let (bus, task) = bus::bus(spec?);
        self.port_tasks.push(task);
        self.buses.push(bus.clone());
        Some(bus)
    }
    /// `Some(None)`: it is there, and wrong itself.
    fn find_port(&mut self, port: &str, place: Option<Place>) -> Option<Option<PortSpec>> {
        let spec = (self.ports)(port);
        if spec.is_none() && !self.places.dropped(&["ports", port]) {
            let near = crate::config::near(port, self.port_names);
            let help = match (near, self.port_names) {
                (Some(near), _) => format!("did you mean `{near}`?"),
                (None, []) => format!("declare it: ports: {{ {port}: {{ path: /dev/serial/by-id/… }} }}"),
                (None, names) => format!("the ports are {}", names.join(", ")),
            };
            self.problems.push(Problem::error(place, format!("there is no port `{port}`")).help(help));
        }
        spec
    }
}

/// Why a driver ended.
#[derive(Debug, Clone)]
pub struct DeviceError(pub String);

impl From<HalError> for DeviceError {
    fn from(e: HalError) -> DeviceError {
        DeviceError(e.text)
    }
}

/// A future of a driver's.
pub type Task<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A device's task.
pub trait Driver: Send + Sync {
    /// Runs until the hardware fails. `Ok` only when the daemon has dropped the other ends.
    fn run<'a>(&'a self, context: &'a mut Context) -> Task<'a, Result<(), DeviceError>>;
    /// Waits until trying again may help, at most `longest`.
    fn wait(&self, longest: Duration) -> Task<'_, ()> {
        Box::pin(tokio::time::sleep(longest))
    }
    /// What it would make of its port's bytes, for who listens in its place; `None` where it reads no frames.
    fn into_ear(self: Box<Self>) -> Option<Ear> {
        None
    }
}

/// A device that only listens.
pub struct Ear {
    /// The device's port.
    pub port: PortSpec,
    /// Where its stream is joined.
    pub joined: Joined,
    /// From bytes to readings; it gives points in the device's own order.
    pub pipeline: Pipeline,
    /// Whether it says nothing unless it is asked.
    pub asked: bool,
}

/// Counters that a task raises and the hub reads.
#[derive(Debug, Default)]
pub struct Counters {
    /// See [`DeviceCounters`].
    pub frames: AtomicU64,
    /// See [`DeviceCounters`].
    pub bad_frames: AtomicU64,
    /// See [`DeviceCounters`].
    pub dropped_bytes: AtomicU64,
    /// See [`DeviceCounters`].
    pub readings: AtomicU64,
    /// See [`DeviceCounters`].
    pub errors: AtomicU64,
    /// See [`DeviceCounters`].
    pub missed: AtomicU64,
    /// See [`DeviceCounters`].
    pub late: AtomicU64,
    /// See [`DeviceCounters`].
    pub edges: AtomicU64,
    /// See [`DeviceCounters`].
    pub lost_edges: AtomicU64,
    /// See [`DeviceCounters`].
    pub illegal_moves: AtomicU64,
    /// See [`DeviceCounters`].
    pub storms: AtomicU64,
    /// See [`DeviceCounters`].
    pub flooding: AtomicBool,
}

impl Counters {
    /// Adds to one of them.
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
    /// The figures now.
    pub fn read(&self) -> DeviceCounters {
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        DeviceCounters {
            frames: get(&self.frames),
            bad_frames: get(&self.bad_frames),
            dropped_bytes: get(&self.dropped_bytes),
            readings: get(&self.readings),
            errors: get(&self.errors),
            missed: get(&self.missed),
            late: get(&self.late),
            edges: get(&self.edges),
            lost_edges: get(&self.lost_edges),
            illegal_moves: get(&self.illegal_moves),
            storms: get(&self.storms),
            flooding: self.flooding.load(Ordering::Relaxed),
        }
    }
}

/// What a device tells the hub.
#[derive(Debug)]
pub enum Report {
    /// A reading.
    Reading {
        /// Which point.
        point: PointId,
        /// What.
        value: Value,
        /// Whether to believe it.
        quality: Quality,
        /// When.
        taken: Stamp,
        /// What came with it.
        frame: Frame,
    },
    /// It works, or no longer.
    Status(DeviceId, DeviceStatus),
    /// It has done what was asked.
    Acted(Ticket, Result<Option<Value>, Refusal>),
    /// Something is to survive a restart.
    Remember {
        /// Which device.
        device: DeviceId,
        /// The device's own key.
        key: String,
        /// What; `None`: it need not be kept any more.
        value: Option<Json>,
        /// Whether it is written at once, or within a minute and at an orderly stop.
        urgent: bool,
    },
}

/// What the hub asks of a device.
#[derive(Debug)]
pub struct Order {
    /// For the answer.
    pub ticket: Ticket,
    /// What to do.
    pub action: Action,
    /// The moment after which it must not be begun: it was answered as a timeout.
    pub until: Instant,
}

impl Order {
    /// The action, unless it is too late to begin it; then the answer.
    pub fn in_time(self) -> Result<(Ticket, Action), (Ticket, Refusal)> {
        if Instant::now() <= self.until {
            Ok((self.ticket, self.action))
        } else {
            Err((self.ticket, Refusal::new(OutcomeKind::Timeout, "it waited too long to be begun")))
        }
    }
}

/// A key of [`Context::remember`] that begins so is of this process: a reload finds it, a restart does not.
pub const PASSING: char = '~';

/// A device's end of the daemon.
pub struct Context {
    /// Which device.
    pub id: DeviceId,
    /// Its name, for logs.
    pub name: String,
    /// Its points, in the order of [`Built::points`].
    pub points: Vec<PointId>,
    /// The machine's pins.
    pub board: Arc<dyn Board>,
    /// The machine's files.
    pub machine: Machine,
    /// Time.
    pub clock: Arc<Clock>,
    /// Counters.
    pub counters: Arc<Counters>,
    /// To the hub; bounded, so that a flood slows its own device only.
    pub up: mpsc::Sender<Report>,
    /// To the hub, for answers: it is heard also while devices are held back. An output has no other way, so that what it
    /// says stays in order.
    pub answers: mpsc::Sender<Report>,
    /// From the hub; closed when the daemon is done with this device.
    pub orders: mpsc::Receiver<Order>,
    /// How an output begins; after that it is the safe state: whoever takes a pin again does no harm with it.
    pub begin: Begin,
    /// Whether anybody reads other fields of its frames than the points themselves.
    pub wants_fields: bool,
    /// What it asked to have kept, by its own keys; of the runs before at first.
    pub memory: BTreeMap<String, Json>,
}

impl Context {
    /// What it asked to have kept, in this run or one before.
    pub fn recall(&self, key: &str) -> Option<&Json> {
        self.memory.get(key)
    }
    /// Has a value survive a restart; `None`: it need not any more. It is on disk within a minute, and at an orderly
    /// stop: what may be lost in a crash is what was said in the last minute. No change costs no write.
    pub async fn remember(&mut self, key: &str, value: Option<Json>) {
        self.keep(key, value, false).await;
    }
    /// The same, begun to be written at once. For what seldom changes and matters: every call is a write to the card.
    pub async fn remember_now(&mut self, key: &str, value: Option<Json>) {
        self.keep(key, value, true).await;
    }
    async fn keep(&mut self, key: &str, value: Option<Json>, urgent: bool) {
        if self.memory.get(key) == value.as_ref() && !urgent {
            return;
        }
        match &value {
            Some(value) => self.memory.insert(key.to_owned(), value.clone()),
            None => self.memory.remove(key),
        };
        let _ = self.up.send(Report::Remember { device: self.id, key: key.to_owned(), value, urgent }).await;
    }
    /// Hands a reading over. Waits while the hub is behind.
    pub async fn reading(&self, point: usize, value: Value, quality: Quality, at: Instant) {
        self.reading_of(point, value, quality, at, Frame::default()).await;
    }
    /// Hands over a reading that stood in a frame with others.
    pub async fn reading_of(&self, point: usize, value: Value, quality: Quality, at: Instant, frame: Frame) {
        let Some(point) = self.points.get(point).copied() else { return };
        Counters::add(&self.counters.readings, 1);
        let taken = self.clock.stamp(at);
        let _ = self.up.send(Report::Reading { point, value, quality, taken, frame }).await;
    }
    /// Says that it works.
    pub async fn online(&self) {
        let _ = self.up.send(Report::Status(self.id, DeviceStatus::Online)).await;
    }
    /// Says that the line is there and nothing comes.
    pub async fn silent(&self, why: impl Into<String>) {
        let _ = self.up.send(Report::Status(self.id, DeviceStatus::Silent(why.into()))).await;
    }
    /// Answers an action of an output with what its pin reads now, which becomes its reading.
    pub async fn read_back(&self, ticket: Ticket, read: Option<Value>) {
        Counters::add(&self.counters.readings, u64::from(read.is_some()));
        self.acted(ticket, Ok(read)).await;
    }
    /// Answers an action.
    pub async fn acted(&self, ticket: Ticket, result: Result<Option<Value>, Refusal>) {
        if result.is_err() {
            Counters::add(&self.counters.errors, 1);
        }
        let _ = self.answers.send(Report::Acted(ticket, result)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hal::sim::SimBoard;

    #[tokio::test]
    async fn what_a_device_has_kept_is_told_once_and_recalled() {
        let (mut context, _orders, mut reports) = testing::Bench::new(Arc::new(SimBoard::new())).taken_apart();
        context.remember("total", Some(Json::from(7))).await;
        context.remember("total", Some(Json::from(7))).await;
        assert_eq!(context.recall("total"), Some(&Json::from(7)));
        context.remember_now("total", None).await;
        assert_eq!(context.recall("total"), None);
        let mut said = Vec::new();
        while let Ok(Report::Remember { key, value, urgent, .. }) = reports.try_recv() {
            said.push((key, value, urgent));
        }
        assert_eq!(said, [("total".into(), Some(Json::from(7)), false), ("total".into(), None, true)]);
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A device's surroundings: what is ordered, and what it reports.
    pub(crate) struct Bench {
        context: Context,
        orders: mpsc::Sender<Order>,
        reports: mpsc::Receiver<Report>,
    }

    impl Bench {
        pub(crate) fn new(board: Arc<dyn Board>) -> Bench {
            let (up, reports) = mpsc::channel(4096);
            let (orders, from_hub) = mpsc::channel(16);
            let context = Context {
                id: DeviceId(0),
                name: "device".into(),
                points: (0..4).map(PointId).collect(),
                board,
                machine: Machine::at("/nowhere"),
                clock: Arc::new(Clock::new()),
                counters: Arc::default(),
                answers: up.clone(),
                up,
                orders: from_hub,
                begin: Begin::AsWritten,
                wants_fields: false,
                memory: BTreeMap::new(),
            };
            Bench { context, orders, reports }
        }
        pub(super) fn order(&self, ticket: u64, action: Action) {
            let until = Instant::now() + Duration::from_secs(60);
            self.orders.try_send(Order { ticket: Ticket(ticket), action, until }).unwrap();
        }
        pub(super) fn order_late(&self, ticket: u64, action: Action) {
            let until = Instant::now() - Duration::from_millis(1);
            self.orders.try_send(Order { ticket: Ticket(ticket), action, until }).unwrap();
        }
        pub(super) fn counters(&self) -> DeviceCounters {
            self.context.counters.read()
        }
        pub(super) fn counters_now(&self) -> Arc<Counters> {
            self.context.counters.clone()
        }
        pub(super) fn clock(&self) -> Arc<Clock> {
            self.context.clock.clone()
        }
        /// What a supervisor needs; the orders' other end, so that it goes on; what it reports.
        pub(crate) fn taken_apart(self) -> (Context, mpsc::Sender<Order>, mpsc::Receiver<Report>) {
            (self.context, self.orders, self.reports)
        }
        /// The same; `then` is done when it has made the first `after` of them.
        pub(super) async fn run_while(
            &mut self,
            driver: &dyn Driver,
            reports: usize,
            after: usize,
            then: impl FnOnce(),
        ) -> Vec<Report> {
            let mut got = Vec::new();
            let mut run = driver.run(&mut self.context);
            let (mut ended, mut then) = (false, Some(then));
            while got.len() < reports {
                if got.len() >= after
                    && let Some(then) = then.take()
                {
                    then();
                }
                tokio::select! {
                    report = self.reports.recv() => got.extend(report),
                    _ = &mut run, if !ended => ended = true,
                }
            }
            got
        }
        /// Runs a driver until it has made so many reports.
        pub(super) async fn run(&mut self, driver: &dyn Driver, reports: usize) -> Vec<Report> {
            let mut got = Vec::new();
            let mut run = driver.run(&mut self.context);
            let mut ended = false;
            while got.len() < reports {
                tokio::select! {
                    report = self.reports.recv() => got.extend(report),
                    _ = &mut run, if !ended => ended = true,
                }
            }
            got
        }
    }
}
