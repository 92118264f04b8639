//! THE CONTROL SOCKET: how `pinpost queue` talks to a running daemon.
//!
//! `control.sock` lies in the directory of small things; only the daemon's own user and root may use it (mode 0600,
//! and the peer is asked who it is). A line of JSON asks, a line of JSON answers, as often as the caller likes:
//!
//! | asks | answers |
//! |---|---|
//! | `{"ask":"status"}` | the queue's figures, as `bridge/response/queue` has them |
//! | `{"ask":"records","limit":N}` | a line for each record that waits, then `{"end":N}` |
//! | `{"ask":"purge","priority":WORD,"older_than_s":N}` | `{"purged":N}` |
//!
//! Nothing goes through the hub. A caller that hangs, floods or sends what is no question is cut off; there are at most
//! four, answered one at a time with a pause, so that whoever asks without end takes little of the daemon. Records are
//! read in a thread of their own, as fast as the caller takes them, for one caller at a time.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::WriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::queue::Which;

use super::figures::{Desk, purged_ranks};

/// Its name.
const SOCKET: &str = "control.sock";
/// Callers at a time.
const CALLERS: usize = 4;
/// Longest question, bytes.
const QUESTION: u64 = 4096;
/// How long a caller may take to ask, and to read an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to read a piece of the records: somebody may page through them.
const READING: Duration = Duration::from_secs(300);
/// Pause behind each answer.
const PAUSE: Duration = Duration::from_millis(5);
/// How long a caller waits for the daemon.
const WAIT: Duration = Duration::from_secs(15);
/// Longest line of an answer that a caller takes, bytes.
const ANSWER: u64 = 32 << 20;
/// Records are sent in pieces of about so many bytes, of which some wait.
const PIECE: usize = 64 << 10;
const PIECES: usize = 2;

