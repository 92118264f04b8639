//! Modbus units on a pty or behind TCP, written from the specification alone: nothing of what is tested is used here.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

/// A unit's four tables: an address that is not in them does not exist.
#[derive(Default, Clone)]
pub struct Unit {
    pub holding: BTreeMap<u16, u16>,
    pub input: BTreeMap<u16, u16>,
    pub coils: BTreeMap<u16, bool>,
    pub discrete: BTreeMap<u16, bool>,
    /// It hears and says nothing.
    pub mute: bool,
    /// It takes writes and does not keep them.
    pub stubborn: bool,
    /// Functions it was asked for, with their addresses and counts.
    pub asked: Vec<(u8, u16, u16)>,
}

/// Units by their addresses; the test may change them at any time.
pub type Units = Arc<Mutex<HashMap<u8, Unit>>>;

pub fn units(list: impl IntoIterator<Item = (u8, Unit)>) -> Units {
    Arc::new(Mutex::new(list.into_iter().collect()))
}

fn crc(bytes: &[u8]) -> [u8; 2] {
    let mut crc = 0xffff_u16;
    for byte in bytes {
        crc ^= u16::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xa001 } else { crc >> 1 };
        }
    }
    crc.to_le_bytes()
}

/// What a unit says to a request without its frame; `None`: nothing.
fn answer(units: &Units, request: &[u8]) -> Option<Vec<u8>> {
    let mut units = units.lock().unwrap();
    let unit = units.get_mut(&request[0])?;
    let function = request[1];
    let word = |i: usize| u16::from_be_bytes([request[i], request[i + 1]]);
    let (at, count) = (word(2), word(4));
    unit.asked.push((function, at, count));
    if unit.mute {
        return None;
    }
    let range = || at..=at.saturating_add(count - 1);
    let bits = |table: &BTreeMap<u16, bool>| -> Option<Vec<u8>> {
        let mut bytes = vec![0; usize::from(count).div_ceil(8)];
        for (i, address) in range().enumerate() {
            bytes[i / 8] |= u8::from(*table.get(&address)?) << (i % 8);
        }
        Some([vec![bytes.len() as u8], bytes].concat())
    };
    let words = |table: &BTreeMap<u16, u16>| -> Option<Vec<u8>> {
        let bytes: Vec<u8> = range()
            .map(|a| table.get(&a).copied())
            .collect::<Option<Vec<_>>>()?
            .iter()
            .flat_map(|w| w.to_be_bytes())
            .collect();
        Some([vec![bytes.len() as u8], bytes].concat())
    };
    let body = match function {
        1 => bits(&unit.coils),
        2 => bits(&unit.discrete),
        3 => words(&unit.holding),
        4 => words(&unit.input),
        5 => unit.coils.contains_key(&at).then(|| {
            if !unit.stubborn {
                unit.coils.insert(at, count == 0xff00);
            }
            request[2..6].to_vec()
        }),
        6 => unit.holding.contains_key(&at).then(|| {
            if !unit.stubborn {
                unit.holding.insert(at, count);
            }
            request[2..6].to_vec()
        }),
        16 => range().all(|a| unit.holding.contains_key(&a)).then(|| {
            for (i, address) in range().enumerate() {
                if !unit.stubborn {
                    unit.holding.insert(address, word(7 + 2 * i));
                }
            }
            request[2..6].to_vec()
        }),
        _ => return Some(vec![request[0], function | 0x80, 1]),
    };
    Some(match body {
        Some(body) => [vec![request[0], function], body].concat(),
        None => vec![request[0], function | 0x80, 2],
    })
}

/// Units on the far end of a pty, until the test ends. `echo`: an adapter that hears itself.
pub fn on_pty(mut master: File, name: &Path, units: Units, echo: bool) {
    // as long as this end is open too, the line does not end when nobody else has it
    let kept = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(name).unwrap();
    thread::spawn(move || {
        let _kept = kept;
        let mut heard = Vec::new();
        let mut chunk = [0; 256];
        loop {
            let Ok(n) = master.read(&mut chunk) else { return };
            if n == 0 {
                return;
            }
            if echo && master.write_all(&chunk[..n]).is_err() {
                return;
            }
            heard.extend_from_slice(&chunk[..n]);
            while heard.len() >= 8 {
                let size = if heard[1] == 16 { 9 + usize::from(heard[6]) } else { 8 };
                if heard.len() < size {
                    break;
                }
                let request: Vec<u8> = heard.drain(..size).collect();
                assert_eq!(crc(&request[..size - 2]), request[size - 2..], "a request with a wrong CRC: {request:?}");
                if let Some(mut frame) = answer(&units, &request) {
                    let check = crc(&frame);
                    frame.extend(check);
                    // in two pieces, as a line brings them
                    let (first, rest) = frame.split_at(3);
                    if master.write_all(first).and_then(|()| master.write_all(rest)).is_err() {
                        return;
                    }
                }
            }
        }
    });
}

/// Units behind Modbus TCP, for one connection after the other.
pub fn on_tcp(units: Units) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut head = [0; 6];
            while stream.read_exact(&mut head).is_ok() {
                let mut request = vec![0; usize::from(u16::from_be_bytes([head[4], head[5]]))];
                if stream.read_exact(&mut request).is_err() {
                    break;
                }
                if let Some(body) = answer(&units, &request) {
                    let length = (body.len() as u16).to_be_bytes();
                    if stream.write_all(&[&head[..4], &length, &body].concat()).is_err() {
                        break;
                    }
                }
            }
        }
    });
    address
}
