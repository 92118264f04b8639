//! A broker that misbehaves on command, MQTT 5 and 3.1.1. Each connection follows a [`Script`]; what the client sent
//! is written down, and so is every breach of the protocol by the client: an id used twice at a time, more unanswered
//! packets than allowed.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pinpost::link::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A PUBLISH of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub connection: usize,
    pub id: u16,
    pub qos: u8,
    pub retain: bool,
    pub topic: String,
    pub payload: String,
}

/// What the broker does.
#[derive(Debug, Clone)]
pub enum Act {
    /// PUBACK (or PUBREC for QoS 2) with a reason code, which 3.1.1 leaves out.
    Ack(u16, u8),
    Bytes(Vec<u8>),
    Wait(Duration),
    /// DISCONNECT with a code, then the end.
    Disconnect(u8),
    Close,
    /// Reads and answers nothing any more.
    Freeze,
}

type OnPublish = Box<dyn FnMut(usize, &Seen) -> Vec<Act> + Send>;
type InPlaceOf = Box<dyn FnMut(u8, &[u8]) -> Option<Vec<Act>> + Send>;

/// One connection. The default is a decent broker.
pub struct Script {
    /// CONNACK's code; `None`: no CONNACK at all.
    pub code: Option<u8>,
    pub session_present: bool,
    /// CONNACK's properties (MQTT 5), without their length.
    pub properties: Vec<u8>,
    /// Right behind CONNACK.
    pub then: Vec<Act>,
    /// For the n-th PUBLISH (from 1) of this connection.
    pub on_publish: OnPublish,
    /// For every filter.
    pub suback: u8,
    /// In place of the usual answer to a packet that is no PUBLISH: its type (1 is CONNECT) and its body. For CONNECT
    /// the acts come in place of CONNACK.
    pub in_place: InPlaceOf,
    /// Every byte by itself, with this pause behind it.
    pub drip: Option<Duration>,
}

impl Default for Script {
    fn default() -> Script {
        Script {
            code: Some(0),
            session_present: false,
            properties: Vec::new(),
            then: Vec::new(),
            on_publish: Box::new(|_, seen| vec![Act::Ack(seen.id, 0)]),
            suback: 1,
            in_place: Box::new(|_, _| None),
            drip: None,
        }
    }
}

impl Script {
    pub fn publish(on_publish: impl FnMut(usize, &Seen) -> Vec<Act> + Send + 'static) -> Script {
        Script { on_publish: Box::new(on_publish), ..Script::default() }
    }
    pub fn then(then: Vec<Act>) -> Script {
        Script { then, ..Script::default() }
    }
    /// These acts in place of the answer to every packet of a type.
    pub fn in_place_of(packet: u8, acts: impl Fn(&[u8]) -> Vec<Act> + Send + 'static) -> Script {
        Script { in_place: Box::new(move |p, body| (p == packet).then(|| acts(body))), ..Script::default() }
    }
    /// CONNACK with these properties (MQTT 5).
    pub fn greeting(properties: &[u8]) -> Script {
        Script { properties: properties.to_vec(), ..Script::default() }
    }
}

#[derive(Debug, Default)]
pub struct Log {
    pub connections: usize,
    pub published: Vec<Seen>,
    pub subscribed: Vec<(usize, String)>,
    /// PUBACK, PUBREC and PUBCOMP of the client.
    pub acked: Vec<u16>,
    pub pings: usize,
    pub breaches: Vec<String>,
    pub most_unanswered: usize,
}

pub struct Broker {
    pub port: u16,
    pub log: Arc<Mutex<Log>>,
    changed: Arc<watch::Sender<()>>,
}

