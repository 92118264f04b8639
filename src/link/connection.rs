//! The loop that keeps the link alive: opens a connection, lets it live, understands its end, tries again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::life::{Life, Sent, keep_alive, window};
use super::poison::{Culprit, Poison};
use super::preferred::{self, Preferred};
use super::reason::{Cause, Ended, clean};
use super::retry::Retry;
use super::session::{Opening, RECEIVE_MAXIMUM, Report, Session};
use super::tls::client_config;
use super::url::BrokerUrl;
use super::{Ear, LinkConfig, LinkEvent, LinkHandle, Outbox, Protocol, Stop, Subscription};
use crate::backoff::Backoff;
use crate::model::Qos;

/// Greatest payload that goes up; also the greatest packet that is read, at first.
pub(super) const MAX_INCOMING: u32 = 1024 * 1024;
/// How far a 3.1.1 broker, which cannot be told a limit, is followed once, so that one message cannot end every
/// connection: it is read, thrown away and acknowledged.
const MOST_INCOMING: usize = 16 * 1024 * 1024;

/// A connection that lived this long shows that its broker is well.
const HELD: Duration = Duration::from_secs(60);

/// The link; see the room's own page. Made by [`Link::new`], lives in [`Link::run`].
pub struct Link {
    pub(super) config: LinkConfig,
    pub(super) outbox: Arc<dyn Outbox>,
    events: mpsc::Sender<LinkEvent>,
    pub(super) acks: mpsc::UnboundedReceiver<u64>,
    pub(super) ears: mpsc::UnboundedReceiver<Ear>,
    /// What the ears have asked for.
    pub(super) extra: Vec<Subscription>,
    /// Connections that are to be left, and why.
    pub(super) leave: mpsc::UnboundedReceiver<(u64, String)>,
    pub(super) stop: watch::Receiver<Option<Stop>>,
    connections: u64,
    /// Connections that a broker has let in.
    pub(super) welcomes: u64,
    max_incoming: u32,
    pub(super) poison: Poison,
    /// Between two looks at the first broker.
    pub(super) look_every: Duration,
    /// For the owner, in order.
    pub(super) pending: VecDeque<LinkEvent>,
}

impl Link {
    /// A link that is not running yet, and the handle to it.
    pub fn new(config: LinkConfig, outbox: Arc<dyn Outbox>, events: mpsc::Sender<LinkEvent>) -> (Link, LinkHandle) {
        let (acks_in, acks) = mpsc::unbounded_channel();
        let (ears_in, ears) = mpsc::unbounded_channel();
        let (leave_in, leave) = mpsc::unbounded_channel();
        let (stop_in, stop) = watch::channel(None);
        let look_every = config.patience.preferred;
        let link = Link {
            look_every,
            config,
            outbox,
            events,
            acks,
            ears,
            extra: Vec::new(),
            leave,
            stop,
            connections: 0,
            welcomes: 0,
            max_incoming: MAX_INCOMING,
            poison: Poison::default(),
            pending: VecDeque::new(),
        };
        (link, LinkHandle { acks: acks_in, ears: ears_in, leave: leave_in, stop: Arc::new(stop_in) })
    }

    /// Keeps the connection until [`LinkHandle::stop`].
    pub async fn run(mut self) {
        if self.config.urls.is_empty() {
            self.pending.push_back(LinkEvent::Problem("no broker is configured; set mqtt: { url: … }".into()));
            self.tell().await;
            return;
        }
        let pause = self.config.patience.retry;
        let mut retry = Retry::new(self.config.urls.len(), Backoff::new(pause, pause * 120), pause * 10);
        let mut at = 0;
        let mut moving = false;
        while self.stop.borrow().is_none() {
            let Some(url) = self.config.urls.get(at).cloned() else { return };
            let Some((ended, up_for)) = self.connection(at, &url).await else { break };
            if at == 0 && up_for.is_some_and(|t| t >= HELD) {
                self.look_every = self.config.patience.preferred;
            } else if at == 0 && moving {
                self.look_every = preferred::longer(self.look_every);
            }
            moving = ended.cause == Cause::GoBack;
            let next = retry.ended(ended.cause, up_for);
            let mut reason = ended.text;
            if next.taken_over {
                let id = clean(&self.config.client_id);
                reason =
                    format!("{reason}; another client uses the id {id}: give each its own mqtt: {{ client_id: … }}");
            }
            at = next.url;
            let (url, was_up) = (url.to_string(), up_for.is_some());
            self.pending.push_back(LinkEvent::Down { url, reason, was_up, retry_in: next.wait });
            self.tell().await;
            let _ = tokio::time::timeout(next.wait, self.asked_to_stop()).await;
        }
        self.tell().await;
    }

