//! THE ONLY ROOM THAT STARTS TASKS. [`Daemon::start`] is all the wiring, on one screen.
//!
//! Vital parts (hub, queue) end the process when they fail, and systemd starts it again; devices and link fail alone.
//! Stopping is an order with deadlines: outputs take `on_stop`, the link says `offline`, the queue is written.

pub mod control;
pub mod figures;
mod health;
mod hub;
mod memory;
mod outbox;
mod state;
mod supervisor;
mod systemd;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::device::{Context, Counters};
use crate::engine::{Effect, Engine, Setup, bridge};
use crate::hal::sim::SimBoard;
use crate::hal::Board;
use crate::link::{Link, LinkHandle};
use crate::plan::Plan;
use crate::queue::{OpenError, Queue, Shared, Writer};

use hub::{Hub, Part};
use memory::Memory;
use outbox::QueueOutbox;
pub use state::{Applied, StateDir, last_applied, state_of};

/// Reports of devices that wait for the hub; a device that finds it full waits itself.
const REPORTS: usize = 256;
/// What the link may have told before the hub has looked.
const LINK_EVENTS: usize = 64;
/// Orders that wait for a device.
const ORDERS: usize = 16;
/// How long outputs may take for `on_stop`.
const STOP_OUTPUTS: Duration = Duration::from_secs(2);
/// How long the link may take to say goodbye.
const STOP_LINK: Duration = Duration::from_secs(3);

/// The machine's pins, and the handle to drive them where they are simulated.
pub struct Pins {
    /// The board.
    pub board: Arc<dyn Board>,
    /// The same, if it is simulated.
    pub sim: Option<SimBoard>,
}

impl Pins {
    /// A simulated board.
    pub fn simulated() -> Pins {
        let sim = SimBoard::new();
        Pins { board: Arc::new(sim.clone()), sim: Some(sim) }
    }
}

/// A running gateway.
pub struct Daemon {
    control: mpsc::Sender<Ask>,
    hub: JoinHandle<()>,
    link: JoinHandle<()>,
    link_handle: LinkHandle,
    farewell: Vec<crate::model::Message>,
    queue: Option<Writer>,
    state: StateDir,
    _socket: Option<control::Control>,
    memory: Memory,
    #[cfg(test)]
    counters: Vec<Arc<Counters>>,
    #[cfg(feature = "broker")]
    broker: Option<crate::link::embedded::Embedded>,
}

/// What the hub is asked from within the process.
pub enum Ask {
    /// Whether it lives: it answers.
    Ping(oneshot::Sender<()>),
    /// Outputs take `on_stop`; it answers when they have, and goes on carrying.
    StopOutputs(oneshot::Sender<()>),
    /// Devices end, the hub ends.
    End,
}

/// Why a plan could not be started.
#[derive(Debug)]
pub enum StartError {
    /// Another daemon owns the queue's directory.
    Owned(OpenError),
    /// The embedded broker, or a thread.
    Failed(String),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StartError::Owned(e) => e.fmt(f),
            StartError::Failed(text) => f.write_str(text),
        }
    }
}

