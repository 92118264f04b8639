//! Where log lines go: the journal with its fields under systemd, else one line an event on stderr.
//!
//! The only place that names the journal. It promises that an event is one line whatever its message holds, that
//! a level can be changed while the daemon runs, and that a full or closed stderr stops nothing.

use std::env;
use std::fmt::{self, Write as _};
use std::fs;
use std::io::{self, IsTerminal, Write as _};
use std::sync::{OnceLock, PoisonError, RwLock};

use env_filter::Filter;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use log::kv::{self, Key, Value, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record};
use systemd_journal_logger::{JournalLog, connected_to_journal};

/// Names the filter, in env_filter's syntax: `debug`, or `info,pinpost::link=debug,rumqttc=info`.
pub const VARIABLE: &str = "PINPOST_LOG";

/// Crates whose ordinary talk is of no use to the user of a gateway. Naming one in the filter brings it back.
const QUIET: &[(&str, LevelFilter)] = &[
    ("rumqttc", LevelFilter::Warn),
    ("rumqttd", LevelFilter::Off),
    ("tracing", LevelFilter::Warn),
    ("rustls", LevelFilter::Warn),
    ("tungstenite", LevelFilter::Warn),
    ("mio", LevelFilter::Warn),
];

struct Logger {
    filter: RwLock<Filter>,
    /// What it was made of: at the start, and now.
    words: RwLock<(String, String)>,
    sink: Sink,
}

enum Sink {
    Journal(Box<JournalLog>),
    Stderr { colours: bool, zone: TimeZone },
}

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Starts logging at this level; the variable [`VARIABLE`] overrides it. A second call only sets the level.
pub fn init(default_level: LevelFilter) {
    let base = default_level.as_str();
    let mut words = base.to_lowercase();
    let (filter, complaint) = match env::var(VARIABLE) {
        Ok(text) => match build(base, &text).inspect(|_| words = text.clone()) {
            Ok(filter) => (filter, None),
            Err(e) => (plain(base), Some(format!("{VARIABLE}: {e}"))),
        },
        Err(env::VarError::NotPresent) => (plain(base), None),
        Err(e) => (plain(base), Some(format!("{VARIABLE}: {e}"))),
    };
    let max = filter.filter();
    let logger =
        LOGGER.get_or_init(|| Logger { filter: RwLock::new(plain(base)), words: RwLock::default(), sink: sink() });
    logger.replace(filter);
    *logger.words.write().unwrap_or_else(PoisonError::into_inner) = (words.clone(), words);
    // It fails when a logger is there already: ours, from the first call.
    let _ = log::set_logger(logger);
    log::set_max_level(max);
    if let Some(complaint) = complaint {
        log::warn!("{complaint}");
    }
}

/// Changes what is logged from now on: a level (`debug`) or a filter in the syntax of [`VARIABLE`].
pub fn set_level(text: &str) -> Result<(), String> {
    let filter = build("info", text)?;
    let Some(logger) = LOGGER.get() else { return Err("logging has not been started".into()) };
    let max = filter.filter();
    logger.replace(filter);
    logger.words.write().unwrap_or_else(PoisonError::into_inner).1 = text.trim().to_owned();
    log::set_max_level(max);
    Ok(())
}

/// What is logged now, as [`init`], [`VARIABLE`] or [`set_level`] said it.
pub fn level() -> String {
    LOGGER.get().map_or(String::new(), |l| l.words.read().unwrap_or_else(PoisonError::into_inner).1.clone())
}

/// What was logged at the start is logged again.
pub fn reset() {
    let first = LOGGER.get().map(|l| l.words.read().unwrap_or_else(PoisonError::into_inner).0.clone());
    if let Some(first) = first {
        // It was understood at the start.
        let _ = set_level(&first);
    }
}

/// Whether colours are wanted on stderr: it is a terminal, and neither `NO_COLOR` nor a dumb terminal says no.
pub fn colours() -> bool {
    let no_color = env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    let dumb = env::var_os("TERM").is_some_and(|v| v == "dumb");
    !no_color && !dumb && io::stderr().is_terminal()
}

