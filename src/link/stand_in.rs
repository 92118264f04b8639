//! A broker in memory behind the link's own door, for `pinpost test`: the gateway above it cannot tell.
//!
//! It keeps retained messages, routes by filter, redelivers what it is told to, and goes away and comes back on
//! command. It remembers what went through it, up to a bound. It is no proof of the real link: what a socket does is
//! that one's own tests' matter.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::futures::Notified;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::{Ear, LinkConfig, LinkEvent, LinkHandle, Outbox, Stop, Subscription};
use crate::model::{Incoming, Message};
use crate::wire::topics::matches;

/// Messages that are remembered.
const REMEMBERED: usize = 100_000;
/// What it says of its place.
const PLACE: &str = "the broker of the test";
/// Why a connection ended.
const AWAY: &str = "it was taken away";

/// The broker. Clones are the same.
#[derive(Clone)]
pub struct Broker(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    up: watch::Sender<bool>,
    news: Notify,
}

#[derive(Default)]
struct State {
    retained: BTreeMap<String, Message>,
    clients: Vec<Client>,
    /// Clients and deliveries, counted.
    next: u64,
    seen: VecDeque<Seen>,
    count: u64,
}

struct Client {
    id: u64,
    /// What is said when it goes without a word: its own will and those beside it.
    wills: Vec<Message>,
    subscriptions: Vec<Subscription>,
    to: mpsc::UnboundedSender<Incoming>,
}

/// A message that went through.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The how manieth, from 0.
    pub number: u64,
    /// When.
    pub at: Instant,
    /// What.
    pub message: Message,
    /// Whether a gateway said it, not the test.
    pub ours: bool,
}

