//! Holds the house rules by reading `src/`: who may name whom, which crate has its one door, what the pure rooms may
//! not touch, and how long a file may be. A breach is reported as `FILE:LINE: what, and what the rule is`, all at once.
//!
//! It reads tokens, not text: comments, strings and `#[cfg(test)]` items are no breach, a grouped
//! `use crate::{model, hal::Level}` is two names, `super::super::hal` is `crate::hal`, and an alias is followed.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Every room and every file at the root of `src/`, with the rooms it may name. A room may always name itself.
/// `config(params)` means: only the shapes, scalars and places of the configuration, nothing that reads a file.
/// The prose of this table is in `src/lib.rs`.
const ROOMS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("config", &["model"]),
    ("codec", &["model", "config(params)"]),
    ("wire", &["model", "config(params)"]),
    ("queue", &[]),
    ("expr", &["model", "config(params)"]),
    ("engine", &["model", "wire", "expr", "config(params)"]),
    ("hal", &["model", "config(params)", "clock", "backoff", "logging", "metrics"]),
    ("device", &["model", "config(params)", "codec", "expr", "hal", "clock", "backoff", "logging", "metrics"]),
    ("link", &["model", "wire", "queue", "clock", "backoff", "logging", "metrics"]),
    ("plan", &["model", "config", "wire", "codec", "expr", "device", "hal", "engine", "link", "queue"]),
    (
        "runtime",
        &[
            "model", "config", "codec", "wire", "expr", "queue", "engine", "hal", "device", "link", "plan", "clock",
            "backoff", "logging", "metrics",
        ],
    ),
    ("cli", &["*"]),
    // Files at the root of src/.
    ("main", &["*"]),
    ("lib", &["*"]),
    ("clock", &["model"]),
    ("backoff", &["model"]),
    ("metrics", &["model"]),
    ("logging", &["model", "clock"]),
];

/// What of `config` a room with `config(params)` may name.
const PARAMS: &[&str] = &["scalar", "raw", "Word", "Places", "near"];

/// Crates with one door: only this room names them.
const DOORS: &[(&str, &str)] = &[
    ("rppal", "hal"),
    ("gpiocdev", "hal"),
    ("gpiocdev_uapi", "hal"),
    ("tokio_serial", "hal"),
    ("rumqttc", "link"),
    ("rumqttd", "link"),
    ("serde_yaml", "config"),
    ("saphyr_parser", "config"),
    ("minijinja", "expr"),
    ("rmodbus", "device"),
    ("ciborium", "wire"),
    ("prost", "wire"),
    ("systemd_journal_logger", "logging"),
];

/// Rooms without a clock, a task, a file or a socket.
const PURE: &[&str] = &["model", "config", "codec", "wire", "expr", "engine"];

/// Path beginnings (`std::fs`) that a pure room may not name.
const IMPURE: &[&str] = &["tokio", "std::fs", "std::net", "std::thread", "std::process", "std::os::unix::net"];

/// Path endings that read a clock.
const CLOCKS: &[&str] = &["Instant::now", "SystemTime::now", "Zoned::now", "Timestamp::now"];

/// Addresses are values: they open nothing.
const VALUES: &[&str] =
    &["IpAddr", "Ipv4Addr", "Ipv6Addr", "SocketAddr", "SocketAddrV4", "SocketAddrV6", "AddrParseError"];

/// The longest file, in lines.
const LONGEST: usize = 700;

// ---- the scanner -------------------------------------------------------------------------------------------------

#[derive(Debug, Clone, PartialEq)]
struct Token {
    text: String,
    line: usize,
}

