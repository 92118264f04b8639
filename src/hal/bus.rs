//! A port that several devices share: one task owns the stream, the devices listen and take turns to speak.
//!
//! Promises:
//! - [`Task::run`] opens the port, opens it again when it is gone, and ends when no device holds a [`Bus`] any more.
//! - Every member hears every byte, in order, with the moment it was read and whose turn it was. A member that is
//!   behind holds back the port, never another port; nothing is buffered beyond a few reads.
//! - One member speaks at a time ([`Member::turn`]): commands before polls, then who asked first. What is written
//!   waits until the line has been quiet for a moment, so that nobody is interrupted.
//! - Reading goes on while a write is blocked; a write that is not taken in [`WRITE_PATIENCE`] is given up.
//! - [`Heard::Begun`] stands between what was heard before a request and what may be its answer.

mod turns;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use self::turns::Turns;
pub use self::turns::{Turn, Urgency};
use super::port::sim::SimPort;
use super::port::{self, PortKind, PortSpec, Stream};
use crate::backoff::Backoff;

/// Longest time a write may take before the port counts as stuck.
pub const WRITE_PATIENCE: Duration = Duration::from_secs(4);
/// Longest time that a line is waited for to be quiet: some are never.
const NEVER_QUIET: Duration = Duration::from_millis(500);
/// Bytes taken from a port at once.
const READ: usize = 4096;
/// Reads that wait for a member before the port is held back.
const AHEAD: usize = 16;
/// First and longest wait between two tries to open. A node that comes back ends the wait at once.
const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(4);
/// A port that was open this long was well; its next failure begins with a short wait again.
const WELL: Duration = Duration::from_secs(10);

/// What a member hears.
#[derive(Debug, Clone)]
pub enum Heard {
    /// Bytes of the port.
    Bytes {
        /// When they were read.
        at: Instant,
        /// Never empty.
        bytes: Arc<[u8]>,
        /// Whether another member had asked and still had its turn.
        others: bool,
    },
    /// The member's own request goes out now: what was heard before is not its answer.
    Begun {
        /// Whether the line was quiet: then nothing that came before is in the middle of anything.
        quiet: bool,
    },
    /// The request is out, at the moment when by the line's speed its last bit has left; or why not.
    Written(Result<Instant, String>),
    /// The port is gone, and why. Nothing comes after it.
    Lost(String),
}

/// A port for devices; clones are the same port.
#[derive(Clone)]
pub struct Bus(Arc<Shared>);

struct Shared {
    spec: PortSpec,
    door: mpsc::Sender<Ask>,
    state: watch::Receiver<State>,
    turns: Arc<Turns>,
    ids: AtomicU64,
}

#[derive(Debug, Clone, PartialEq)]
enum State {
    /// It was not tried yet.
    New,
    Open,
    Closed(String),
}

enum Ask {
    Join(u64, mpsc::Sender<Heard>),
    Write(Request),
}

struct Request {
    member: u64,
    bytes: Vec<u8>,
    quiet: Duration,
    asked: Instant,
}

/// The task of a port.
pub struct Task {
    spec: PortSpec,
    door: mpsc::Receiver<Ask>,
    state: watch::Sender<State>,
    turns: Arc<Turns>,
    members: Vec<Listener>,
    sim: Option<SimPort>,
}

/// A member as the task knows it.
struct Listener {
    id: u64,
    to: mpsc::Sender<Heard>,
    /// What it is behind; reading waits for it, so this is short.
    behind: VecDeque<Heard>,
}

/// A port for devices, and the task that must run for it.
pub fn bus(spec: PortSpec) -> (Bus, Task) {
    let (door, asks) = mpsc::channel(64);
    let (tell, state) = watch::channel(State::New);
    let turns = Arc::<Turns>::default();
    let task =
        Task { spec: spec.clone(), door: asks, state: tell, turns: turns.clone(), members: Vec::new(), sim: None };
    (Bus(Arc::new(Shared { spec, door, state, turns, ids: AtomicU64::new(1) })), task)
}

impl Bus {
    /// What the port is.
    pub fn spec(&self) -> &PortSpec {
        &self.0.spec
    }