    /// Ready when the owner wants the link to end; never, when nobody can ask for it any more.
    pub(super) async fn asked_to_stop(&mut self) {
        if self.stop.wait_for(|s| s.is_some()).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Hands the owner what waits for it. A full channel is waited for, which slows the broker down in the end; but
    /// not once the owner wants us to stop, for it may then have stopped listening.
    pub(super) async fn tell(&mut self) {
        while let Some(event) = self.pending.pop_front() {
            let events = self.events.clone();
            tokio::select! {
                biased;
                room = events.reserve() => if let Ok(room) = room { room.send(event) },
                () = self.asked_to_stop() => { let _ = events.try_send(event); }
            }
        }
    }

    /// One connection from the first byte to the last. `None`: stopped in order.
    async fn connection(&mut self, at: usize, url: &BrokerUrl) -> Option<(Ended, Option<Duration>)> {
        let witnesses = match self.witnesses(url).await {
            Ok(witnesses) => witnesses?,
            Err(ended) => return Some((ended, None)),
        };
        let mut life = match self.open(url) {
            Ok(life) => life,
            Err(ended) => return Some((ended, None)),
        };
        life.witnesses = witnesses;
        if at > 0 && !self.config.stay {
            life.preferred = Some(Preferred::new(self.look_every));
        }
        let end = self.live(&mut life).await;
        // an orderly end is one for the wills too
        if end.is_ok() {
            life.witnesses.leave().await;
        }
        let end = match life.left.take() {
            Some(why) => end.and(Err(Ended::new(Cause::Left, why))),
            None => end,
        };
        // What was answered before the end is done; only then the rest is given up.
        while let Ok(report) = life.session.reports.try_recv() {
            if let Report::Heard(batch) = report {
                for heard in batch {
                    let _ = self.hear(&mut life, heard);
                }
            }
        }
        let up_for = life.welcome.map(|w| w.elapsed());
        if let (Err(ended), Some(up_for)) = (&end, up_for) {
            let culprit = self.poison.ended(ended.cause, up_for, life.oldest_record(), life.careful);
            if let Some(Culprit { token, code, text }) = culprit {
                self.refuse(&mut life, Sent::Record(token, 0), code, text, true);
            }
        }
        if life.up {
            self.outbox.link_down();
        }
        self.tell().await;
        end.err().map(|ended| (self.explain(ended, up_for.is_some()), up_for))
    }

    fn open(&mut self, url: &BrokerUrl) -> Result<Life, Ended> {
        let session = Session::open(self.opening(url)?)?;
        self.connections += 1;
        Ok(Life::new(session, self.connections, url, &self.config))
    }

    /// A client beside ours that only sees whether the first broker lets it in.
    pub(super) fn look(&self) -> Option<Session> {
        let opening = self.opening(self.config.urls.first()?).ok()?;
        let client_id = format!("{}-look", opening.client_id);
        Session::open(Opening {
            client_id,
            will: None,
            session_expiry: Duration::ZERO,
            kept_qos2: false,
            span: 1,
            channel: 1,
            ..opening
        })
        .ok()
    }

    pub(super) fn opening(&self, url: &BrokerUrl) -> Result<Opening, Ended> {
        let tls = match url.scheme.tls() {
            true => Some(client_config(&self.config.tls).map_err(|e| Ended::new(Cause::Unreachable, e))?),
            false => None,
        };
        let config = &self.config;
        let window = window(config);
        let kept = !config.session_expiry.is_zero();
        Ok(Opening {
            url: url.clone(),
            protocol: config.protocol,
            client_id: config.client_id.clone(),
            login: config.login.clone(),
            tls,
            proxy: config.proxy.clone(),
            keep_alive: keep_alive(config),
            session_expiry: config.session_expiry,
            will: match &config.will_of {
                Some(will_of) => Some(will_of(self.welcomes + 1)),
                None => config.will.clone(),
            },
            span: window * 2,
            channel: usize::from(window) + 2 * usize::from(RECEIVE_MAXIMUM),
            max_incoming: self.max_incoming,
            kept_qos2: kept && config.subscriptions.iter().any(|s| s.qos == Qos::ExactlyOnce),
        })
    }

    /// Makes the end of a connection understandable where the session alone could not.
    fn explain(&mut self, ended: Ended, was_up: bool) -> Ended {
        match ended.cause {
            Cause::StrangeAnswer(code) if !was_up => Ended::refused(code, &self.config.client_id),
            Cause::Broken if !was_up && self.config.protocol == Protocol::V5 => Ended::new(
                Cause::Refused,
                format!(
                    "{} before it answered; if it does not speak MQTT 5, set mqtt: {{ protocol: 3.1.1 }}",
                    ended.text
                ),
            ),
            Cause::TooBig(size) => {
                let text = format!(
                    "{}; at most {} are taken. Look for a large message, perhaps a retained one, on a topic that pinpost subscribes to",
                    ended.text, self.max_incoming
                );
                if self.config.protocol == Protocol::V311 && size <= MOST_INCOMING {
                    self.max_incoming = MOST_INCOMING as u32;
                }
                self.pending.push_back(LinkEvent::Problem(text.clone()));
                Ended::new(ended.cause, text)
            }
            _ => ended,
        }
    }
}
