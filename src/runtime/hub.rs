//! The hub: the one loop that feeds events to the engine and carries its effects out. It decides nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, sleep_until};

use crate::clock::Clock;
use crate::device::{Counters, Order, PASSING, Report};
use crate::engine::{Effect, Engine, Event, Outgoing, bridge::GapReport, commands};
use crate::hal::Level;
use crate::hal::sim::SimBoard;
use crate::link::{LinkEvent, LinkHandle, Subscription};
use crate::model::{Action, Deliver, DeviceId, Message, OutcomeKind, Properties, Qos, Refusal, Ticket};
use crate::queue::{self, DiskState, Shared};
use crate::wire::Record;

use super::health::{self, LinkStatus};
use super::memory::Memory;
use super::outbox::{QueueOutbox, queue_stamp};
use super::requests::LevelTimer;
use super::systemd;
use super::{Ask, Wanted};

/// How long devices may take to end.
const END_DEVICES: Duration = Duration::from_secs(1);

/// How long devices are held back at a time while the queue's memory is nearly full. It ends early when the queue has
/// made room, and a dead end (a broker that takes nothing) costs a flooding device its speed, not the daemon its life.
pub(super) const HOLD: Duration = Duration::from_millis(250);

/// Reports that are taken in one go, so that a flood does not starve the rest.
const BATCH: usize = 64;

/// A running device.
pub(super) struct Part {
    pub name: String,
    pub orders: mpsc::Sender<Order>,
    pub counters: Arc<Counters>,
    pub task: JoinHandle<()>,
}

impl Part {
    /// Closes the device's channel; gives its task.
    fn dismiss(&mut self) -> AbortHandle {
        self.orders = mpsc::channel(1).0;
        self.task.abort_handle()
    }
}

/// The key in the durable memory of what a device wants to have kept.
pub(super) fn key_of(device: &str, key: &str) -> String {
    format!("device/{device}/{key}")
}

/// Whether such a key is of this process alone.
pub(super) fn is_passing(key: &str) -> bool {
    key.strip_prefix("device/").and_then(|key| key.split_once('/')).is_some_and(|(_, key)| key.starts_with(PASSING))
}

/// What the hub listens to.
pub(super) struct Ears {
    pub reports: mpsc::Receiver<Report>,
    /// Answers, and all that outputs say: never held back.
    pub answers: mpsc::Receiver<Report>,
    pub link: mpsc::Receiver<LinkEvent>,
    pub levels: mpsc::UnboundedReceiver<(u8, f64)>,
    pub asks: mpsc::Receiver<Ask>,
    /// The queue has something to say (gaps).
    pub wake: Arc<Notify>,
}

/// The hub.
pub(super) struct Hub {
    pub engine: Engine,
    pub clock: Arc<Clock>,
    pub queue: Shared,
    pub outbox: Arc<QueueOutbox>,
    pub link: LinkHandle,
    pub parts: Vec<Part>,
    pub sim: Option<SimBoard>,
    pub memory: Memory,
    pub status: LinkStatus,
    /// Reloads that were asked for, and an end.
    pub wanted: mpsc::Sender<Wanted>,
    pub level_timer: LevelTimer,
    /// It was said that the queue's disk fails.
    pub disk_fails: bool,
    /// `P/bridge/health`.
    pub health_topic: String,
}

