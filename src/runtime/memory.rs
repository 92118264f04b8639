//! The small durable memory: what a restart must not forget and no reading tells. A few values by their keys, in one
//! file of the state directory.
//!
//! Promises:
//! - the file is replaced whole or not at all (another file, fsync, rename, fsync of the directory);
//! - one that is torn, rotten or of another version is set aside, reported, and the daemon starts with nothing;
//! - nobody waits for the disk: [`Memory::set`] takes a lock that is never held over it, a thread writes;
//! - what is urgent is begun to be written at once; all else within [`QUIET`] and at an orderly stop;
//! - while nothing changes nothing is written, and what is set to what it already is, is no change;
//! - without a disk it goes on in memory, and says so once; it tries again with the next change.
//!
//! The file is a line `pinpost-memory 1 CRC32C` and a JSON object on the next. Keys: `device/<name>/…` are the devices',
//! all others the engine's.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Map, Value as Json};

use super::state::write_whole;

/// Longest time that a change that is not urgent waits.
const QUIET: Duration = Duration::from_secs(60);
/// After a failed write it is tried again.
const RETRY: Duration = Duration::from_secs(30);
/// Most bytes of keys and values together, so that no caller fills memory or card.
const MOST: usize = 512 * 1024;
/// Problems that wait to be told; the rest are only logged.
const PROBLEMS: usize = 8;

#[derive(Default)]
struct State {
    /// Values as JSON text: taking a copy of them all is short.
    values: BTreeMap<String, Arc<str>>,
    bytes: usize,
    /// When the oldest change that is not on disk has to be.
    due: Option<Instant>,
    stop: bool,
    /// Whether the last write failed.
    failing: bool,
    /// Whether it was said that it is full.
    full: bool,
    problems: Vec<String>,
}

struct Shared {
    path: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
    news: Box<dyn Fn() + Send + Sync>,
}

/// The memory. Clones share it.
#[derive(Clone)]
pub(super) struct Memory {
    shared: Arc<Shared>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Memory {
    /// Reads a file; never fails. `news` is called when [`Memory::take_problems`] has something to say.
    pub(super) fn open(path: PathBuf, news: impl Fn() + Send + Sync + 'static) -> Memory {
        let mut state = State::default();
        match read(&path) {
            Ok(map) => {
                for (key, value) in map {
                    let text: Arc<str> = value.to_string().into();
                    state.bytes += key.len() + text.len();
                    state.values.insert(key, text);
                }
            }
            Err(why) => {
                let aside = path.with_extension("bad");
                let moved = match fs::rename(&path, &aside) {
                    Ok(()) => format!("it was set aside as {}", aside.display()),
                    Err(e) => format!("it could not be set aside: {e}"),
                };
                state.problem(format!(
                    "{}: {why}; {moved}. Totals and the outputs' last states are forgotten",
                    path.display()
                ));
            }
        }
        let shared = Shared { path, state: Mutex::new(state), changed: Condvar::new(), news: Box::new(news) };
        Memory { shared: Arc::new(shared), thread: Arc::default() }
    }

    /// Everything whose key begins with `prefix`, without it.
    pub(super) fn recall(&self, prefix: &str) -> BTreeMap<String, Json> {
        let state = self.shared.lock();
        let own = state.values.iter().filter_map(|(k, v)| Some((k.strip_prefix(prefix)?, v)));
        own.filter_map(|(k, v)| Some((k.to_owned(), serde_json::from_str(v).ok()?))).collect()
    }

    /// Keeps a value, or forgets it. Never waits for the disk.
    pub(super) fn set(&self, key: &str, value: Option<&Json>, urgent: bool) {
        let text: Option<Arc<str>> = value.map(|v| v.to_string().into());
        let mut state = self.shared.lock();
        if state.values.get(key) == text.as_ref() {
            // what waits may have become urgent
            if !urgent || state.due.is_none() {
                return;
            }
        }
        let before = state.values.get(key).map_or(0, |v| key.len() + v.len());
        let after = text.as_ref().map_or(0, |v| key.len() + v.len());
        if after > before && state.bytes - before + after > MOST {
            if !state.full {
                state.full = true;
                state.problem(format!("the durable memory is full: `{key}` will not survive a restart"));
                drop(state);
                (self.shared.news)();
            }
            return;
        }
        state.bytes = state.bytes - before + after;
        match text {
            Some(text) => drop(state.values.insert(key.to_owned(), text)),
            None => drop(state.values.remove(key)),
        }
        let due = Instant::now() + if urgent { Duration::ZERO } else { QUIET };
        if state.due.is_none_or(|d| due < d) {
            state.due = Some(due);
            drop(state);
            self.start();
            self.shared.changed.notify_one();
        }
    }

    /// What a person should know, since the last call.
    pub(super) fn take_problems(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.lock().problems)
    }