    /// Joins in, once the port is open; why it is not, where opening has failed. What is heard begins now.
    pub async fn join(&self) -> Result<Member, String> {
        let gone = || "the port's task has ended".to_owned();
        let mut state = self.0.state.clone();
        if let State::Closed(why) = &*state.wait_for(|s| *s != State::New).await.map_err(|_| gone())? {
            return Err(why.clone());
        }
        let id = self.0.ids.fetch_add(1, Ordering::Relaxed);
        let (to, heard) = mpsc::channel(AHEAD);
        self.0.door.send(Ask::Join(id, to)).await.map_err(|_| gone())?;
        Ok(Member { id, bus: self.clone(), heard })
    }

    /// Returns when the port is open, at the latest after `longest`.
    pub async fn wait(&self, longest: Duration) {
        let mut state = self.0.state.clone();
        let open = async {
            if state.wait_for(|s| *s == State::Open).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let _ = tokio::time::timeout(longest, open).await;
    }
}

/// A device's place at a port.
pub struct Member {
    id: u64,
    bus: Bus,
    heard: mpsc::Receiver<Heard>,
}

/// Why a question got no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AskError {
    /// The port is gone: the driver ends with this reason.
    Lost(String),
    /// The port did not take the request.
    NotTaken(String),
    /// Nothing, or nothing whole, came in time; what did come.
    Silent(Vec<u8>),
}

/// Longest answer that [`Member::ask`] keeps.
const LONGEST_ANSWER: usize = 64 * 1024;

impl Member {
    /// The next that is heard. Cancel safe.
    pub async fn next(&mut self) -> Heard {
        match self.heard.recv().await {
            Some(heard) => heard,
            None => Heard::Lost("the port is gone".into()),
        }
    }

    /// The next, if it was heard already.
    pub fn heard_already(&mut self) -> Option<Heard> {
        self.heard.try_recv().ok()
    }

    /// Waits for a turn to speak; it lasts until it is dropped. Who waits must go on listening ([`Member::next`]), or
    /// it holds back the port. The future is its own: it may be kept beside the member, and dropped at any time.
    pub fn turn(&self, urgency: Urgency) -> impl Future<Output = Turn> + Send + use<> {
        self.bus.0.turns.clone().wait(self.id, urgency)
    }

    /// Writes a request once the line has been quiet for `quiet` (a line that never is gets half a second). The member
    /// hears [`Heard::Begun`] and [`Heard::Written`].
    pub async fn write(&self, _turn: &Turn, bytes: Vec<u8>, quiet: Duration) {
        let request = Request { member: self.id, bytes, quiet, asked: Instant::now() };
        // a task that has ended is heard of as a lost port
        let _ = self.bus.0.door.send(Ask::Write(request)).await;
    }

    /// One question and its answer, for kinds that only hear what they have asked for. `whole` gets all that came
    /// since the request began to go out, and says what the answer is when it is whole. `patience` counts from when
    /// the request is out.
    pub async fn ask<T>(
        &mut self,
        urgency: Urgency,
        request: Vec<u8>,
        quiet: Duration,
        patience: Duration,
        mut whole: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<T, AskError> {
        let turn = {
            let mut wait = std::pin::pin!(self.turn(urgency));
            loop {
                tokio::select! {
                    turn = &mut wait => break turn,
                    heard = self.next() => if let Heard::Lost(why) = heard {
                        return Err(AskError::Lost(why));
                    },
                }
            }
        };
        self.write(&turn, request, quiet).await;
        let mut answer: Option<Vec<u8>> = None;
        let mut until: Option<Instant> = None;
        loop {
            let heard = tokio::select! {
                heard = self.next() => heard,
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                    return Err(AskError::Silent(answer.unwrap_or_default()));
                }
            };
            match heard {
                Heard::Begun { .. } => answer = Some(Vec::new()),
                Heard::Written(Ok(at)) => until = Some(at + patience),
                Heard::Written(Err(why)) => return Err(AskError::NotTaken(why)),
                Heard::Lost(why) => return Err(AskError::Lost(why)),
                Heard::Bytes { bytes, .. } => {
                    let Some(answer) = &mut answer else { continue };
                    answer.extend(bytes.iter().take(LONGEST_ANSWER - answer.len()));
                    if let Some(answer) = whole(answer) {
                        return Ok(answer);
                    }
                }
            }
        }
    }
}

/// A request on its way out.
struct Writing {
    member: u64,
    bytes: Vec<u8>,
    at: usize,
    /// The moment it is given up.
    until: Instant,
}

enum Did {
    Read(Result<usize, String>),
    Wrote(Result<(), String>),
}