impl Broker {
    /// The n-th connection follows the n-th script, all later ones a decent broker's.
    pub async fn start(protocol: Protocol, scripts: Vec<Script>) -> Broker {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (log, changed) = (Arc::<Mutex<Log>>::default(), Arc::new(watch::Sender::new(())));
        let (known, tell) = (log.clone(), changed.clone());
        tokio::spawn(async move {
            let mut scripts = scripts.into_iter();
            while let Ok((socket, _)) = listener.accept().await {
                let script = scripts.next().unwrap_or_default();
                let number = {
                    let mut log = known.lock().unwrap();
                    log.connections += 1;
                    log.connections
                };
                tell.send_replace(());
                let talk = Talk { protocol, number, log: known.clone(), changed: tell.clone() };
                tokio::spawn(talk.run(socket, script));
            }
        });
        Broker { port, log, changed }
    }

    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// Until the log satisfies this.
    pub async fn until(&self, mut what: impl FnMut(&Log) -> bool) {
        let mut changed = self.changed.subscribe();
        let reached = async {
            while !what(&self.log.lock().unwrap()) {
                changed.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(Duration::from_secs(60), reached).await.is_err() {
            panic!("waited too long; {:#?}", self.log.lock().unwrap());
        }
    }

    /// Payloads in the order in which they first came.
    pub fn first_arrivals(&self) -> Vec<String> {
        let log = self.log.lock().unwrap();
        let mut known = HashSet::new();
        log.published.iter().map(|p| p.payload.clone()).filter(|p| known.insert(p.clone())).collect()
    }
    pub fn payloads(&self, connection: usize) -> Vec<String> {
        let log = self.log.lock().unwrap();
        log.published.iter().filter(|p| p.connection == connection).map(|p| p.payload.clone()).collect()
    }
}

struct Talk {
    protocol: Protocol,
    number: usize,
    log: Arc<Mutex<Log>>,
    changed: Arc<watch::Sender<()>>,
}

enum Flow {
    On,
    End,
}

impl Talk {
    async fn run(self, socket: TcpStream, mut script: Script) {
        let (mut reader, writer) = socket.into_split();
        let mut writer = Drip { to: writer, pause: script.drip };
        let v5 = self.protocol == Protocol::V5;
        let Some((0x10, connect)) = packet(&mut reader).await else { return };
        let in_place = (script.in_place)(1, &connect);
        let greeted = in_place.is_some();
        if let Flow::End =
            self.act(&mut writer, &mut HashSet::new(), &mut HashSet::new(), in_place.unwrap_or_default()).await
        {
            return;
        }
        let Some(code) = script.code else {
            while packet(&mut reader).await.is_some() {}
            return;
        };
        let mut connack = vec![u8::from(script.session_present), code];
        if v5 {
            connack.push(script.properties.len() as u8);
            connack.extend(&script.properties);
        }
        if !greeted && (writer.write_all(&framed(0x20, &connack)).await.is_err() || code != 0) {
            return;
        }
        let mut unanswered = HashSet::new();
        if let Flow::End = self.act(&mut writer, &mut unanswered, &mut HashSet::new(), script.then).await {
            return;
        }
        let mut releases = HashSet::new();
        let mut count = 0;
        while let Some((head, body)) = packet(&mut reader).await {
            let mut acts = Vec::new();
            let in_place = if head >> 4 == 3 { None } else { (script.in_place)(head >> 4, &body) };
            match head >> 4 {
                3 => {
                    let seen = self.seen(head, &body);
                    count += 1;
                    if seen.id != 0 {
                        if !unanswered.insert(seen.id) {
                            self.log.lock().unwrap().breaches.push(format!("id {} is in use", seen.id));
                        }
                        if seen.qos == 2 {
                            releases.insert(seen.id);
                        }
                        let mut log = self.log.lock().unwrap();
                        log.most_unanswered = log.most_unanswered.max(unanswered.len());
                    }
                    self.log.lock().unwrap().published.push(seen.clone());
                    acts = (script.on_publish)(count, &seen);
                }
                6 => {
                    unanswered.remove(&u16::from_be_bytes([body[0], body[1]]));
                    acts.push(Act::Bytes(framed(0x70, &body[..2])));
                }
                8 => acts.push(Act::Bytes(self.suback(&body, script.suback))),
                10 => {
                    let mut answer = body[..2].to_vec();
                    if v5 {
                        answer.extend([0, 0x11]);
                    }
                    acts.push(Act::Bytes(framed(0xB0, &answer)));
                }
                12 => {
                    self.log.lock().unwrap().pings += 1;
                    acts.push(Act::Bytes(vec![0xD0, 0]));
                }
                4 | 5 | 7 => self.log.lock().unwrap().acked.push(u16::from_be_bytes([body[0], body[1]])),
                _ => return,
            }
            self.changed.send_replace(());
            let acts = in_place.unwrap_or(acts);
            if let Flow::End = self.act(&mut writer, &mut unanswered, &mut releases, acts).await {
                return;
            }
        }
    }

    async fn act(
        &self,
        writer: &mut Drip,
        unanswered: &mut HashSet<u16>,
        releases: &mut HashSet<u16>,
        acts: Vec<Act>,
    ) -> Flow {
        for act in acts {
            let bytes = match act {
                Act::Ack(0, _) => continue,
                Act::Ack(id, code) => {
                    let qos2 = releases.remove(&id);
                    if !qos2 || code >= 0x80 {
                        unanswered.remove(&id);
                    }
                    let mut answer = id.to_be_bytes().to_vec();
                    if self.protocol == Protocol::V5 && code != 0 {
                        answer.extend([code, 0]);
                    }
                    framed(if qos2 { 0x50 } else { 0x40 }, &answer)
                }
                Act::Bytes(bytes) => {
                    if let [0x40, _, high, low, ..] = bytes[..] {
                        unanswered.remove(&u16::from_be_bytes([high, low]));
                    }
                    bytes
                }
                Act::Wait(time) => {
                    tokio::time::sleep(time).await;
                    continue;
                }
                Act::Disconnect(code) => {
                    // With the properties' length, which may be left out: rumqttc 0.25.1 does not understand it without.
                    let _ = writer.write_all(&[0xE0, 2, code, 0]).await;
                    return Flow::End;
                }
                Act::Close => return Flow::End,
                Act::Freeze => std::future::pending().await,
            };
            if writer.write_all(&bytes).await.is_err() {
                return Flow::End;
            }
        }
        Flow::On
    }

    fn seen(&self, head: u8, body: &[u8]) -> Seen {
        let topic_end = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
        let qos = (head >> 1) & 3;
        let mut at = topic_end;
        let mut id = 0;
        if qos > 0 {
            id = u16::from_be_bytes([body[at], body[at + 1]]);
            at += 2;
        }
        if self.protocol == Protocol::V5 {
            assert!(body[at] < 128, "the test's properties are short");
            at += 1 + usize::from(body[at]);
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Seen {
            connection: self.number,
            id,
            qos,
            retain: head & 1 != 0,
            topic: text(&body[2..topic_end]),
            payload: text(&body[at..]),
        }
    }

    fn suback(&self, body: &[u8], code: u8) -> Vec<u8> {
        let mut answer = body[..2].to_vec();
        let mut at = 2;
        if self.protocol == Protocol::V5 {
            at += 1 + usize::from(body[at]);
            answer.push(0);
        }
        let mut log = self.log.lock().unwrap();
        while at < body.len() {
            let len = usize::from(u16::from_be_bytes([body[at], body[at + 1]]));
            log.subscribed.push((self.number, String::from_utf8_lossy(&body[at + 2..at + 2 + len]).into_owned()));
            at += 2 + len + 1;
            answer.push(code);
        }
        framed(0x90, &answer)
    }
}

/// A writer that may take its time.
struct Drip {
    to: OwnedWriteHalf,
    pause: Option<Duration>,
}

impl Drip {
    async fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let Some(pause) = self.pause else { return self.to.write_all(bytes).await };
        for byte in bytes {
            self.to.write_all(&[*byte]).await?;
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }
}

/// A packet with its length in front.
pub fn framed(head: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![head];
    let mut len = body.len();
    loop {
        let byte = (len & 127) as u8;
        len >>= 7;
        out.push(if len > 0 { byte | 128 } else { byte });
        if len == 0 {
            break;
        }
    }
    out.extend(body);
    out
}

/// A PUBLISH to the client; id 0: QoS 0.
pub fn publish(protocol: Protocol, topic: &str, id: u16, qos2: bool, payload: &[u8]) -> Vec<u8> {
    let mut body = (topic.len() as u16).to_be_bytes().to_vec();
    body.extend(topic.as_bytes());
    if id != 0 {
        body.extend(id.to_be_bytes());
    }
    if protocol == Protocol::V5 {
        body.push(0);
    }
    body.extend(payload);
    let qos = if id == 0 { 0 } else { 1 + u8::from(qos2) };
    framed(0x30 | (qos << 1), &body)
}

async fn packet(reader: &mut OwnedReadHalf) -> Option<(u8, Vec<u8>)> {
    let head = reader.read_u8().await.ok()?;
    let (mut len, mut shift) = (0usize, 0);
    loop {
        let byte = reader.read_u8().await.ok()?;
        len |= usize::from(byte & 127) << shift;
        shift += 7;
        if byte & 128 == 0 {
            break;
        }
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body).await.ok()?;
    Some((head, body))
}