    /// Writes what waits, and ends.
    pub(super) fn stop(&self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.lock().unwrap_or_else(|e| e.into_inner()).take() {
            let _ = thread.join();
        }
    }

    /// The thread begins with the first change: a daemon that has nothing to keep has none.
    fn start(&self) {
        let mut thread = self.thread.lock().unwrap_or_else(|e| e.into_inner());
        if thread.is_some() {
            return;
        }
        let shared = self.shared.clone();
        match std::thread::Builder::new().name("memory".into()).spawn(move || shared.write_for_ever()) {
            Ok(handle) => *thread = Some(handle),
            Err(e) => self.shared.failed(&format!("its thread cannot be started: {e}")),
        }
    }
}

impl State {
    fn problem(&mut self, text: String) {
        log::warn!("{text}");
        if self.problems.len() < PROBLEMS {
            self.problems.push(text);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn failed(&self, why: &str) {
        let mut state = self.lock();
        let first = !std::mem::replace(&mut state.failing, true);
        if first {
            let path = self.path.display();
            state.problem(format!("{path}: {why}; totals and the outputs' last states will not survive a restart"));
            drop(state);
            (self.news)();
        }
    }

    fn write_for_ever(&self) {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            match state.due {
                Some(due) if due <= now || state.stop => {
                    state.due = None;
                    let values = state.values.clone();
                    let stop = state.stop;
                    drop(state);
                    let written = write(&self.path, &values);
                    if let Err(e) = &written {
                        self.failed(&e.to_string());
                    }
                    state = self.lock();
                    match written {
                        Ok(()) => state.failing = false,
                        Err(_) if stop => return,
                        Err(_) => {
                            let again = Instant::now() + RETRY;
                            state.due = Some(state.due.map_or(again, |d| d.min(again)));
                        }
                    }
                }
                _ if state.stop => return,
                Some(due) => {
                    state = self.changed.wait_timeout(state, due - now).unwrap_or_else(|e| e.into_inner()).0;
                }
                None => state = self.changed.wait(state).unwrap_or_else(|e| e.into_inner()),
            }
        }
    }
}

/// The first line: what it is, the version, the check of all bytes behind it.
fn head(body: &[u8]) -> String {
    format!("pinpost-memory 1 {:08x}\n", crc32c::crc32c(body))
}

fn write(path: &Path, values: &BTreeMap<String, Arc<str>>) -> io::Result<()> {
    let mut body = String::from("{");
    for (i, (key, value)) in values.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        body += &format!("{comma}\n{}:{value}", Json::from(key.as_str()));
    }
    body += "\n}\n";
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    write_whole(path, format!("{}{body}", head(body.as_bytes())).as_bytes())
}

/// A file's values; none if there is no file.
fn read(path: &Path) -> Result<Map<String, Json>, String> {
    match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Map::new()),
        Ok(m) if m.len() > 4 * MOST as u64 => return Err("it is far too long".into()),
        _ => {}
    }
    match fs::read(path) {
        Ok(bytes) => parse(&bytes),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Map::new()),
        Err(e) => Err(e.to_string()),
    }
}