/// The socket of a running daemon; gone with its owner.
pub(super) struct Control {
    task: JoinHandle<()>,
    path: PathBuf,
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Opens the socket. Without it the daemon runs all the same, and says so.
pub(super) fn start(dir: &Path, desk: Desk) -> Option<Control> {
    let path = dir.join(SOCKET);
    match listen(dir, &path) {
        Ok(listener) => Some(Control { task: tokio::spawn(serve(listener, desk)), path }),
        Err(e) => {
            log::warn!("{} cannot be opened ({e}): `pinpost queue` cannot ask this daemon", path.display());
            None
        }
    }
}

fn listen(dir: &Path, path: &Path) -> io::Result<UnixListener> {
    // the queue's lock is held, so it is nobody's who still lives
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(short(dir)?.name())?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// A name of the socket that is short enough for one: the directory, held open, may lie at a long path.
struct Short(std::fs::File);

fn short(dir: &Path) -> io::Result<Short> {
    let how = libc::O_DIRECTORY | libc::O_CLOEXEC;
    std::fs::OpenOptions::new().read(true).custom_flags(how).open(dir).map(Short)
}

impl Short {
    fn name(&self) -> PathBuf {
        format!("/proc/self/fd/{}/{SOCKET}", self.0.as_raw_fd()).into()
    }
}

/// What the callers share.
struct House {
    desk: Mutex<Desk>,
    /// Who reads records.
    reader: Semaphore,
}

async fn serve(listener: UnixListener, desk: Desk) {
    let places = Arc::new(Semaphore::new(CALLERS));
    let house = Arc::new(House { desk: Mutex::new(desk), reader: Semaphore::new(1) });
    // they end with the daemon
    let mut callers = JoinSet::new();
    loop {
        // whoever comes too much waits outside, where the kernel bounds the number
        let Ok(place) = places.clone().acquire_owned().await else { return };
        while callers.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((caller, _)) => {
                let house = house.clone();
                callers.spawn(async move {
                    attend(caller, &house).await;
                    drop(place);
                });
            }
            Err(e) => {
                log::debug!("control socket: {e}");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Answers one caller until it goes, errs or is too slow.
async fn attend(mut caller: UnixStream, house: &House) {
    let known = |uid: u32| uid == 0 || uid == nix::unistd::geteuid().as_raw();
    if !caller.peer_cred().is_ok_and(|peer| known(peer.uid())) {
        return;
    }
    let (from, mut to) = caller.split();
    let mut from = tokio::io::BufReader::new(from);
    loop {
        let mut line = Vec::new();
        let mut question = (&mut from).take(QUESTION);
        match timeout(PATIENCE, question.read_until(b'\n', &mut line)).await {
            Ok(Ok(n)) if n > 0 && line.ends_with(b"\n") => {}
            _ => return,
        }
        let question: Json = serde_json::from_slice(&line).unwrap_or_default();
        if question["ask"] == "records" {
            let Ok(_alone) = house.reader.try_acquire() else {
                write(&mut to, b"{\"error\":\"somebody else lists or exports the queue now\"}\n").await;
                return;
            };
            let limit = question["limit"].as_u64().unwrap_or(u64::MAX);
            let pieces = read(&*house.desk.lock().await, limit);
            if !send(&mut to, pieces).await {
                return;
            }
            continue;
        }
        let answer = {
            let desk = house.desk.lock().await;
            let answer = answer(&desk, &question).await;
            tokio::time::sleep(PAUSE).await;
            answer
        };
        let right = answer.get("error").is_none();
        if !write(&mut to, format!("{answer}\n").as_bytes()).await || !right {
            return;
        }
    }
}

async fn answer(desk: &Desk, question: &Json) -> Json {
    match question["ask"].as_str() {
        Some("status") => Json::Object(desk.figures()),
        Some("purge") => match purged_ranks(question["priority"].as_str()) {
            Ok(ranks) => {
                let older_than = question["older_than_s"].as_u64().map(Duration::from_secs);
                let all: Vec<_> = ranks.into_iter().map(|rank| Which { rank: Some(rank), older_than }).collect();
                json!({ "purged": desk.purge(&all).await })
            }
            Err(e) => json!({ "error": e }),
        },
        _ => json!({ "error": "ask status, records or purge" }),
    }
}

/// Reads records in a thread that waits for whoever takes them, and ends with it.
fn read(desk: &Desk, limit: u64) -> mpsc::Receiver<Vec<u8>> {
    let records = desk.records();
    let (tx, rx) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        let (mut piece, mut n) = (Vec::new(), 0u64);
        for record in records.take(usize::try_from(limit).unwrap_or(usize::MAX)) {
            n += 1;
            piece.extend_from_slice(Json::Object(record).to_string().as_bytes());
            piece.push(b'\n');
            if piece.len() >= PIECE && tx.blocking_send(std::mem::take(&mut piece)).is_err() {
                return;
            }
        }
        piece.extend_from_slice(format!("{{\"end\":{n}}}\n").as_bytes());
        let _ = tx.blocking_send(piece);
    });
    rx
}

async fn send(to: &mut WriteHalf<'_>, mut pieces: mpsc::Receiver<Vec<u8>>) -> bool {
    while let Some(piece) = pieces.recv().await {
        if !matches!(timeout(READING, to.write_all(&piece)).await, Ok(Ok(()))) {
            return false;
        }
    }
    true
}

async fn write(to: &mut WriteHalf<'_>, bytes: &[u8]) -> bool {
    matches!(timeout(PATIENCE, to.write_all(bytes)).await, Ok(Ok(())))
}

/// Whether a daemon answers at a directory of small things.
pub fn answers(dir: &Path) -> bool {
    short(dir).and_then(|s| StdStream::connect(s.name())).is_ok()
}

/// A conversation with a running daemon.
#[derive(Debug)]
pub struct Caller(BufReader<StdStream>);

/// Calls the daemon at a directory of small things; `None`: none runs there.
pub fn call(dir: &Path) -> io::Result<Option<Caller>> {
    let stream = match short(dir).and_then(|s| StdStream::connect(s.name())) {
        Ok(stream) => stream,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => return Ok(None),
        Err(e) => return Err(e),
    };
    stream.set_read_timeout(Some(WAIT))?;
    stream.set_write_timeout(Some(WAIT))?;
    Ok(Some(Caller(BufReader::new(stream))))
}

impl Caller {
    /// Asks; the error is for people.
    pub fn ask(&mut self, question: &Json) -> Result<Json, String> {
        self.say(question)?;
        self.line()
    }

    /// Asks for what waits; each record is handed over until that says that it is enough.
    pub fn records(&mut self, limit: usize, mut put: impl FnMut(&Json) -> bool) -> Result<(), String> {
        self.say(&json!({ "ask": "records", "limit": limit }))?;
        loop {
            let record = self.line()?;
            if record.get("end").is_some() || !put(&record) {
                return Ok(());
            }
        }
    }

    fn say(&mut self, question: &Json) -> Result<(), String> {
        let told = self.0.get_mut().write_all(format!("{question}\n").as_bytes());
        told.map_err(|e| format!("the daemon does not listen: {e}"))
    }

    fn line(&mut self) -> Result<Json, String> {
        let mut line = Vec::new();
        let mut from = io::Read::take(&mut self.0, ANSWER);
        from.read_until(b'\n', &mut line).map_err(|e| format!("the daemon does not answer: {e}"))?;
        if !line.ends_with(b"\n") {
            return Err("the daemon has hung up (only its own user and root may ask)".into());
        }
        let answer: Json = serde_json::from_slice(&line).map_err(|e| format!("the daemon's answer: {e}"))?;
        match answer["error"].as_str() {
            Some(error) => Err(format!("the daemon refuses: {error}")),
            None => Ok(answer),
        }
    }
}
