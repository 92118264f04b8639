//! Twelve ports at once: ten instruments that speak, each cut in another way, and two that are asked; with garbage,
//! writes that are torn in two, and frames hit on their way. Every reading must be there, in order, and none of a hit
//! frame. `MANY_PORTS_SECONDS=60` runs it for so long (`just many-ports`).

use std::time::{Duration, Instant};

use crc::Crc;

use crate::asking::{Instrument, co2};
use crate::support::gateway::{Home, Pty, Watch};
use crate::support::mosquitto::Mosquitto;

/// Frames of each port in a round; after each round everything must have arrived.
const ROUND: u32 = 20;
/// Values from here on stand only in frames that are hit.
const POISON: u32 = 0x4000;

/// An instrument that speaks: its name, its keys, its frame with a value, and how a frame of it is hit.
struct Speaker {
    name: &'static str,
    keys: &'static str,
    frame: fn(u16) -> Vec<u8>,
    hit: fn(Vec<u8>) -> Vec<u8>,
    /// Garbage before a frame. Lines end theirs, since a line has no other beginning.
    /// None of it makes a frame with what follows that passes its check by chance: eight bits of sum forgive that often.
    garbage: &'static [u8],
}

/// A bit of the value, or of its neighbour, flips.
fn flip(mut frame: Vec<u8>) -> Vec<u8> {
    let at = frame.len() / 2;
    frame[at] ^= 1;
    frame
}
/// The end, and so the check, is lost; the line ends all the same.
fn short(mut frame: Vec<u8>) -> Vec<u8> {
    frame.truncate(frame.len() / 2);
    frame.push(b'\n');
    frame
}

fn modbus(bytes: &[u8]) -> [u8; 2] {
    Crc::<u16>::new(&crc::CRC_16_MODBUS).checksum(bytes).to_le_bytes()
}
fn ccitt(bytes: &[u8]) -> [u8; 2] {
    Crc::<u16>::new(&crc::CRC_16_IBM_3740).checksum(bytes).to_be_bytes()
}
fn xor(text: &str) -> String {
    format!("{:02X}", text.bytes().fold(0, |sum, b| sum ^ b))
}

fn cobs(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for run in bytes.split(|b| *b == 0) {
        out.push(run.len() as u8 + 1);
        out.extend_from_slice(run);
    }
    out.push(0);
    out
}
fn slip(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0xc0];
    for byte in bytes {
        match byte {
            0xc0 => out.extend_from_slice(&[0xdb, 0xdc]),
            0xdb => out.extend_from_slice(&[0xdb, 0xdd]),
            other => out.push(*other),
        }
    }
    out.push(0xc0);
    out
}
fn with_crc(head: &[u8], n: u16, crc: fn(&[u8]) -> [u8; 2]) -> Vec<u8> {
    let mut bytes = [head, &n.to_be_bytes(), &[0x55]].concat();
    let check = crc(&bytes);
    bytes.extend_from_slice(&check);
    bytes
}