impl Hub {
    pub(super) async fn run(mut self, mut ears: Ears) {
        let mut reports = Vec::with_capacity(BATCH);
        let mut fx = Vec::new();
        let mut stopping: Option<oneshot::Sender<()>> = None;
        let (mut link_open, mut devices_open, mut answers_open) = (true, true, true);
        // a full queue holds the devices back, and they their ports
        let mut held: Option<Instant> = None;
        loop {
            // at a stop nobody is held back: what was said is to be queued
            let pressed = stopping.is_none() && self.outbox.pressed();
            held = if pressed { held.or_else(|| Some(Instant::now() + HOLD)) } else { None };
            let hold = held.filter(|until| *until > Instant::now());
            let wake = self.engine.next_wake().map(|m| self.clock.instant(m));
            tokio::select! {
                n = ears.reports.recv_many(&mut reports, BATCH), if devices_open && hold.is_none() => {
                    // none: there are no devices, or all have ended
                    devices_open = n > 0;
                    held = None;
                    // an answer was given before the device said anything else
                    while let Ok(answer) = ears.answers.try_recv() {
                        self.report(answer, &mut fx);
                    }
                    for report in reports.drain(..) {
                        self.report(report, &mut fx);
                    }
                }
                answer = ears.answers.recv(), if answers_open => match answer {
                    Some(answer) => self.report(answer, &mut fx),
                    None => answers_open = false,
                },
                event = ears.link.recv(), if link_open => match event {
                    Some(event) => self.link_event(event, &mut fx),
                    None => link_open = false,
                },
                Some((pin, high)) = ears.levels.recv() => self.feed(Event::SimLevel(pin, high), &mut fx),
                () = ears.wake.notified() => {}
                () = sleep_until(hold.unwrap_or_else(Instant::now)), if hold.is_some() => {}
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {
                    self.feed(Event::Wake, &mut fx);
                }
                Some(ask) = ears.asks.recv() => match ask {
                    Ask::Ping(answer) => drop(answer.send(())),
                    Ask::StopOutputs(keep, answer) => {
                        self.feed(Event::Stop(keep), &mut fx);
                        // what has not stopped growing is told now: the link still listens
                        let gaps = self.queue.lock().take_gaps();
                        self.lost(gaps, &mut fx);
                        stopping = Some(answer);
                    }
                    Ask::Answer(reply, map) => self.reply(&reply, map, &mut fx),
                    Ask::Say(about) => self.say(about, &mut fx),
                    Ask::End => break,
                },
            }
            self.carry(&mut fx);
            self.gaps(&mut fx);
            if !self.engine.busy()
                && let Some(answer) = stopping.take()
            {
                let _ = answer.send(());
            }
        }
        self.end(ears.reports, ears.answers).await;
    }

    /// Devices end when their channel closes, and what they still have to say is queued. One that does not end is
    /// named.
    async fn end(mut self, mut reports: mpsc::Receiver<Report>, mut answers: mpsc::Receiver<Report>) {
        let tasks: Vec<_> = self.parts.iter_mut().map(Part::dismiss).collect();
        let mut fx = Vec::new();
        // every device holds senders: the channels end with the last of them
        let last_words = async {
            loop {
                let report = tokio::select! {
                    Some(report) = reports.recv() => report,
                    Some(answer) = answers.recv() => answer,
                    else => break,
                };
                self.report(report, &mut fx);
                self.carry(&mut fx);
            }
        };
        if tokio::time::timeout(END_DEVICES, last_words).await.is_err() {
            for (part, task) in self.parts.iter().zip(tasks).filter(|(_, task)| !task.is_finished()) {
                log::warn!(device = part.name.as_str(); "the device did not end in time");
                task.abort();
            }
        }
    }

    fn feed(&mut self, event: Event, fx: &mut Vec<Effect>) {
        self.engine.handle(event, &self.clock.now(), fx);
    }

    fn report(&mut self, report: Report, fx: &mut Vec<Effect>) {
        match report {
            Report::Reading { point, value, quality, taken, frame } => {
                self.feed(Event::Reading { point, value, quality, taken, frame }, fx);
            }
            Report::Status(device, status) => self.feed(Event::Device(device, status), fx),
            Report::Acted(ticket, result) => self.feed(Event::Acted(ticket, result), fx),
            Report::Remember { device, key, value, urgent } => {
                if let Some(part) = self.parts.get(device.0 as usize) {
                    self.memory.set(&key_of(&part.name, &key), value.as_ref(), urgent);
                }
            }
        }
    }