impl Daemon {
    /// Starts a plan. Must be called within a runtime.
    pub fn start(plan: Plan, pins: Pins) -> Result<Daemon, StartError> {
        let clock = Arc::new(Clock::new());
        let state = StateDir::open(&plan.queue.dir);
        let run = fastrand::u64(1..);

        let now = clock.now();
        let mut options = plan.queue.clone();
        options.clock = outbox::queue_stamp(&now.stamp(), run);
        let (queue, log) = Queue::open(options, now.mono.0).map_err(StartError::Owned)?;
        let shared = Shared::new(queue, clock.start());
        let wake_hub = Arc::new(Notify::new());
        let outbox = QueueOutbox::new(shared.clone(), clock.clone(), run, wake_hub.clone());
        let ready = outbox.clone();
        let writer = Writer::start(shared.clone(), log, move || ready.news())
            .map_err(|e| StartError::Failed(format!("the queue's thread cannot be started: {e}")))?;

        #[cfg(feature = "broker")]
        let broker = plan.broker.map(crate::link::embedded::start).transpose().map_err(StartError::Failed)?;
        #[cfg(not(feature = "broker"))]
        if plan.broker.is_some() {
            return Err(StartError::Failed("this pinpost was built without the embedded broker".into()));
        }

        let wake = wake_hub.clone();
        let memory = Memory::open(state.memory(), move || wake.notify_one());
        let abnormal = state.begin(&Applied::of(&plan));
        let desk = figures::Desk { queue: shared.clone(), clock: clock.clone(), run, hub: wake_hub.clone() };
        let socket = control::start(state.path(), desk);
        let health_topic = plan.topics.bridge("health");
        let (link_tx, link_rx) = mpsc::channel(LINK_EVENTS);
        let farewell = plan.link.will.clone().into_iter().collect();
        let (link, link_handle) = Link::new(plan.link, outbox.clone(), link_tx);
        let link = tokio::spawn(link.run());

        let (report_tx, report_rx) = mpsc::channel(REPORTS);
        let (level_tx, level_rx) = mpsc::unbounded_channel();
        if let Some(sim) = &pins.sim {
            // bounded by our own writes: every level is one of them
            sim.watch(Box::new(move |pin, high| {
                let _ = level_tx.send((pin, high));
            }));
        }
        let info = bridge::Info {
            version: env!("CARGO_PKG_VERSION").into(),
            config: plan.digest,
            id: plan.id,
            name: plan.name,
            area: plan.area,
            board: pins.board.describe(),
        };
        let specs = plan.devices.iter().map(|d| d.spec.clone()).collect();
        let setup = Setup {
            topics: plan.topics,
            devices: specs,
            points: plan.points,
            chains: plan.chains,
            info,
            memory: memory.recall(""),
            boot: clock.boot(),
            abnormal,
        };
        let mut engine = Engine::new(setup, &clock.now());
        let mut prepared = Vec::new();
        engine.prepare(&mut prepared);
        for effect in prepared {
            if let Effect::Remember { key, value, urgent } = effect {
                memory.set(&key, value.as_ref(), urgent);
            }
        }
        for port in plan.ports {
            // it ends with the last device on it
            tokio::spawn(supervisor::keep(port));
        }
        let mut parts = Vec::new();
        for device in plan.devices {
            let (order_tx, orders) = mpsc::channel(ORDERS);
            let counters = Arc::new(Counters::default());
            let context = Context {
                id: device.spec.id,
                name: device.spec.name.clone(),
                points: device.spec.points.clone(),
                board: pins.board.clone(),
                clock: clock.clone(),
                counters: counters.clone(),
                up: report_tx.clone(),
                orders,
                begin: engine.begin(device.spec.id),
                memory: memory.recall(&hub::key_of(&device.spec.name, "")),
            };
            let task = tokio::spawn(supervisor::supervise(device.driver, context));
            parts.push(Part { name: device.spec.name, orders: order_tx, counters, task });
        }
        #[cfg(test)]
        let counters = parts.iter().map(|p| p.counters.clone()).collect();
        let (control, asks) = mpsc::channel(8);
        let hub = Hub {
            engine,
            clock,
            run,
            queue: shared,
            outbox,
            link: link_handle.clone(),
            parts,
            sim: pins.sim,
            memory: memory.clone(),
            status: health::LinkStatus::default(),
            health_topic,
        };
        let hub = tokio::spawn(hub.run(hub::Ears {
            reports: report_rx,
            link: link_rx,
            levels: level_rx,
            asks,
            wake: wake_hub,
        }));
        systemd::start(control.clone());
        Ok(Daemon {
            control,
            hub,
            link,
            link_handle,
            farewell,
            queue: Some(writer),
            state,
            _socket: socket,
            memory,
            #[cfg(test)]
            counters,
            #[cfg(feature = "broker")]
            broker,
        })
    }

    /// Where the embedded broker listens, if there is one.
    #[cfg(feature = "broker")]
    pub fn broker(&self) -> Option<std::net::SocketAddr> {
        self.broker.as_ref().map(crate::link::embedded::Embedded::addr)
    }

    /// Returns only if a vital part has failed: then the process is to end, so that it is started anew.
    pub async fn failed(&mut self) {
        let _ = (&mut self.hub).await;
        log::error!("the hub has ended");
    }

    /// After [`Daemon::failed`]: what waits in memory is written. The run counts as ended abnormally.
    pub fn abandon(mut self) {
        self.link.abort();
        self.memory.stop();
        if let Some(writer) = self.queue.take() {
            writer.stop();
        }
    }

    /// Stops in order.
    pub async fn stop(mut self) {
        systemd::stopping();
        let (done, outputs) = oneshot::channel();
        let _ = self.control.send(Ask::StopOutputs(done)).await;
        if tokio::time::timeout(STOP_OUTPUTS, outputs).await.is_err() {
            log::error!("outputs did not take on_stop in time");
        }
        self.link_handle.stop(std::mem::take(&mut self.farewell), STOP_LINK);
        if tokio::time::timeout(STOP_LINK + Duration::from_secs(1), &mut self.link).await.is_err() {
            log::warn!("the link did not end in time");
            self.link.abort();
        }
        let _ = self.control.send(Ask::End).await;
        if tokio::time::timeout(STOP_OUTPUTS, &mut self.hub).await.is_err() {
            log::warn!("the hub did not end in time");
            self.hub.abort();
        }
        self.memory.stop();
        if let Some(writer) = self.queue.take() {
            writer.stop();
        }
        self.state.end();
    }
}

#[cfg(test)]
mod tests;
