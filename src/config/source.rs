//! From a path to text: the configuration itself and the files that hold secrets.
//!
//! Promise: never reads more than a limit, never hangs on a pipe, and says in plain words what the path is instead.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::scalar::Secret;
use super::{Places, START};
use crate::model::{Place, Problem};

/// Largest configuration, in bytes.
pub const MAX_FILE: usize = 1 << 20;
/// Largest file that holds a secret, in bytes.
const MAX_SECRET: usize = 64 << 10;

/// Reads a configuration file.
pub fn read(path: &Path) -> Result<Vec<u8>, Box<Problem>> {
    read_limited(path, MAX_FILE).map_err(|text| {
        let help = match text.contains("the limit is") {
            true => "a configuration is text of a few kilobytes; is this the right file?",
            false => "name a YAML file with `-c FILE`",
        };
        let place = text.contains("the limit is").then_some(START);
        Box::new(Problem::error(place, text).help(help))
    })
}

fn read_limited(path: &Path, limit: usize) -> Result<Vec<u8>, String> {
    let shown = path.display();
    // opening a pipe would wait for somebody to write into it
    let file: File = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|e| format!("cannot read {shown}: {}", reason(&e)))?;
    let meta = file.metadata().map_err(|e| format!("cannot read {shown}: {}", reason(&e)))?;
    if meta.is_dir() {
        return Err(format!("{shown} is a directory, not a file"));
    }
    if !meta.is_file() {
        return Err(format!("{shown} is a device or a pipe, not a file"));
    }
    if meta.len() > limit as u64 {
        return Err(too_large(&format!("{shown}"), meta.len(), limit));
    }
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(|e| format!("cannot read {shown}: {}", reason(&e)))?;
    match bytes.len() > limit {
        true => Err(too_large(&format!("{shown}"), bytes.len() as u64, limit)),
        false => Ok(bytes),
    }
}

fn too_large(what: &str, size: u64, limit: usize) -> String {
    let unit = |n: u64| match n {
        n if n >= 1 << 20 => format!("{:.1} MiB", n as f64 / f64::from(1 << 20)),
        n => format!("{} KiB", n >> 10),
    };
    format!("{what} has {}; the limit is {}", unit(size), unit(limit as u64))
}

fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".into(),
        std::io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => error.to_string(),
    }
}

/// Bytes to text; the error carries what can be shown of it.
pub(super) fn decode(bytes: &[u8]) -> Result<String, (String, Box<Problem>)> {
    if bytes.len() > MAX_FILE {
        let text = too_large("the file", bytes.len() as u64, MAX_FILE);
        let help = "a configuration is text of a few kilobytes; is this the right file?";
        return Err((String::new(), Box::new(Problem::error(Some(START), text).help(help))));
    }
    let fail = |place, text: &str, help: &str| {
        let shown = String::from_utf8_lossy(bytes.get(..64 << 10).unwrap_or(bytes)).into_owned();
        Err((shown, Box::new(Problem::error(Some(place), text).help(help))))
    };
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return fail(START, "the file is UTF-16, not UTF-8", "save it as UTF-8 in your editor");
    }
    let body = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let nuls = memchr::memchr_iter(0, body.get(..1024).unwrap_or(body)).count();
    if nuls * 4 > body.len().min(1024) {
        return fail(START, "the file is UTF-16 or binary, not UTF-8", "save it as UTF-8 in your editor");
    }
    let place = |at: usize| {
        let before = String::from_utf8_lossy(body.get(..at).unwrap_or_default());
        let line = before.matches('\n').count() + 1;
        let col = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Place { line, col, len: 1 }
    };
    if let Some(at) = memchr::memchr(0, body) {
        return fail(
            place(at),
            "a zero byte: this is a binary file",
            "a configuration is UTF-8 text; is this the right file?",
        );
    }
    match std::str::from_utf8(body) {
        Ok(text) => Ok(text.to_owned()),
        Err(e) => {
            let byte = body.get(e.valid_up_to()).copied().unwrap_or_default();
            let text = format!("the byte {byte:#04x} is not UTF-8");
            fail(place(e.valid_up_to()), &text, "save the file as UTF-8 in your editor (it may be Latin-1 now)")
        }
    }
}

