//! A RELOAD: another plan in the same process. The old daemon stops in order and leaves a [`Heritage`]; the new one starts
//! with it. An output that both plans have on the same pin is left as it is: nothing clicks, and it counts as driven.
//!
//! The clock goes on, so that what waits in the queue can still be put right. The mark of a running daemon stays: who is
//! killed between the two has ended abnormally.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use serde_json::{Map, Value as Json};

use crate::clock::Clock;
use crate::engine::commands::Reply;
use crate::model::DeviceId;
use crate::plan::{DevicePlan, Plan};

use super::stage::Stage;
use super::state::StateDir;
use super::{Ask, Daemon, Pins, StartError, Wanted, systemd};

/// How long an answer may take to leave before the link ends.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What makes an output the same in two plans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    kind: &'static str,
    pin: u8,
    inverted: bool,
}

impl Place {
    pub(super) fn of(device: &DevicePlan) -> Option<Place> {
        let (safe, limits) = (device.safe?, device.spec.output.as_ref()?);
        Some(Place { kind: device.spec.kind, pin: safe.pin, inverted: safe.high != limits.scale.is_full(limits.safe) })
    }
}

/// What one daemon leaves to the next in the same process.
pub struct Heritage {
    pub(super) pins: Pins,
    pub(super) clock: Arc<Clock>,
    /// Outputs that were left as they are.
    pub(super) kept: Vec<Place>,
    /// The directory of small things that still says that a daemon runs.
    pub(super) state: Option<StateDir>,
    /// Where it is only a rehearsal.
    pub(super) stage: Option<Stage>,
    #[cfg(feature = "broker")]
    pub(super) broker: Option<crate::link::embedded::Embedded>,
}

impl Heritage {
    /// Other pins for the next daemon: what was left as it is on the old ones is not on these.
    pub fn give_pins(&mut self, pins: Pins) {
        self.pins = pins;
        self.kept.clear();
    }

    /// Of nobody: the first daemon of a process.
    pub(super) fn none(pins: Pins) -> Heritage {
        Heritage {
            pins,
            clock: Arc::new(Clock::new()),
            kept: Vec::new(),
            state: None,
            stage: None,
            #[cfg(feature = "broker")]
            broker: None,
        }
    }
}

/// What happens to a running daemon from within.
#[derive(Debug)]
pub enum Happened {
    /// A vital part has failed: the process is to end, so that it is started anew.
    Failed,
    /// A reload was asked for; with [`Daemon::answer`] it is answered.
    Reload(Box<Reply>),
    /// The program is to end with 0: why.
    Exit(String),
}

impl Daemon {
    /// Starts a plan with what the daemon before has left. After an error another plan may be tried.
    pub fn resume(plan: Plan, heritage: &mut Heritage) -> Result<Daemon, StartError> {
        Daemon::begin(plan, heritage)
    }

    /// The next thing that happens. Cancel safe.
    pub async fn happens(&mut self) -> Happened {
        tokio::select! {
            _ = &mut self.hub => {
                log::error!("the hub has ended");
                Happened::Failed
            }
            Some(wanted) = self.wanted.recv() => match wanted {
                Wanted::Reload(reply) => Happened::Reload(reply),
                Wanted::Exit(why) => Happened::Exit(why),
            },
        }
    }

    /// Answers a request.
    pub async fn answer(&self, reply: Reply, map: Map<String, Json>) {
        let _ = self.control.send(Ask::Answer(Box::new(reply), map)).await;
    }

    /// Says something on `bridge/event`.
    pub async fn say(&self, about: Json) {
        let _ = self.control.send(Ask::Say(about)).await;
    }

    /// Stops in order, for `next` to be started: what both have is left as it is.
    pub async fn hand_over(mut self, next: &Plan) -> Heritage {
        systemd::reloading();
        self.last_words(LAST_WORDS).await;
        let wanted: Vec<Place> = next.devices.iter().filter_map(Place::of).collect();
        let (keep, kept): (Vec<DeviceId>, Vec<Place>) =
            self.places.iter().filter(|(_, place)| wanted.contains(place)).cloned().unzip();
        self.stop_parts(keep).await;
        Heritage {
            pins: self.pins,
            clock: self.clock,
            kept,
            state: Some(self.state),
            stage: None,
            #[cfg(feature = "broker")]
            broker: self.broker,
        }
    }

    /// Stops in order, when what was said has been heard.
    pub async fn finish(self) {
        self.last_words(LAST_WORDS * 10).await;
        self.stop().await;
    }

    /// Lets the batches go that wait for further readings, and waits a moment for their answers. What the broker does not
    /// take in that time waits in the queue.
    pub(super) async fn flush(&self) {
        self.outbox.flush();
        let until = Instant::now() + LAST_WORDS;
        while self.outbox.holds() {
            let stirred = self.outbox.stirred();
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.outbox.holds() || tokio::time::timeout(left, stirred).await.is_err() {
                return;
            }
        }
    }

    /// Waits a moment for what was just said to reach the broker: the next plan may have another one.
    async fn last_words(&self, within: Duration) {
        self.outbox.flush();
        let until = Instant::now() + within;
        loop {
            let stirred = self.outbox.stirred();
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.outbox.idle() || tokio::time::timeout(left, stirred).await.is_err() {
                return;
            }
        }
    }
}
