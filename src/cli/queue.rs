//! `pinpost queue`: a look into the store-and-forward queue, with the daemon running or not.
//!
//! A running daemon is asked through its control socket. Where none runs the files are read as they lie; only a purge
//! changes them, and takes the queue's lock for it.

use std::io::{BufRead, BufWriter, ErrorKind, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use serde_json::{Map, Value as Json, json};

use super::out::{ask, data, say, written};
use super::{Failure, Outcome, file};
use crate::config::scalar::Span;
use crate::model::{Wall, rough};
use crate::queue::{Inspector, Options, Overview, Which, purge_at_rest};
use crate::runtime::control::{self, Caller};
use crate::runtime::figures::{describe, figures_at_rest, purged_ranks};
use crate::runtime::{queues, state_of};

/// Characters of a value that `list` shows.
const VALUE: usize = 40;

/// Arguments of `pinpost queue`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinpost queue status                        how full it is, and how long the space lasts
  pinpost queue list --limit 20               the records that wait, one a line
  pinpost queue export > backlog.ndjson       what waits, one JSON object a line; it stays there
  pinpost queue purge                         throw away what waits (asks first; --yes does not)
  pinpost queue status -c my.yaml --json      the queue of this file, for programs

The daemon may run or not. Without -c it is the queue in $STATE_DIRECTORY or /var/lib/pinpost.
Only the daemon's own user and root may look: sudo pinpost queue status")]
pub struct QueueArgs {
    /// The queue of this configuration file
    #[arg(short = 'c', long = "config", value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show how much waits, since when, what was lost and how long the space lasts
    Status {
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the records that wait, one a line
    List {
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
        /// Stop after so many
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Print the records that wait as JSON, one object a line; they stay in the queue
    Export {
        /// Export is always JSON
        #[arg(long, hide = true)]
        json: bool,
    },
    /// Throw away the readings that wait; each loss is told as a gap on bridge/event
    Purge {
        /// Only this priority: bulk, normal, alarm, or control (the gateway's own words, reports of loss among them)
        #[arg(long, value_name = "WORD")]
        priority: Option<String>,
        /// Only what is older than this: 2h, 3d
        #[arg(long, value_name = "DURATION")]
        older_than: Option<Span>,
        /// Do not ask
        #[arg(long, short = 'y')]
        yes: bool,
        /// Print the number as JSON
        #[arg(long)]
        json: bool,
    },
}

/// A queue, and its daemon if one runs.
struct Found {
    dir: PathBuf,
    options: Options,
    /// Its limits are known.
    from_file: bool,
    daemon: Option<Caller>,
}

/// What is to be thrown away.
struct Wanted {
    priority: Option<String>,
    ranks: Vec<u8>,
    older_than: Option<Duration>,
}

/// Runs the command.
pub fn run(args: &QueueArgs) -> Outcome {
    match &args.what {
        What::Status { json } => status(find(args)?, *json),
        What::List { json, limit } => {
            let left = limit.unwrap_or(usize::MAX);
            records(find(args)?, left, |record| if *json { format!("{record}\n") } else { line(record) })
        }
        What::Export { .. } => records(find(args)?, usize::MAX, |record| format!("{record}\n")),
        What::Purge { priority, older_than, yes, json } => {
            let ranks = purged_ranks(priority.as_deref()).map_err(Failure::usage)?;
            let which = Wanted { priority: priority.clone(), ranks, older_than: older_than.map(|s| s.0) };
            purge(find(args)?, &which, *yes, *json)
        }
    }
}

fn find(args: &QueueArgs) -> Result<Found, Failure> {
    let (options, from_file) = match &args.config {
        // what is merely doubtful in the file is no matter here
        Some(path) => (file::plan_quietly(path)?.queue, true),
        None => (Options::new(usual()?), false),
    };
    let dir = options.dir.clone();
    let failed = |what: &Path, e: &std::io::Error| {
        let help = match e.kind() {
            ErrorKind::PermissionDenied => "; try it with sudo",
            ErrorKind::NotFound => "; no queue was ever kept there (name a file with -c if it lies elsewhere)",
            _ => "",
        };
        Failure::failed(format!("{}: {e}{help}", what.display()))
    };
    let state = state_of(&dir);
    let daemon = control::call(&state).map_err(|e| failed(&state, &e))?;
    if daemon.is_none()
        && let Err(e) = std::fs::read_dir(&dir)
    {
        return Err(failed(&dir, &e));
    }
    Ok(Found { dir, options, from_file, daemon })
}

/// The queue that is meant without a file: the only one that runs, else the usual one, else the only one there is.
fn usual() -> Result<PathBuf, Failure> {
    let (home, all) = queues();
    let running: Vec<_> = all.iter().filter(|q| control::answers(&state_of(q))).collect();
    let usual = home.join("queue");
    match (running.as_slice(), all.as_slice()) {
        ([one], _) => Ok((*one).clone()),
        ([], _) if usual.is_dir() => Ok(usual),
        ([], [one]) => Ok(one.clone()),
        ([], []) => Ok(usual),
        _ => {
            let names: Vec<_> = all.iter().map(|q| q.display().to_string()).collect();
            Err(Failure::usage(format!("there are several queues ({}); name a file with -c", names.join(", "))))
        }
    }
}

fn status(mut found: Found, as_json: bool) -> Outcome {
    let figures = found.figures()?;
    if as_json {
        return data(format!("{:#}\n", Json::Object(figures)).as_bytes());
    }
    data(text(&figures).as_bytes())
}

/// The figures for people.
fn text(figures: &Map<String, Json>) -> String {
    let number = |key: &str| figures.get(key).and_then(Json::as_u64);
    let span = |key: &str| number(key).map(|s| rough(Duration::from_secs(s)));
    let mut lines = Vec::new();
    let mut add = |name: &str, text: String| lines.push(format!("{name:<10} {text}\n"));
    let runs = if figures.get("running") == Some(&json!(true)) { "pinpost runs" } else { "pinpost does not run" };
    add("queue", format!("{} ({runs})", figures.get("dir").and_then(Json::as_str).unwrap_or_default()));
    let oldest = span("oldest_s").map_or(String::new(), |t| format!(", the oldest for {t}"));
    add("waiting", format!("{}{oldest}", counted(number("waiting").unwrap_or(0), "record")));
    let bytes = number("bytes").unwrap_or(0);
    let mut space = size(bytes);
    if let Some(max) = number("max_bytes").filter(|m| *m > 0) {
        space += &format!(" of {} ({:.1} %)", size(max), bytes as f64 * 100.0 / max as f64);
    }
    space += &span("lasts_s").map_or(String::new(), |t| format!(", lasts for {t} at the present rate"));
    add("space", space);
    let list = |key: &str| {
        let entries = figures.get(key).and_then(Json::as_object).into_iter().flatten();
        let entries: Vec<_> = entries.map(|(name, n)| format!("{name} {n}")).collect();
        if entries.is_empty() { "none".to_owned() } else { entries.join(", ") }
    };
    add("priority", list("priority"));
    add("dropped", list("dropped_ever"));
    let dead = number("dead_ever").unwrap_or(0);
    add("refused", if dead == 0 { "none".into() } else { format!("{dead} by the broker, see dead-letter.ndjson") });
    if let Some(disk) = figures.get("disk").and_then(Json::as_str) {
        let trouble = figures.get("trouble").and_then(Json::as_str).map_or(String::new(), |t| format!(": {t}"));
        add("disk", format!("{disk}{trouble}"));
    }
    for note in figures.get("notes").and_then(Json::as_array).into_iter().flatten() {
        add("note", note.as_str().unwrap_or_default().to_owned());
    }
    lines.concat()
}

fn counted(n: u64, word: &str) -> String {
    format!("{n} {word}{}", if n == 1 { "" } else { "s" })
}

fn size(bytes: u64) -> String {
    match bytes {
        0..=1023 => format!("{bytes} B"),
        1024..=1_048_575 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

/// A record as `list` shows it.
fn line(record: &Json) -> String {
    let text = |key: &str| record[key].as_str().unwrap_or_default();
    let value = match &record["value"] {
        Json::Null => match record["payload"].as_str() {
            Some(payload) => payload.to_owned(),
            None => text("payload_hex").to_owned(),
        },
        Json::String(value) => value.clone(),
        other => other.to_string(),
    };
    let mut shown: String =
        value.chars().take(VALUE).collect::<String>().escape_debug().to_string().replace("\\\"", "\"");
    if value.chars().count() > VALUE {
        shown.push('…');
    }
    let seq = record["seq"].as_u64().map_or("-".to_owned(), |n| n.to_string());
    let size = record["size"].as_u64().unwrap_or(0);
    let topic = if record["topic"].is_null() { text("point") } else { text("topic") };
    format!("{seq:>9}  {:<24}  {:<7}  {topic:<32}  {shown:<20}  {size} B\n", text("time"), text("priority"))
}

/// Writes the records that wait, the most important first, the oldest of each importance first.
fn records(mut found: Found, limit: usize, write: impl Fn(&Json) -> String) -> Outcome {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut wrote = Ok(());
    let mut put = |record: &Json| {
        wrote = written(out.write_all(write(record).as_bytes()));
        wrote.is_ok()
    };
    match &mut found.daemon {
        Some(daemon) => daemon.records(limit, &mut put).map_err(Failure::failed)?,
        None => {
            let all =
                Inspector::open(&found.dir).map_err(|e| Failure::failed(format!("{}: {e}", found.dir.display())))?;
            let _ = all.take(limit).all(|kept| put(&Json::Object(describe(&kept, None))));
        }
    }
    wrote?;
    written(out.flush())
}

fn purge(mut found: Found, wanted: &Wanted, yes: bool, as_json: bool) -> Outcome {
    if !yes {
        let waiting = found.figures()?.get("waiting").and_then(Json::as_u64).unwrap_or(0);
        let what = match (&wanted.priority, wanted.older_than) {
            (None, None) => "the readings".to_owned(),
            (Some(word), None) => format!("what is of priority {word}"),
            (None, Some(age)) => format!("the readings older than {}", Span(age)),
            (Some(word), Some(age)) => format!("what is of priority {word} and older than {}", Span(age)),
        };
        let dir = found.dir.display();
        ask(&format!("{} in {dir}; throw away {what}? [y/N] ", counted(waiting, "record")));
        let mut answer = String::new();
        let read = std::io::stdin().lock().take(64).read_line(&mut answer);
        // a script without input has nobody to ask; that it called for a purge is its answer
        let nobody = matches!(read, Ok(0)) && !std::io::stdin().is_terminal();
        if !nobody && (read.is_err() || !matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")) {
            return Err(Failure::failed("nothing was thrown away (--yes does not ask)"));
        }
    }
    let purged = found.purge(wanted)?;
    if as_json {
        return data(format!("{}\n", json!({ "purged": purged })).as_bytes());
    }
    say(&format!("{} thrown away", counted(purged, "record")));
    Ok(())
}

impl Found {
    /// The queue's figures, and whether a daemon runs.
    fn figures(&mut self) -> Result<Map<String, Json>, Failure> {
        let figures = match &mut self.daemon {
            Some(daemon) => daemon.ask(&json!({ "ask": "status" })).map_err(Failure::failed)?,
            None => {
                let o =
                    Overview::open(&self.dir).map_err(|e| Failure::failed(format!("{}: {e}", self.dir.display())))?;
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
                let max = self.from_file.then_some(self.options.limits.max_bytes);
                Json::Object(figures_at_rest(&o, max, Wall(now)))
            }
        };
        let mut map = Map::new();
        map.insert("dir".into(), json!(self.dir.display().to_string()));
        map.insert("running".into(), json!(self.daemon.is_some()));
        if let Json::Object(figures) = figures {
            map.extend(figures);
        }
        Ok(map)
    }
    /// Throws away; gives how many records.
    fn purge(&mut self, wanted: &Wanted) -> Result<u64, Failure> {
        if let Some(daemon) = &mut self.daemon {
            let older_than = wanted.older_than.map(|d| d.as_secs());
            let question = json!({ "ask": "purge", "priority": wanted.priority, "older_than_s": older_than });
            let answer = daemon.ask(&question).map_err(Failure::failed)?;
            return Ok(answer["purged"].as_u64().unwrap_or(0));
        }
        let mut records = 0;
        for rank in &wanted.ranks {
            let which = Which { rank: Some(*rank), older_than: wanted.older_than };
            let purged = purge_at_rest(self.options.clone(), which).map_err(|e| Failure::failed(e.to_string()))?;
            if let Some(trouble) = purged.trouble {
                return Err(Failure::failed(format!("{}: {trouble}", self.dir.display())));
            }
            records += purged.records;
        }
        Ok(records)
    }
}
