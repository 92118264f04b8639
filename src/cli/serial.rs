//! `pinpost serial sniff`: what a serial line says, and what a device of a file would make of it.
//!
//! It only listens: it writes nothing to the port and asks no instrument. Bytes, frames and readings go to stdout, words
//! to stderr. A capture is a text file ([`capture`]); a replay runs it through a device without hardware and without
//! waiting: its time is the file's, silences included.

mod capture;
mod show;

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, Subcommand};
use log::LevelFilter;
use tokio::io::AsyncReadExt;
use tokio::signal::unix::SignalKind;

use self::show::{Device, Screen};
use super::out::{data, say};
use super::subscribe::signal_of;
use super::{DEFAULT_FILE, Failure, Outcome, block_on, file};
use crate::config::raw::Parity;
use crate::config::scalar::Span;
use crate::device::Ear;
use crate::hal::port::{self, Line, PortKind, PortSpec};
use crate::logging;
use crate::model::DeviceSpec;
use crate::plan::Plan;

/// Bytes taken from a port at once.
const READ: usize = 4096;

const EXAMPLES: &str = "\
Examples:
  pinpost serial sniff /dev/ttyUSB0 --baud 9600        every read with its time, as hex and text
  pinpost serial sniff -c my.yaml --device meter       how its frames are cut, checked and decoded, or why not
  pinpost serial sniff ser2net:4001 --for 10s --capture meter.txt
                                                       ten seconds into a file
  pinpost serial sniff -c my.yaml --device meter --replay meter.txt
                                                       the file through the device, without hardware

It only listens: an instrument that speaks only when asked is heard while somebody else asks it. Stop the daemon
first, a port has one owner.";

/// Arguments of `pinpost serial`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct SerialArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show what a line says, and what a device would make of it
    #[command(after_help = EXAMPLES)]
    Sniff(SniffArgs),
}

#[derive(Debug, Args)]
struct SniffArgs {
    /// A device path, HOST:PORT, or the name of a port of the file; default: the device's own port
    port: Option<String>,
    /// Bits a second; default: as the file says for the device's port, else 9600
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    baud: Option<u32>,
    /// 5 to 8
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(5..=8))]
    data_bits: Option<u8>,
    /// none, odd or even
    #[arg(long, value_name = "WORD", value_parser = parity)]
    parity: Option<Parity>,
    /// 1 or 2
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=2))]
    stop_bits: Option<u8>,
    /// The configuration file [default with --device: /etc/pinpost/config.yaml]
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The serial device of the file whose frames these are
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// Write every read to this file too; it is replaced
    #[arg(long, value_name = "FILE", conflicts_with = "replay")]
    capture: Option<PathBuf>,
    /// Take the bytes and times of this capture instead of a port's
    #[arg(long, value_name = "FILE", conflicts_with_all = ["port", "baud", "data_bits", "parity", "stop_bits", "time"])]
    replay: Option<PathBuf>,
    /// Stop after this time: 10s, 5m
    #[arg(long = "for", value_name = "DURATION")]
    time: Option<Span>,
    /// Stop after so many frames, good or refused; without --device after so many reads
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

fn parity(text: &str) -> Result<Parity, String> {
    match text {
        "none" => Ok(Parity::None),
        "odd" => Ok(Parity::Odd),
        "even" => Ok(Parity::Even),
        _ => Err("write none, odd or even".into()),
    }
}

/// Runs the command.
pub fn run(args: &SerialArgs) -> Outcome {
    let What::Sniff(args) = &args.what;
    logging::init(LevelFilter::Warn);
    let plan = match (&args.config, &args.device) {
        (None, None) => None,
        (file, _) => Some(file::plan_quietly(file.as_deref().unwrap_or(Path::new(DEFAULT_FILE)))?),
    };
    let lines = plan.as_ref().map(|p| p.lines.clone());
    let ear = match (&args.device, plan) {
        (Some(name), Some(plan)) => Some(ear(plan, name)?),
        _ => None,
    };
    let (own, device, asked) = match ear {
        Some((Ear { port, pipeline, asked, .. }, points)) => (Some(port), Some(Device { pipeline, points }), asked),
        None => (None, None, false),
    };
    let screen = Screen::new(device);
    if let Some(file) = &args.replay {
        return replay(file, screen, args.count);
    }
    let spec = port_of(args, own, lines.as_deref())?;
    if asked {
        say("pinpost: this device is asked by `poll`; sniff asks nothing and shows what others make it say");
    }
    block_on(listen(args, spec, screen))
}

