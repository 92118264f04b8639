//! A small client for `pinpost pub`, `pinpost sub` and the demo: no disk, no window to tune.
//!
//! It promises: a message is `Delivered` only after the broker took it (QoS 0: after it was written to the socket);
//! what the broker had not taken when a connection broke is sent again on the next one, in order; subscriptions come
//! back by themselves; memory is bounded by [`WINDOW`] messages either way; packets may be as large as MQTT allows.
//! A QoS 2 message whose connection broke in between may arrive twice: the session is a clean one.
//!
//! The daemon's own link is another one, over the queue.

mod dialect;
mod trouble;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};

use super::tls::TlsFiles;
use super::url::BrokerUrl;
use dialect::{Api, Loop, Step};
pub use trouble::Trouble;

/// How many messages may wait for the broker's acknowledgement; a further [`Client::publish`] waits.
pub const WINDOW: usize = 20;
/// Bytes that MQTT allows after the fixed header of a packet.
pub const MAX_PACKET: usize = 268_435_455;
const KEEP_ALIVE: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// A message that saw this many connections break without one acknowledgement is what breaks them.
const LOSSES_WITHOUT_PROGRESS: u32 = 3;

/// Which MQTT is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// MQTT 5.
    #[default]
    V5,
    /// MQTT 3.1.1: a broker cannot say that it refused a publish.
    V311,
}

/// Delivery quality.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Qos {
    /// Written to the socket, no more.
    #[default]
    AtMostOnce,
    /// Acknowledged; may arrive twice.
    AtLeastOnce,
    /// Acknowledged in two steps.
    ExactlyOnce,
}

impl TryFrom<u8> for Qos {
    type Error = String;
    fn try_from(n: u8) -> Result<Qos, String> {
        match n {
            0 => Ok(Qos::AtMostOnce),
            1 => Ok(Qos::AtLeastOnce),
            2 => Ok(Qos::ExactlyOnce),
            _ => Err("a QoS is 0, 1 or 2".into()),
        }
    }
}

/// What to connect to, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// Broker; credentials inside the URL are used where `login` is `None`.
    pub url: BrokerUrl,
    /// Protocol.
    pub version: Version,
    /// Client id; `None`: a random one.
    pub client_id: Option<String>,
    /// User and password.
    pub login: Option<(String, String)>,
    /// Certificates, for `mqtts` and `wss`.
    pub tls: TlsFiles,
    /// Whether a lost connection is made again. The first one never is.
    pub reconnect: bool,
}

impl Options {
    /// MQTT 5, a random client id, reconnecting.
    pub fn new(url: BrokerUrl) -> Options {
        Options { url, version: Version::V5, client_id: None, login: None, tls: TlsFiles::default(), reconnect: true }
    }
}

/// A message from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its topic.
    pub topic: String,
    /// Any bytes.
    pub payload: Bytes,
    /// Whether it was kept by the broker from before.
    pub retain: bool,
    /// As delivered.
    pub qos: Qos,
}

/// What the connection has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Connected, the first time or again.
    Connected,
    /// The connection broke; it is being made again.
    Lost(Trouble),
    /// No connection, and none will be tried: the last event.
    Failed(Trouble),
    /// The oldest publish that was not answered yet was taken by the broker, or refused with this reason.
    Delivered {
        /// Topic of the publish.
        topic: String,
        /// Why the broker did not take it.
        refused: Option<String>,
    },
    /// Answer to a subscription: the filters in the order given, with the reason where one was refused.
    Subscribed(Vec<(String, Option<String>)>),
    /// A message.
    Message(Message),
}

#[derive(Clone)]
struct Outgoing {
    topic: String,
    payload: Bytes,
    qos: Qos,
    retain: bool,
}

/// What both halves share. `handed` and the library's channel change under one lock, so that they stay in step.
#[derive(Default)]
struct State {
    connected: bool,
    ending: bool,
    /// Given to the library (or waiting for a connection), without a packet id yet.
    handed: VecDeque<Outgoing>,
    /// On the wire, not acknowledged.
    sent: VecDeque<(u16, Outgoing)>,
    /// Every filter asked for, for the next connection.
    filters: Vec<(String, Qos)>,
    /// Filters of the SUBSCRIBE packets that were not answered yet.
    asked: VecDeque<Vec<String>>,
}