const SPEAKERS: [Speaker; 10] = [
    Speaker {
        name: "nmea",
        keys: "frame: nmea, decode: { type: nmea, match: { field: type, is: VHW } }, points: { v: { field: 1, type: number } }",
        frame: |n| format!("$IIVHW,{n},T*{}\r\n", xor(&format!("IIVHW,{n},T"))).into_bytes(),
        hit: flip,
        garbage: b"$GP\xff*zz\r\n$IIVHW,17000",
    },
    Speaker {
        name: "keyvalue",
        keys: "check: { xor: u8, as: hex, over: [1, -3] }, decode: { type: keyvalue }, points: { v: { field: V } }",
        frame: |n| format!("$V={n};U=3*{}\n", xor(&format!("V={n};U=3"))).into_bytes(),
        hit: flip,
        garbage: b"\x00\xfe;V=\xff=\n",
    },
    Speaker {
        name: "csv",
        keys: "decode: { type: csv, columns: [kind, v, end] }, points: { v: { field: v, type: number } }",
        frame: |n| format!("probe,{n},end\r\n").into_bytes(),
        hit: short,
        garbage: b"\x80rub,bish\n",
    },
    Speaker {
        name: "json",
        keys: "decode: { type: json }, points: { v: { field: a.v } }",
        frame: |n| format!("{{\"a\":{{\"v\":{n}}},\"b\":[1,2]}}\n").into_bytes(),
        hit: short,
        garbage: b"{]\xc3\n",
    },
    Speaker {
        name: "start_length",
        keys: "frame: { start: \"ff 86\", length: 9 }, check: { sum: u8, over: [1, -1], then: negate }, decode: { type: binary }, points: { v: { at: 2, as: u16be } }",
        frame: |n| {
            let [high, low] = n.to_be_bytes();
            let mut frame = vec![0xff, 0x86, high, low, 0x43, 0, 0, 0];
            frame.push(frame[1..].iter().fold(0u8, |sum, b| sum.wrapping_add(*b)).wrapping_neg());
            frame
        },
        hit: flip,
        garbage: b"\xff\x42\x86\xff",
    },
    Speaker {
        name: "length_prefix",
        keys: "frame: { start: \"42 4d\", length_prefix: u16be, at: 2, adjust: 4, max: 64 }, check: { sum: u16be }, decode: { type: binary }, points: { v: { at: 4, as: u16be } }",
        frame: |n| {
            let mut frame = [&[0x42, 0x4d, 0, 8], &n.to_be_bytes()[..], &[1, 2, 3, 4]].concat();
            let sum: u16 = frame.iter().map(|b| u16::from(*b)).sum();
            frame.extend_from_slice(&sum.to_be_bytes());
            frame
        },
        hit: flip,
        garbage: b"\x42\x4d\x00\x0b\x42\x42\x4d",
    },
    Speaker {
        name: "start_end",
        keys: "frame: { start: \"02\", end: \"03\", max: 64 }, check: { xor: u8, as: hex, over: [1, -3], at: -3 }, decode: { type: regex, pattern: '^\\x02v(?<v>[0-9]+)..\\x03$' }, points: { v: { field: v } }",
        frame: |n| format!("\u{2}v{n}{}\u{3}", xor(&format!("v{n}"))).into_bytes(),
        hit: flip,
        garbage: b"\x03\x02v17000",
    },
    Speaker {
        name: "cobs",
        keys: "frame: cobs, check: { crc: CCITT-FALSE }, decode: { type: binary }, points: { v: { at: 1, as: u16be } }",
        frame: |n| cobs(&with_crc(&[7], n, ccitt)),
        hit: flip,
        garbage: b"\x09\x11\x12\x00",
    },
    Speaker {
        name: "slip",
        keys: "frame: slip, check: { crc: CRC-16/MODBUS }, decode: { type: binary }, points: { v: { at: 1, as: u16be } }",
        frame: |n| slip(&with_crc(&[7], n, modbus)),
        hit: flip,
        garbage: b"\xc0\x42\xdb\xdb\xc0",
    },
    Speaker {
        name: "length",
        keys: "frame: { length: 8 }, check: { crc: CRC-32, endian: big }, decode: { type: binary }, points: { v: { at: 1, as: u16be } }",
        frame: |n| {
            let mut frame = [&[0xa5], &n.to_be_bytes()[..], &[0x55]].concat();
            let check = Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(&frame);
            frame.extend_from_slice(&check.to_be_bytes());
            frame
        },
        hit: flip,
        garbage: b"\xa5\x42",
    },
];

