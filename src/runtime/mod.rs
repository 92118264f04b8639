//! THE ONLY ROOM THAT STARTS TASKS. [`Daemon::start`] is all the wiring, on one screen.
//!
//! Vital parts (hub, queue) end the process when they fail, and systemd starts it again; devices and link fail alone.
//! Stopping is an order with deadlines: outputs take `on_stop`, the link says `offline`, the queue is written.

mod batches;
pub mod control;
pub mod figures;
mod health;
mod hub;
mod memory;
mod outbox;
mod reload;
mod requests;
pub mod stage;
mod state;
mod supervisor;
mod systemd;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value as Json};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::device::{Context, Counters};
use crate::engine::commands::Reply;
use crate::engine::filters::Chain;
use crate::engine::logic::Logic;
use crate::engine::sparkplug::last_bd_seq;
use crate::engine::{Effect, Engine, Setup, bridge, sessions};
use crate::expr::Zone;
use crate::hal::Board;
use crate::hal::machine::Machine;
use crate::hal::sim::SimBoard;
use crate::link::{Link, LinkHandle};
use crate::model::{DeviceId, PointId};
use crate::plan::Plan;
use crate::queue::{OpenError, Queue, Shared, Writer};
use crate::wire::sparkplug::bd_seq;

use hub::{Hub, Part};
use memory::Memory;
use outbox::QueueOutbox;
pub use reload::{Happened, Heritage};
pub use state::{Applied, StateDir, last_applied, queues, state_of};

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
#[derive(Clone)]
pub struct Pins {
    /// The board.
    pub board: Arc<dyn Board>,
    /// The same, if it is simulated.
    pub sim: Option<SimBoard>,
    /// The machine's files: what the kernel tells of sensors and of the machine itself.
    pub machine: Machine,
}

impl Pins {
    /// A simulated board.
    pub fn simulated() -> Pins {
        let sim = SimBoard::new();
        Pins { board: Arc::new(sim.clone()), sim: Some(sim), machine: Machine::here().simulate() }
    }
}

/// A running gateway.
pub struct Daemon {
    control: mpsc::Sender<Ask>,
    wanted: mpsc::Receiver<Wanted>,
    hub: JoinHandle<()>,
    link: JoinHandle<()>,
    link_handle: LinkHandle,
    farewell: Vec<crate::model::Message>,
    queue: Option<Writer>,
    state: StateDir,
    socket: Option<control::Control>,
    outbox: Arc<QueueOutbox>,
    pins: Pins,
    clock: Arc<Clock>,
    /// Outputs that a reload may leave as they are.
    places: Vec<(DeviceId, reload::Place)>,
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
    /// Outputs take `on_stop`, but not these; it answers when they have, and goes on carrying.
    StopOutputs(Vec<DeviceId>, oneshot::Sender<()>),
    /// A request is answered.
    Answer(Box<Reply>, Map<String, Json>),
    /// Something is said on `bridge/event`.
    Say(Json),
    /// Devices end, the hub ends.
    End,
}

