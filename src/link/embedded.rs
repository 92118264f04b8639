//! The embedded broker: rumqttd in its own threads, MQTT 5 and 3.1.1 on one address.
//!
//! It promises: [`start`] returns when clients can connect, or says why not; dropping [`Embedded`] closes the address
//! and every connection. It is meant for the demo and for small sites. Its limits, which are rumqttd's: nothing
//! survives its end; there is no authentication; a subscriber that falls [`SEGMENTS`] × [`SEGMENT_SIZE`] bytes behind
//! on one topic filter loses the oldest messages silently; a resumed session gets no retained messages again; an
//! empty payload deletes a retained message even without the retain flag; memory of a topic filter that was once
//! subscribed is not given back.
//!
//! rumqttd listens for one protocol version a port and takes no keep-alive of 0. So it listens on two ports of the
//! loopback interface, and a front on the public address reads the head of each CONNECT (MQTT 3.1.1 and 5, sections
//! 3.1.2 and 3.1.3), hands the connection to the right port, and puts right what rumqttd does not bear: it writes the
//! longest keep-alive where the client wrote 0, and `_` for `+ $ # /` in a client id. (A second connection under an
//! id that rumqttd refuses would end the broker for everyone: it panics while it holds a lock.)

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use rumqttd::protocol::{Protocol, v4::V4, v5::V5};
use rumqttd::{ConnectionSettings, LinkType, Router, RouterConfig, Server, ServerSettings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};

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
/// How long the other half of a connection may take to end after the first.
const LINGER: Duration = Duration::from_secs(5);

