//! THE BROKER. The only room that names rumqttc and rumqttd.
//!
//! [`Link`] keeps one connection to one of the configured brokers for as long as the daemon lives. What is to be sent
//! it takes from an [`Outbox`], in the outbox's order and at most `in_flight` unanswered at a time, and gives back only
//! one of three words: done, refused, or (by [`Outbox::link_down`]) "the link broke, all that was taken and not done
//! is to be sent again". What comes in goes up as [`LinkEvent::Incoming`] and is acknowledged to the broker only when
//! the owner says so with [`LinkHandle::ack`].
//!
//! Promises:
//! - A record is done only when the broker answered that very record (QoS 1: PUBACK, QoS 2: PUBCOMP) or, at QoS 0,
//!   when it was written to the socket.
//! - No network, broker or foreign byte ends it: it ends only by [`LinkHandle::stop`].
//! - It waits for events; idle, it wakes for the keep-alive alone.
//! - No text that leaves it holds a password.
//!
//! The parts: `connection` is the loop over connections, `life` one of them; `session_v5` and `session_v4` poll the
//! library and speak the loop's words (`session`). Pure are `window` (packet id and record), `retry` (which broker
//! next, and when), `fit` (what this broker can take), `reason` (what a failure means, in words), `backlog` (what was
//! stored while we were away), `poison` (the record that ends every connection). `preferred` finds the way back to the
//! first broker of the list. MQTT knows one will for a connection: `witness` keeps the others, on connections of their
//! own that live and die with the first. `stand_in` is a broker in memory behind the same door, for `pinpost test`. The
//! broker of our own is `embedded`; `guard` knows who may come in to it.
//!
//! How the library is tamed: each connection is a fresh client and event loop, because a used one carries packets and
//! ids over; it is polled in a task that is never interrupted but only ended as a whole; answers read before an error
//! are taken first; it is never given what it cannot send.
//!
//! Limits that are known: MQTT 3.1.1 cannot tell a refused publish; with a kept session (`session_expiry`) QoS 2 goes
//! out as QoS 1, see `life`; rumqttc does not understand a DISCONNECT without properties, so mosquitto's "session
//! taken over" is only guessed from three quick closes.

mod backlog;
mod connection;
#[cfg(feature = "broker")]
pub mod embedded;
mod fit;
pub mod guard;
mod life;
mod poison;
mod preferred;
mod reason;
mod retry;
mod session;
mod session_v4;
mod session_v5;
pub mod simple;
pub mod stand_in;
pub mod tls;
pub mod url;
mod window;
mod witness;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use crate::model::{Incoming, Message, Qos};
pub use connection::Link;
use tls::TlsFiles;
use url::{BrokerUrl, ProxyUrl};

/// Version of MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// MQTT 5.
    #[default]
    V5,
    /// MQTT 3.1.1: no properties, and a refused publish cannot be told from an accepted one.
    V311,
}

/// A filter and the greatest QoS at which its messages come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// With wildcards.
    pub filter: String,
    /// Greatest QoS.
    pub qos: Qos,
}

/// How long to wait for a broker, and between the tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// From the first SYN to CONNACK.
    pub connect: Duration,
    /// Without any answer to publishes that wait for one.
    pub answers: Duration,
    /// First pause between two connections that failed; the pauses double up to 120 times as long.
    pub retry: Duration,
    /// First pause after "not now"; the pauses double up to 60 times as long.
    pub not_now: Duration,
    /// Between two looks at the preferred broker while a lower one serves.
    pub preferred: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            connect: Duration::from_secs(10),
            answers: Duration::from_secs(20),
            retry: Duration::from_millis(500),
            not_now: Duration::from_secs(1),
            preferred: Duration::from_secs(60),
        }
    }
}

/// The will of the nth connection that a broker lets in, from 1; also said when that connection is ended in order.
pub type WillOf = Arc<dyn Fn(u64) -> Message + Send + Sync>;

/// What the link is told once.
#[derive(Clone)]
pub struct LinkConfig {
    /// Brokers, tried in order; at least one.
    pub urls: Vec<BrokerUrl>,
    /// Version.
    pub protocol: Protocol,
    /// Unique at the broker.
    pub client_id: String,
    /// User and password, for urls that carry none.
    pub login: Option<(String, String)>,
    /// For `mqtts` and `wss`; read anew at each connection.
    pub tls: TlsFiles,
    /// An HTTP proxy on the way to every broker.
    pub proxy: Option<ProxyUrl>,
    /// Between pings; at least 5 s with MQTT 5. Silence of 1.5 times as long ends the connection.
    pub keep_alive: Duration,
    /// Unanswered publishes at a time.
    pub in_flight: u16,
    /// How long the broker keeps our subscriptions and what they bring while we are away; zero: not at all.
    pub session_expiry: Duration,
    /// Published by the broker when we are gone without a word.
    pub will: Option<Message>,
    /// A will that is another one for each connection, instead of `will`.
    pub will_of: Option<WillOf>,
    /// Further wills, each kept by a connection of its own.
    pub beside: Vec<Message>,
    /// Whether it stays where it is, and does not go back to the first broker of the list: the owner says when to go on.
    pub stay: bool,
    /// Published first at every connection: birth.
    pub hello: Vec<Message>,
    /// Subscribed at every connection, behind `hello`.
    pub subscriptions: Vec<Subscription>,
    /// Time limits.
    pub patience: Patience,
}

