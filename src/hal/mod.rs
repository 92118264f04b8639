//! DOORS TO HARDWARE. A [`Board`] gives pins; [`port`] gives byte streams. The only room that names `rppal`,
//! `gpiocdev` and `tokio-serial`.
//!
//! Levels are physical here and nowhere else. Every backend keeps the same promises:
//! - an output is taken over with its first level already set, so that nothing clicks;
//! - dropping an output leaves the pin as it is (who wants another level writes it first);
//! - an edge that could not be kept is counted ([`EdgeReceiver::take_lost`]), never silently gone;
//! - no call blocks for longer than a register access or an ioctl.

pub mod backend;
pub mod boards;
pub mod bus;
pub mod chardev;
pub mod chip;
pub mod device_tree;
pub mod expanders;
pub mod list;
pub mod machine;
pub mod port;
pub mod raspberry_pi;
pub mod sim;
pub mod soft_pwm;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

/// A pin's physical level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// 0 V.
    Low,
    /// 3.3 V.
    High,
}

impl std::ops::Not for Level {
    type Output = Level;
    fn not(self) -> Level {
        if self == Level::Low { Level::High } else { Level::Low }
    }
}

/// The bias of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pull {
    /// To 3.3 V, about 50 kΩ.
    Up,
    /// To ground, about 50 kΩ.
    Down,
    /// None: the pin floats if nothing drives it.
    #[default]
    Off,
}

/// What an output is set to when it is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// This level, from the first moment it is an output.
    At(Level),
    /// The level it already has.
    Keep,
}

/// How a contact bounces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounce {
    /// Levels that do not hold so long may be kept back. Zero: none.
    pub hold: Duration,
    /// More changes a second are a storm.
    pub limit: u32,
}

/// One change of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    /// Level after the change.
    pub level: Level,
    /// When it happened, by the kernel where the backend can say so.
    pub at: Instant,
}

/// Why the hardware refused, by what happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HalErrorKind {
    /// Another process or device holds it; trying again may help.
    Busy,
    /// No such pin, chip or node now; it may appear.
    NotFound,
    /// The user may not open it; the group is named.
    Permission,
    /// This board can never do it.
    Unsupported,
    /// Everything else.
    Io,
}

/// Why the hardware refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HalError {
    /// By what happens next.
    pub kind: HalErrorKind,
    /// For people, with advice where there is some.
    pub text: String,
}

impl HalError {
    /// An error.
    pub fn new(kind: HalErrorKind, text: impl Into<String>) -> HalError {
        HalError { kind, text: text.into() }
    }
}

impl fmt::Display for HalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
impl std::error::Error for HalError {}

/// How many edges wait for a device before they are counted as lost: a tenth of a second at 10 kHz.
const EDGE_BUFFER: usize = 1024;

/// Takes edges in the backend's own thread, where nothing that the daemon does holds them up. Must not block.
pub trait EdgeSink: Send + Sync {
    /// An edge. Those of one pin come in order.
    fn edge(&self, edge: Edge);
    /// So many edges could not be kept.
    fn lost(&self, n: u64);
    /// More changes than a contact can make are kept back by the kernel's debounce, where only it sees them.
    fn storm(&self);
    /// The backend gave the pin up, or the pin was dropped.
    fn gone(&self);
}

/// The backend's end of a pin's edges. Cheap to clone; safe from any thread; never blocks.
#[derive(Clone)]
pub struct EdgeSender(Arc<Taker>);

/// A sink that is told when nobody holds it any more.
struct Taker(Arc<dyn EdgeSink>);

impl Drop for Taker {
    fn drop(&mut self) {
        self.0.gone();
    }
}

/// The device's end of a pin's edges.
#[derive(Debug)]
pub struct EdgeReceiver {
    rx: mpsc::Receiver<Edge>,
    lost: Arc<AtomicU64>,
    storm: Arc<Notify>,
}

/// Edges that wait in a bounded channel.
struct Waiting {
    tx: Mutex<Option<mpsc::Sender<Edge>>>,
    lost: Arc<AtomicU64>,
    storm: Arc<Notify>,
}

impl EdgeSink for Waiting {
    fn edge(&self, edge: Edge) {
        let tx = self.tx.lock().unwrap_or_else(|e| e.into_inner());
        if tx.as_ref().is_none_or(|tx| tx.try_send(edge).is_err()) {
            self.lost(1);
        }
    }
    fn lost(&self, n: u64) {
        self.lost.fetch_add(n, Ordering::Relaxed);
    }
    fn storm(&self) {
        self.storm.notify_one();
    }
    fn gone(&self) {
        self.tx.lock().unwrap_or_else(|e| e.into_inner()).take();
    }
}