/// What the hub wants of whoever runs the daemon.
enum Wanted {
    /// A reload, and where its answer goes.
    Reload(Box<Reply>),
    /// An end in order: why.
    Exit(String),
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
        Daemon::begin(plan, &mut reload::Heritage::none(pins))
    }

    fn begin(plan: Plan, heritage: &mut Heritage) -> Result<Daemon, StartError> {
        let (pins, clock) = (heritage.pins.clone(), heritage.clock.clone());
        let state = StateDir::open(&plan.queue.dir);

        let now = clock.now();
        let mut options = plan.queue.clone();
        options.clock = outbox::queue_stamp(&now.stamp(), clock.epoch());
        let (queue, log) = Queue::open(options, now.mono.0).map_err(StartError::Owned)?;
        let shared = Shared::new(queue, clock.start().into_std());
        let wake_hub = Arc::new(Notify::new());
        let outbox = QueueOutbox::new(shared.clone(), clock.clone(), wake_hub.clone(), plan.sparkplug.clone());
        let ready = outbox.clone();
        let writer = match &heritage.stage {
            Some(_) => stage::work_by_hand(shared.clone(), log, clock.clone(), move || ready.news()),
            None => Writer::start(shared.clone(), log, move || ready.news())
                .map_err(|e| StartError::Failed(format!("the queue's thread cannot be started: {e}")))?,
        };

        #[cfg(feature = "broker")]
        let broker = match (plan.broker.clone(), heritage.broker.take()) {
            (Some(wanted), Some(runs)) if runs.serves(&wanted) => Some(runs),
            (wanted, runs) => {
                drop(runs);
                wanted.map(crate::link::embedded::start_with).transpose().map_err(StartError::Failed)?
            }
        };
        #[cfg(not(feature = "broker"))]
        if plan.broker.is_some() {
            return Err(StartError::Failed("this pinpost was built without the embedded broker".into()));
        }

        let wake = wake_hub.clone();
        let memory = Memory::open(state.memory(), move || wake.notify_one());
        if heritage.state.is_none() {
            for key in memory.recall("").into_keys().filter(|key| hub::is_passing(key)) {
                memory.set(&key, None, false);
            }
        }
        let abnormal = state.begin(&Applied::of(&plan), heritage.state.take());
        let places: Vec<_> = plan.devices.iter().filter_map(|d| Some((d.spec.id, reload::Place::of(d)?))).collect();
        let kept = |id| places.iter().any(|(i, place)| *i == id && heritage.kept.contains(place));
        let desk = figures::Desk {
            queue: shared.clone(),
            dir: plan.queue.dir.clone(),
            clock: clock.clone(),
            outbox: outbox.clone(),
        };
        let socket = if heritage.stage.is_some() { None } else { control::start(state.path(), desk) };
        let health_topic = plan.topics.bridge("health");
        let (link_tx, link_rx) = mpsc::channel(LINK_EVENTS);
        let mut farewell: Vec<_> = plan.link.will.iter().cloned().collect();
        let mut link = plan.link;
        if let Some(homie) = &plan.homie {
            link.beside.push(homie.root_state("lost"));
            farewell.push(homie.root_state("disconnected"));
        }
        if let Some(node) = plan.sparkplug.clone() {
            // its will belongs to the connection of its births: the gateway's own is kept beside
            link.beside.extend(link.will.take());
            link.stay = node.primary_host.is_some();
            let (last, clock) = (last_bd_seq(&memory.recall("")), clock.clone());
            link.will_of = Some(Arc::new(move |n| node.death(bd_seq(last, n), clock.now().wall)));
        }
        let (link, link_handle) = match &heritage.stage {
            Some(stage) => {
                let (link, handle) = stage.broker.link(link, outbox.clone(), link_tx);
                (tokio::spawn(link), handle)
            }
            None => {
                let (link, handle) = Link::new(link, outbox.clone(), link_tx);
                (tokio::spawn(link.run()), handle)
            }
        };

        let (report_tx, report_rx) = mpsc::channel(REPORTS);
        let (answer_tx, answer_rx) = mpsc::channel(REPORTS);
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
        let wants = |id: &PointId| {
            let written = plan.logic.payloads.iter().any(|(of, payload)| of == id && payload.uses_fields());
            written || plan.chains.get(id.0 as usize).is_some_and(Chain::reads_fields)
        };
        let wants_fields: Vec<bool> = plan.devices.iter().map(|d| d.spec.points.iter().any(wants)).collect();
        // a rehearsal is the same each time
        let seed = if heritage.stage.is_some() { 0 } else { fastrand::u64(..) };
        let sessions = sessions::Plan { seed, ..plan.logic.sessions };
        let setup = Setup {
            topics: plan.topics,
            devices: specs,
            points: plan.points,
            chains: plan.chains,
            logic: Logic { zone: Some(Zone(clock.zone())), sessions, ..plan.logic },
            info,
            home_assistant: plan.home_assistant,
            sparkplug: plan.sparkplug,
            homie: plan.homie,
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
        for (device, wants_fields) in plan.devices.into_iter().zip(wants_fields) {
            let (order_tx, orders) = mpsc::channel(ORDERS);
            let counters = Arc::new(Counters::default());
            let context = Context {
                id: device.spec.id,
                name: device.spec.name.clone(),
                points: device.spec.points.clone(),
                board: pins.board.clone(),
                machine: pins.machine.clone(),
                clock: clock.clone(),
                counters: counters.clone(),
                up: if device.spec.output.is_some() { answer_tx.clone() } else { report_tx.clone() },
                answers: answer_tx.clone(),
                orders,
                begin: engine.begin(device.spec.id, kept(device.spec.id)),
                wants_fields,
                memory: memory.recall(&hub::key_of(&device.spec.name, "")),
            };
            let task = tokio::spawn(supervisor::supervise(device.driver, context));
            parts.push(Part { name: device.spec.name, orders: order_tx, counters, task });
        }
        #[cfg(test)]
        let counters = parts.iter().map(|p| p.counters.clone()).collect();
        let (control, asks) = mpsc::channel(8);
        let (wanted_tx, wanted) = mpsc::channel(2);
        let hub = Hub {
            engine,
            clock: clock.clone(),
            queue: shared,
            outbox: outbox.clone(),
            link: link_handle.clone(),
            parts,
            sim: pins.sim.clone(),
            memory: memory.clone(),
            status: health::LinkStatus::default(),
            wanted: wanted_tx,
            level_timer: Default::default(),
            disk_fails: false,
            health_topic,
        };
        let hub = tokio::spawn(hub.run(hub::Ears {
            reports: report_rx,
            answers: answer_rx,
            link: link_rx,
            levels: level_rx,
            asks,
            wake: wake_hub,
        }));
        if heritage.stage.is_none() {
            systemd::start(control.clone());
        }
        Ok(Daemon {
            control,
            wanted,
            hub,
            link,
            link_handle,
            farewell,
            queue: Some(writer),
            state,
            socket,
            outbox,
            pins,
            clock,
            places,
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

    /// After [`Happened::Failed`]: what waits in memory is written. The run counts as ended abnormally.
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
        self.stop_parts(Vec::new()).await;
        self.state.end();
    }

    /// Ends all parts in order. The outputs in `keep` stay as they are.
    async fn stop_parts(&mut self, keep: Vec<DeviceId>) {
        let (done, outputs) = oneshot::channel();
        let _ = self.control.send(Ask::StopOutputs(keep, done)).await;
        if tokio::time::timeout(STOP_OUTPUTS, outputs).await.is_err() {
            log::error!("outputs did not take on_stop in time");
        }
        self.flush().await;
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
        self.socket = None;
        if let Some(writer) = self.queue.take() {
            writer.stop();
        }
    }
}

#[cfg(test)]
mod tests;