/// A device of the plan as a listener, and the names of its points.
fn ear(plan: Plan, name: &str) -> Result<(Ear, Vec<String>), Failure> {
    let serial = |spec: &&DeviceSpec| spec.kind == "serial";
    let names: Vec<&str> = plan.devices.iter().map(|d| &d.spec).filter(serial).map(|s| s.name.as_str()).collect();
    let advice = match names.as_slice() {
        [] => "the file has no device of kind serial".to_owned(),
        names => format!("devices of kind serial are {}", names.join(", ")),
    };
    let Some(at) = plan.devices.iter().position(|d| d.spec.name == name) else {
        return Err(Failure::usage(format!("there is no device `{}`; {advice}", name.escape_debug())));
    };
    let id = plan.devices.get(at).map(|d| d.spec.id);
    let points = plan.points.iter().filter(|p| Some(p.device) == id).map(|p| p.name.clone()).collect();
    let kind = plan.devices.get(at).map_or("", |d| d.spec.kind);
    let wrong = Failure::usage(format!("`{name}` is of kind {kind} and cuts no frames; {advice}"));
    let ear = plan.devices.into_iter().nth(at).and_then(|d| d.driver.into_ear()).ok_or(wrong)?;
    Ok((ear, points))
}

/// Which port is meant, and how it is driven.
fn port_of(args: &SniffArgs, own: Option<PortSpec>, lines: Option<&[PortSpec]>) -> Result<PortSpec, Failure> {
    let own_line = match own.as_ref().map(|p| &p.kind) {
        Some(PortKind::Path { line, .. } | PortKind::Usb { line, .. }) => *line,
        _ => Line::default(),
    };
    let mut spec = match (&args.port, own) {
        (None, Some(own)) => own,
        (None, None) => {
            return Err(Failure::usage("name a port: pinpost serial sniff /dev/ttyUSB0 (`pinpost ports` lists them)"));
        }
        (Some(name), _) => named(name, own_line, lines)?,
    };
    let given = args.baud.is_some() || args.data_bits.is_some() || args.parity.is_some() || args.stop_bits.is_some();
    match &mut spec.kind {
        PortKind::Path { line, .. } | PortKind::Usb { line, .. } => {
            line.baud_rate = args.baud.unwrap_or(line.baud_rate);
            line.data_bits = args.data_bits.unwrap_or(line.data_bits);
            line.parity = args.parity.unwrap_or(line.parity);
            line.stop_bits = args.stop_bits.unwrap_or(line.stop_bits);
        }
        _ if given => {
            return Err(Failure::usage(format!(
                "{} has no speed and no bits; leave --baud and the like out",
                spec.kind
            )));
        }
        _ => {}
    }
    Ok(spec)
}

fn named(name: &str, line: Line, lines: Option<&[PortSpec]>) -> Result<PortSpec, Failure> {
    if let Some(port) = lines.into_iter().flatten().find(|p| p.name == name) {
        return Ok(port.clone());
    }
    let spec = |kind| Ok(PortSpec { name: name.to_owned(), kind });
    if name.contains('/') {
        return spec(PortKind::Path { path: name.to_owned(), line });
    }
    if name.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) {
        return spec(PortKind::Tcp { host_port: name.to_owned() });
    }
    let shown = name.escape_debug();
    Err(Failure::usage(match lines {
        None => format!("`{shown}` is no path and no HOST:PORT; for the name of a port give its file: -c FILE"),
        Some([]) => format!("there is no port `{shown}`; the file has none"),
        Some(lines) => {
            let names: Vec<&str> = lines.iter().map(|p| p.name.as_str()).collect();
            format!("there is no port `{shown}`; the file's are {}", names.join(", "))
        }
    }))
}