struct Shared {
    state: Mutex<State>,
    window: Semaphore,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that is kept up by its own task. Needs a tokio runtime.
pub struct Client {
    api: Api,
    shared: Arc<Shared>,
    events: mpsc::Receiver<Event>,
}

impl Client {
    /// Starts connecting. Errors are wrong options (certificate files); trouble on the way comes as an [`Event`].
    pub fn connect(mut options: Options) -> Result<Client, String> {
        let id = options.client_id.take().unwrap_or_else(|| format!("pinpost-{:016x}", fastrand::u64(..)));
        if options.login.is_none() {
            options.login = options.url.login.clone();
        }
        let (api, link) = dialect::open(&options, &id, KEEP_ALIVE)?;
        let shared = Arc::new(Shared { state: Mutex::default(), window: Semaphore::new(WINDOW) });
        let (events_tx, events) = mpsc::channel(8);
        let driver = Driver {
            link,
            shared: shared.clone(),
            events: events_tx,
            url: options.url.clone(),
            reconnect: options.reconnect,
        };
        tokio::spawn(driver.run());
        Ok(Client { api, shared, events })
    }

    /// Gives a message to the connection; waits while [`WINDOW`] others are on their way, so [`Client::next`] must be
    /// called in between (see [`Client::has_room`]).
    ///
    /// Errors say what is wrong with the topic or the size.
    pub async fn publish(&self, topic: &str, payload: Bytes, qos: Qos, retain: bool) -> Result<(), String> {
        check_topic(topic)?;
        check_size(topic, &payload)?;
        if let Ok(permit) = self.shared.window.acquire().await {
            permit.forget();
        }
        self.offer(Outgoing { topic: topic.into(), payload, qos, retain });
        Ok(())
    }

    /// Whether a publish would be taken at once.
    pub fn has_room(&self) -> bool {
        self.shared.window.available_permits() > 0
    }

    fn offer(&self, message: Outgoing) {
        let mut state = self.shared.lock();
        if state.connected {
            // The channel has room for the whole window, so this fails only when the connection has ended for good.
            self.api.publish(&message);
        }
        state.handed.push_back(message);
    }

    /// Subscribes now and after every reconnect. The answer is [`Event::Subscribed`].
    pub fn subscribe(&self, filters: &[(String, Qos)]) -> Result<(), String> {
        for (filter, _) in filters {
            check_filter(filter)?;
        }
        if filters.is_empty() {
            return Ok(());
        }
        let mut state = self.shared.lock();
        if state.connected {
            self.api.subscribe(filters);
            state.asked.push_back(filters.iter().map(|f| f.0.clone()).collect());
        }
        state.filters.extend_from_slice(filters);
        Ok(())
    }

    /// The next event; `None` after [`Event::Failed`]. Safe to cancel.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// An event that is already there.
    pub fn try_next(&mut self) -> Option<Event> {
        self.events.try_recv().ok()
    }

    /// How many publishes wait for their answer.
    pub fn waiting(&self) -> usize {
        let state = self.shared.lock();
        state.handed.len() + state.sent.len()
    }

    /// Says goodbye to the broker; gives up after two seconds.
    pub async fn disconnect(mut self) {
        {
            let mut state = self.shared.lock();
            state.ending = true;
            if !state.connected {
                return;
            }
            self.api.disconnect();
        }
        let drained = async { while self.events.recv().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_secs(2), drained).await;
    }
}

/// Whether a topic can be published to; errors say what is wrong.
pub fn check_topic(topic: &str) -> Result<(), String> {
    if topic.contains(['+', '#']) {
        return Err(format!("a topic to publish to has no + or #: `{}`", topic.escape_debug()));
    }
    check_name(topic)
}

/// Whether a topic can be subscribed to; errors say what is wrong.
pub fn check_filter(filter: &str) -> Result<(), String> {
    check_name(filter)?;
    let shown = filter.escape_debug();
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        if level.contains('#') && (level != "#" || levels.peek().is_some()) {
            return Err(format!("# stands alone at the end of a topic, as in `a/#`: `{shown}`"));
        }
        if level.contains('+') && level != "+" {
            return Err(format!("+ stands alone between slashes, as in `a/+/b`: `{shown}`"));
        }
    }
    Ok(())
}

fn check_name(topic: &str) -> Result<(), String> {
    if topic.is_empty() {
        return Err("the topic is empty".into());
    }
    if topic.len() > usize::from(u16::MAX) {
        return Err("the topic is longer than 65535 bytes".into());
    }
    if topic.contains('\0') {
        return Err("a topic holds no zero byte".into());
    }
    Ok(())
}

fn check_size(topic: &str, payload: &[u8]) -> Result<(), String> {
    // Two length bytes, the packet id, an empty property list.
    if payload.len() + topic.len() + 5 > MAX_PACKET {
        return Err(format!("a message of {} bytes is more than MQTT carries (256 MiB)", payload.len()));
    }
    Ok(())
}

/// The only one that polls the library: a poll that is dropped half-way loses its place.
struct Driver {
    link: Loop,
    shared: Arc<Shared>,
    events: mpsc::Sender<Event>,
    url: BrokerUrl,
    reconnect: bool,
}