/// A running broker; it ends when this is dropped.
#[derive(Debug)]
pub struct Embedded {
    addr: SocketAddr,
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
        format!("mqtt://{addr}")
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

/// Starts the broker on this address (port 0: any free one). Errors name the address and what is wrong with it.
pub fn start(listen: SocketAddr) -> Result<Embedded, String> {
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
    let thread = thread::Builder::new()
        .name("broker".into())
        .spawn(move || {
            run(listener, stopped, ready);
            drop(ending);
        })
        .map_err(|e| format!("cannot start the broker: {e}"))?;
    match is_ready.recv() {
        Ok(Ok(())) => Ok(Embedded { addr, stop: Some(stop), ended: Some(ended), thread: Some(thread) }),
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

fn run(listener: StdListener, stopped: oneshot::Receiver<()>, ready: std::sync::mpsc::Sender<Result<(), String>>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            let _ = ready.send(Err(e.to_string()));
            return;
        }
    };
    runtime.block_on(async {
        match serve(listener).await {
            Ok((v4, v5, front)) => {
                let _ = ready.send(Ok(()));
                tokio::select! {
                    _ = stopped => {}
                    () = v4 => log::error!("the embedded broker's MQTT 3.1.1 side has ended"),
                    () = v5 => log::error!("the embedded broker's MQTT 5 side has ended"),
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

async fn serve(listener: StdListener) -> Result<(Running, Running, Running), String> {
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
    let (v4, v4_addr) = inner(|settings| Server::new(settings, router.clone(), V4)).await?;
    let (v5, v5_addr) = inner(|settings| Server::new(settings, router.clone(), V5)).await?;
    let front = Box::pin(front(listener, v4_addr, v5_addr));
    Ok((v4, v5, front))
}

/// One listener of rumqttd on a free port of the loopback interface. It is listening when this returns.
async fn inner<P: Protocol + Clone + Send + 'static>(
    server: impl Fn(ServerSettings) -> Server<P>,
) -> Result<(Running, SocketAddr), String> {
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

async fn front(listener: TcpListener, v4: SocketAddr, v5: SocketAddr) {
    let room = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((client, from)) => {
                tokio::spawn(async move {
                    if let Err(e) = pass(client, v4, v5).await {
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

async fn pass(mut client: TcpStream, v4: SocketAddr, v5: SocketAddr) -> io::Result<()> {
    client.set_nodelay(true)?;
    let (head, level) = match tokio::time::timeout(CONNECT_TIMEOUT, read_head(&mut client)).await {
        Ok(Ok(head)) => head,
        Ok(Err(e)) => return Err(e),
        Err(_) => return Err(io::Error::other("no CONNECT in time")),
    };
    let to = match level {
        4 => v4,
        5 => v5,
        3 => {
            // CONNACK, "unacceptable protocol version".
            client.write_all(&[0x20, 2, 0, 1]).await?;
            return Err(io::Error::other("MQTT 3.1 is not spoken here, only 3.1.1 and 5"));
        }
        _ => {
            // CONNACK of MQTT 5, "unsupported protocol version", no properties.
            client.write_all(&[0x20, 3, 0, 0x84, 0]).await?;
            return Err(io::Error::other(format!("MQTT level {level} is not spoken here")));
        }
    };
    let mut broker = TcpStream::connect(to).await?;
    broker.set_nodelay(true)?;
    broker.write_all(&head).await?;
    let (mut client_read, mut client_write) = client.split();
    let (mut broker_read, mut broker_write) = broker.split();
    let up = async {
        let copied = tokio::io::copy(&mut client_read, &mut broker_write).await;
        let _ = broker_write.shutdown().await;
        copied.map(drop)
    };
    let down = async { tokio::io::copy(&mut broker_read, &mut client_write).await.map(drop) };
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

/// The first bytes of a connection, up to and with the client id, put right; and the protocol level in them.
async fn read_head(client: &mut TcpStream) -> io::Result<(Vec<u8>, u8)> {
    let mut bytes = Vec::with_capacity(64);
    loop {
        match Head::of(&bytes) {
            Head::Needs(more) => {
                let old = bytes.len();
                if old + more > MAX_PACKET {
                    return Err(io::Error::other("a CONNECT larger than any packet may be"));
                }
                bytes.resize(old + more, 0);
                client.read_exact(bytes.get_mut(old..).unwrap_or_default()).await?;
            }
            Head::Bad => return Err(io::Error::other("not an MQTT CONNECT")),
            Head::Whole { level, keep_alive, id } => {
                if let Some(keep_alive) = bytes.get_mut(keep_alive)
                    && keep_alive == [0, 0]
                {
                    keep_alive.copy_from_slice(&u16::MAX.to_be_bytes());
                }
                for byte in bytes.get_mut(id).into_iter().flatten() {
                    if b"+$#/".contains(byte) {
                        *byte = b'_';
                    }
                }
                return Ok((bytes, level));
            }
        }
    }
}

/// What the bytes so far say.
#[derive(Debug, PartialEq, Eq)]
enum Head {
    /// So many further bytes, at least; never more than the CONNECT has.
    Needs(usize),
    Bad,
    Whole {
        level: u8,
        keep_alive: Range<usize>,
        id: Range<usize>,
    },
}

impl Head {
    fn of(bytes: &[u8]) -> Head {
        Head::parse(bytes).unwrap_or_else(|head| head)
    }

    fn parse(bytes: &[u8]) -> Result<Head, Head> {
        let upto = |end: usize| match bytes.len() {
            have if have < end => Err(Head::Needs(end - have)),
            _ => Ok(end),
        };
        let number = |at: usize| {
            usize::from(bytes.get(at).copied().unwrap_or(0)) << 8 | usize::from(bytes.get(at + 1).copied().unwrap_or(0))
        };
        if bytes.first().is_some_and(|b| *b != 0x10) {
            return Err(Head::Bad);
        }
        let (_, at) = varint(bytes, 1)?;
        let name_at = upto(at + 2)?;
        let name: &[u8] = match number(at) {
            4 => b"MQTT",
            6 => b"MQIsdp",
            _ => return Err(Head::Bad),
        };
        let level_at = name_at + name.len();
        let keep_alive_at = level_at + 2;
        let after = upto(keep_alive_at + 2)?;
        if bytes.get(name_at..level_at) != Some(name) {
            return Err(Head::Bad);
        }
        let level = bytes.get(level_at).copied().unwrap_or(0);
        let keep_alive = keep_alive_at..after;
        let id_at = match level {
            5 => {
                let (length, at) = varint(bytes, after)?;
                upto(at + length + 2)?
            }
            4 => upto(after + 2)?,
            // Refused anyway; its further bytes need not be understood.
            _ => return Ok(Head::Whole { level, keep_alive, id: after..after }),
        };
        let id = id_at..upto(id_at + number(id_at - 2))?;
        Ok(Head::Whole { level, keep_alive, id })
    }
}

/// A variable byte integer (MQTT 5, section 1.5.5) and where it ends.
fn varint(bytes: &[u8], at: usize) -> Result<(usize, usize), Head> {
    let mut value = 0;
    for i in 0..4 {
        let Some(byte) = bytes.get(at + i) else { return Err(Head::Needs(at + i + 1 - bytes.len())) };
        value |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Ok((value, at + i + 1));
        }
    }
    Err(Head::Bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V5: [u8; 19] = [0x10, 0x8a, 0x01, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 60, 1, 0xff, 0, 2, b'a', b'/'];

    #[test]
    fn the_head_is_found_however_the_bytes_come() {
        let v4 = [0x10, 14, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 60, 0, 2, b'a', b'b'];
        for connect in [&V5[..], &v4[..]] {
            for n in 0..connect.len() {
                match Head::of(&connect[..n]) {
                    Head::Needs(more) => assert!(more >= 1 && n + more <= connect.len(), "{n} bytes want {more}"),
                    other => panic!("{n} bytes: {other:?}"),
                }
            }
        }
        assert_eq!(Head::of(&V5), Head::Whole { level: 5, keep_alive: 11..13, id: 17..19 });
        assert_eq!(Head::of(&v4), Head::Whole { level: 4, keep_alive: 10..12, id: 14..16 });
        let old = [0x10, 20, 0, 6, b'M', b'Q', b'I', b's', b'd', b'p', 3, 2, 0, 60];
        assert_eq!(Head::of(&old), Head::Whole { level: 3, keep_alive: 12..14, id: 14..14 });
    }

    #[test]
    fn what_is_no_connect_is_refused() {
        for bad in [
            &b"GET / HTTP/1.1"[..],
            &[0x16, 3, 1, 2, 0],
            &[0x10, 0xff, 0xff, 0xff, 0xff, 1],
            &[0x10, 10, 0, 5, b'M', b'Q', b'T', b'T', b'X'],
            &[0x10, 12, 0, 4, b'A', b'Q', b'T', b'T', 4, 2, 0, 60],
        ] {
            assert_eq!(Head::of(bad), Head::Bad, "{bad:?}");
        }
    }
}
