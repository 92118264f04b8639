//! Small things that survive: which outputs there are and their safe levels, and whether the last run ended in order.
//!
//! They lie beside the queue, in a directory of its own name with `.state` behind it: one queue, one daemon, one
//! directory of small things. Written at start and stop only, and only where they differ: a running daemon writes
//! nothing here. Where nothing can be written the daemon runs all the same, and says so once.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};

use crate::config::raw::{Backend, Gpio};
use crate::device::SafePin;
use crate::plan::Plan;

/// The outputs of the configuration that was last applied.
const SAFE_FILE: &str = "outputs.json";
/// Is there while a daemon runs; found at start, the last one ended abnormally.
const RUNNING: &str = "running";
/// Where systemd puts it, and where it is looked for without systemd.
const HOME: &str = "/var/lib/pinpost";
/// What a directory of small things is called behind the queue's own name.
const STATE: &str = ".state";
/// In systemd's state directory: the way to a directory of small things that lies elsewhere.
const ELSEWHERE: &str = "elsewhere.state";
/// The small durable memory, [`super::memory`].
const MEMORY: &str = "memory";

/// The directory of small things of a queue's directory: `queue.state` beside `queue`.
pub fn state_of(queue_dir: &Path) -> PathBuf {
    let mut name = queue_dir.file_name().map_or_else(|| OsString::from("queue"), OsString::from);
    name.push(STATE);
    parent(queue_dir).join(name)
}

/// Where an older version kept its small things, whatever its queue was called.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// systemd's state directory, the first where there are several.
fn home() -> Option<PathBuf> {
    let dirs = std::env::var_os("STATE_DIRECTORY").filter(|d| !d.is_empty())?;
    std::env::split_paths(&dirs).next()
}

/// systemd's state directory or the usual one, and the queues whose daemons keep their small things there.
pub fn queues() -> (PathBuf, Vec<PathBuf>) {
    let home = home().unwrap_or_else(|| PathBuf::from(HOME));
    let mut found: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(&home).into_iter().flatten().flatten() {
        let dir = if entry.file_name() == ELSEWHERE { fs::read_link(entry.path()).ok() } else { Some(entry.path()) };
        let queue = dir.and_then(|d| Some(d.with_file_name(d.file_name()?.to_str()?.strip_suffix(STATE)?)));
        found.extend(queue);
    }
    found.sort();
    (home, found)
}

/// What the last runs have left in systemd's state directory or the usual one: of every daemon that ended
/// abnormally, else of the one that started last. Not of those that run now, where there are others.
pub fn last_applied() -> Result<Vec<Applied>, String> {
    last_applied_in(&home().unwrap_or_else(|| PathBuf::from(HOME)))
}

fn last_applied_in(home: &Path) -> Result<Vec<Applied>, String> {
    let mut found = Vec::new();
    let entries = fs::read_dir(home).map_err(|e| format!("{}: {e}", home.display()))?;
    // an older version kept its file in the directory itself
    let dirs = entries.flatten().filter(|e| e.file_name().to_string_lossy().ends_with(STATE)).map(|e| e.path());
    for dir in dirs.chain([home.to_owned()]) {
        let file = dir.join(SAFE_FILE);
        let Ok(applied_at) = fs::metadata(&file).and_then(|m| m.modified()) else { continue };
        let lives = super::control::answers(&dir);
        let crashed = !lives && dir.join(RUNNING).exists();
        found.push((crashed, !lives, applied_at, file));
    }
    found.sort();
    let crashed = found.iter().filter(|f| f.0).count();
    let wanted = found.len().saturating_sub(crashed.max(1));
    let wanted = found.get(wanted..).unwrap_or_default();
    if wanted.is_empty() {
        return Err(format!("no daemon has left its outputs below {}", home.display()));
    }
    let read = |file: &Path| {
        let bytes = fs::read(file).map_err(|e| e.to_string())?;
        Applied::from_json(&bytes)
    };
    wanted.iter().map(|(.., file)| read(file).map_err(|e| format!("{}: {e}", file.display()))).collect()
}

/// What `safe-state` must know of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Whether the pins were simulated: then there is nothing to drive.
    pub simulated: bool,
    /// Who drives the pins.
    pub gpio: Gpio,
    /// Outputs: device, pin, safe level.
    pub outputs: Vec<(String, SafePin)>,
}

impl Applied {
    /// Of a plan.
    pub fn of(plan: &Plan) -> Applied {
        let outputs = plan.devices.iter().filter_map(|d| Some((d.spec.name.clone(), d.safe?))).collect();
        Applied { simulated: plan.simulated, gpio: plan.gpio.clone(), outputs }
    }