fn enough(screen: &Screen, wanted: Option<u64>, device: bool) -> bool {
    let seen = if device { screen.counts.all_frames() } else { screen.counts.reads };
    wanted.is_some_and(|n| seen >= n)
}

/// A capture through the device, in the capture's own time.
fn replay(path: &Path, mut screen: Screen, wanted: Option<u64>) -> Outcome {
    let failed = |why: String| Failure::failed(format!("{}: {why}", path.display()));
    let from = File::open(path).map_err(|e| failed(e.to_string()))?;
    let device = screen.has_device();
    let mut text = String::new();
    let mut ended = false;
    for heard in capture::Reader::new(BufReader::new(from)) {
        let heard = heard.map_err(failed)?;
        text.clear();
        ended = heard.bytes.is_empty();
        match heard.bytes.as_slice() {
            [] => screen.silence(heard.at, &mut text),
            bytes => screen.heard(heard.at, bytes, &mut text),
        }
        data(text.as_bytes())?;
        if enough(&screen, wanted, device) {
            ended = true;
            break;
        }
    }
    // a file that does not say when listening ended is followed by silence
    if let Some(wakes) = screen.wakes().filter(|_| !ended) {
        text.clear();
        screen.silence(wakes, &mut text);
        data(text.as_bytes())?;
    }
    say(&format!("pinpost: {}", screen.summary()));
    Ok(())
}

/// A port, until it is enough, a signal, or the port's end.
async fn listen(args: &SniffArgs, spec: PortSpec, mut screen: Screen) -> Outcome {
    let mut terminate = signal_of(SignalKind::terminate())?;
    let mut interrupt = signal_of(SignalKind::interrupt())?;
    let mut record = match &args.capture {
        Some(path) => {
            let made = File::create(path).and_then(capture::Writer::new);
            Some((made.map_err(|e| Failure::failed(format!("{}: {e}", path.display())))?, path))
        }
        None => None,
    };
    let mut stream = tokio::select! {
        opened = port::open(&spec) => opened.map_err(|e| Failure::failed(e.text))?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let begun = Instant::now();
    say(&format!("pinpost: listening to {}; Ctrl-C ends it", said(&spec.kind)));
    let (device, mut buffer, mut text) = (screen.has_device(), vec![0; READ], String::new());
    let until = args.time.and_then(|t| begun.checked_add(t.0));
    let outcome = loop {
        let wakes = screen.wakes().and_then(|t| begun.checked_add(t));
        text.clear();
        tokio::select! {
            biased;
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            () = tokio::time::sleep_until(until.unwrap_or(begun).into()), if until.is_some() => break Ok(()),
            read = stream.read(&mut buffer) => match read {
                Ok(0) => {
                    let why = stream.ended().unwrap_or("the port was closed");
                    break Err(Failure::failed(format!("{}: {why}", spec.kind)));
                }
                Ok(n) => {
                    let (at, bytes) = (begun.elapsed(), buffer.get(..n).unwrap_or_default());
                    if let Some((record, path)) = &mut record {
                        let wrote = record.write(at, bytes);
                        wrote.map_err(|e| Failure::failed(format!("{}: {e}", path.display())))?;
                    }
                    screen.heard(at, bytes, &mut text);
                }
                Err(e) => break Err(Failure::failed(format!("{}: {e}", spec.kind))),
            },
            () = tokio::time::sleep_until(wakes.unwrap_or(begun).into()), if wakes.is_some() => {
                screen.silence(begun.elapsed(), &mut text);
            }
        }
        data(text.as_bytes())?;
        if enough(&screen, args.count, device) {
            break Ok(());
        }
    };
    if let Some((record, path)) = &mut record {
        // when listening ended: the silence before it is a part of what was heard
        let wrote = record.write(begun.elapsed(), &[]);
        wrote.map_err(|e| Failure::failed(format!("{}: {e}", path.display())))?;
    }
    say(&format!("pinpost: {}", screen.summary()));
    outcome
}

/// A port with its speed, for people.
fn said(kind: &PortKind) -> String {
    match kind {
        PortKind::Path { line, .. } | PortKind::Usb { line, .. } => format!("{kind} at {line}"),
        _ => kind.to_string(),
    }
}