/// Words, `::` and single punctuation. Comments are dropped; a string or character becomes `"`.
fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut out, mut i, mut line) = (Vec::new(), 0, 1);
    while i < chars.len() {
        let (begin, first) = (i, at(i));
        let mut text = String::new();
        if first.is_whitespace() {
            i += 1;
        } else if first == '/' && at(i + 1) == '/' {
            while i < chars.len() && at(i) != '\n' {
                i += 1;
            }
        } else if first == '/' && at(i + 1) == '*' {
            let mut depth = 0;
            loop {
                match (at(i), at(i + 1)) {
                    ('/', '*') => (depth, i) = (depth + 1, i + 2),
                    ('*', '/') => (depth, i) = (depth - 1, i + 2),
                    _ => i += 1,
                }
                if depth == 0 || i >= chars.len() {
                    break;
                }
            }
        } else if let Some(end) = string_end(&chars, i) {
            (i, text) = (end, "\"".to_string());
        } else if is_word(first) {
            while is_word(at(i)) {
                text.push(at(i));
                i += 1;
            }
            // r#type is the word `type`.
            if text == "r" && at(i) == '#' && is_word(at(i + 1)) {
                text.clear();
                i += 1;
                while is_word(at(i)) {
                    text.push(at(i));
                    i += 1;
                }
            }
        } else if first == ':' && at(i + 1) == ':' {
            (i, text) = (i + 2, "::".to_string());
        } else {
            (i, text) = (i + 1, first.to_string());
        }
        if !text.is_empty() {
            out.push(Token { text, line });
        }
        line += chars[begin..i.min(chars.len())].iter().filter(|&&c| c == '\n').count();
    }
    out
}

/// The end of the string or character literal that begins at `i`, if one does. A lifetime is none.
fn string_end(chars: &[char], i: usize) -> Option<usize> {
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut j = i;
    if matches!(at(j), 'b' | 'c') && matches!(at(j + 1), '"' | '\'' | 'r') {
        j += 1;
    }
    if at(j) == 'r' && matches!(at(j + 1), '"' | '#') {
        let mut hashes = 0;
        while at(j + 1 + hashes) == '#' {
            hashes += 1;
        }
        if at(j + 1 + hashes) != '"' {
            return None;
        }
        j += 2 + hashes;
        while j < chars.len() && !(at(j) == '"' && (1..=hashes).all(|h| at(j + h) == '#')) {
            j += 1;
        }
        return Some(j + 1 + hashes);
    }
    let quote = at(j);
    if quote == '\'' && !(at(j + 1) == '\\' || at(j + 2) == '\'') {
        return None;
    }
    if quote != '"' && quote != '\'' {
        return None;
    }
    j += 1;
    while j < chars.len() && at(j) != quote {
        j += if at(j) == '\\' { 2 } else { 1 };
    }
    Some(j + 1)
}

/// The tokens without what is compiled only for tests, and the names of test modules that live in their own files.
fn without_tests(all: &[Token]) -> (Vec<Token>, Vec<String>) {
    let is = |i: usize, text: &str| all.get(i).is_some_and(|t| t.text == text);
    let (mut kept, mut files, mut i) = (Vec::new(), Vec::new(), 0);
    while i < all.len() {
        if !(is(i, "#") && is(i + 1, "[") && is(i + 2, "cfg")) {
            kept.push(all[i].clone());
            i += 1;
            continue;
        }
        let end = closing(all, i + 1);
        let words: Vec<&str> = all[i..end].iter().map(|t| t.text.as_str()).collect();
        if !words.contains(&"test") || words.contains(&"not") {
            kept.extend_from_slice(&all[i..end]);
            i = end;
            continue;
        }
        // The item: further attributes, then everything to its `;` or the end of its block.
        i = end;
        while is(i, "#") {
            i = closing(all, i + 1);
        }
        let item = i;
        while i < all.len() && !is(i, ";") {
            if is(i, "{") {
                i = closing(all, i) - 1;
                // `use a::{b};` goes on to its semicolon.
                if !is(i + 1, ";") {
                    break;
                }
            }
            i += 1;
        }
        if let Some(m) = all[item..i.min(all.len())].iter().position(|t| t.text == "mod")
            && is(i, ";")
            && let Some(name) = all.get(item + m + 1)
        {
            files.push(name.text.clone());
        }
        i += 1;
    }
    (kept, files)
}

/// One past the bracket that closes the one at `open`.
fn closing(all: &[Token], open: usize) -> usize {
    let mut depth = 0;
    for (i, token) in all.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "{" | "[" | "(" => depth += 1,
            "}" | "]" | ")" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return i + 1;
        }
    }
    all.len()
}