#[test]
fn twelve_ports_at_once_give_every_reading_and_none_of_a_frame_that_was_hit() {
    let seconds = std::env::var("MANY_PORTS_SECONDS").map_or(3, |s| s.parse().unwrap());
    let mut broker =
        Mosquitto::with(|port, _| format!("listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n"));
    let dir = tempfile::tempdir().unwrap();
    let mut ptys: Vec<Pty> = SPEAKERS.iter().map(|s| Pty::new(dir.path().join(s.name))).collect();
    let (air, supply) = (Pty::new(dir.path().join("air")), Pty::new(dir.path().join("supply")));
    let instrument = Instrument::on(&air, co2());
    let mut asked = 0;
    // of a line-based one every fourth answer is hit
    let lines = Instrument::of_lines(&supply, move |request| {
        assert_eq!(request, "V?");
        asked += 1;
        let line = format!("{}{}", if asked % 4 == 0 { POISON } else { 0 } + asked, ";x");
        let check = if asked % 4 == 0 { "00".to_owned() } else { xor(&line) };
        Some((5, format!("{line}*{check}\r\n")))
    });
    let mut text = String::from("ports:\n");
    for pty in ptys.iter().chain([&air, &supply]) {
        let name = pty.name().file_name().unwrap().to_str().unwrap();
        text.push_str(&format!("  {name}: {{ path: {}, baud_rate: 115200 }}\n", pty.name().display()));
    }
    text.push_str("devices:\n");
    for Speaker { name, keys, .. } in &SPEAKERS {
        text.push_str(&format!("  {name}: {{ kind: serial, port: {name}, {keys} }}\n"));
    }
    text.push_str("  air: { kind: serial, port: air, frame: { start: \"ff 86\", length: 9 }, check: { sum: u8, over: [1, -1], then: negate }, decode: { type: binary }, poll: { every: 100ms, send: { hex: \"ff 01 86 00 00 00 00 00\", check: append }, timeout: 100ms }, points: { v: { at: 2, as: u16be } } }\n");
    text.push_str("  supply: { kind: serial, port: supply, check: { xor: u8, as: hex, over: [0, -3] }, decode: { type: regex, pattern: '^(?<v>[0-9]+);x' }, poll: { every: 100ms, send: \"V?\\n\", timeout: 150ms }, points: { v: { field: v } } }\n");
    let home = Home::simple(&broker, &text);
    let mut readings = Watch::on(&mut broker, "gw/+");
    let mut states = Watch::on(&mut broker, "gw/+/availability");
    let gateway = home.start();
    for _ in 0..12 {
        assert_eq!(states.any().payload, "online");
    }

    let mut random = fastrand::Rng::with_seed(7);
    let begun = Instant::now();
    let (mut n, mut hits) = (0u32, 0u64);
    // a frame that was under way when the port was opened, and garbage
    for (pty, speaker) in ptys.iter_mut().zip(&SPEAKERS) {
        pty.write(&(speaker.frame)(POISON as u16)[3..]);
        pty.write(speaker.garbage);
    }
    while begun.elapsed() < Duration::from_secs(seconds) {
        for _ in 0..ROUND {
            n += 1;
            let mut pieces = Vec::new();
            for speaker in &SPEAKERS {
                let mut bytes = Vec::new();
                if random.u8(..) < 40 {
                    let frame = (speaker.frame)((POISON + random.u32(..1000)) as u16);
                    bytes.extend((speaker.hit)(frame));
                    hits += 1;
                }
                if random.u8(..) < 40 {
                    bytes.extend_from_slice(speaker.garbage);
                }
                bytes.extend((speaker.frame)((n % POISON) as u16));
                let second = bytes.split_off(random.usize(..bytes.len()));
                pieces.push((bytes, second));
            }
            for (pty, (first, _)) in ptys.iter_mut().zip(&pieces) {
                pty.write(first);
            }
            for (pty, (_, second)) in ptys.iter_mut().zip(&pieces) {
                pty.write(second);
            }
        }
        for speaker in &SPEAKERS {
            let topic = format!("gw/{}", speaker.name);
            for expected in n - ROUND + 1..=n {
                readings.expect(&topic, &(expected % POISON).to_string());
            }
        }
    }
    // what is asked was answered meanwhile, in order, and what was hit is not there
    let (mut air_next, mut supply_next) = (0, 0);
    for _ in 0..3 {
        air_next += if air_next % 3 == 1 { 2 } else { 1 };
        readings.expect("gw/air", &(400 + air_next).to_string());
        supply_next += if supply_next % 4 == 3 { 2 } else { 1 };
        readings.expect("gw/supply", &supply_next.to_string());
    }
    for speaker in &SPEAKERS {
        assert!(readings.left(&format!("gw/{}", speaker.name)).is_empty(), "{}", speaker.name);
    }
    assert!(n >= ROUND && hits > 0);
    println!("{n} readings of each of ten ports, {hits} frames hit, in {:?}", begun.elapsed());
    gateway.stop();
    instrument.end();
    lines.end();
}