impl Task {
    /// The port's name in the file.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Nothing is opened from now on: the other end is simulated.
    pub fn simulate(&mut self, port: SimPort) {
        self.sim = Some(port);
    }

    /// Runs until no device holds the port any more. After a panic it may be run again.
    pub async fn run(&mut self) {
        if *self.state.borrow() != State::New {
            let why = "internal fault of the port's task";
            self.state.send_replace(State::Closed(why.into()));
            self.lose(why);
        }
        let mut backoff = Backoff::new(FIRST, LONGEST);
        loop {
            let opened = {
                let mut opening = std::pin::pin!(async {
                    match &self.sim {
                        Some(sim) => port::open_simulated(sim),
                        None => port::open(&self.spec).await,
                    }
                });
                loop {
                    tokio::select! {
                        opened = &mut opening => break opened,
                        ask = self.door.recv() => match ask {
                            Some(ask) => refuse(ask, "the port is not open yet"),
                            None => return,
                        },
                    }
                }
            };
            let why = match opened {
                Ok(stream) => {
                    let since = Instant::now();
                    self.state.send_replace(State::Open);
                    let Some(why) = self.serve(stream).await else { return };
                    if since.elapsed() > WELL {
                        backoff.held();
                    }
                    why
                }
                Err(e) => e.text,
            };
            self.state.send_replace(State::Closed(why.clone()));
            self.lose(&why);
            let longest = backoff.failed();
            let mut wait = std::pin::pin!(async {
                match &self.sim {
                    Some(sim) => drop(tokio::time::timeout(longest, sim.back()).await),
                    None => port::wait_for(&self.spec, longest).await,
                }
            });
            loop {
                tokio::select! {
                    () = &mut wait => break,
                    ask = self.door.recv() => match ask {
                        Some(ask) => refuse(ask, &why),
                        None => return,
                    },
                }
            }
        }
    }

    /// All members are told that the port is gone.
    fn lose(&mut self, why: &str) {
        for mut member in self.members.drain(..) {
            member.behind.push_back(Heard::Lost(why.to_owned()));
            // one that is far behind finds its channel closed
            while let Some(heard) = member.behind.pop_front() {
                if member.to.try_send(heard).is_err() {
                    break;
                }
            }
        }
    }

    /// Serves an open port until it is gone (why), or nobody holds it any more (`None`).
    async fn serve(&mut self, mut stream: Stream) -> Option<String> {
        let mut buffer = vec![0; READ];
        let mut requests: VecDeque<Request> = VecDeque::new();
        let mut writing: Option<Writing> = None;
        // a line just opened counts as quiet: nobody was heard
        let mut heard_at: Option<Instant> = None;
        // who spoke last; as long as it has its turn, what comes is for it
        let mut spoke: Option<u64> = None;
        loop {
            let behind = self.members.iter().position(|m| !m.behind.is_empty());
            let begin = match (&writing, requests.front()) {
                (None, Some(r)) => {
                    let quiet = heard_at.map_or(r.asked, |at| at + r.quiet);
                    Some(quiet.clamp(r.asked, r.asked + NEVER_QUIET.max(r.quiet)))
                }
                _ => None,
            };
            let give_up = writing.as_ref().map(|w| w.until);
            let soon = Instant::now;
            tokio::select! {
                did = step(&mut stream, &mut buffer, behind.is_none(), &mut writing) => match did {
                    Did::Read(Ok(n)) if n > 0 => {
                        let at = Instant::now();
                        heard_at = Some(at);
                        let bytes: Arc<[u8]> = buffer.get(..n).unwrap_or_default().into();
                        let speaker = spoke.filter(|_| self.turns.speaker() == spoke);
                        for member in &mut self.members {
                            let others = speaker.is_some_and(|s| s != member.id);
                            member.tell(Heard::Bytes { at, bytes: bytes.clone(), others });
                        }
                    }
                    Did::Read(Ok(_)) => return Some(stream.ended().unwrap_or("the port was closed").to_owned()),
                    Did::Read(Err(e)) => return Some(e),
                    Did::Wrote(result) => if let Some(w) = writing.take() {
                        let out = result.map(|()| Instant::now() + self.time_of(w.bytes.len()));
                        self.tell(w.member, Heard::Written(out));
                    },
                },
                () = sleep_until(begin.unwrap_or_else(soon)), if begin.is_some() => {
                    if let Some(Request { member, bytes, quiet, .. }) = requests.pop_front() {
                        let quiet = heard_at.is_none_or(|at| at.elapsed() >= quiet);
                        self.tell(member, Heard::Begun { quiet });
                        spoke = Some(member);
                        writing = Some(Writing { member, bytes, at: 0, until: Instant::now() + WRITE_PATIENCE });
                    }
                }
                () = sleep_until(give_up.unwrap_or_else(soon)), if give_up.is_some() => {
                    if let Some(w) = writing.take() {
                        let why = match w.at {
                            0 => "the port did not take it in time".to_owned(),
                            n => format!("the port took {n} of {} bytes in time", w.bytes.len()),
                        };
                        self.tell(w.member, Heard::Written(Err(why)));
                    }
                }
                () = room(&self.members, behind), if behind.is_some() => {
                    if let Some(member) = behind.and_then(|i| self.members.get_mut(i)) {
                        member.catch_up();
                    }
                }
                ask = self.door.recv() => match ask {
                    Some(Ask::Join(id, to)) => self.members.push(Listener { id, to, behind: VecDeque::new() }),
                    Some(Ask::Write(request)) => requests.push_back(request),
                    None => return None,
                },
            }
            self.members.retain(|m| !m.to.is_closed());
        }
    }