fn parse(bytes: &[u8]) -> Result<Map<String, Json>, String> {
    let end = bytes.iter().position(|b| *b == b'\n').map_or(bytes.len(), |at| at + 1);
    let (first, body) = bytes.split_at(end);
    if first.starts_with(b"pinpost-memory ") && !first.starts_with(b"pinpost-memory 1 ") {
        return Err("it is of another version".into());
    }
    if first != head(body).as_bytes() {
        return Err("it is damaged".into());
    }
    serde_json::from_slice(body).map_err(|e| format!("it cannot be read: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn open(path: &Path) -> Memory {
        Memory::open(path.to_owned(), || ())
    }

    #[test]
    fn what_is_kept_is_there_after_a_stop_and_what_is_forgotten_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/memory");
        let memory = open(&path);
        memory.set("device/water/total", Some(&json!(7)), false);
        memory.set("output/pump", Some(&json!({ "on": true, "why \"\n": null })), false);
        memory.set("gone", Some(&json!(1)), false);
        memory.set("gone", None, false);
        assert!(!path.exists(), "none of it was urgent");
        memory.stop();
        let again = open(&path);
        assert_eq!(again.recall("device/water/"), [("total".to_owned(), json!(7))].into());
        assert_eq!(again.recall("").len(), 2);
        assert_eq!(again.recall("output/")["pump"]["on"], true);
        assert!(again.take_problems().is_empty());
    }

    #[test]
    fn the_urgent_is_written_at_once_and_takes_along_what_waits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory");
        let memory = open(&path);
        memory.set("a", Some(&json!(1)), false);
        memory.set("b", Some(&json!(2)), true);
        while read(&path).unwrap().len() < 2 {
            std::thread::yield_now();
        }
        // the same again is no change
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        memory.set("b", Some(&json!(2)), true);
        memory.stop();
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before);
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_reported() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory");
        let memory = open(&path);
        memory.set("a", Some(&json!(1)), true);
        memory.stop();
        let good = fs::read(&path).unwrap();
        for cut in 0..good.len() {
            for bad in [good[..cut].to_vec(), [&good[..cut], &[good[cut] ^ 4], &good[cut + 1..]].concat()] {
                fs::write(&path, &bad).unwrap();
                let memory = open(&path);
                assert!(memory.recall("").is_empty());
                let said = memory.take_problems();
                assert!(said.len() == 1 && said[0].contains("set aside"), "{said:?}");
                assert_eq!(fs::read(path.with_extension("bad")).unwrap(), bad);
                assert!(!path.exists());
            }
        }
        fs::write(&path, b"pinpost-memory 2 00000000\n{}").unwrap();
        assert!(open(&path).take_problems()[0].contains("another version"));
    }

    #[test]
    fn without_a_disk_it_goes_on_and_says_so_once() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("state");
        fs::write(&place, "a file where the directory should be").unwrap();
        let path = place.join("memory");
        let (tell, told) = std::sync::mpsc::channel();
        let memory = Memory::open(path.clone(), move || tell.send(()).unwrap());
        memory.take_problems();
        memory.set("a", Some(&json!(1)), true);
        told.recv().unwrap();
        assert_eq!(memory.take_problems().len(), 1);
        assert_eq!(memory.recall("")["a"], 1);
        fs::remove_file(&place).unwrap();
        memory.set("b", Some(&json!(2)), true);
        memory.stop();
        assert_eq!(open(&path).recall("").len(), 2, "the disk was back");
        assert!(memory.take_problems().is_empty());
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let memory = open(&dir.path().join("memory"));
        let long = json!("x".repeat(MOST / 4));
        for key in ["a", "b", "c", "d", "e"] {
            memory.set(key, Some(&long), false);
        }
        assert_eq!(memory.recall("").len(), 3);
        assert_eq!(memory.take_problems().len(), 1);
        memory.set("a", None, false);
        memory.set("d", Some(&long), false);
        assert_eq!(memory.recall("").len(), 3);
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }
    }
}
