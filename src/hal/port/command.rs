//! A program as a byte stream: its output is read, its input is written, its complaints go to the log.
//!
//! It leads its own process group. Dropping the stream asks the group to end, kills it two seconds later, and kills it
//! at once if the runtime stops before that. What it wrote before its end is still read.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

use crate::hal::{HalError, HalErrorKind};

/// Time between asking a program to end and killing it.
const GRACE: Duration = Duration::from_secs(2);
/// Time that a program which closed its output has to end by itself, so that its exit status can be told.
const EXIT: Duration = Duration::from_secs(1);
/// Lines of complaint that go to the log in each [`WINDOW`].
const LINES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);
/// Longest line of complaint, in bytes; the rest of it is cut off.
const LINE_MAX: usize = 512;

/// A program that runs.
#[derive(Debug)]
pub struct Running {
    stdout: ChildStdout,
    stdin: ChildStdin,
    exit: oneshot::Receiver<String>,
    /// Set when the output has ended: how long to wait for the exit status.
    ending: Option<Pin<Box<Sleep>>>,
    /// Dropped with the stream: tells the keeper to end the program.
    _stop: oneshot::Sender<()>,
}

pub fn open(name: &str, argv: &[String]) -> Result<Running, HalError> {
    let io_error = |text: &str| HalError::new(HalErrorKind::Io, text);
    let (program, args) = argv.split_first().ok_or_else(|| {
        HalError::new(HalErrorKind::Unsupported, "`command` is empty; write the program and its arguments")
    })?;
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| cannot_run(program, &e))?;
    let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(io_error("the program's streams are missing"));
    };
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).ok_or_else(|| io_error("the program has no pid"))?;
    let (stop, stopped) = oneshot::channel();
    let (told, exit) = oneshot::channel();
    let group = Group { child, leader: Pid::from_raw(pid) };
    tokio::spawn(keep(group, program.clone(), stopped, told));
    let name = name.to_owned();
    tokio::spawn(complaints(stderr, move |line| log::warn!("port {name}: {line}")));
    Ok(Running { stdout, stdin, exit, ending: None, _stop: stop })
}

fn cannot_run(program: &str, e: &io::Error) -> HalError {
    // a directory of PATH that this user may not enter hides that the program is in none of them
    let in_path = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
    };
    match e.kind() {
        io::ErrorKind::PermissionDenied if program.contains('/') || in_path() => HalError::new(
            HalErrorKind::Permission,
            format!("`{program}` may not be run: is it executable for this user?"),
        ),
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => HalError::new(
            HalErrorKind::NotFound,
            format!("there is no program `{program}`; install it or write its full path"),
        ),
        _ => HalError::new(HalErrorKind::Io, format!("cannot run `{program}`: {e}")),
    }
}

/// The program and all that it started. Dropping it kills whatever is left of them.
struct Group {
    child: Child,
    leader: Pid,
}

impl Drop for Group {
    fn drop(&mut self) {
        // nobody left: the kernel says so, and there is nothing to do
        let _ = killpg(self.leader, Signal::SIGKILL);
    }
}

/// Waits for the end, or brings it about; tells how it was.
async fn keep(mut group: Group, program: String, stopped: oneshot::Receiver<()>, told: oneshot::Sender<String>) {
    tokio::select! {
        status = group.child.wait() => {
            let _ = told.send(how(&program, status));
        }
        _ = stopped => {
            let _ = killpg(group.leader, Signal::SIGTERM);
            let _ = tokio::time::timeout(GRACE, group.child.wait()).await;
        }
    }
}

fn how(program: &str, status: io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => format!("`{program}` ended: {status}"),
        Err(e) => format!("`{program}` ended: {e}"),
    }
}

impl Running {
    /// As [`AsyncRead::poll_read`], with the words for an end.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<(io::Result<()>, String)> {
        if self.ending.is_none() {
            let before = buf.filled().len();
            let result = ready!(Pin::new(&mut self.stdout).poll_read(cx, buf));
            if result.is_err() || buf.filled().len() > before {
                return Poll::Ready((result, "the program's output broke".into()));
            }
            self.ending = Some(Box::pin(tokio::time::sleep(EXIT)));
        }
        if let Poll::Ready(told) = Pin::new(&mut self.exit).poll(cx) {
            return Poll::Ready((Ok(()), told.unwrap_or_else(|_| "the program ended".into())));
        }
        if let Some(ending) = &mut self.ending {
            ready!(ending.as_mut().poll(cx));
        }
        Poll::Ready((Ok(()), "the program closed its output".into()))
    }

    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stdin).poll_write(cx, bytes)
    }
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdin).poll_flush(cx)
    }
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdin).poll_shutdown(cx)
    }
}

/// Hands on the program's complaints, a few lines a minute.
async fn complaints(mut stderr: impl AsyncRead + Unpin, mut say: impl FnMut(String)) {
    let mut ration = Ration::new(Instant::now());
    let mut line = Vec::with_capacity(LINE_MAX);
    let mut buf = [0u8; 1024];
    let mut end_line = |line: &mut Vec<u8>| {
        if !line.is_empty()
            && let Some(missed) = ration.take(Instant::now())
        {
            if missed > 0 {
                say(format!("({missed} lines were left out)"));
            }
            say(String::from_utf8_lossy(line).trim_end().to_owned());
        }
        line.clear();
    };
    while let Ok(n) = stderr.read(&mut buf).await {
        if n == 0 {
            break;
        }
        for &byte in buf.iter().take(n) {
            if byte == b'\n' {
                end_line(&mut line);
            } else if line.len() < LINE_MAX {
                line.push(byte);
            }
        }
    }
    end_line(&mut line);
}

/// How many lines may still be said.
struct Ration {
    since: Instant,
    said: u32,
    missed: u64,
}

impl Ration {
    fn new(now: Instant) -> Ration {
        Ration { since: now, said: 0, missed: 0 }
    }
    /// Whether a line may be said now; if so, how many were not since the last one.
    fn take(&mut self, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.since) >= WINDOW {
            self.since = now;
            self.said = 0;
        }
        if self.said == LINES {
            self.missed += 1;
            return None;
        }
        self.said += 1;
        Some(std::mem::take(&mut self.missed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chatty_program_gets_ten_lines_a_minute_and_the_rest_is_counted() {
        let t = Instant::now();
        let mut ration = Ration::new(t);
        assert_eq!((0..100).filter(|_| ration.take(t).is_some()).count(), 10);
        assert_eq!(ration.take(t + WINDOW), Some(90));
        assert_eq!(ration.take(t + WINDOW), Some(0));
    }

    #[tokio::test]
    async fn complaints_are_cut_to_lines_of_bounded_length() {
        let text = format!("one\r\n\n{}\nlast \u{fffd}", "x".repeat(100_000));
        let mut said = Vec::new();
        complaints(text.as_bytes(), |line| said.push(line)).await;
        assert_eq!(said, ["one".to_owned(), "x".repeat(LINE_MAX), "last \u{fffd}".into()]);
    }
}
