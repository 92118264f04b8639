//! A BACKLOG THROUGH THE LINK, beside the bare library in the same run: the same messages, the same peer, the same
//! window. The peer is the least that MQTT 5 allows: it reads and acknowledges.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pinpost::link::{Link, LinkConfig, Outbound, Outbox, Patience, Protocol, Refusal};
use pinpost::model::{Message, Mono, Now, PayloadFormat, Qos, Quality, Stamp, Value, Wall};
use pinpost::queue::{Entry, Options, Queue, Shared, Writer};
use pinpost::wire::Record;
use pinpost::wire::record::{ReadingRecord, Sending};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use tokio::sync::{Notify, mpsc};

/// Unanswered publishes at a time, as the daemon has it.
const IN_FLIGHT: u16 = 64;

/// Acknowledges whatever comes; gives its port.
fn peer() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || answer(stream));
        }
    });
    port
}

fn answer(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let (mut have, mut buf, mut out) = (Vec::new(), vec![0; 64 << 10], Vec::new());
    while let Ok(n) = stream.read(&mut buf) {
        if n == 0 {
            return;
        }
        have.extend_from_slice(&buf[..n]);
        let mut at = 0;
        while let Some((kind, body, next)) = packet(&have, at) {
            match kind >> 4 {
                1 => out.extend([0x20, 3, 0, 0, 0]),
                3 if kind & 6 != 0 => {
                    let topic = usize::from(body[0]) << 8 | usize::from(body[1]);
                    out.extend([0x40, 2, body[2 + topic], body[3 + topic]]);
                }
                8 => out.extend([0x90, 4, body[0], body[1], 0, 0]),
                12 => out.extend([0xd0, 0]),
                _ => {}
            }
            at = next;
        }
        have.drain(..at);
        if stream.write_all(&out).is_err() {
            return;
        }
        out.clear();
    }
}

/// The packet at `at`: first byte, body, where the next begins.
fn packet(bytes: &[u8], at: usize) -> Option<(u8, &[u8], usize)> {
    let kind = *bytes.get(at)?;
    let (mut len, mut shift, mut i) = (0usize, 0, at + 1);
    loop {
        let b = *bytes.get(i)?;
        len |= usize::from(b & 0x7f) << shift;
        (shift, i) = (shift + 7, i + 1);
        if b < 0x80 {
            break;
        }
    }
    Some((kind, bytes.get(i..i + len)?, i + len))
}

fn record(n: u64) -> Record {
    Record::Reading(Box::new(ReadingRecord {
        topic: "greenhouse/weather/temperature".into(),
        qos: Qos::AtLeastOnce,
        retain: false,
        format: PayloadFormat::Plain,
        words: Default::default(),
        value: Value::Number(20.0 + (n % 100) as f64 / 10.0),
        quality: Quality::Good,
        told: None,
        batch: None,
    }))
}

/// The queue as the daemon's own outbox gives it out.
struct Drain {
    queue: Shared,
    wake: Arc<Notify>,
    start: Instant,
    done: AtomicU64,
    seen: std::sync::Mutex<HashSet<u64>>,
    all: u64,
    ended: Notify,
}

impl Outbox for Drain {
    fn take(&self) -> Option<Outbound> {
        let now = self.start.elapsed();
        let out = self.queue.lock().take(now)?;
        if let (Some(seq), Ok(mut seen)) = (out.seq, self.seen.lock()) {
            assert!(seen.insert(seq), "{seq} is sent twice");
        }
        let sending = Sending {
            seq: out.seq,
            replayed: out.replayed,
            taken: Stamp { wall: Wall(out.stamp.wall), mono: Mono::default(), synced: true },
            ours: false,
            expires_in: out.expires_in,
            now: Now { wall: Wall(1_700_000_000_000), mono: Mono(now), synced: true },
        };
        let message = Record::decode(&out.body).unwrap().into_message(&sending);
        Some(Outbound { token: Some(out.token), message })
    }
    fn done(&self, token: u64) {
        self.queue.lock().done(token);
        if self.done.fetch_add(1, Ordering::Relaxed) + 1 == self.all {
            self.ended.notify_one();
        }
    }
    fn refused(&self, _: u64, refusal: Refusal) -> bool {
        panic!("{refusal:?}");
    }
    fn link_up(&self, _: u64) {
        self.queue.lock().link_up();
    }
    fn link_down(&self) {
        self.queue.lock().link_down();
    }
    fn wake(&self) -> &Notify {
        &self.wake
    }
}

