//! Small things that survive: which outputs there are and their safe levels, and whether the last run ended in order.
//!
//! They lie beside the queue. Written at start and stop only, and only where they differ: a running daemon writes
//! nothing here. Where nothing can be written the daemon runs all the same, and says so once.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};

use crate::device::SafePin;
use crate::plan::Plan;

/// The outputs of the configuration that was last applied.
pub const SAFE_FILE: &str = "outputs.json";
/// Is there while a daemon runs; found at start, the last one ended abnormally.
const RUNNING: &str = "running";
/// The small durable memory, [`super::memory`].
const MEMORY: &str = "memory";

/// The directory of a queue's directory.
pub fn state_of(queue_dir: &Path) -> PathBuf {
    queue_dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

/// What `safe-state` must know of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Whether the pins were simulated: then there is nothing to drive.
    pub simulated: bool,
    /// Outputs: device, pin, safe level.
    pub outputs: Vec<(String, SafePin)>,
}

impl Applied {
    /// Of a plan.
    pub fn of(plan: &Plan) -> Applied {
        let outputs = plan.devices.iter().filter_map(|d| Some((d.spec.name.clone(), d.safe?))).collect();
        Applied { simulated: plan.simulated, outputs }
    }

    /// As it is kept.
    pub fn to_json(&self) -> Json {
        let outputs: Vec<Json> = self
            .outputs
            .iter()
            .map(|(device, safe)| json!({ "device": device, "pin": safe.pin, "high": safe.high }))
            .collect();
        json!({ "version": 1, "simulated": self.simulated, "outputs": outputs })
    }

    /// As it was kept; what is not understood is an error, since a wrong pin must not be driven.
    pub fn from_json(bytes: &[u8]) -> Result<Applied, String> {
        let json: Json = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if json["version"] != 1 {
            return Err("it is of another version".into());
        }
        let outputs = json["outputs"].as_array().ok_or("it names no outputs")?;
        let outputs = outputs
            .iter()
            .map(|o| {
                let pin = o["pin"].as_u64().filter(|p| *p <= 27).ok_or("a pin is not a number from 0 to 27")?;
                let high = o["high"].as_bool().ok_or("a level is not true or false")?;
                Ok((o["device"].as_str().unwrap_or_default().to_owned(), SafePin { pin: pin as u8, high }))
            })
            .collect::<Result<_, String>>()?;
        Ok(Applied { simulated: json["simulated"].as_bool().unwrap_or(false), outputs })
    }
}

/// The directory of the small things.
#[derive(Debug)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// Beside a queue's directory. Makes nothing.
    pub fn open(queue_dir: &Path) -> StateDir {
        StateDir(state_of(queue_dir))
    }

    /// Where the small durable memory lies.
    pub(super) fn memory(&self) -> PathBuf {
        self.0.join(MEMORY)
    }

    /// A run begins: keeps what was applied. True if the run before ended abnormally.
    pub fn begin(&self, applied: &Applied) -> bool {
        let running = self.0.join(RUNNING);
        let abnormal = running.exists();
        let text = applied.to_json().to_string();
        let kept = || -> io::Result<()> {
            let file = self.0.join(SAFE_FILE);
            if fs::read(&file).ok().as_deref() != Some(text.as_bytes()) {
                write_whole(&file, text.as_bytes())?;
            }
            if !abnormal {
                write_whole(&running, format!("{}\n", std::process::id()).as_bytes())?;
            }
            Ok(())
        };
        if let Err(e) = kept() {
            let dir = self.0.display();
            log::warn!("{dir} cannot be written ({e}): safe-state and the queue will not survive this run");
        }
        if abnormal {
            log::warn!("the last run ended abnormally: outputs take their safe state until a new command");
        }
        abnormal
    }

    /// A run has ended in order.
    pub fn end(&self) {
        let _ = fs::remove_file(self.0.join(RUNNING));
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
    use proptest::prelude::*;

    #[test]
    fn an_abnormal_end_is_noticed_once() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir(dir.path().to_owned());
        let applied = Applied { simulated: false, outputs: vec![("pump".into(), SafePin { pin: 27, high: true })] };
        assert!(!state.begin(&applied));
        assert!(state.begin(&applied), "it was not ended");
        state.end();
        assert!(!state.begin(&applied));
        let kept = fs::read(dir.path().join(SAFE_FILE)).unwrap();
        assert_eq!(Applied::from_json(&kept), Ok(applied));
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
}
