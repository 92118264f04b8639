//! The embedded broker: rumqttd in its own threads, MQTT 5 and 3.1.1 on one address.
//!
//! It promises: [`start`] returns when clients can connect, or says why not; dropping [`Embedded`] closes the address
//! and every connection. It is meant for the demo and for small sites. Its limits, which are rumqttd's: nothing
//! survives its end; a subscriber that falls [`SEGMENTS`] × [`SEGMENT_SIZE`] bytes behind
//! on one topic filter loses the oldest messages silently; a resumed session gets no retained messages again; an
//! empty payload deletes a retained message even without the retain flag; memory of a topic filter that was once
//! subscribed is not given back.
//!
//! rumqttd asks nobody who he is, closes without a word where it does, and knows no rights. So the front does that:
//! TLS ends in it, and where there are users ([`Users`]) it reads every packet of a connection, lets in whom it knows,
//! and holds back what a user may not say or hear (`gate`). Ids of clients are then each user's own, so that nobody
//! takes another's session.
//!
//! rumqttd listens for one protocol version a port, and its 3.1.1 panics at the first message with properties of MQTT 5.
//! So it listens for MQTT 5 on a port of the loopback interface, and a front on the public address reads each CONNECT,
//! brings who speaks 3.1.1 to MQTT 5 and back (`gate`), and puts right what rumqttd does not bear: it writes the longest
//! keep-alive where the client wrote 0, and `_` for `+ $ # /` in a client id. (A second connection under an id that
//! rumqttd refuses would end the broker for everyone: it panics while it holds a lock.)

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use rumqttd::protocol::v5::V5;
use rumqttd::{ConnectionSettings, LinkType, Router, RouterConfig, Server, ServerSettings};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_rustls::TlsAcceptor;

use super::guard::{Broker, User, Users};
use super::tls::server_config;
use gate::{Gate, Up};
use packet::{Connect, Packets};

mod gate;
mod packet;

/// Clients at a time.
pub const MAX_CLIENTS: usize = 256;
/// Largest payload in bytes; a larger one ends its sender's connection.
pub const MAX_PAYLOAD: usize = 1024 * 1024;
/// Bytes of one piece of a topic filter's log.
pub const SEGMENT_SIZE: usize = 1024 * 1024;
/// Pieces kept for a topic filter.
pub const SEGMENTS: usize = 8;
/// A topic (65535 bytes at most) and properties come on top of a payload.
const MAX_PACKET: usize = MAX_PAYLOAD + 128 * 1024;
/// How long a client may take for its CONNECT.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Passwords that are looked at, at a time: each costs a core tens of milliseconds.
const VERIFYING: usize = 2;
/// A client that is not let in hears so after this time, so that trying out passwords takes long.
const REFUSAL: Duration = Duration::from_secs(1);
/// Answers of the gate that a client has not taken yet.
const ANSWERS: usize = 64;
/// How long the other half of a connection may take to end after the first.
const LINGER: Duration = Duration::from_secs(5);

/// What TLS is spoken with now.
type Certificate = Arc<RwLock<Option<Acceptor>>>;

/// rustls's own word for it says more than anybody wants to read.
#[derive(Clone)]
struct Acceptor(TlsAcceptor);

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acceptor")
    }
}