/// How serious an unreadable secret is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// `check`, perhaps on another machine: a warning.
    Check,
    /// The daemon: an error.
    Run,
}

/// A secret `key` of `section`, given inline or by `KEY_file`; one trailing line break of the file is not part of it.
/// A relative file counts from `base`.
pub fn read_secret(
    places: &Places,
    section: &[&str],
    key: &str,
    (inline, file): (Option<&Secret>, Option<&str>),
    base: &Path,
    when: When,
) -> Result<Option<Secret>, Box<Problem>> {
    let file_key = format!("{key}_file");
    let at = |key: &str| places.key(&[section, &[key]].concat());
    let Some(file) = file else { return Ok(inline.cloned()) };
    if inline.is_some() {
        return Err(Box::new(
            Problem::error(at(&file_key), format!("`{key}` and `{file_key}` are both given"))
                .related(at(key), "also given here")
                .help("keep one of the two; the file is the safer place"),
        ));
    }
    let place = places.value(&[section, &[file_key.as_str()]].concat());
    let trimmed = read_limited(&base.join(file), MAX_SECRET).and_then(|bytes| {
        let text = String::from_utf8(bytes).map_err(|_| format!("{file} is not UTF-8 text"))?;
        let text = text.strip_suffix('\n').map(|t| t.strip_suffix('\r').unwrap_or(t)).unwrap_or(&text);
        Ok(Secret::new(text))
    });
    match trimmed {
        Ok(secret) => Ok(Some(secret)),
        Err(text) => {
            let mut problem = Problem::error(place, format!("`{file_key}`: {text}"))
                .help("the file must be there, and readable, where the daemon runs");
            problem.warning = when == When::Check;
            Err(Box::new(problem))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_refused_in_plain_words() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let big = dir.path().join("big");
        File::create(&big).unwrap().set_len(10 << 20).unwrap();
        for (path, part) in [
            (dir.path().to_owned(), "is a directory"),
            (pipe, "a pipe"),
            ("/dev/zero".into(), "is a device"),
            (dir.path().join("nope"), "there is no such file"),
            (big, "has 10.0 MiB; the limit is 1.0 MiB"),
        ] {
            let problem = read(&path).unwrap_err();
            assert!(problem.text.contains(part), "{}", problem.text);
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_named_with_their_place() {
        let utf16: Vec<u8> = "version: 1".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for (bytes, part, line, col) in [
            (b"\xff\xfev\0".to_vec(), "UTF-16", 1, 1),
            (utf16, "UTF-16", 1, 1),
            (b"a: 1\nb: \xfc\n".to_vec(), "0xfc is not UTF-8", 2, 4),
            (b"a: 1 and more\nb: x\0".to_vec(), "binary", 2, 5),
            (vec![b'#'; MAX_FILE + 1], "limit", 1, 1),
        ] {
            let (_, problem) = decode(&bytes).unwrap_err();
            assert!(problem.text.contains(part), "{}", problem.text);
            let place = problem.place.unwrap();
            assert_eq!((place.line, place.col), (line, col), "{part}");
        }
        assert_eq!(decode(b"\xef\xbb\xbfa: 1").unwrap(), "a: 1");
    }

    #[test]
    fn a_secret_comes_from_one_place_and_loses_one_line_break() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("pw"), "CANARY\n\n").unwrap();
        let places = Places::default();
        let inline = Secret::new("x");
        let get = |pair, when| read_secret(&places, &["mqtt"], "password", pair, dir.path(), when);
        assert_eq!(get((None, Some("pw")), When::Run).unwrap().unwrap().reveal(), "CANARY\n");
        assert_eq!(get((None, None), When::Run).unwrap(), None);
        assert_eq!(get((Some(&inline), None), When::Run).unwrap(), Some(inline.clone()));
        assert!(get((Some(&inline), Some("pw")), When::Check).unwrap_err().text.contains("both"));
        assert!(get((None, Some("nope")), When::Check).unwrap_err().warning);
        assert!(!get((None, Some("nope")), When::Run).unwrap_err().warning);
    }
}