impl Broker {
    /// A broker that is there, or not yet.
    pub fn new(up: bool) -> Broker {
        Broker(Arc::new(Inner { state: Mutex::default(), up: watch::Sender::new(up), news: Notify::new() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Takes it away, or brings it back with what it retained.
    pub fn put(&self, up: bool) {
        self.0.up.send_replace(up);
    }

    /// Somebody publishes; with `again` it is delivered a second time, as a redelivery. False: there is no broker.
    pub fn publish(&self, message: Message, again: bool) -> bool {
        let up = *self.0.up.borrow();
        if up {
            self.route(message, false, again);
        }
        up
    }

    /// How many messages went through so far.
    pub fn count(&self) -> u64 {
        self.state().count
    }

    /// The messages from the given one on, as far as they are remembered.
    pub fn seen(&self, from: u64) -> Vec<Seen> {
        let state = self.state();
        let first = state.seen.front().map_or(0, |s| s.number);
        let skip = usize::try_from(from.saturating_sub(first)).unwrap_or(usize::MAX);
        state.seen.iter().skip(skip).cloned().collect()
    }

    /// Until something goes through after this call.
    pub fn news(&self) -> Notified<'_> {
        self.0.news.notified()
    }

    fn route(&self, message: Message, ours: bool, again: bool) {
        let mut state = self.state();
        for dup in [false, true] {
            if dup && !again {
                continue;
            }
            let State { clients, next, .. } = &mut *state;
            for client in clients.iter().filter(|c| c.wants(&message.topic)) {
                *next += 1;
                let _ = client.to.send(incoming(&message, false, dup, *next));
            }
        }
        if message.retain && message.payload.is_empty() {
            state.retained.remove(&message.topic);
        } else if message.retain {
            state.retained.insert(message.topic.clone(), message.clone());
        }
        let number = state.count;
        state.count += 1;
        if state.seen.len() == REMEMBERED {
            state.seen.pop_front();
        }
        state.seen.push_back(Seen { number, at: Instant::now(), message, ours });
        drop(state);
        self.0.news.notify_waiters();
    }

    fn connect(&self, config: &LinkConfig, connection: u64) -> (Connected, mpsc::UnboundedReceiver<Incoming>) {
        let (to, inbox) = mpsc::unbounded_channel();
        let mut state = self.state();
        state.next += 1;
        let id = state.next;
        let own = last_word(config, connection).or_else(|| config.will.clone());
        let wills = own.into_iter().chain(config.beside.iter().cloned()).collect();
        let client = Client { id, wills, subscriptions: config.subscriptions.clone(), to };
        let State { retained, next, clients, .. } = &mut *state;
        for message in retained.values().filter(|m| client.wants(&m.topic)) {
            *next += 1;
            let _ = client.to.send(incoming(message, true, false, *next));
        }
        clients.push(client);
        (Connected { broker: self.clone(), id }, inbox)
    }

    fn ear(&self, id: u64, ear: &Ear) {
        let mut state = self.state();
        let State { retained, next, clients, .. } = &mut *state;
        let Some(client) = clients.iter_mut().find(|c| c.id == id) else { return };
        match ear {
            Ear::Shut(filter) => client.subscriptions.retain(|s| s.filter != *filter),
            Ear::Open(new) => {
                for message in retained.values().filter(|m| matches(&new.filter, &m.topic)) {
                    *next += 1;
                    let _ = client.to.send(incoming(message, true, false, *next));
                }
                client.subscriptions.push(new.clone());
            }
        }
    }

    /// A client goes: its wills, if it had no time for a word and there is a broker to say them.
    fn disconnect(&self, id: u64, in_order: bool) {
        let mut state = self.state();
        let client = state.clients.iter().position(|c| c.id == id).map(|i| state.clients.remove(i));
        drop(state);
        let up = *self.0.up.borrow();
        for will in client.into_iter().flat_map(|c| c.wills).filter(|_| !in_order && up) {
            self.route(will, true, false);
        }
    }

    /// A link to this broker, in the place of [`super::Link`].
    pub fn link(
        &self,
        config: LinkConfig,
        outbox: Arc<dyn Outbox>,
        events: mpsc::Sender<LinkEvent>,
    ) -> (impl Future<Output = ()> + Send + use<>, LinkHandle) {
        // nobody looks at what was acknowledged: a redelivery is asked for by name
        let (acks, _) = mpsc::unbounded_channel();
        let (tell, ears) = mpsc::unbounded_channel();
        let (stop, stopped) = watch::channel(None);
        let (leave, leaving) = mpsc::unbounded_channel();
        let task = Task { broker: self.clone(), config, outbox, events, ears, connection: 0, leaving, stopped };
        (task.run(), LinkHandle { acks, ears: tell, leave, stop: Arc::new(stop) })
    }
}

impl Client {
    fn wants(&self, topic: &str) -> bool {
        self.subscriptions.iter().any(|s| matches(&s.filter, topic))
    }
}

fn incoming(message: &Message, retain: bool, dup: bool, ack: u64) -> Incoming {
    Incoming {
        topic: message.topic.clone(),
        payload: message.payload.clone(),
        retain,
        dup,
        backlog: false,
        properties: message.properties.clone(),
        ack,
    }
}

/// A connection; one that is dropped broke.
struct Connected {
    broker: Broker,
    id: u64,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.broker.disconnect(self.id, false);
    }
}

struct Task {
    broker: Broker,
    config: LinkConfig,
    outbox: Arc<dyn Outbox>,
    events: mpsc::Sender<LinkEvent>,
    ears: mpsc::UnboundedReceiver<Ear>,
    /// The present one, from 1.
    connection: u64,
    leaving: mpsc::UnboundedReceiver<(u64, String)>,
    stopped: watch::Receiver<Option<Stop>>,
}

/// Why a connection ended.
enum End {
    Stopped,
    Cut,
    /// The owner wants another one.
    Left(String),
}

impl Task {
    async fn run(mut self) {
        let mut up = self.broker.0.up.subscribe();
        loop {
            if !*up.borrow_and_update() {
                self.down(AWAY.to_owned(), false).await;
                tokio::select! {
                    () = becomes(&mut up, true) => {}
                    _ = last_words(&mut self.stopped) => return,
                }
            }
            let url = PLACE.to_owned();
            let _ = self.events.send(LinkEvent::Up { url, session_present: false }).await;
            self.config.hello.iter().for_each(|hello| self.broker.route(hello.clone(), true, false));
            self.connection += 1;
            let (connected, inbox) = self.broker.connect(&self.config, self.connection);
            self.outbox.link_up(self.connection);
            let end = self.serve(&mut up, connected.id, inbox).await;
            self.outbox.link_down();
            self.broker.disconnect(connected.id, true);
            match end {
                End::Stopped => return,
                End::Cut => self.down(AWAY.to_owned(), true).await,
                End::Left(why) => self.down(why, true).await,
            }
        }
    }

    fn hear(&mut self, id: u64, ear: Ear) {
        self.broker.ear(id, &ear);
        // at every later connection as well
        let all = &mut self.config.subscriptions;
        match ear {
            Ear::Open(new) => all.push(new),
            Ear::Shut(filter) => all.retain(|s| s.filter != filter),
        }
    }

    async fn down(&self, reason: String, was_up: bool) {
        let url = PLACE.to_owned();
        let _ = self.events.send(LinkEvent::Down { url, reason, was_up, retry_in: Duration::ZERO }).await;
    }

    async fn serve(
        &mut self,
        up: &mut watch::Receiver<bool>,
        id: u64,
        mut inbox: mpsc::UnboundedReceiver<Incoming>,
    ) -> End {
        loop {
            while let Ok(ear) = self.ears.try_recv() {
                self.hear(id, ear);
            }
            while let Some(out) = self.outbox.take() {
                self.broker.route(out.message, true, false);
                out.token.into_iter().for_each(|token| self.outbox.done(token));
            }
            tokio::select! {
                biased;
                () = becomes(up, false) => return End::Cut,
                // what was given out before the stop has been taken above
                last = last_words(&mut self.stopped) => {
                    let own = last_word(&self.config, self.connection);
                    own.into_iter().chain(last).for_each(|last| self.broker.route(last, true, false));
                    return End::Stopped;
                }
                Some((connection, why)) = self.leaving.recv() => if connection == self.connection {
                    let own = last_word(&self.config, self.connection);
                    own.into_iter().for_each(|last| self.broker.route(last, true, false));
                    return End::Left(why);
                },
                Some(incoming) = inbox.recv() => {
                    let _ = self.events.send(LinkEvent::Incoming(incoming)).await;
                }
                Some(ear) = self.ears.recv() => self.hear(id, ear),
                () = self.outbox.wake().notified() => {}
            }
        }
    }
}

/// The will of this connection, where each has its own.
fn last_word(config: &LinkConfig, connection: u64) -> Option<Message> {
    config.will_of.as_ref().map(|will_of| will_of(connection))
}

async fn becomes(up: &mut watch::Receiver<bool>, wanted: bool) {
    if up.wait_for(|up| *up == wanted).await.is_err() {
        std::future::pending().await
    }
}

/// Until the link is told to stop; what is still to be said.
async fn last_words(stopped: &mut watch::Receiver<Option<Stop>>) -> Vec<Message> {
    let stop = stopped.wait_for(Option::is_some).await;
    stop.ok().and_then(|stop| stop.as_ref().map(|s| s.farewell.clone())).unwrap_or_default()
}
