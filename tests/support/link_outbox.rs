//! An outbox in memory for the link's tests, over the real queue, and a link running on it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pinpost::link::{Link, LinkConfig, LinkEvent, LinkHandle, Outbound, Outbox, Patience, Protocol, Refusal};
use pinpost::model::{Incoming, Message, Properties, Qos};
use pinpost::queue::{Entry, Limits, Queue, WhenFull};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

/// Longer than anything here should take; a test that comes here has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Memory {
    inner: Mutex<Inner>,
    wake: Notify,
    /// Something was done, refused or given back.
    changed: Notify,
}

struct Inner {
    queue: Queue,
    /// Messages by the record's body, which is an index: the queue itself takes opaque bytes.
    messages: Vec<Message>,
    /// Given back with "not now": first to go.
    again: BTreeMap<u64, Message>,
    taken: BTreeMap<u64, Message>,
    done: Vec<String>,
    dead: Vec<(String, u8, String)>,
    retried: usize,
}

impl Memory {
    pub fn new() -> Arc<Memory> {
        let limits =
            Limits { max_bytes: 1 << 30, max_age: Duration::from_secs(86_400), when_full: WhenFull::DropOldest };
        Arc::new(Memory {
            inner: Mutex::new(Inner {
                queue: Queue::new(limits, 1),
                messages: Vec::new(),
                again: BTreeMap::new(),
                taken: BTreeMap::new(),
                done: Vec::new(),
                dead: Vec::new(),
                retried: 0,
            }),
            wake: Notify::new(),
            changed: Notify::new(),
        })
    }

    pub fn add(&self, message: Message) {
        let mut inner = self.inner.lock().unwrap();
        let index = inner.messages.len() as u64;
        inner.messages.push(message);
        inner
            .queue
            .append(Entry { reading: true, body: index.to_le_bytes().to_vec(), ..Entry::default() }, Duration::ZERO);
        drop(inner);
        self.wake.notify_one();
    }

    /// Payloads that are done, in the order in which they were.
    pub fn done_payloads(&self) -> Vec<String> {
        self.inner.lock().unwrap().done.clone()
    }
    /// Payload, code and words of what was given up.
    pub fn dead(&self) -> Vec<(String, u8, String)> {
        self.inner.lock().unwrap().dead.clone()
    }
    pub fn retried(&self) -> usize {
        self.inner.lock().unwrap().retried
    }
    /// Waiting or on the way.
    pub fn left(&self) -> u64 {
        let inner = self.inner.lock().unwrap();
        inner.queue.stats().waiting
    }
}

fn text(message: &Message) -> String {
    String::from_utf8_lossy(&message.payload).chars().take(20).collect()
}

impl Outbox for Memory {
    fn take(&self) -> Option<Outbound> {
        let mut inner = self.inner.lock().unwrap();
        if let Some((token, message)) = inner.again.pop_first() {
            inner.taken.insert(token, message.clone());
            return Some(Outbound { token: Some(token), message });
        }
        let out = inner.queue.take(Duration::ZERO)?;
        let index = u64::from_le_bytes(out.body.try_into().unwrap());
        let message = inner.messages[index as usize].clone();
        inner.taken.insert(out.token, message.clone());
        Some(Outbound { token: Some(out.token), message })
    }
    fn done(&self, token: u64) {
        let mut inner = self.inner.lock().unwrap();
        inner.queue.done(token);
        let message = inner.taken.remove(&token).expect("done once, and only what was taken");
        inner.done.push(text(&message));
        drop(inner);
        self.changed.notify_one();
    }
    fn refused(&self, token: u64, refusal: Refusal) -> bool {
        let mut inner = self.inner.lock().unwrap();
        let message = inner.taken.remove(&token).expect("refused once, and only what was taken");
        match refusal {
            Refusal::Retry => {
                inner.retried += 1;
                inner.again.insert(token, message);
            }
            Refusal::DeadLetter { code, text: why } => {
                inner.queue.done(token);
                inner.dead.push((text(&message), code, why));
            }
        }
        drop(inner);
        self.changed.notify_one();
        true
    }
    fn link_up(&self, _: u64) {
        self.inner.lock().unwrap().queue.link_up();
    }
    fn link_down(&self) {
        let mut inner = self.inner.lock().unwrap();
        inner.taken.clear();
        inner.again.clear();
        inner.queue.link_down();
    }
    fn wake(&self) -> &Notify {
        &self.wake
    }
}