    fn link_event(&mut self, event: LinkEvent, fx: &mut Vec<Effect>) {
        let now = self.clock.now();
        match event {
            LinkEvent::Up { url, session_present } => {
                log::info!(broker = url.as_str(), session_present; "connected");
                systemd::status(&format!("connected to {url}"));
                self.status.up(url, now.mono);
                self.feed(Event::LinkUp, fx);
            }
            LinkEvent::Down { url, reason, was_up, retry_in } => {
                let seconds = format!("{:.1}", retry_in.as_secs_f64());
                if self.status.is_news(&reason, was_up) {
                    log::warn!(broker = url.as_str(), retry_in_s = seconds.as_str(); "not connected: {reason}");
                } else {
                    log::debug!(broker = url.as_str(), retry_in_s = seconds.as_str(); "still not connected: {reason}");
                }
                systemd::status(&format!("no broker: {reason}"));
                self.status.down(reason, now.mono);
                if was_up {
                    self.feed(Event::LinkDown, fx);
                }
            }
            #[cfg(feature = "planted-bugs")]
            LinkEvent::Incoming(message) if planted(&message.payload) => {}
            LinkEvent::Incoming(message) => self.feed(Event::Incoming(message), fx),
            LinkEvent::Refused { reason_code, text, fatal, .. } => {
                log::warn!(reason_code; "the broker refused a message: {text}");
                if fatal {
                    self.feed(Event::Problem(format!("a message was put aside (dead letter): {text}")), fx);
                }
            }
            LinkEvent::Problem(text) => {
                log::warn!("{text}");
                self.feed(Event::Problem(text), fx);
            }
        }
    }

    /// Carries effects out; those may bring further ones.
    fn carry(&mut self, fx: &mut Vec<Effect>) {
        let mut sent = false;
        while !fx.is_empty() {
            for effect in std::mem::take(fx) {
                match effect {
                    Effect::Send(outgoing) => {
                        self.send(outgoing);
                        sent = true;
                    }
                    Effect::Act(device, ticket, action) => self.act(device, ticket, action, fx),
                    Effect::Ack(ack) => self.link.ack(ack),
                    Effect::DriveSim(pin, high) => {
                        let level = if high { Level::High } else { Level::Low };
                        if let Some(Err(e)) = self.sim.as_ref().map(|sim| sim.drive(pin, level)) {
                            self.feed(Event::Problem(e.text), fx);
                        }
                    }
                    Effect::Remember { key, value, urgent } => self.memory.set(&key, value.as_ref(), urgent),
                    Effect::Log(text) => log::info!("{text}"),
                    Effect::Listen(filter, qos) => self.link.listen(Subscription { filter, qos }),
                    Effect::Hush(filter) => self.link.hush(filter),
                    // a second reason to end is none
                    Effect::Exit(why) => drop(self.wanted.try_send(Wanted::Exit(why))),
                    Effect::Sparkplug(word) => self.outbox.say(word),
                    Effect::Leave { connection, why } => self.link.leave(connection, why),
                    Effect::Daemon(request, reply) => {
                        self.requested(request, reply, fx);
                        sent = true;
                    }
                    Effect::Health(reply) => {
                        self.health(reply, fx);
                        sent = true;
                    }
                }
            }
        }
        if sent {
            self.outbox.wake_link();
        }
    }

    fn act(&mut self, device: DeviceId, ticket: Ticket, action: Action, fx: &mut Vec<Effect>) {
        let order = Order { ticket, action, until: Instant::now() + commands::PATIENCE };
        let sent = self.parts.get(device.0 as usize).map(|part| part.orders.try_send(order));
        let (kind, why) = match sent {
            Some(Ok(())) => return,
            Some(Err(mpsc::error::TrySendError::Full(_))) => (OutcomeKind::Busy, "the device is behind; ask again"),
            Some(Err(mpsc::error::TrySendError::Closed(_))) | None => (OutcomeKind::Failed, "the device has ended"),
        };
        self.feed(Event::Acted(ticket, Err(Refusal::new(kind, why))), fx);
    }

