//! What the connection loop and the two protocol versions say to each other. Free of either version's types.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::rustls::ClientConfig;

use super::reason::{Cause, Ended, clean, transport_text};
use super::url::{BrokerUrl, ProxyUrl, Scheme};
use super::{Protocol, Subscription, session_v4, session_v5};
use crate::model::{Incoming, Message, Qos};

/// What is needed to open one connection.
pub(super) struct Opening {
    pub url: BrokerUrl,
    pub protocol: Protocol,
    pub client_id: String,
    pub login: Option<(String, String)>,
    /// Present where the url's scheme asks for TLS.
    pub tls: Option<Arc<ClientConfig>>,
    pub proxy: Option<ProxyUrl>,
    /// At least 5 s with MQTT 5, 1 s with 3.1.1.
    pub keep_alive: Duration,
    pub session_expiry: Duration,
    pub will: Option<Message>,
    /// The library's own bound on unanswered packets, twice the window.
    pub span: u16,
    /// Requests that fit between the loop and the library.
    pub channel: usize,
    /// Bytes of the greatest packet that is read.
    pub max_incoming: u32,
    /// Whether PUBRELs of an earlier connection may come in (a kept session with a subscription of QoS 2).
    pub kept_qos2: bool,
}

/// Unacknowledged incoming messages of QoS above 0 that the broker may send (MQTT 5); what the hub has to hold.
pub(super) const RECEIVE_MAXIMUM: u16 = 64;

/// What the broker said when it let us in.
#[derive(Debug, Clone)]
pub(super) struct Greeting {
    pub session_present: bool,
    pub receive_max: u16,
    pub max_qos: Qos,
    pub retain: bool,
    pub max_packet: Option<u32>,
    /// The broker's own wish, where it has one.
    pub keep_alive: Option<Duration>,
}

/// Something the library did or heard.
#[derive(Debug)]
pub(super) enum Heard {
    /// CONNACK.
    Up(Greeting),
    /// The next packet that was handed over is written, under this id.
    Written(u16),
    /// Our DISCONNECT is written.
    Goodbye,
    /// PUBREC without an error: PUBCOMP is still to come.
    Progress,
    /// PUBACK, PUBCOMP, or a PUBREC with an error: code 0 is success.
    Answered { id: u16, code: u8, text: Option<String>, shrinks: bool },
    /// SUBACK: for each filter the QoS granted or the reason code.
    Subscribed { id: u16, results: Vec<Result<u8, u8>> },
    /// A message; `id` is 0 for QoS 0.
    Message { incoming: Incoming, id: u16, qos2: bool },
    /// Anything else from the broker: it lives.
    Pulse,
}

impl Heard {
    /// Whether it came from the broker.
    pub fn is_from_broker(&self) -> bool {
        !matches!(self, Heard::Written(_) | Heard::Goodbye)
    }
}

/// What the task of a connection reports; `Ended` is its last word.
#[derive(Debug)]
pub(super) enum Report {
    Heard(Vec<Heard>),
    Ended(Ended),
}

/// The sending half of one connection. Every call says whether the library had room.
pub(super) enum Client {
    V5(rumqttc::v5::AsyncClient),
    V4(rumqttc::AsyncClient),
}

