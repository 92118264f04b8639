//! The machine's own files: what the kernel tells below `/sys` and `/proc`, sensors of its drivers included. And a
//! [`Worker`] to read them with: such a read may take long, or never end while a bus is stuck.

use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::{HalError, HalErrorKind};

/// For tests: a directory in which `sys` and `proc` are looked for instead of the real ones.
pub const ROOT: &str = "PINPOST_SYSFS";
/// The most that is read of a file.
const MOST: u64 = 64 * 1024;
/// The most entries of a directory.
const ENTRIES: usize = 4096;

/// The files of a machine. Its calls block.
#[derive(Debug, Clone)]
pub struct Machine {
    root: PathBuf,
    simulated: bool,
    prompt: bool,
}

impl Machine {
    /// With its files below `root`.
    pub fn at(root: impl Into<PathBuf>) -> Machine {
        Machine { root: root.into(), simulated: false, prompt: false }
    }

    /// This machine, or the one that [`ROOT`] names.
    pub fn here() -> Machine {
        Machine::at(std::env::var_os(ROOT).filter(|v| !v.is_empty()).unwrap_or_else(|| "/".into()))
    }

    /// The same files, and simulated buses.
    #[must_use]
    pub fn simulate(self) -> Machine {
        Machine { simulated: true, ..self }
    }

    /// The same files, which answer at once: they are read in place ([`Machine::worker`]), where the runtime's time is
    /// held and no thread may be waited for.
    #[must_use]
    pub fn prompt(self) -> Machine {
        Machine { prompt: true, ..self }
    }

    /// Who reads them.
    pub fn worker(&self) -> Worker {
        Worker { prompt: self.prompt, ..Worker::default() }
    }

    /// Whether chips at its buses are simulated.
    pub fn simulated(&self) -> bool {
        self.simulated
    }

    /// Where a file such as `sys/class/thermal` is.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    /// A file's text, without the space around it.
    pub fn text(&self, name: impl AsRef<Path>) -> Result<String, HalError> {
        let path = self.path(name);
        let mut bytes = Vec::new();
        let read = fs::File::open(&path).and_then(|file| file.take(MOST).read_to_end(&mut bytes));
        match read {
            Ok(_) => Ok(String::from_utf8_lossy(&bytes).trim().to_owned()),
            Err(e) => {
                let kind = match e.kind() {
                    ErrorKind::NotFound => HalErrorKind::NotFound,
                    ErrorKind::PermissionDenied => HalErrorKind::Permission,
                    _ => HalErrorKind::Io,
                };
                Err(HalError::new(kind, format!("{}: {e}", path.display())))
            }
        }
    }

    /// A file's number.
    pub fn number(&self, name: impl AsRef<Path>) -> Result<f64, HalError> {
        let text = self.text(name.as_ref())?;
        crate::model::value::parse_number(&text).ok_or_else(|| {
            let shown: String = text.chars().take(40).collect();
            let path = self.path(name);
            HalError::new(HalErrorKind::Io, format!("{}: `{shown}` is not a number", path.display()))
        })
    }

