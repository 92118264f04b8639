//! A websocket door in front of a broker (RFC 6455, server side), for as long as the test runs: Debian's mosquitto
//! speaks websockets only on some machines.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;

/// Opens a door to a port of this machine; returns its own port. Every request is asked for the subprotocol `mqtt`.
pub fn door_to(port: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let door = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            thread::spawn(move || serve(client, port));
        }
    });
    door
}

fn serve(client: TcpStream, port: u16) {
    let mut from_client = BufReader::new(client.try_clone().unwrap());
    let (mut key, mut mqtt) = (None, false);
    loop {
        let mut line = String::new();
        if from_client.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
            break;
        }
        let Some((name, value)) = line.split_once(':') else { continue };
        match name.to_ascii_lowercase().as_str() {
            "sec-websocket-key" => key = Some(value.trim().to_string()),
            "sec-websocket-protocol" => mqtt = value.contains("mqtt"),
            _ => {}
        }
    }
    let (Some(key), true) = (key, mqtt) else { return };
    let mut to_client = client;
    let accept = accept_of(&key);
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
    );
    to_client.write_all(answer.as_bytes()).unwrap();
    let mut broker = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut from_broker = broker.try_clone().unwrap();
    thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(n @ 1..) = from_broker.read(&mut chunk) {
            let [high, low] = (n as u16).to_be_bytes();
            let head: &[u8] = if n < 126 { &[0x82, low] } else { &[0x82, 126, high, low] };
            if to_client.write_all(head).and_then(|()| to_client.write_all(&chunk[..n])).is_err() {
                break;
            }
        }
        let _ = to_client.shutdown(Shutdown::Both);
    });
    while let Some((opcode, payload)) = frame(&mut from_client) {
        if opcode == 8 || (opcode <= 2 && broker.write_all(&payload).is_err()) {
            break;
        }
    }
    let _ = broker.shutdown(Shutdown::Both);
}

fn frame(from: &mut impl Read) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    from.read_exact(&mut head).ok()?;
    let length = match head[1] & 0x7f {
        126 => {
            let mut n = [0; 2];
            from.read_exact(&mut n).ok()?;
            u64::from(u16::from_be_bytes(n))
        }
        127 => {
            let mut n = [0; 8];
            from.read_exact(&mut n).ok()?;
            u64::from_be_bytes(n)
        }
        n => u64::from(n),
    };
    let mut mask = [0; 4];
    from.read_exact(&mut mask).ok()?;
    let mut payload = vec![0; length as usize];
    from.read_exact(&mut payload).ok()?;
    payload.iter_mut().enumerate().for_each(|(i, b)| *b ^= mask[i % 4]);
    Some((head[0] & 0x0f, payload))
}

/// RFC 6455, section 4.2.2: base64 of SHA-1 of the key and a fixed text.
fn accept_of(key: &str) -> String {
    let mut child = Command::new("sh")
        .args(["-c", "openssl dgst -sha1 -binary | openssl base64"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("these tests need the openssl program");
    child.stdin.take().unwrap().write_all(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes()).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap().trim().to_string()
}