pub fn message(topic: &str, payload: impl Into<Vec<u8>>) -> Message {
    Message {
        topic: topic.into(),
        payload: payload.into(),
        qos: Qos::AtLeastOnce,
        retain: false,
        properties: Properties::default(),
    }
}

pub fn config(url: &str, protocol: Protocol) -> LinkConfig {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    LinkConfig {
        urls: vec![url.parse().unwrap()],
        protocol,
        client_id: format!("test-{}-{n}", std::process::id()),
        login: None,
        tls: Default::default(),
        proxy: None,
        keep_alive: Duration::from_secs(30),
        in_flight: 64,
        session_expiry: Duration::ZERO,
        will: None,
        will_of: None,
        beside: Vec::new(),
        stay: false,
        hello: Vec::new(),
        subscriptions: Vec::new(),
        patience: Patience::default(),
    }
}

/// A running link; its events are read by the test.
pub struct Running {
    pub outbox: Arc<Memory>,
    pub events: mpsc::Receiver<LinkEvent>,
    pub handle: LinkHandle,
    pub seen: Vec<LinkEvent>,
    task: JoinHandle<()>,
}

impl Running {
    pub fn start(config: LinkConfig, outbox: Arc<Memory>) -> Running {
        let (tell, events) = mpsc::channel(16);
        let (link, handle) = Link::new(config, outbox.clone(), tell);
        Running { outbox, events, handle, seen: Vec::new(), task: tokio::spawn(link.run()) }
    }

    /// The next event that `wanted` accepts; the others are kept in `seen`.
    pub async fn wait<T>(&mut self, mut wanted: impl FnMut(&LinkEvent) -> Option<T>) -> T {
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                let event = self.events.recv().await.expect("the link ended");
                let found = wanted(&event);
                self.seen.push(event);
                if let Some(found) = found {
                    return found;
                }
            }
        });
        match found.await {
            Ok(found) => found,
            Err(_) => panic!("waited too long; seen: {:#?}", self.seen),
        }
    }

    pub async fn up(&mut self) -> bool {
        self.wait(|e| match e {
            LinkEvent::Up { session_present, .. } => Some(*session_present),
            _ => None,
        })
        .await
    }
    pub async fn down(&mut self) -> String {
        self.wait(|e| match e {
            LinkEvent::Down { reason, .. } => Some(reason.clone()),
            _ => None,
        })
        .await
    }
    pub async fn problem(&mut self) -> String {
        self.wait(|e| match e {
            LinkEvent::Problem(text) => Some(text.clone()),
            _ => None,
        })
        .await
    }
    pub async fn incoming(&mut self) -> Incoming {
        self.wait(|e| match e {
            LinkEvent::Incoming(incoming) => Some(incoming.clone()),
            _ => None,
        })
        .await
    }

    /// Until the outbox is empty; events go by.
    pub async fn drained(&mut self) {
        let outbox = self.outbox.clone();
        let drained = tokio::time::timeout(PATIENCE, async {
            while outbox.left() > 0 {
                tokio::select! {
                    event = self.events.recv() => self.seen.push(event.expect("the link ended")),
                    () = outbox.changed.notified() => {}
                }
            }
        });
        if drained.await.is_err() {
            panic!("{} left; seen: {:#?}", self.outbox.left(), self.seen);
        }
    }

    /// Until it has ended by itself.
    pub async fn ended(self) {
        tokio::time::timeout(PATIENCE, self.task).await.expect("the link ends").unwrap();
    }

    /// The same, with the events left unread.
    pub async fn ended_unheard(self) {
        let Running { events, task, .. } = self;
        tokio::time::timeout(PATIENCE, task).await.expect("the link ends").unwrap();
        drop(events);
    }

    /// As if the process were killed.
    pub async fn abort(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// Stops it in order and gives what it still said.
    pub async fn stop(mut self, farewell: Vec<Message>) -> Vec<LinkEvent> {
        self.handle.stop(farewell, Duration::from_secs(5));
        tokio::time::timeout(PATIENCE, self.task).await.expect("the link stops").unwrap();
        while let Ok(event) = self.events.try_recv() {
            self.seen.push(event);
        }
        self.seen
    }
}