fn plain(level: &str) -> Filter {
    build(level, "").unwrap_or_else(|_| env_filter::Builder::new().filter_level(LevelFilter::Info).build())
}

fn build(base: &str, text: &str) -> Result<Filter, String> {
    let mut builder = env_filter::Builder::new();
    let base: LevelFilter = base.parse().unwrap_or(LevelFilter::Info);
    builder.filter_level(base);
    for (name, level) in QUIET {
        builder.filter_module(name, (*level).min(base));
    }
    // The parser takes an unknown word for a module's name, so that `debgu` would silence everything else.
    for part in text.split('/').next().unwrap_or_default().split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let level = match part.split_once('=') {
            Some((_, level)) => level,
            None if part.contains("::") || QUIET.iter().any(|q| q.0 == part) => continue,
            None => part,
        };
        if level.trim().parse::<LevelFilter>().is_err() {
            return Err(format!(
                "`{}` is no level; write off, error, warn, info, debug or trace, or module=level",
                level.trim().escape_debug()
            ));
        }
    }
    builder.try_parse(text.trim()).map_err(|e| e.to_string())?;
    Ok(builder.build())
}

fn sink() -> Sink {
    if connected_to_journal()
        && let Ok(journal) = JournalLog::new()
    {
        return Sink::Journal(Box::new(journal.with_syslog_identifier("pinpost".into())));
    }
    Sink::Stderr { colours: colours(), zone: local_zone() }
}

/// The zone of the user's clock: `TZ`, else the machine's; UTC where neither can be read.
fn local_zone() -> TimeZone {
    let read = |name: &str| fs::read(name).ok().and_then(|bytes| TimeZone::tzif("local", &bytes).ok());
    let zone = match env::var("TZ").unwrap_or_default().trim_start_matches(':') {
        "" => read("/etc/localtime"),
        path if path.starts_with('/') => read(path),
        name if name.contains("..") => None,
        name => read(&format!("/usr/share/zoneinfo/{name}")).or_else(|| TimeZone::posix(name).ok()),
    };
    zone.unwrap_or(TimeZone::UTC)
}

impl Logger {
    fn replace(&self, filter: Filter) {
        *self.filter.write().unwrap_or_else(PoisonError::into_inner) = filter;
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.filter.read().unwrap_or_else(PoisonError::into_inner).enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.filter.read().unwrap_or_else(PoisonError::into_inner).matches(record) {
            return;
        }
        match &self.sink {
            Sink::Journal(journal) => {
                let text = one_line(&record.args().to_string());
                // Built in one go: the arguments live only as long as the statement.
                let sent = journal.journal_send(
                    &Record::builder()
                        .args(format_args!("{text}"))
                        .level(record.level())
                        .target(record.target())
                        .module_path(record.module_path())
                        .file(record.file())
                        .line(record.line())
                        .key_values(&record.key_values())
                        .build(),
                );
                // The journal's own socket may be out of reach (a sandbox, a full queue); stderr leads there as well.
                if sent.is_err() {
                    write_line(record, &TimeZone::UTC, false);
                }
            }
            Sink::Stderr { colours, zone } => write_line(record, zone, *colours),
        }
    }

    fn flush(&self) {}
}

fn write_line(record: &Record<'_>, zone: &TimeZone, colours: bool) {
    let time = Timestamp::now().to_zoned(zone.clone());
    let mut line = format_line(record, (time.hour(), time.minute(), time.second()), colours);
    line.push('\n');
    // One write, so that lines of several threads do not mix; a closed stderr is no reason to stop.
    let _ = io::stderr().lock().write_all(line.as_bytes());
}