    /// As it is kept.
    pub fn to_json(&self) -> Json {
        let outputs: Vec<Json> = self
            .outputs
            .iter()
            .map(|(device, safe)| json!({ "device": device, "pin": safe.pin, "high": safe.high }))
            .collect();
        let backend = match self.gpio.backend {
            Backend::Rppal => "rppal",
            Backend::Chardev => "chardev",
            Backend::Auto => "auto",
        };
        let gpio = json!({ "backend": backend, "chip": self.gpio.chip, "expanders": self.gpio.expanders });
        json!({ "version": 1, "simulated": self.simulated, "gpio": gpio, "outputs": outputs })
    }

    /// As it was kept; what is not understood is an error, since a wrong pin must not be driven.
    pub fn from_json(bytes: &[u8]) -> Result<Applied, String> {
        let json: Json = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if json["version"] != 1 {
            return Err("it is of another version".into());
        }
        // an older version knew rppal alone
        let gpio: Gpio = match &json["gpio"] {
            Json::Null => Gpio::default(),
            gpio => serde_json::from_value(gpio.clone()).map_err(|e| format!("gpio: {e}"))?,
        };
        let last = if gpio.backend == Backend::Rppal && gpio.expanders.is_empty() { 27 } else { 255 };
        let outputs = json["outputs"].as_array().ok_or("it names no outputs")?;
        let outputs = outputs
            .iter()
            .map(|o| {
                let pin = o["pin"].as_u64().and_then(|p| u8::try_from(p).ok()).filter(|p| *p <= last);
                let pin = pin.ok_or_else(|| format!("a pin is not a number from 0 to {last}"))?;
                let high = o["high"].as_bool().ok_or("a level is not true or false")?;
                Ok((o["device"].as_str().unwrap_or_default().to_owned(), SafePin { pin, high }))
            })
            .collect::<Result<_, String>>()?;
        Ok(Applied { gpio, simulated: json["simulated"].as_bool().unwrap_or(false), outputs })
    }
}

/// The directory of the small things.
#[derive(Debug)]
pub struct StateDir {
    dir: PathBuf,
    queue: PathBuf,
}