    /// The names in a directory, sorted; none where it is not there.
    pub fn names(&self, dir: impl AsRef<Path>) -> Vec<String> {
        let entries = fs::read_dir(self.path(dir)).into_iter().flatten().flatten().take(ENTRIES);
        let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// The parts of the real path of a file that is a link, such as `1-0076` of a chip at a bus.
    pub fn parts(&self, name: impl AsRef<Path>) -> Vec<String> {
        let real = fs::canonicalize(self.path(name)).unwrap_or_default();
        real.components().map(|c| c.as_os_str().to_string_lossy().into_owned()).collect()
    }

    /// Used part of the file system on which `path` lies, in percent.
    pub fn disk_used(&self, path: &Path) -> Result<f64, HalError> {
        let at = self.path(path.strip_prefix("/").unwrap_or(path));
        let stat = nix::sys::statvfs::statvfs(&at)
            .map_err(|e| HalError::new(HalErrorKind::Io, format!("{}: {e}", at.display())))?;
        // as `df` counts: what only root may take is neither used nor free
        let (used, free) = (stat.blocks().saturating_sub(stat.blocks_free()), stat.blocks_available());
        let all = used as f64 + free as f64;
        Ok(if all > 0.0 { used as f64 / all * 100.0 } else { 0.0 })
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread for calls that may block. One at a time: behind a call that does not end none is begun.
#[derive(Debug, Default)]
pub struct Worker {
    jobs: Option<mpsc::Sender<Job>>,
    busy: Arc<AtomicBool>,
    prompt: bool,
}

impl Worker {
    /// A worker; its thread begins with the first call and ends with the worker, or with the call that holds it.
    pub fn new() -> Worker {
        Worker::default()
    }

    /// Does a call, and waits for it so long.
    pub async fn run<T: Send + 'static>(
        &mut self,
        patience: Duration,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, HalError> {
        if self.prompt {
            return Ok(call());
        }
        if self.busy.swap(true, Ordering::SeqCst) {
            return Err(HalError::new(HalErrorKind::Busy, "the kernel has still not answered the read before"));
        }
        let (tell, told) = oneshot::channel();
        let busy = Busy(self.busy.clone());
        let job: Job = Box::new(move || {
            let answer = call();
            drop(busy);
            let _ = tell.send(answer);
        });
        self.hand_over(job)?;
        match tokio::time::timeout(patience, told).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(HalError::new(HalErrorKind::Io, "the read ended without an answer")),
            Err(_) => Err(HalError::new(HalErrorKind::Io, format!("no answer within {} ms", patience.as_millis()))),
        }
    }

    fn hand_over(&mut self, job: Job) -> Result<(), HalError> {
        let job = match &self.jobs {
            None => job,
            Some(jobs) => match jobs.send(job) {
                Ok(()) => return Ok(()),
                // the thread ended with the last call
                Err(mpsc::SendError(job)) => job,
            },
        };
        let (jobs, inbox) = mpsc::channel::<Job>();
        let thread = std::thread::Builder::new().name("sensor".into()).stack_size(256 * 1024);
        thread
            .spawn(move || {
                for job in inbox {
                    // a call that panics ends only itself; who waits for it is told by its silence
                    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
                }
            })
            .map_err(|e| HalError::new(HalErrorKind::Io, format!("a thread cannot be started: {e}")))?;
        let _ = jobs.send(job);
        self.jobs = Some(jobs);
        Ok(())
    }
}

/// Says that the call is over, also when it panics.
struct Busy(Arc<AtomicBool>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn behind_a_call_that_does_not_end_none_is_begun_and_a_panic_ends_only_its_own() {
        let mut worker = Worker::new();
        assert_eq!(worker.run(Duration::from_secs(10), || 7).await, Ok(7));
        let (open, gate) = mpsc::channel::<()>();
        let stuck = worker.run(Duration::from_millis(20), move || gate.recv().is_ok()).await;
        assert!(stuck.unwrap_err().text.contains("no answer within 20 ms"));
        let behind = worker.run(Duration::from_secs(10), || 8).await;
        assert_eq!(behind.unwrap_err().kind, HalErrorKind::Busy);
        drop(open);
        while worker.busy.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        assert!(worker.run(Duration::from_secs(10), || -> u8 { panic!("on purpose") }).await.is_err());
        assert_eq!(worker.run(Duration::from_secs(10), || 9).await, Ok(9));
    }

    #[test]
    fn files_are_read_with_bounds_and_errors_name_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let machine = Machine::at(dir.path());
        fs::create_dir_all(dir.path().join("sys/a")).unwrap();
        fs::write(dir.path().join("sys/a/n"), "21437\n").unwrap();
        fs::write(dir.path().join("sys/a/t"), "x".repeat(200_000)).unwrap();
        assert_eq!(machine.number("sys/a/n"), Ok(21437.0));
        assert_eq!(machine.text("sys/a/t").unwrap().len() as u64, MOST);
        assert!(machine.number("sys/a/t").unwrap_err().text.contains("is not a number"));
        let missing = machine.text("sys/a/none").unwrap_err();
        assert!(missing.kind == HalErrorKind::NotFound && missing.text.contains("sys/a/none"), "{missing}");
        assert_eq!(machine.names("sys/a"), ["n", "t"]);
        assert!(machine.disk_used(Path::new("/sys")).is_ok_and(|used| (0.0..=100.0).contains(&used)));
    }
}