    fn tell(&mut self, member: u64, heard: Heard) {
        if let Some(member) = self.members.iter_mut().find(|m| m.id == member) {
            member.tell(heard);
        }
    }

    /// How long so many bytes are on their way after they were handed to the kernel.
    fn time_of(&self, bytes: usize) -> Duration {
        match &self.spec.kind {
            PortKind::Path { line, .. } | PortKind::Usb { line, .. } => {
                let bits = (bytes as u64).saturating_mul(u64::from(line.bits_per_byte()));
                Duration::from_secs_f64(bits as f64 / f64::from(line.baud_rate.max(1)))
            }
            PortKind::Tcp { .. } | PortKind::Command { .. } => Duration::ZERO,
        }
    }
}

impl Listener {
    fn tell(&mut self, heard: Heard) {
        self.behind.push_back(heard);
        self.catch_up();
    }
    fn catch_up(&mut self) {
        while let Some(heard) = self.behind.pop_front() {
            match self.to.try_send(heard) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(heard)) => {
                    self.behind.push_front(heard);
                    return;
                }
                Err(mpsc::error::TrySendError::Closed(_)) => self.behind.clear(),
            }
        }
    }
}

/// Until a member that is behind may be told more, or is gone.
async fn room(members: &[Listener], behind: Option<usize>) {
    if let Some(member) = behind.and_then(|i| members.get(i)) {
        let _ = member.to.reserve().await;
    }
}

fn refuse(ask: Ask, why: &str) {
    if let Ask::Join(_, to) = ask {
        let _ = to.try_send(Heard::Lost(why.to_owned()));
    }
}

/// Writes and reads, whichever is ready. Cancel safe: what was written is noted in `writing`.
async fn step(stream: &mut Stream, buffer: &mut [u8], reads: bool, writing: &mut Option<Writing>) -> Did {
    poll_fn(|cx| {
        if let Some(w) = writing.as_mut() {
            loop {
                let rest = w.bytes.get(w.at..).unwrap_or_default();
                let wrote = if rest.is_empty() {
                    match Pin::new(&mut *stream).poll_flush(cx) {
                        Poll::Ready(Ok(())) => Ok(()),
                        Poll::Ready(Err(e)) => Err(format!("the port did not take it: {e}")),
                        Poll::Pending => break,
                    }
                } else {
                    match Pin::new(&mut *stream).poll_write(cx, rest) {
                        Poll::Ready(Ok(0)) => Err("the port takes no more".to_owned()),
                        Poll::Ready(Ok(n)) => {
                            w.at += n;
                            continue;
                        }
                        Poll::Ready(Err(e)) => Err(format!("the port did not take it: {e}")),
                        Poll::Pending => break,
                    }
                };
                return Poll::Ready(Did::Wrote(wrote));
            }
        }
        if reads {
            let mut buf = ReadBuf::new(buffer);
            if let Poll::Ready(result) = Pin::new(&mut *stream).poll_read(cx, &mut buf) {
                let n = buf.filled().len();
                return Poll::Ready(Did::Read(result.map(|()| n).map_err(|e| e.to_string())));
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests;