impl StateDir {
    /// Beside a queue's directory. Makes nothing.
    pub fn open(queue_dir: &Path) -> StateDir {
        StateDir { dir: state_of(queue_dir), queue: queue_dir.to_owned() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Where the small durable memory lies.
    pub(super) fn memory(&self) -> PathBuf {
        self.dir.join(MEMORY)
    }

    /// A run begins: keeps what was applied. True if the run before ended abnormally. The queue's lock is held.
    /// `before`: where the same process has run until now.
    pub fn begin(&self, applied: &Applied, before: Option<StateDir>) -> bool {
        let made = self.make();
        let same = before.as_ref().is_some_and(|b| b.dir == self.dir);
        let abnormal = !same && self.dir.join(RUNNING).exists();
        let pid = format!("{}\n", std::process::id());
        let kept = made
            .and_then(|()| self.apply(applied))
            .and_then(|()| write_whole(&self.dir.join(RUNNING), pid.as_bytes()))
            .and_then(|()| self.lead_here());
        if let Err(e) = kept {
            let dir = self.dir.display();
            log::warn!("{dir} cannot be written ({e}): safe-state and the queue will not survive this run");
        }
        if let Some(before) = before.filter(|_| !same) {
            before.end();
        }
        if abnormal {
            log::warn!("the last run ended abnormally: outputs take their safe state until a new command");
        }
        abnormal
    }

    /// Keeps what was applied.
    pub fn apply(&self, applied: &Applied) -> io::Result<()> {
        let file = self.dir.join(SAFE_FILE);
        let text = applied.to_json().to_string();
        if fs::read(&file).ok().as_deref() == Some(text.as_bytes()) {
            return Ok(());
        }
        write_whole(&file, text.as_bytes())
    }

    /// A run has ended in order.
    pub fn end(&self) {
        let _ = fs::remove_file(self.dir.join(RUNNING));
    }

    /// Makes the directory, with what an older version left beside the queue in it.
    fn make(&self) -> io::Result<()> {
        match fs::DirBuilder::new().mode(0o700).create(&self.dir) {
            Ok(()) => self.inherit(),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// An older version shared one set of files among all queues of a directory. Whose they are cannot be told, so
    /// each queue takes them over, and the last one removes them.
    fn inherit(&self) -> io::Result<()> {
        let old = parent(&self.queue);
        if let Ok(bytes) = fs::read(old.join(RUNNING)) {
            write_whole(&self.dir.join(RUNNING), &bytes)?;
        }
        let waits = |e: fs::DirEntry| e.path().join("lock").is_file() && !state_of(&e.path()).is_dir();
        if !fs::read_dir(old)?.flatten().any(waits) {
            for name in [SAFE_FILE, RUNNING] {
                let _ = fs::remove_file(old.join(name));
            }
        }
        Ok(())
    }

    /// Where systemd gave a directory and the queue lies elsewhere: a link, so that `safe-state` finds the way.
    fn lead_here(&self) -> io::Result<()> {
        let Some(home) = home() else { return Ok(()) };
        let here = fs::canonicalize(&self.dir)?;
        let link = home.join(ELSEWHERE);
        if fs::canonicalize(&home)? == parent(&here) {
            // of an earlier configuration
            let _ = fs::remove_file(link);
            return Ok(());
        }
        if fs::read_link(&link).ok().as_deref() == Some(here.as_path()) {
            return Ok(());
        }
        let new = home.join("elsewhere.new");
        let _ = fs::remove_file(&new);
        std::os::unix::fs::symlink(here, &new)?;
        fs::rename(new, link)
    }
}

/// Writes a file whole or not at all, readable by its owner alone.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::raw::Expander;
    use proptest::prelude::*;

    fn applied(device: &str, pin: u8) -> Applied {
        Applied { simulated: false, gpio: Gpio::default(), outputs: vec![(device.into(), SafePin { pin, high: true })] }
    }

    #[test]
    fn an_abnormal_end_is_noticed_once() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(&dir.path().join("queue"));
        assert!(!state.begin(&applied("pump", 27), None));
        assert!(state.begin(&applied("pump", 27), None), "it was not ended");
        state.end();
        assert!(!state.begin(&applied("pump", 27), None));
        assert_eq!(last_applied_in(dir.path()), Ok(vec![applied("pump", 27)]));
    }

    #[test]
    fn sibling_queues_share_nothing_and_safe_state_takes_the_crashed_ones() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (StateDir::open(&dir.path().join("a")), StateDir::open(&dir.path().join("b")));
        assert!(!a.begin(&applied("pump", 27), None));
        assert!(!b.begin(&applied("lamp", 5), None), "the other one's mark is not its own");
        b.end();
        assert_eq!(last_applied_in(dir.path()), Ok(vec![applied("pump", 27)]), "b ended in order");
        assert!(a.begin(&applied("pump", 27), None));
        assert!(!b.begin(&applied("lamp", 5), None), "it had ended in order");
        let both = last_applied_in(dir.path()).unwrap();
        assert!(both.contains(&applied("pump", 27)) && both.contains(&applied("lamp", 5)), "{both:?}");
        assert!(last_applied_in(&dir.path().join("nowhere")).is_err());
    }

    #[test]
    fn what_an_older_version_left_is_taken_over_by_every_queue_that_it_may_have_belonged_to() {
        let dir = tempfile::tempdir().unwrap();
        for queue in ["a", "b"] {
            fs::create_dir(dir.path().join(queue)).unwrap();
            fs::write(dir.path().join(queue).join("lock"), "1\n").unwrap();
        }
        fs::write(dir.path().join(SAFE_FILE), applied("pump", 27).to_json().to_string()).unwrap();
        fs::write(dir.path().join(RUNNING), "1\n").unwrap();
        assert_eq!(last_applied_in(dir.path()), Ok(vec![applied("pump", 27)]), "before the new version has run");
        assert!(StateDir::open(&dir.path().join("a")).begin(&applied("pump", 27), None), "it ended abnormally");
        assert!(dir.path().join(RUNNING).exists(), "b has not seen it yet");
        assert!(StateDir::open(&dir.path().join("b")).begin(&applied("lamp", 5), None));
        assert!(!dir.path().join(RUNNING).exists() && !dir.path().join(SAFE_FILE).exists());
    }

    #[test]
    fn a_pin_that_cannot_be_is_refused() {
        let text = br#"{"version":1,"outputs":[{"pin":99,"high":true}]}"#;
        assert!(Applied::from_json(text).is_err());
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Applied::from_json(&bytes);
        }
    }

    #[test]
    fn the_backend_and_its_chip_are_kept_for_safe_state() {
        for (backend, chip) in [(Backend::Chardev, Some("pinctrl-rp1")), (Backend::Auto, None), (Backend::Rppal, None)]
        {
            let box_of_relays = Expander { chip: "mcp23017".into(), first: 100, lines: None };
            let expanders = if backend == Backend::Auto { vec![box_of_relays] } else { Vec::new() };
            let gpio = Gpio { backend, chip: chip.map(str::to_owned), expanders };
            let pin = if backend == Backend::Rppal { 27 } else { 255 };
            let applied = Applied { gpio, ..applied("pump", pin) };
            assert_eq!(Applied::from_json(applied.to_json().to_string().as_bytes()), Ok(applied));
        }
        let old = r#"{"version":1,"simulated":false,"outputs":[]}"#;
        assert_eq!(Applied::from_json(old.as_bytes()).unwrap().gpio, Gpio::default());
        let unknown = r#"{"version":1,"gpio":{"backend":"sysfs"},"outputs":[]}"#;
        assert!(Applied::from_json(unknown.as_bytes()).is_err());
    }
}