/// A path as the compiler would see it: `crate` first for our own, else the crate's name.
#[derive(Debug, Clone, PartialEq)]
struct Named {
    path: Vec<String>,
    line: usize,
}

/// Every path that a file names, in `use` and elsewhere. `module` is the file's own place: `["device", "serial"]`.
fn paths(tokens: &[Token], module: &[String]) -> Vec<Named> {
    let word = |i: usize| {
        tokens.get(i).map(|t| t.text.as_str()).filter(|t| t.starts_with(|c: char| c.is_alphabetic() || c == '_'))
    };
    let is = |i: usize, text: &str| tokens.get(i).is_some_and(|t| t.text == text);
    let mut found = Vec::new();
    let mut aliases: HashMap<String, Vec<String>> = HashMap::new();
    let (mut here, mut depth, mut inline) = (module.to_vec(), 0usize, Vec::new());
    let mut i = 0;
    while i < tokens.len() {
        let line = tokens[i].line;
        if is(i, "mod") && word(i + 1).is_some() && is(i + 2, "{") {
            here.push(tokens[i + 1].text.clone());
            inline.push(depth);
            (depth, i) = (depth + 1, i + 3);
        } else if is(i, "{") {
            (depth, i) = (depth + 1, i + 1);
        } else if is(i, "}") {
            (depth, i) = (depth.saturating_sub(1), i + 1);
            if inline.last() == Some(&depth) {
                inline.pop();
                here.pop();
            }
        } else if is(i, "extern") && is(i + 1, "crate") {
            found.extend(word(i + 2).map(|name| Named { path: vec![name.to_string()], line }));
            i += 3;
        } else if is(i, "use") && !is(i + 1, "<") {
            let mut leaves = Vec::new();
            i = use_tree(tokens, i + 1, &[], &mut leaves);
            for (path, alias, line) in leaves {
                let path = absolute(&path, &here);
                if let Some(last) = path.last().filter(|last| *last != "*") {
                    aliases.insert(alias.unwrap_or_else(|| last.clone()), path.clone());
                }
                found.push(Named { path, line });
            }
        } else if let Some(first) = word(i) {
            let mut path = vec![first.to_string()];
            i += 1;
            while is(i, "::") {
                // A turbofish or `Vec::<u8>` ends the path of names.
                let Some(next) = word(i + 1) else { break };
                path.push(next.to_string());
                i += 2;
            }
            // One word is a local, or `pub(crate)`.
            if path.len() > 1 {
                let path = match aliases.get(first) {
                    Some(full) if !matches!(first, "crate" | "self" | "super") => {
                        full.iter().cloned().chain(path.into_iter().skip(1)).collect()
                    }
                    _ => absolute(&path, &here),
                };
                found.push(Named { path, line });
            }
        } else {
            i += 1;
        }
    }
    found
}

type Leaf = (Vec<String>, Option<String>, usize);

/// Reads one `use` tree; gives its leaves and returns the place behind it.
fn use_tree(tokens: &[Token], mut i: usize, prefix: &[String], leaves: &mut Vec<Leaf>) -> usize {
    let text = |i: usize| tokens.get(i).map_or(";", |t| t.text.as_str());
    let line = tokens.get(i).map_or(0, |t| t.line);
    let mut path = prefix.to_vec();
    loop {
        match text(i) {
            "::" => i += 1,
            "{" => {
                i += 1;
                while text(i) != "}" && text(i) != ";" {
                    i = use_tree(tokens, i, &path, leaves);
                    if text(i) == "," {
                        i += 1;
                    }
                }
                return i + 1;
            }
            "self" if !path.is_empty() => i += 1,
            "as" => {
                leaves.push((path, Some(text(i + 1).to_string()), line));
                return i + 2;
            }
            "," | "}" | ";" => {
                leaves.push((path, None, line));
                return i;
            }
            name => {
                path.push(name.to_string());
                i += 1;
            }
        }
    }
}

