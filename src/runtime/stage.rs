//! THE STAGE of `pinpost test`: a gateway that runs for real above simulated pins and ports, with a broker in memory and
//! with the time that its runtime holds. No socket, no systemd, no thread whose work could be waited for.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, json};
use tokio::sync::{Notify, mpsc, watch};

use crate::clock::Clock;
use crate::link::stand_in::Broker;
use crate::plan::Plan;
use crate::queue::{Log, Shared, Writer};

use super::reload::Heritage;
use super::{Daemon, Happened, Pins, StartError};

/// What gateways on one stage share.
#[derive(Clone)]
pub struct Stage {
    /// Their time.
    pub clock: Arc<Clock>,
    /// Their broker.
    pub broker: Broker,
}

/// How a gateway on the stage ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// In order: with exit code 0.
    Done,
    /// A vital part has failed: with exit code 70.
    Failed,
    /// It was cut off.
    Killed,
}

/// A gateway on the stage.
pub struct Staged {
    orders: mpsc::Sender<Ended>,
    ended: watch::Receiver<Option<Ended>>,
}

impl Stage {
    /// Starts a plan. Must be called within a current-thread runtime, whose time should be paused.
    pub fn start(&self, plan: Plan, pins: Pins) -> Result<Staged, StartError> {
        let mut heritage = Heritage { clock: self.clock.clone(), stage: Some(self.clone()), ..Heritage::none(pins) };
        let mut daemon = Daemon::begin(plan, &mut heritage)?;
        let (orders, mut told) = mpsc::channel(1);
        let (tell, ended) = watch::channel(None);
        tokio::spawn(async move {
            let (how, itself) = loop {
                tokio::select! {
                    how = told.recv() => break (how.unwrap_or(Ended::Killed), false),
                    happened = daemon.happens() => match happened {
                        Happened::Failed => break (Ended::Failed, true),
                        Happened::Exit(_) => break (Ended::Done, true),
                        Happened::Reload(reply) => {
                            let why = "a rehearsal has no file to read anew";
                            let map = json!({ "outcome": "rejected", "reason": why });
                            daemon.answer(*reply, map.as_object().cloned().unwrap_or_else(Map::new)).await;
                        }
                    },
                }
            };
            match how {
                Ended::Done if itself => daemon.finish().await,
                Ended::Done => daemon.stop().await,
                Ended::Failed | Ended::Killed => daemon.cut().await,
            }
            tell.send_replace(Some(how));
        });
        Ok(Staged { orders, ended })
    }
}

impl Staged {
    /// How it ended, if it has.
    pub fn ended(&self) -> Option<Ended> {
        *self.ended.borrow()
    }

    /// Until it has ended.
    pub async fn end(&mut self) -> Ended {
        self.ended.wait_for(Option::is_some).await.ok().and_then(|ended| *ended).unwrap_or(Ended::Failed)
    }

    /// Stops it in order ([`Ended::Done`]), or cuts it off.
    pub async fn stop(&mut self, how: Ended) -> Ended {
        // one that has ended by itself listens no more
        let _ = self.orders.send(how).await;
        self.end().await
    }
}

/// The queue's work without its thread, at the runtime's time.
pub(super) fn work_by_hand(shared: Shared, log: Log, clock: Arc<Clock>, ready: impl Fn() + Send + 'static) -> Writer {
    let wake = Arc::new(Notify::new());
    let call = wake.clone();
    let (writer, by_hand) = Writer::by_hand(shared, log, move || call.notify_one());
    tokio::spawn(async move {
        while let Some((news, wait)) = by_hand.work(clock.now().mono.0) {
            if news {
                ready();
            }
            match wait {
                Some(wait) => drop(tokio::time::timeout(wait, wake.notified()).await),
                None => wake.notified().await,
            }
        }
    });
    writer
}

impl Daemon {
    /// As after a `kill -9`: nothing more is said, written or driven. What the durable memory was told counts as
    /// written.
    async fn cut(mut self) {
        self.hub.abort();
        self.link.abort();
        let _ = (&mut self.hub).await;
        let _ = (&mut self.link).await;
        self.memory.stop();
        drop(self.queue.take());
        // devices end with the hub's end of their channels, and give up their pins
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