/// Messages a second of `n` that wait on disk.
async fn through_the_link(options: Options, n: u64, port: u16) -> f64 {
    let start = Instant::now();
    let (queue, log) = Queue::open(options, Duration::ZERO).unwrap();
    let shared = Shared::new(queue, start);
    let wake = Arc::new(Notify::new());
    let (tell, told) = std::sync::mpsc::channel();
    let ready = wake.clone();
    let writer = Writer::start(shared.clone(), log, move || {
        let _ = tell.send(());
        ready.notify_one();
    })
    .unwrap();
    for i in 0..n {
        while shared.lock().pressed() {
            let _ = told.recv_timeout(Duration::from_secs(10));
        }
        let entry = Entry {
            reading: true,
            rank: 100,
            lane: 1,
            source: "weather/temperature".into(),
            body: record(i).encode(),
            ..Entry::default()
        };
        shared.lock().append(entry, start.elapsed());
    }
    while shared.lock().stats().unsynced > 0 {
        let _ = told.recv_timeout(Duration::from_secs(10));
    }
    let outbox = Arc::new(Drain {
        queue: shared,
        wake,
        start,
        done: AtomicU64::new(0),
        seen: Default::default(),
        all: n,
        ended: Notify::new(),
    });
    let config = LinkConfig {
        urls: vec![format!("mqtt://127.0.0.1:{port}").parse().unwrap()],
        protocol: Protocol::V5,
        client_id: "drain".into(),
        login: None,
        tls: Default::default(),
        proxy: None,
        keep_alive: Duration::from_secs(30),
        in_flight: IN_FLIGHT,
        session_expiry: Duration::ZERO,
        will: None,
        will_of: None,
        beside: Vec::new(),
        stay: false,
        hello: Vec::new(),
        subscriptions: Vec::new(),
        patience: Patience::default(),
    };
    let (events, mut heard) = mpsc::channel(64);
    let (link, handle) = Link::new(config, outbox.clone(), events);
    let began = Instant::now();
    let link = tokio::spawn(link.run());
    let listener = tokio::spawn(async move { while heard.recv().await.is_some() {} });
    outbox.ended.notified().await;
    let rate = n as f64 / began.elapsed().as_secs_f64();
    handle.stop(Vec::new(), Duration::from_secs(5));
    let _ = link.await;
    let _ = listener.await;
    writer.stop();
    rate
}

/// Messages a second of the library alone: the same messages, made one by one, at QoS 1.
async fn bare(n: u64, port: u16) -> f64 {
    let mut options = MqttOptions::new("bare", "127.0.0.1", port);
    options.set_outgoing_inflight_upper_limit(IN_FLIGHT);
    let mut network = options.network_options();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    let (client, mut events) = AsyncClient::new(options, usize::from(IN_FLIGHT));
    let began = Instant::now();
    tokio::spawn(async move {
        for i in 0..n {
            let sending = Sending {
                seq: Some(i),
                replayed: true,
                taken: Stamp { wall: Wall(1_700_000_000_000), mono: Mono::default(), synced: true },
                ours: false,
                expires_in: None,
                now: Now { wall: Wall(1_700_000_000_000), mono: Mono::default(), synced: true },
            };
            let Message { topic, payload, properties, .. } = record(i).into_message(&sending);
            let properties = PublishProperties {
                user_properties: properties.user,
                content_type: properties.content_type,
                ..Default::default()
            };
            let sent = client.publish_with_properties(topic, QoS::AtLeastOnce, false, payload, properties).await;
            sent.unwrap();
        }
        std::future::pending::<()>().await;
    });
    let mut acked = 0;
    while acked < n {
        if let Event::Incoming(Packet::PubAck(_)) = events.poll().await.unwrap() {
            acked += 1;
        }
    }
    n as f64 / began.elapsed().as_secs_f64()
}

/// Rates of the link with a queue in `options`, and of the bare library; in turn, three times a third of `n`.
pub fn drain(mut make: impl FnMut() -> Options, n: u64) -> (f64, f64) {
    let port = peer();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        theirs.push(runtime().block_on(bare(n / 3, port)));
        ours.push(runtime().block_on(through_the_link(make(), n / 3, port)));
    }
    let mean = |rates: &[f64]| rates.len() as f64 / rates.iter().map(|r| 1.0 / r).sum::<f64>();
    (mean(&ours), mean(&theirs))
}