/// A bounded channel for the edges of one pin.
pub fn edges() -> (EdgeSender, EdgeReceiver) {
    let (tx, rx) = mpsc::channel(EDGE_BUFFER);
    let lost = Arc::new(AtomicU64::new(0));
    let storm = Arc::new(Notify::new());
    let waiting = Waiting { tx: Mutex::new(Some(tx)), lost: lost.clone(), storm: storm.clone() };
    (EdgeSender::to(Arc::new(waiting)), EdgeReceiver { rx, lost, storm })
}

impl EdgeSender {
    /// Edges go straight to a sink.
    pub fn to(sink: Arc<dyn EdgeSink>) -> EdgeSender {
        EdgeSender(Arc::new(Taker(sink)))
    }
    /// Hands an edge over, or counts it as lost if the device is behind.
    pub fn push(&self, edge: Edge) {
        self.0.0.edge(edge);
    }
    /// Counts edges that the kernel or the hardware could not keep.
    pub fn lose(&self, n: u64) {
        self.0.0.lost(n);
    }
    /// Says that the kernel's debounce keeps a storm back.
    pub fn storm(&self) {
        self.0.0.storm();
    }
}

impl fmt::Debug for EdgeSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EdgeSender")
    }
}

impl EdgeReceiver {
    /// The next edge; `None` when the backend gave the pin up. Cancel safe.
    pub async fn next(&mut self) -> Option<Edge> {
        self.rx.recv().await
    }
    /// Rings when the kernel's debounce keeps a storm back.
    pub fn storm(&self) -> Arc<Notify> {
        self.storm.clone()
    }
    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.rx.is_empty()
    }
    /// How many edges were lost since the last call.
    pub fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
}

/// A pin that is read. Dropping it frees the pin.
pub trait InputPin: Send {
    /// The level now.
    fn read(&self) -> Result<Level, HalError>;
    /// How long after its change an edge comes, since the kernel waits for the level to hold.
    fn lag(&self) -> Duration {
        Duration::ZERO
    }
}

/// A pin that is driven. Dropping it leaves the pin driven at its last level.
pub trait OutputPin: Send {
    /// Drives the pin.
    fn write(&mut self, level: Level) -> Result<(), HalError>;
    /// The level that the pin really has, read back from the hardware.
    fn read(&self) -> Result<Level, HalError>;
}

/// A pin that gives pulses. Dropping one that the hardware makes leaves it running; in software the pin comes to rest.
pub trait PwmPin: Send {
    /// Share of each period at the high level, 0 to 1.
    fn set(&mut self, high: f64) -> Result<(), HalError>;
    /// The share as it is made now.
    fn high(&self) -> Result<f64, HalError>;
    /// Who makes the pulses, in a word.
    fn how(&self) -> &'static str;
}

/// A machine's pins.
pub trait Board: Send + Sync {
    /// What it is, for people: `Raspberry Pi 4 B (rppal)`, `simulated`.
    fn describe(&self) -> String;
    /// Takes a pin (BCM number) as an input and reports its edges from now on.
    fn input(&self, pin: u8, pull: Pull, edges: EdgeSender) -> Result<Box<dyn InputPin>, HalError>;
    /// The same, of a contact that bounces: where the kernel can, it keeps short levels back. Edges carry the time at
    /// which their level began, also there.
    fn contact(&self, pin: u8, pull: Pull, bounce: Bounce, edges: EdgeSender) -> Result<Box<dyn InputPin>, HalError> {
        let _ = bounce;
        self.input(pin, pull, edges)
    }
    /// Takes a pin (BCM number) as an output.
    fn output(&self, pin: u8, start: Start) -> Result<Box<dyn OutputPin>, HalError>;
    /// Takes a pin (BCM number) to give pulses of `frequency` Hz, each period beginning high for the share `high`.
    /// `rest` is the level of a pin that gives none. Where the hardware cannot, a thread does.
    fn pwm(&self, pin: u8, frequency: f64, high: f64, rest: Level) -> Result<Box<dyn PwmPin>, HalError> {
        let output = self.output(pin, Start::At(rest))?;
        Ok(Box::new(soft_pwm::SoftPwm::start(pin, output, frequency, high, rest)?))
    }
}

/// A machine without pins that can be had: every pin is refused with the same reason.
pub struct NoBoard(HalError);

impl NoBoard {
    /// Refuses for this reason.
    pub fn because(reason: HalError) -> NoBoard {
        NoBoard(reason)
    }
}

impl Board for NoBoard {
    fn describe(&self) -> String {
        format!("none: {}", self.0)
    }
    fn input(&self, _: u8, _: Pull, _: EdgeSender) -> Result<Box<dyn InputPin>, HalError> {
        Err(self.0.clone())
    }
    fn output(&self, _: u8, _: Start) -> Result<Box<dyn OutputPin>, HalError> {
        Err(self.0.clone())
    }
    fn pwm(&self, _: u8, _: f64, _: f64, _: Level) -> Result<Box<dyn PwmPin>, HalError> {
        Err(self.0.clone())
    }
}
