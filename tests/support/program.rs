//! A child process whose output is awaited as an event; it is killed when the test ends.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How long a test waits for something that must come.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Everything that a stream has brought, and a place in it up to which it was awaited.
pub struct Tap {
    shared: Arc<(Mutex<Brought>, Condvar)>,
    seen: usize,
}

#[derive(Default)]
struct Brought {
    bytes: Vec<u8>,
    ended: bool,
}

impl Tap {
    pub fn new(mut from: impl Read + Send + 'static) -> Tap {
        let shared = Arc::new((Mutex::new(Brought::default()), Condvar::new()));
        let tap = Tap { shared: shared.clone(), seen: 0 };
        thread::spawn(move || {
            let mut chunk = [0; 8192];
            loop {
                let n = from.read(&mut chunk).unwrap_or(0);
                let mut brought = shared.0.lock().unwrap();
                brought.bytes.extend_from_slice(&chunk[..n]);
                brought.ended = n == 0;
                shared.1.notify_all();
                if n == 0 {
                    return;
                }
            }
        });
        tap
    }

    fn wait<T>(&mut self, what: &str, mut found: impl FnMut(&Brought, &mut usize) -> Option<T>) -> T {
        let (lock, changed) = &*self.shared;
        let until = Instant::now() + PATIENCE;
        let mut brought = lock.lock().unwrap();
        loop {
            if let Some(t) = found(&brought, &mut self.seen) {
                return t;
            }
            let left = until.saturating_duration_since(Instant::now());
            let shown =
                String::from_utf8_lossy(&brought.bytes[brought.bytes.len().saturating_sub(4000)..]).into_owned();
            assert!(!left.is_zero(), "waited in vain for {what}; there was:\n{shown}");
            assert!(!brought.ended, "{what} did not come before the end; there was:\n{shown}");
            brought = changed.wait_timeout(brought, left).unwrap().0;
        }
    }

    /// Waits until this text comes, behind what was awaited before.
    pub fn wait_for(&mut self, text: &str) {
        self.wait(&format!("`{text}`"), |brought, seen| {
            let rest = &brought.bytes[*seen..];
            let at = rest.windows(text.len()).position(|w| w == text.as_bytes())?;
            *seen += at + text.len();
            Some(())
        });
    }

    /// The next line, behind what was awaited before, without its end.
    pub fn line(&mut self) -> String {
        self.wait("a line", |brought, seen| {
            let rest = &brought.bytes[*seen..];
            let at = rest.iter().position(|b| *b == b'\n')?;
            *seen += at + 1;
            Some(String::from_utf8_lossy(&rest[..at]).into_owned())
        })
    }

    /// Everything, once the stream has ended.
    pub fn all(&mut self) -> Vec<u8> {
        let (lock, changed) = &*self.shared;
        let until = Instant::now() + PATIENCE;
        let mut brought = lock.lock().unwrap();
        while !brought.ended {
            let left = until.saturating_duration_since(Instant::now());
            let shown = String::from_utf8_lossy(&brought.bytes).into_owned();
            assert!(!left.is_zero(), "it did not end; there was:\n{shown}");
            brought = changed.wait_timeout(brought, left).unwrap().0;
        }
        brought.bytes.clone()
    }

    /// Everything up to now.
    pub fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.shared.0.lock().unwrap().bytes).into_owned()
    }
}

/// A running program.
pub struct Program {
    child: Child,
    pub stdin: Option<ChildStdin>,
    pub out: Tap,
    pub err: Tap,
}

/// What a program came to.
#[derive(Debug)]
pub struct Ended {
    /// `None`: killed by a signal.
    pub code: Option<i32>,
    pub out: Vec<u8>,
    pub err: String,
}

impl Ended {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }
    /// Asserts the exit code.
    #[track_caller]
    pub fn with(self, code: i32) -> Ended {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.text(), self.err);
        self
    }
}

impl Program {
    /// Starts it; a program that is missing fails the test with its name.
    pub fn start(command: &mut Command) -> Program {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot start {:?}: {e}", command.get_program()));
        let out = Tap::new(child.stdout.take().unwrap());
        let err = Tap::new(child.stderr.take().unwrap());
        Program { stdin: child.stdin.take(), child, out, err }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes a line to its stdin.
    pub fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("stdin is open");
        stdin.write_all(line.as_bytes()).and_then(|()| stdin.write_all(b"\n")).expect("the program reads its stdin");
        stdin.flush().unwrap();
    }

    /// Ends its stdin.
    pub fn hush(&mut self) {
        self.stdin = None;
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid() as i32), signal).unwrap();
    }

    /// Waits until it ends by itself. Its stdin stays as it is.
    pub fn end(&mut self) -> Ended {
        let out = self.out.all();
        let err = String::from_utf8_lossy(&self.err.all()).into_owned();
        let code = self.child.wait().unwrap().code();
        Ended { code, out, err }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command line of this package's program, with nothing of the tester's environment that it listens to.
/// `$PINPOST_PROGRAM` is another build of it, the one that people get, say.
pub fn pinpost<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let built = std::env::var_os("PINPOST_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_pinpost").into());
    let mut command = Command::new(built);
    command.args(args).env_remove("MQTT_URL").env_remove("PINPOST_LOG").env_remove("NO_COLOR");
    command
}

/// Runs a command with these bytes as its stdin until it ends.
pub fn run(command: &mut Command, input: &[u8]) -> Ended {
    let mut program = Program::start(command);
    let mut stdin = program.stdin.take().unwrap();
    let input = input.to_vec();
    // A thread of its own: the program may write before it has read everything, or not read at all.
    let writer = thread::spawn(move || drop(stdin.write_all(&input)));
    let ended = program.end();
    writer.join().unwrap();
    ended
}