    fn send(&mut self, outgoing: Outgoing) {
        let (now, epoch) = (self.clock.now(), self.clock.epoch());
        let entry = queue::Entry {
            reading: outgoing.reading,
            rank: outgoing.priority as u8,
            lane: outgoing.lane,
            keep: match outgoing.deliver {
                Deliver::All => queue::Keep::All,
                Deliver::Latest => queue::Keep::Latest,
                Deliver::None => queue::Keep::None,
            },
            in_order: outgoing.retain,
            expires: outgoing.expires.map(|m| m.0),
            stamp: queue_stamp(&outgoing.taken.unwrap_or_else(|| now.stamp()), epoch),
            source: outgoing.source,
            body: outgoing.record.encode(),
        };
        let mut queue = self.queue.lock();
        // The queue learns of a clock that was set.
        queue.set_clock(now.mono.0, queue_stamp(&now.stamp(), epoch));
        queue.append(entry, now.mono.0);
    }

    /// Tells of readings that were lost, and of a memory that cannot keep what it is told.
    fn gaps(&mut self, fx: &mut Vec<Effect>) {
        let gaps = self.outbox.take_gaps();
        self.lost(gaps, fx);
        for text in self.memory.take_problems() {
            self.feed(Event::Problem(text), fx);
        }
        self.disk(fx);
        self.carry(fx);
    }

    fn lost(&mut self, gaps: Vec<queue::Gap>, fx: &mut Vec<Effect>) {
        for gap in gaps {
            let (from, to, count) = (gap.from, gap.to, gap.count);
            log::warn!(from, to, count, reason = gap.reason; "readings were lost");
            let report = GapReport { from, to, count, reason: gap.reason.into(), point: gap.source };
            self.feed(Event::Gap(report), fx);
        }
    }

    /// Tells that the queue's disk fails, once, and that it works again.
    fn disk(&mut self, fx: &mut Vec<Effect>) {
        let state = self.queue.lock().disk_state();
        match (state, self.disk_fails) {
            (DiskState::Failing { text, .. }, false) => {
                log::error!("what waits for the broker is kept in memory only: {text}");
                self.feed(Event::Problem(format!("what waits for the broker is kept in memory only: {text}")), fx);
            }
            (DiskState::Durable, true) => log::warn!("the disk works again: what waits for the broker is written"),
            _ => return,
        }
        self.disk_fails = !self.disk_fails;
        self.health(None, fx);
    }

    fn health(&mut self, reply: Option<commands::Reply>, fx: &mut Vec<Effect>) {
        let now = self.clock.now();
        let stamp = queue_stamp(&now.stamp(), self.clock.epoch());
        let (stats, words) = {
            let mut queue = self.queue.lock();
            queue.set_clock(now.mono.0, stamp);
            (queue.stats(), queue.health().words)
        };
        if reply.is_none() {
            let percent = stats.bytes.saturating_mul(100) / stats.max_bytes.max(1);
            self.feed(Event::QueueFill(percent.min(100) as u8), fx);
        }
        let devices = self.parts.iter().map(|p| (p.name.as_str(), p.counters.read()));
        let map = health::collect(&now, &stats, &words, &self.status, devices);
        if let Some(reply) = reply {
            return self.reply(&reply, map, fx);
        }
        let message = Message {
            topic: self.health_topic.clone(),
            payload: serde_json::Value::Object(map).to_string().into_bytes(),
            qos: Qos::AtLeastOnce,
            retain: true,
            properties: Properties { content_type: Some("application/json".into()), ..Properties::default() },
        };
        self.send(Outgoing {
            reading: false,
            priority: crate::model::Priority::Control,
            lane: u64::MAX - 1,
            deliver: Deliver::Latest,
            expires: None,
            retain: true,
            taken: None,
            source: "bridge".into(),
            record: Record::Message(Box::new(message)),
        });
    }
}

/// The faults that a test asks for with a command, where `PINPOST_PLANT` is set: a hub that hangs, one that panics.
#[cfg(feature = "planted-bugs")]
fn planted(payload: &[u8]) -> bool {
    if std::env::var_os("PINPOST_PLANT").is_none() {
        return false;
    }
    match payload {
        b"hang the hub" => loop {
            std::thread::park();
        },
        b"panic in the hub" => panic!("planted"),
        _ => false,
    }
}