/// `self`, `super` and the crate's own name resolved from the place they stand in.
fn absolute(path: &[String], here: &[String]) -> Vec<String> {
    let own = |rest: &[String], keep: usize| {
        let mut full = vec!["crate".to_string()];
        full.extend(here[..keep.min(here.len())].iter().cloned());
        full.extend(rest.iter().cloned());
        full
    };
    match path.first().map(String::as_str) {
        Some("pinpost") => own(&path[1..], 0),
        Some("self") => own(&path[1..], here.len()),
        Some("super") => {
            let up = path.iter().take_while(|p| *p == "super").count();
            own(&path[up..], here.len().saturating_sub(up))
        }
        _ => path.to_vec(),
    }
}

// ---- the rules ---------------------------------------------------------------------------------------------------

/// `src/device/serial/poll.rs` is `["device", "serial", "poll"]`; `mod.rs` is its folder.
fn module_of(file: &Path) -> Vec<String> {
    let mut parts: Vec<String> =
        file.with_extension("").components().map(|c| c.as_os_str().to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    parts
}

/// Everything wrong with one file, and its test modules that live in their own files. `file` is relative to `src/`.
fn breaches(file: &Path, source: &str) -> (Vec<String>, Vec<PathBuf>) {
    let mut wrong = Vec::new();
    let shown = Path::new("src").join(file).display().to_string();
    let lines = source.lines().count();
    if lines > LONGEST {
        wrong.push(format!("{shown}:{lines}: longer than {LONGEST} lines; divide it"));
    }
    if !source.starts_with("//!") {
        wrong.push(format!("{shown}:1: does not begin with a `//!` line that says what the file is for and promises"));
    }
    let mut module = module_of(file);
    let room = module.first().cloned().unwrap_or_default();
    if module.len() == 1 && matches!(room.as_str(), "main" | "lib") {
        module.clear();
    }
    let Some((_, may)) = ROOMS.iter().find(|(name, _)| *name == room) else {
        wrong.push(format!("{shown}:1: `{room}` is no room of the house; put it into one, or into the table here"));
        return (wrong, Vec::new());
    };
    let (kept, test_modules) = without_tests(&tokens(source));
    for Named { path, line } in paths(&kept, &module) {
        let named = path.join("::");
        let place = format!("{shown}:{line}: names `{named}`");
        if path[0] == "crate" {
            wrong.extend(room_breach(&room, may, &path).map(|why| format!("{place}; {why}")));
            continue;
        }
        if let Some((name, door)) = DOORS.iter().find(|(name, door)| *name == path[0] && *door != room) {
            wrong.push(format!("{place}; only `{door}` names {name}"));
        }
        if PURE.contains(&room.as_str()) {
            wrong.extend(impure(&room, &path).map(|why| format!("{place}; {why}")));
        }
    }
    let folder = if file.ends_with("mod.rs") || module.is_empty() {
        file.parent().map(Path::to_path_buf).unwrap_or_default()
    } else {
        file.with_extension("")
    };
    (wrong, test_modules.into_iter().map(|name| folder.join(name)).collect())
}

fn room_breach(room: &str, may: &[&str], path: &[String]) -> Option<String> {
    let other = path.get(1).map_or("*", String::as_str);
    if other == room || may.contains(&"*") || may.contains(&other) {
        return None;
    }
    if other == "config" && may.contains(&"config(params)") {
        let part = path.get(2).map_or("*", String::as_str);
        return (!PARAMS.contains(&part)).then(|| format!("of config `{room}` may name only {}", PARAMS.join(", ")));
    }
    if !ROOMS.iter().any(|(name, _)| *name == other) {
        return Some("name the room in which it lives, not the whole house".into());
    }
    Some(format!("`{room}` may name only: {}", if may.is_empty() { "itself".into() } else { may.join(", ") }))
}

fn impure(room: &str, path: &[String]) -> Option<String> {
    let full = path.join("::");
    if CLOCKS.iter().any(|clock| full == *clock || full.ends_with(&format!("::{clock}"))) {
        return Some(format!("`{room}` reads no clock: take a `Now`"));
    }
    let begins = |banned: &str| full == banned || full.starts_with(&format!("{banned}::"));
    let banned = IMPURE.iter().find(|banned| begins(banned))?;
    let is_value = *banned == "std::net" && path.get(2).is_some_and(|name| VALUES.contains(&name.as_str()));
    let reads_the_file = room == "config" && *banned == "std::fs";
    (!is_value && !reads_the_file).then(|| format!("`{room}` is pure: no {banned}"))
}

fn sources(folder: &Path, out: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

// ---- the tests ---------------------------------------------------------------------------------------------------

#[test]
fn every_room_names_only_what_it_may_and_every_file_says_what_it_is_for() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    assert!(files.len() > 10, "the source tree was not found under {}", src.display());
    let mut wrong = Vec::new();
    let mut only_tests: Vec<PathBuf> = Vec::new();
    for file in &files {
        let inside = file.strip_prefix(&src).unwrap();
        let (found, tests) = breaches(inside, &fs::read_to_string(file).unwrap());
        wrong.extend(found.into_iter().map(|text| (inside.to_path_buf(), text)));
        only_tests.extend(tests);
    }
    wrong.retain(|(file, text)| {
        let is_test = only_tests.iter().any(|t| file.with_extension("").starts_with(t));
        !is_test || text.contains("longer than") || text.contains("does not begin")
    });
    let report: Vec<String> = wrong.into_iter().map(|(_, text)| text).collect();
    assert!(report.is_empty(), "{} breaches of the house rules:\n{}", report.len(), report.join("\n"));
}

/// What `breaches` says of a planted file, without the opening line.
fn planted(file: &str, body: &str) -> Vec<String> {
    breaches(Path::new(file), &format!("//! Planted.\n{body}")).0
}

#[track_caller]
fn caught(file: &str, body: &str, expected: &str) {
    let found = planted(file, body);
    assert!(found.len() == 1 && found[0].contains(expected), "expected one breach `{expected}`, got {found:#?}");
}

#[track_caller]
fn clean(file: &str, body: &str) {
    assert_eq!(planted(file, body), Vec::<String>::new());
}

#[test]
fn a_room_that_names_a_forbidden_room_is_caught_however_it_is_written() {
    caught("model/value.rs", "use crate::wire::Topic;", "src/model/value.rs:2: names `crate::wire::Topic`");
    caught("engine/mod.rs", "use crate::{model::Value, hal::{Level as L}};", "names `crate::hal::Level`");
    caught("codec/keyvalue.rs", "fn f() { crate::device::open(); }", "crate::device::open");
    caught("engine/filters/delta.rs", "use super::super::super::device::Kind;", "crate::device::Kind");
    caught("queue/disk.rs", "type T = crate::model::Reading;", "may name only: itself");
    caught("runtime/hub.rs", "use pinpost::cli::Args;", "crate::cli::Args");
    caught("wire/mod.rs", "mod inner { use super::super::link::Url; }", "crate::link::Url");
    caught("model/id.rs", "pub use crate::*;", "not the whole house");
    caught("hal/tty.rs", "use crate::config::load;", "may name only scalar");
    caught("garage/mod.rs", "", "is no room of the house");
}

#[test]
fn a_grouped_use_is_read_to_its_last_name() {
    let found = planted("engine/mod.rs", "use crate::{\n  model::{Value, Now},\n  link::Link,\n  device,\n};");
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].contains(":4: names `crate::link::Link`"), "{found:#?}");
    assert!(found[1].contains(":5: names `crate::device`"), "{found:#?}");
}