impl fmt::Debug for LinkConfig {
    /// Without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkConfig")
            .field("urls", &self.urls)
            .field("protocol", &self.protocol)
            .field("client_id", &self.client_id)
            .field("login", &self.login.as_ref().map(|_| "set"))
            .field("keep_alive", &self.keep_alive)
            .field("in_flight", &self.in_flight)
            .field("session_expiry", &self.session_expiry)
            .field("subscriptions", &self.subscriptions)
            .finish_non_exhaustive()
    }
}

/// What the link tells its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// Connected; hello and subscriptions are on their way, the outbox is being emptied.
    Up {
        /// Which broker, without credentials.
        url: String,
        /// The broker kept our session: subscriptions and stored messages.
        session_present: bool,
    },
    /// A connection ended, or an attempt failed.
    Down {
        /// Which broker, without credentials.
        url: String,
        /// Why and what to do, for people.
        reason: String,
        /// Whether it had been up.
        was_up: bool,
        /// Time to the next attempt.
        retry_in: Duration,
    },
    /// A subscription brought this; to be acknowledged with its `ack`.
    Incoming(Incoming),
    /// The broker refused a record (the outbox was told as well), or it can never be sent.
    Refused {
        /// The outbox's token.
        token: u64,
        /// MQTT 5 reason code; 0x95 for what is too large and 0x90 for a topic that cannot be sent, found here already.
        reason_code: u8,
        /// In words.
        text: String,
        /// Whether it is given up; else it is tried again after a pause.
        fatal: bool,
    },
    /// Something that a person should know and mend.
    Problem(String),
}

/// A record to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbound {
    /// The outbox's name for it; `None`: it waits for no answer.
    pub token: Option<u64>,
    /// Complete.
    pub message: Message,
}

/// Why a record was not taken by the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Not now: it is to be given out again, before what comes behind it. The link makes the pause.
    Retry,
    /// Never: put it aside with these words, or report it lost.
    DeadLetter {
        /// MQTT 5 reason code, as in [`LinkEvent::Refused`].
        code: u8,
        /// In words.
        text: String,
    },
}

/// The queue as the link sees it. Calls come from one task, never two at a time, and must not block.
pub trait Outbox: Send + Sync {
    /// The next record to send; asked only while the link is up.
    fn take(&self) -> Option<Outbound>;
    /// The broker has it (or, at QoS 0, the socket has).
    fn done(&self, token: u64);
    /// The broker does not take it. False: it consists of several, which are given out again one by one, so that there
    /// is nothing to tell yet.
    fn refused(&self, token: u64, refusal: Refusal) -> bool;
    /// From now on records are taken. `connection` counts those that a broker has let in, from 1.
    fn link_up(&self, connection: u64);
    /// Whatever was taken and not done is to be given out again, in the old order.
    fn link_down(&self);
    /// Notified (`notify_one`) when there is something new to take.
    fn wake(&self) -> &Notify;
}

/// What is listened to beside the subscriptions of the configuration.
enum Ear {
    Open(Subscription),
    Shut(String),
}

struct Stop {
    farewell: Vec<Message>,
    deadline: Instant,
}

/// Talks to a running [`Link`]; cheap to clone.
#[derive(Clone)]
pub struct LinkHandle {
    acks: mpsc::UnboundedSender<u64>,
    ears: mpsc::UnboundedSender<Ear>,
    leave: mpsc::UnboundedSender<(u64, String)>,
    stop: Arc<watch::Sender<Option<Stop>>>,
}

impl LinkHandle {
    /// The message with this [`Incoming::ack`] was acted on or refused: acknowledge it to the broker. 0, and messages
    /// of a connection that has ended since, need nothing.
    pub fn ack(&self, ack: u64) {
        if ack != 0 {
            let _ = self.acks.send(ack);
        }
    }

    /// Subscribes to a filter as well, now and at every later connection.
    pub fn listen(&self, subscription: Subscription) {
        let _ = self.ears.send(Ear::Open(subscription));
    }

    /// Takes back a [`LinkHandle::listen`].
    pub fn hush(&self, filter: String) {
        let _ = self.ears.send(Ear::Shut(filter));
    }

    /// Ends this connection (from 1, as in [`Outbox::link_up`]) in order, with the will of [`LinkConfig::will_of`], and
    /// goes on with the next broker of the list. Of one that has ended already nothing is left to do.
    pub fn leave(&self, connection: u64, why: String) {
        let _ = self.leave.send((connection, why));
    }

    /// Ends the link in order: nothing new is taken from the outbox; `farewell` is published; what is on its way is
    /// waited for, no longer than `within`; DISCONNECT, so that no will is sent. [`Link::run`] then returns.
    pub fn stop(&self, farewell: Vec<Message>, within: Duration) {
        let stop = Stop { farewell, deadline: Instant::now() + within };
        self.stop.send_replace(Some(stop));
    }
}