impl Driver {
    async fn run(mut self) {
        let mut ever = false;
        let mut losses = 0;
        let mut delay = RETRY_FIRST;
        loop {
            match self.poll().await {
                Ok(Step::Connected) => {
                    ever = true;
                    delay = RETRY_FIRST;
                    log::debug!("connected to {}", self.url);
                    self.resume();
                    if self.events.send(Event::Connected).await.is_err() {
                        return;
                    }
                }
                Ok(Step::Goodbye) => return,
                Ok(step) => {
                    if matches!(step, Step::Acked(..)) {
                        losses = 0;
                    }
                    if let Some(event) = self.take(step)
                        && self.events.send(event).await.is_err()
                    {
                        return;
                    }
                }
                Err(trouble) => {
                    let trouble = if ever { trouble } else { trouble.at_first() };
                    let waiting = self.rewind();
                    if self.shared.lock().ending {
                        return;
                    }
                    losses = if waiting { losses + 1 } else { 0 };
                    if !ever || !self.reconnect || trouble.lasting || losses >= LOSSES_WITHOUT_PROGRESS {
                        let _ = self.events.send(Event::Failed(trouble)).await;
                        return;
                    }
                    if self.events.send(Event::Lost(trouble)).await.is_err() {
                        return;
                    }
                    let jitter = delay.mul_f64(0.75 + fastrand::f64() / 2.0);
                    tokio::select! {
                        () = tokio::time::sleep(jitter) => {}
                        () = self.events.closed() => return,
                    }
                    delay = (delay * 2).min(RETRY_MAX);
                }
            }
        }
    }

    /// One step of the library, never longer than a live connection can be silent: MQTT 5's poll has no time limit of
    /// its own on writing to a peer that reads nothing.
    async fn poll(&mut self) -> Result<Step, Trouble> {
        let limit = {
            let state = self.shared.lock();
            if state.connected {
                let largest = state.handed.iter().map(|m| m.payload.len()).max().unwrap_or(0);
                KEEP_ALIVE * 2 + Duration::from_millis(largest as u64 / 32)
            } else {
                CONNECT_TIMEOUT
            }
        };
        match tokio::time::timeout(limit, self.link.poll(&self.url)).await {
            Ok(step) => step,
            Err(_) => Err(Trouble::silent(&self.url)),
        }
    }

    /// Everything that was not acknowledged goes to the front of what is to be sent. True if there is anything.
    fn rewind(&mut self) -> bool {
        let mut state = self.shared.lock();
        state.connected = false;
        state.asked.clear();
        self.link.forget();
        while let Some((_, message)) = state.sent.pop_back() {
            state.handed.push_front(message);
        }
        !state.handed.is_empty()
    }

    /// On a new connection: subscriptions first, so that nothing is missed, then what waits.
    fn resume(&mut self) {
        let mut state = self.shared.lock();
        state.connected = true;
        if !state.filters.is_empty() {
            let filters = state.filters.clone();
            self.link.push_subscribe(&filters);
            state.asked.push_back(filters.into_iter().map(|f| f.0).collect());
        }
        for message in &state.handed {
            self.link.push_publish(message);
        }
    }

    fn take(&mut self, step: Step) -> Option<Event> {
        let mut state = self.shared.lock();
        match step {
            Step::Sent(0) => {
                let message = state.handed.pop_front()?;
                self.shared.window.add_permits(1);
                Some(Event::Delivered { topic: message.topic, refused: None })
            }
            Step::Sent(id) => {
                let message = state.handed.pop_front()?;
                state.sent.push_back((id, message));
                None
            }
            Step::Acked(id, refused) => {
                let at = state.sent.iter().position(|(sent, _)| *sent == id)?;
                let (_, message) = state.sent.remove(at)?;
                self.shared.window.add_permits(1);
                Some(Event::Delivered { topic: message.topic, refused })
            }
            Step::Subscribed(reasons) => {
                let filters = state.asked.pop_front()?;
                Some(Event::Subscribed(filters.into_iter().zip(reasons).collect()))
            }
            Step::Message(message) => Some(Event::Message(message)),
            Step::Connected | Step::Goodbye | Step::Other => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_to_publish_have_no_wildcards() {
        assert!(check_topic("a/b c/ü").is_ok());
        for bad in ["", "a/+", "#", "a\0b"] {
            assert!(check_topic(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn filters_have_wildcards_only_where_mqtt_allows_them() {
        for good in ["#", "+", "a/+/b", "a/#", "+/#", "$SYS/#", "/"] {
            assert!(check_filter(good).is_ok(), "{good}");
        }
        for bad in ["", "a#", "#/a", "a/b#", "a+/b", "+a"] {
            assert!(check_filter(bad).is_err(), "{bad}");
        }
    }
}