#[test]
fn what_is_allowed_is_not_caught() {
    clean("device/serial.rs", "use crate::{model::Value, codec::Frame, hal::Board, config::scalar::Span};");
    clean("device/serial/poll.rs", "use super::Port; use super::super::{Kind, Word}; use self::inner::X;");
    clean("link/tls.rs", "use rumqttc::Event; use std::fs; use tokio::net::TcpStream;");
    clean("config/mod.rs", "use std::fs; use serde_yaml::Value;");
    clean("wire/mod.rs", "use std::net::IpAddr; pub(crate) fn f<'a>(x: &'a str) -> Vec<u8> { Vec::<u8>::new() }");
    clean("cli/run.rs", "use crate::{runtime::run, model, logging};");
    clean("main.rs", "use pinpost::cli;");
}

#[test]
fn a_crate_named_outside_its_door_is_caught() {
    caught("device/digital_in.rs", "use rppal::gpio::Gpio;", "only `hal` names rppal");
    caught("runtime/hub.rs", "fn f(c: rumqttc::v5::AsyncClient) {}", "only `link` names rumqttc");
    caught("cli/check.rs", "fn f() { let _ = ::serde_yaml::from_str(\"\"); }", "only `config` names serde_yaml");
    caught("runtime/mod.rs", "extern crate systemd_journal_logger;", "only `logging` names");
    caught("cli/demo.rs", "use rumqttd as broker;", "only `link` names rumqttd");
}