/// One connection: dropping it kills its task and closes the socket.
pub(super) struct Session {
    pub client: Client,
    pub reports: mpsc::Receiver<Report>,
    task: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Events on their way from the library to the loop, in batches.
const REPORTS: usize = 64;

impl Session {
    /// Starts connecting. The library is polled in a task of its own: a `poll` that is dropped half-way restarts the
    /// connection or loses bytes, so it is only ever ended together with the connection.
    pub fn open(opening: Opening) -> Result<Session, Ended> {
        let (tell, reports) = mpsc::channel(REPORTS);
        let (client, task) = match opening.protocol {
            Protocol::V5 => session_v5::open(opening, tell)?,
            Protocol::V311 => session_v4::open(opening, tell)?,
        };
        Ok(Session { client, reports, task })
    }
}

impl Client {
    pub fn publish(&self, message: Message) -> bool {
        match self {
            Client::V5(c) => session_v5::send(c, message),
            Client::V4(c) => session_v4::send(c, message),
        }
    }
    pub fn subscribe(&self, filters: &[Subscription]) -> bool {
        match self {
            Client::V5(c) => session_v5::subscribe(c, filters),
            Client::V4(c) => session_v4::subscribe(c, filters),
        }
    }
    /// PUBACK or PUBREC for an incoming message.
    pub fn ack(&self, id: u16, qos2: bool) -> bool {
        match self {
            Client::V5(c) => session_v5::ack(c, id, qos2),
            Client::V4(c) => session_v4::ack(c, id, qos2),
        }
    }
    /// Answered in order, like everything else, and otherwise without effect.
    pub fn unsubscribe(&self, filter: &str) -> bool {
        match self {
            Client::V5(c) => c.try_unsubscribe(filter).is_ok(),
            Client::V4(c) => c.try_unsubscribe(filter).is_ok(),
        }
    }
    pub fn disconnect(&self) -> bool {
        match self {
            Client::V5(c) => c.try_disconnect().is_ok(),
            Client::V4(c) => c.try_disconnect().is_ok(),
        }
    }
}

/// How rumqttc wants the address: the bare host for sockets (it puts `:port` behind it and resolves that, which works
/// for an IPv6 address without brackets too, and TLS checks this very text), a whole url for websockets.
pub(super) fn address(url: &BrokerUrl) -> String {
    match url.scheme {
        Scheme::Mqtt | Scheme::Mqtts => url.host.clone(),
        Scheme::Ws | Scheme::Wss => url.to_string(),
    }
}

/// The transport of a url. A url that asks for TLS never falls back to plain bytes.
pub(super) fn transport(opening: &Opening) -> Result<rumqttc::Transport, Ended> {
    use rumqttc::{TlsConfiguration, Transport};
    Ok(match (opening.url.scheme, opening.tls.clone()) {
        (Scheme::Mqtts, Some(config)) => Transport::Tls(TlsConfiguration::Rustls(config)),
        (Scheme::Wss, Some(config)) => Transport::Wss(TlsConfiguration::Rustls(config)),
        (Scheme::Ws, _) => Transport::Ws,
        (Scheme::Mqtt, _) => Transport::Tcp,
        (Scheme::Mqtts | Scheme::Wss, None) => return Err(Ended::new(Cause::Unreachable, "TLS is not configured")),
    })
}

/// The proxy as the library wants it.
pub(super) fn proxy(url: &ProxyUrl) -> rumqttc::Proxy {
    let auth = match url.login.clone() {
        Some((username, password)) => rumqttc::ProxyAuth::Basic { username, password },
        None => rumqttc::ProxyAuth::None,
    };
    rumqttc::Proxy { ty: rumqttc::ProxyType::Http, auth, addr: url.host.clone(), port: url.port }
}

/// A connection that failed at the proxy.
pub(super) fn proxy_ended(error: &(dyn Error + 'static), proxy: Option<&ProxyUrl>) -> Ended {
    let name = proxy.map_or_else(String::new, ToString::to_string);
    let host = proxy.map_or("", |p| &p.host);
    // 407 is not looked for by its type: it is the proxy's own word, of whatever shape.
    let text = match transport_text(error, host) {
        Some(text) => text,
        None => clean(&error.to_string()),
    };
    let help = if text.contains("407") { "; give it as http://USER:PASSWORD@HOST:PORT" } else { "" };
    Ended::new(Cause::Unreachable, format!("the proxy {name}: {text}{help}"))
}

/// The client's identity: user and password of the url before the configured ones.
pub(super) fn login(opening: &Opening) -> Option<(String, String)> {
    opening.url.login.clone().or_else(|| opening.login.clone())
}