/// A running broker; it ends when this is dropped.
#[derive(Debug)]
pub struct Embedded {
    addr: SocketAddr,
    broker: Broker,
    certificate: Certificate,
    stop: Option<oneshot::Sender<()>>,
    ended: Option<oneshot::Receiver<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Embedded {
    /// Where it listens; with the port that was found if 0 was asked for.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// A URL that reaches it from this machine.
    pub fn url(&self) -> String {
        let mut addr = self.addr;
        if addr.ip().is_unspecified() {
            addr.set_ip(match addr {
                SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        format!("{}://{addr}", if self.broker.tls.is_some() { "mqtts" } else { "mqtt" })
    }

    /// Whether it is what is wanted; its certificate is then read anew, for those who come from now on.
    pub fn serves(&self, wanted: &Broker) -> bool {
        let same = *wanted == Broker { listen: self.addr, ..self.broker.clone() };
        if same {
            match acceptor(wanted) {
                Ok(new) => *self.certificate.write().unwrap_or_else(PoisonError::into_inner) = new,
                Err(e) => log::warn!("the embedded broker keeps its old certificate: {e}"),
            }
        }
        same
    }

    /// Waits until it ends by itself, which only a fault of its own makes it do.
    pub async fn ended(&mut self) {
        if let Some(ended) = &mut self.ended {
            let _ = ended.await;
            self.ended = None;
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn acceptor(broker: &Broker) -> Result<Option<Acceptor>, String> {
    let Some((cert, key)) = &broker.tls else { return Ok(None) };
    Ok(Some(Acceptor(TlsAcceptor::from(server_config(cert, key)?))))
}

/// Starts an open broker on this address (port 0: any free one). Errors name the address and what is wrong with it.
pub fn start(listen: SocketAddr) -> Result<Embedded, String> {
    start_with(Broker::open(listen))
}

/// Starts a broker. Errors name what is wrong: the address, or a file.
pub fn start_with(broker: Broker) -> Result<Embedded, String> {
    let listen = broker.listen;
    let certificate: Certificate = Arc::new(RwLock::new(acceptor(&broker)?));
    let listener = bind(listen).map_err(|e| match e.kind() {
        io::ErrorKind::AddrInUse => format!("{listen} is taken by another program (another broker?)"),
        io::ErrorKind::AddrNotAvailable => format!("{listen} is not an address of this machine"),
        io::ErrorKind::PermissionDenied => format!("no permission to listen on {listen}; ports below 1024 need root"),
        _ => format!("cannot listen on {listen}: {e}"),
    })?;
    let addr = listener.local_addr().map_err(|e| format!("cannot listen on {listen}: {e}"))?;
    let (stop, stopped) = oneshot::channel();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (ending, ended) = oneshot::channel();
    let door =
        Door { users: broker.users.clone(), certificate: certificate.clone(), verifying: Semaphore::new(VERIFYING) };
    let thread = thread::Builder::new()
        .name("broker".into())
        .spawn(move || {
            run(listener, door, stopped, ready);
            drop(ending);
        })
        .map_err(|e| format!("cannot start the broker: {e}"))?;
    match is_ready.recv() {
        Ok(Ok(())) => {
            Ok(Embedded { addr, broker, certificate, stop: Some(stop), ended: Some(ended), thread: Some(thread) })
        }
        Ok(Err(e)) => Err(format!("cannot start the broker: {e}")),
        Err(_) => Err("cannot start the broker: its thread ended".into()),
    }
}

fn bind(listen: SocketAddr) -> io::Result<StdListener> {
    // The standard library sets SO_REUSEADDR, so that a restart need not wait for old connections.
    let listener = StdListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn run(
    listener: StdListener,
    door: Door,
    stopped: oneshot::Receiver<()>,
    ready: std::sync::mpsc::Sender<Result<(), String>>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            let _ = ready.send(Err(e.to_string()));
            return;
        }
    };
    runtime.block_on(async {
        match serve(listener, door).await {
            Ok((inner, front)) => {
                let _ = ready.send(Ok(()));
                tokio::select! {
                    _ = stopped => {}
                    () = inner => log::error!("the embedded broker has ended"),
                    () = front => {}
                }
            }
            Err(e) => {
                let _ = ready.send(Err(e));
            }
        }
    });
    // Connections are tasks of this runtime and end with it.
    runtime.shutdown_background();
}

type Running = Pin<Box<dyn Future<Output = ()>>>;

async fn serve(listener: StdListener, door: Door) -> Result<(Running, Running), String> {
    let listener = TcpListener::from_std(listener).map_err(|e| e.to_string())?;
    let router = Router::new(
        0,
        RouterConfig {
            // More than the front lets in: a full router ends like a refused client id.
            max_connections: MAX_CLIENTS * 4,
            max_outgoing_packet_count: 200,
            max_segment_size: SEGMENT_SIZE,
            max_segment_count: SEGMENTS,
            custom_segment: None,
            initialized_filters: None,
            shared_subscriptions_strategy: Default::default(),
        },
    )
    .spawn();
    let (inner, addr) = inner(|settings| Server::new(settings, router.clone(), V5)).await?;
    let front = Box::pin(front(listener, Arc::new(door), addr));
    Ok((inner, front))
}

/// One listener of rumqttd on a free port of the loopback interface. It is listening when this returns.
async fn inner(server: impl Fn(ServerSettings) -> Server<V5>) -> Result<(Running, SocketAddr), String> {
    // rumqttd binds by itself, so a port is found first and may be lost again to another program.
    for _ in 0..10 {
        let addr = StdListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|l| l.local_addr())
            .map_err(|e| format!("no free port on the loopback interface: {e}"))?;
        let mut server = server(settings(addr));
        let mut running: Running = Box::pin(async move {
            if let Err(e) = server.start(LinkType::Remote).await {
                log::debug!("embedded broker: {e}");
            }
        });
        // Binding does not wait for anything: after the first poll it has failed, or it listens.
        let first = std::future::poll_fn(|cx| Poll::Ready(running.as_mut().poll(cx))).await;
        if first.is_pending() {
            return Ok((running, addr));
        }
    }
    Err("no free port on the loopback interface".into())
}

fn settings(listen: SocketAddr) -> ServerSettings {
    ServerSettings {
        name: "embedded".into(),
        listen,
        tls: None,
        next_connection_delay_ms: 0,
        connections: ConnectionSettings {
            connection_timeout_ms: 10_000,
            max_payload_size: MAX_PACKET,
            max_inflight_count: 200,
            auth: None,
            external_auth: None,
            dynamic_filters: false,
        },
    }
}

/// Who is let in.
struct Door {
    users: Option<Arc<Users>>,
    certificate: Certificate,
    verifying: Semaphore,
}

async fn front(listener: TcpListener, door: Arc<Door>, inner: SocketAddr) {
    let room = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((client, from)) => {
                let door = door.clone();
                tokio::spawn(async move {
                    if let Err(e) = door.pass(client, inner).await {
                        log::debug!("embedded broker: {from}: {e}");
                    }
                    drop(permit);
                });
            }
            Err(e) => {
                // Out of file descriptors, most likely: accepting again at once would spin.
                log::warn!("embedded broker: cannot accept a connection: {e}");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

impl Door {
    async fn pass(&self, client: TcpStream, inner: SocketAddr) -> io::Result<()> {
        client.set_nodelay(true)?;
        let tls = self.certificate.read().unwrap_or_else(PoisonError::into_inner).clone();
        match tls {
            None => self.admit(client, inner).await,
            Some(Acceptor(tls)) => {
                let client = in_time("TLS handshake", tls.accept(client)).await?;
                self.admit(client, inner).await
            }
        }
    }

    async fn admit(&self, client: impl AsyncRead + AsyncWrite, inner: SocketAddr) -> io::Result<()> {
        let (mut read, mut write) = tokio::io::split(client);
        let mut packets = Packets::new(MAX_PACKET);
        let first = in_time("CONNECT", async {
            loop {
                if let Some(packet) = packets.pop()? {
                    return Ok(packet);
                }
                if !packets.fill(&mut read).await? {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        })
        .await?;
        let connect = Connect::of(&first)?;
        let (user, refusal) = match connect.level {
            3 => (None, Some(Refusal::OLD)),
            4 | 5 => match self.known(&connect).await {
                Ok(user) => (user, None),
                Err(refusal) => {
                    tokio::time::sleep(REFUSAL).await;
                    (None, Some(refusal))
                }
            },
            _ => (None, Some(Refusal::NEW)),
        };
        if let Some(refusal) = refusal {
            let answer = match connect.level {
                3 | 4 => vec![0x20, 2, 0, refusal.v4],
                _ => vec![0x20, 3, 0, refusal.v5, 0],
            };
            write.write_all(&answer).await?;
            write.shutdown().await?;
            return Err(io::Error::other(refusal.text));
        }
        let mut broker = TcpStream::connect(inner).await?;
        broker.set_nodelay(true)?;
        broker.write_all(&connect.for_broker(user.as_ref().and(connect.user))).await?;
        if connect.level == 5 && user.is_none() {
            broker.write_all(&packets.rest()).await?;
            return straight(read, write, broker).await;
        }
        let gate = Mutex::new(Gate::new(connect.level == 5, user));
        guarded(gate, packets, read, write, broker).await
    }

    /// The user who is to be let in; `None` where there are no users.
    async fn known(&self, connect: &Connect<'_>) -> Result<Option<Arc<User>>, Refusal> {
        let Some(users) = &self.users else { return Ok(None) };
        let Some(name) = connect.user else { return Err(Refusal::NOBODY) };
        let (users, typed) = (users.clone(), (name.to_owned(), connect.password.unwrap_or_default().to_vec()));
        let user = {
            let _turn = self.verifying.acquire().await;
            // a panic in there lets nobody in
            tokio::task::spawn_blocking(move || users.login(&typed.0, &typed.1)).await.unwrap_or_default()
        };
        let user = user.ok_or(Refusal::STRANGER)?;
        match connect.will {
            Some(topic) if !user.may_publish(topic) => Err(Refusal::WILL),
            _ => Ok(Some(user)),
        }
    }
}

/// Why a client is not let in.
struct Refusal {
    v4: u8,
    v5: u8,
    text: &'static str,
}

impl Refusal {
    const OLD: Refusal = Refusal { v4: 1, v5: 0x84, text: "MQTT 3.1 is not spoken here, only 3.1.1 and 5" };
    const NEW: Refusal = Refusal { v4: 1, v5: 0x84, text: "an MQTT that is not spoken here, only 3.1.1 and 5" };
    const NOBODY: Refusal = Refusal { v4: 5, v5: 0x87, text: "it does not say who it is" };
    const STRANGER: Refusal = Refusal { v4: 4, v5: 0x86, text: "bad user name or password" };
    const WILL: Refusal = Refusal { v4: 5, v5: 0x87, text: "its user may not publish where its will goes" };
}

/// A client that may do everything, in rumqttd's own language.
async fn straight<S: AsyncRead + AsyncWrite>(
    mut read: ReadHalf<S>,
    mut write: WriteHalf<S>,
    mut broker: TcpStream,
) -> io::Result<()> {
    let (mut broker_read, mut broker_write) = broker.split();
    let up = async {
        let copied = tokio::io::copy(&mut read, &mut broker_write).await;
        let _ = broker_write.shutdown().await;
        copied.map(drop)
    };
    let down = async {
        let copied = tokio::io::copy(&mut broker_read, &mut write).await;
        let _ = write.shutdown().await;
        copied.map(drop)
    };
    both(up, down).await
}

/// A client whose packets pass the gate.
async fn guarded<S: AsyncRead + AsyncWrite>(
    gate: Mutex<Gate>,
    mut packets: Packets,
    mut read: ReadHalf<S>,
    mut write: WriteHalf<S>,
    mut broker: TcpStream,
) -> io::Result<()> {
    let gate = || gate.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut broker_read, mut broker_write) = broker.split();
    let (answers, mut answered) = mpsc::channel::<Vec<u8>>(ANSWERS);
    let up = async {
        loop {
            let mut through = Vec::new();
            while let Some(packet) = packets.pop()? {
                let verdict = gate().up(&packet)?;
                match verdict {
                    Up::Pass => through.extend_from_slice(&packet),
                    Up::Instead(packet) => through.extend_from_slice(&packet),
                    Up::Answer(answer) => drop(answers.send(answer).await),
                    Up::Nothing => {}
                }
            }
            broker_write.write_all(&through).await?;
            if !packets.fill(&mut read).await? {
                return broker_write.shutdown().await;
            }
        }
    };
    let down = async {
        // rumqttd writes nothing larger than what it took
        let mut packets = Packets::new(2 * MAX_PACKET);
        loop {
            let mut through = Vec::new();
            while let Some(packet) = packets.pop()? {
                let packet = gate().down(packet)?;
                packet.iter().for_each(|packet| through.extend_from_slice(packet));
            }
            while let Ok(answer) = answered.try_recv() {
                through.extend_from_slice(&answer);
            }
            write.write_all(&through).await?;
            write.flush().await?;
            tokio::select! {
                more = packets.fill(&mut broker_read) => if !more? {
                    return write.shutdown().await;
                },
                Some(answer) = answered.recv() => write.write_all(&answer).await?,
            }
        }
    };
    both(up, down).await
}

/// Both ways of a connection, until either ends it.
async fn both(up: impl Future<Output = io::Result<()>>, down: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    tokio::pin!(up, down);
    tokio::select! {
        // The broker has ended it: nothing that the client still says matters.
        result = &mut down => result,
        result = &mut up => {
            let _ = tokio::time::timeout(LINGER, down).await;
            result
        }
    }
}

async fn in_time<T>(what: &str, doing: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(CONNECT_TIMEOUT, doing).await {
        Ok(done) => done,
        Err(_) => Err(io::Error::other(format!("no {what} in time"))),
    }
}