#[test]
fn a_pure_room_that_reaches_outside_is_caught() {
    caught("engine/mod.rs", "use tokio::sync::mpsc;", "`engine` is pure: no tokio");
    caught("codec/mod.rs", "fn f() { let _ = std::fs::read(\"x\"); }", "no std::fs");
    caught("wire/mod.rs", "use std::net::{IpAddr, TcpStream};", "no std::net");
    caught(
        "engine/rules.rs",
        "use std::time::Instant;\nfn f() { Instant::now(); }",
        ":3: names `std::time::Instant::now`",
    );
    caught("model/time.rs", "use std::time::SystemTime as Clock;\nfn f() { Clock::now(); }", "reads no clock");
    caught("config/mod.rs", "use std::{fs, thread};", "no std::thread");
    caught("engine/expr.rs", "use std as s;\nfn f() { s::thread::yield_now(); }", "no std::thread");
}

#[test]
fn comments_strings_and_test_code_are_no_breach() {
    clean("model/mod.rs", "// use crate::hal;\n/* use crate::hal; /* nested */ crate::cli::x */ fn f() {}");
    clean(
        "model/mod.rs",
        "const A: &str = \"crate::hal::x\"; const B: &str = r#\"use crate::cli; \" \"#; const C: char = '\"';",
    );
    clean("engine/mod.rs", "#[cfg(test)]\nmod tests {\n use crate::hal::sim;\n fn f() { { std::fs::read(\"\"); } }\n}");
    clean("engine/mod.rs", "#[cfg(all(test, unix))]\nuse crate::{hal, device};");
    clean("engine/mod.rs", "#[cfg(test)]\n#[allow(dead_code)]\nfn f() -> crate::hal::Level { todo!() }");
    let (_, files) = breaches(Path::new("engine/mod.rs"), "//! E.\n#[cfg(test)]\nmod transcripts;");
    assert_eq!(files, vec![PathBuf::from("engine/transcripts")]);
}

#[test]
fn what_follows_test_code_or_a_string_is_still_read() {
    caught("engine/mod.rs", "#[cfg(test)]\nmod tests { fn f() {} }\nuse crate::hal::Level;", ":4: names");
    caught("engine/mod.rs", "#[cfg(not(test))]\nuse crate::hal::Level;", "crate::hal::Level");
    caught("engine/mod.rs", "const A: char = '\\'';\nconst B: &str = \"\\\"\";\nuse crate::hal::Level;", ":4: names");
    caught("engine/mod.rs", "fn f<'a>(x: &'a str) { let _ = b'x'; }\nuse crate::hal::Level;", ":3: names");
    caught("engine/mod.rs", "const A: &str = \"one\ntwo\";\nuse crate::hal::Level;", ":4: names");
}

#[test]
fn a_long_file_and_a_silent_file_are_caught() {
    caught("model/mod.rs", &"\n".repeat(LONGEST), "longer than 700 lines");
    let (found, _) = breaches(Path::new("model/mod.rs"), "use std::fmt;\n");
    assert!(found.len() == 1 && found[0].contains("does not begin with a `//!` line"), "{found:#?}");
}