/// `12:01:02 INFO  link: connected broker=…`
fn format_line(record: &Record<'_>, (h, m, s): (i8, i8, i8), colours: bool) -> String {
    let level = record.level();
    let (on, dim, off) = if colours { (colour(level), "\x1b[2m", "\x1b[0m") } else { ("", "", "") };
    let mut line = String::with_capacity(120);
    let target = short(record.target());
    // Writing to a string cannot fail.
    let _ = write!(line, "{dim}{h:02}:{m:02}:{s:02}{off} {on}{level:<5}{off} {target}: ");
    line.push_str(&one_line(&record.args().to_string()));
    let _ = record.key_values().visit(&mut Pairs { line: &mut line, dim, off });
    line
}

fn colour(level: Level) -> &'static str {
    match level {
        Level::Error => "\x1b[31m",
        Level::Warn => "\x1b[33m",
        Level::Info => "\x1b[32m",
        Level::Debug => "\x1b[34m",
        Level::Trace => "\x1b[35m",
    }
}

/// The room that speaks: `pinpost::link::simple` is `link`, `rumqttc::state` is `rumqttc`.
fn short(target: &str) -> &str {
    let inside = target.strip_prefix("pinpost::").unwrap_or(target);
    inside.split("::").next().unwrap_or(inside)
}

/// Control characters written out, so that nothing from outside can begin a new line or paint the terminal.
fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

struct Pairs<'a> {
    line: &'a mut String,
    dim: &'a str,
    off: &'a str,
}

impl<'kvs> VisitSource<'kvs> for Pairs<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let value = one_line(&value.to_string());
        let (dim, off) = (self.dim, self.off);
        let wrote: fmt::Result = if value.is_empty() || value.contains([' ', '"', '=']) {
            write!(self.line, " {dim}{key}={off}\"{}\"", value.replace('"', "\\\""))
        } else {
            write!(self.line, " {dim}{key}={off}{value}")
        };
        wrote.map_err(kv::Error::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(target: &str, args: fmt::Arguments<'_>, kvs: &[(&str, &str)]) -> String {
        let record = Record::builder().level(Level::Info).target(target).args(args).key_values(&kvs).build();
        format_line(&record, (12, 1, 2), false)
    }

    #[test]
    fn a_line_has_time_level_room_message_and_pairs() {
        assert_eq!(
            line("pinpost::link::simple", format_args!("connected"), &[("broker", "pi:1883"), ("why", "a b")]),
            "12:01:02 INFO  link: connected broker=pi:1883 why=\"a b\""
        );
    }

    #[test]
    fn one_event_is_one_line_whatever_it_holds() {
        let shown = line("rumqttc::state", format_args!("a\nb\x1b[31m\r"), &[("k", "x\ny")]);
        assert_eq!(shown, "12:01:02 INFO  rumqttc: a\\nb\\u{1b}[31m\\r k=x\\ny");
    }

    #[test]
    fn a_level_leaves_the_libraries_quiet_unless_they_are_named() {
        let enabled = |filter: &Filter, target: &str, level: Level| {
            filter.enabled(&Metadata::builder().target(target).level(level).build())
        };
        let filter = build("info", "debug").unwrap();
        assert!(enabled(&filter, "pinpost::link", Level::Debug));
        assert!(!enabled(&filter, "rumqttc::state", Level::Info));
        assert!(!enabled(&filter, "rumqttd::server", Level::Error));
        assert!(!enabled(&plain("error"), "rumqttc::state", Level::Warn));
        let filter = build("info", "warn,rumqttc=debug").unwrap();
        assert!(!enabled(&filter, "pinpost::link", Level::Info));
        assert!(enabled(&filter, "rumqttc::state", Level::Debug));
    }

    #[test]
    fn a_misspelt_level_is_refused_with_the_right_words() {
        for bad in ["debgu", "info,link=loud", "="] {
            let error = build("info", bad).err().unwrap_or_else(|| panic!("{bad} was taken"));
            assert!(error.contains("warn"), "{error}");
        }
        assert!(build("info", "info,pinpost::link=trace,rumqttd=warn").is_ok());
    }
}
