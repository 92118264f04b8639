//! A plain subscriber that reads everything a broker sends until the broker dies; and a gate in front of a broker,
//! so that nothing reaches a freshly started broker before the subscriber is there.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use tokio::net::{TcpListener, TcpStream as Stream};
use tokio::sync::watch;

/// Payloads in the order of arrival, over all lives of the broker.
#[derive(Clone)]
pub struct Observer {
    pub seen: Arc<Mutex<Vec<String>>>,
    pub count: Arc<watch::Sender<usize>>,
}

fn packet(s: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 1];
    s.read_exact(&mut head).ok()?;
    let (mut len, mut shift) = (0usize, 0);
    loop {
        let mut b = [0; 1];
        s.read_exact(&mut b).ok()?;
        len |= usize::from(b[0] & 127) << shift;
        shift += 7;
        if b[0] & 128 == 0 {
            break;
        }
    }
    let mut body = vec![0; len];
    s.read_exact(&mut body).ok()?;
    Some((head[0], body))
}

impl Observer {
    pub fn new() -> Observer {
        Observer { seen: Arc::default(), count: Arc::new(watch::Sender::new(0)) }
    }

    /// Subscribed to everything at QoS 0 when it returns; the thread ends with the broker.
    pub fn attach(&self, port: u16) -> JoinHandle<()> {
        let mut s = TcpStream::connect(("127.0.0.1", port)).unwrap();
        s.write_all(&[0x10, 15, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 3, b'o', b'b', b's']).unwrap();
        assert_eq!(packet(&mut s).unwrap().0, 0x20);
        s.write_all(&[0x82, 6, 0, 1, 0, 1, b'#', 0]).unwrap();
        assert_eq!(packet(&mut s).unwrap().0, 0x90);
        let Observer { seen, count } = self.clone();
        std::thread::spawn(move || {
            while let Some((head, body)) = packet(&mut s) {
                if head >> 4 == 3 {
                    let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
                    let payload = String::from_utf8_lossy(&body[2 + topic..]).into_owned();
                    seen.lock().unwrap().push(payload);
                    count.send_modify(|n| *n += 1);
                }
            }
        })
    }

    /// Until this payload has arrived.
    pub async fn saw(&self, payload: &str) {
        let mut count = self.count.subscribe();
        count.wait_for(|_| self.seen.lock().unwrap().iter().any(|p| p == payload)).await.unwrap();
    }

    /// Until so many have arrived.
    pub async fn reached(&self, n: usize) {
        let mut count = self.count.subscribe();
        count.wait_for(|c| *c >= n).await.unwrap();
    }
}

/// Forwards to a broker while it is open; closed, it resets what comes.
pub struct Gate {
    pub port: u16,
    pub open: watch::Sender<bool>,
}

impl Gate {
    pub async fn new(to: u16) -> Gate {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (open, is_open) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                if !*is_open.borrow() {
                    continue;
                }
                tokio::spawn(async move {
                    if let Ok(mut to) = Stream::connect(("127.0.0.1", to)).await {
                        let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                    }
                });
            }
        });
        Gate { port, open }
    }
}
