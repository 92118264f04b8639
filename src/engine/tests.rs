//! Histories of the engine: `tests/engine/*.txt`. Each is a house in the language of its users, a line `---`, and what
//! happens in it: an event at the margin, what it brings indented below it. The clock is the history's own.
//!
//! Events: `at 5s` (the clock goes on, and whoever wants to be woken is), `up`, `down`, `online DEVICE`,
//! `offline DEVICE WHY`, `silent DEVICE WHY`, `read POINT VALUE`, `acted N VALUE|-|failed (KIND) WHY`, `in TOPIC (FLAGS) PAYLOAD`, `sim PIN LEVEL`,
//! `gap FROM TO COUNT REASON`, `problem TEXT`, `fill PERCENT` (of the queue), `unset` (the system's clock counts as not set), `clock TIME` (it is set; it hangs in Central Europe), `stop`; `#` is a remark.
//! Messages that come in are acknowledged by their order: the first is 1. A time is shown only where it is not now.
//!
//! `WRITE_HISTORIES=1 cargo test --lib engine` writes what comes of the events into the files: read the difference
//! before you believe it.

mod history;

use std::fs;
use std::path::Path;

#[test]
fn every_history_happens_as_it_is_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/engine");
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 10, "the histories were not found in {}", folder.display());
    let mut wrong = String::new();
    for file in files {
        let written = fs::read_to_string(&file).unwrap();
        let (yaml, history) = written.split_once("\n---\n").unwrap_or_else(|| panic!("{}: no ---", file.display()));
        let played = history::play(yaml, history);
        if std::env::var_os("WRITE_HISTORIES").is_some() {
            fs::write(&file, format!("{yaml}\n---\n{played}")).unwrap();
        } else if played != history {
            let (line, (is, was)) = played
                .lines()
                .chain([""])
                .zip(history.lines().chain([""]))
                .enumerate()
                .find(|(_, (a, b))| a != b)
                .map_or((0, ("", "")), |(i, pair)| (i, pair));
            let line = line + yaml.lines().count() + 2;
            wrong += &format!("{}:{line}\n  written  {was}\n  happened {is}\n", file.display());
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}
