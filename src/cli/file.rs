//! Reads and judges the configuration file for the commands that need it, and shows what is wrong with it.

use std::path::Path;

use crate::config::{self, When, report};
use crate::hal::boards::{self, BoardTable};
use crate::hal::device_tree;
use crate::model::Problem;
use crate::plan::{self, Ask, Checked, Plan};

use super::out::say;
use super::{Failure, exit};

/// A file, judged on this machine, its pins too.
pub fn check(path: &Path, when: When, simulate: bool) -> Checked {
    match config::read(path) {
        Ok(bytes) => check_of(&bytes, path, when, simulate),
        Err(problem) => Checked { plan: None, problems: vec![*problem], text: String::new() },
    }
}

/// What was read from a file, judged on this machine, its pins too.
pub fn check_of(bytes: &[u8], path: &Path, when: When, simulate: bool) -> Checked {
    let mut checked = resolve(bytes, path, when, simulate);
    if let Some(board) = boards::here().filter(|_| !simulate) {
        checked.judge(board, &device_tree::taken());
    }
    checked
}

/// A file, its pins judged as those of another board.
pub fn check_for(path: &Path, board: &BoardTable) -> Checked {
    match config::read(path) {
        Ok(bytes) => {
            let mut checked = resolve(&bytes, path, When::Check, false);
            checked.judge(board, &[]);
            checked
        }
        Err(problem) => Checked { plan: None, problems: vec![*problem], text: String::new() },
    }
}

fn resolve(bytes: &[u8], path: &Path, when: When, simulate: bool) -> Checked {
    let host = nix::unistd::gethostname().ok().and_then(|h| h.into_string().ok()).unwrap_or_else(|| "pinpost".into());
    plan::check(
        bytes,
        &Ask {
            env: &|name| std::env::var(name).ok(),
            base: path.parent().unwrap_or(Path::new("")),
            when,
            simulate,
            host: &host,
            machine: &machine(),
        },
    )
}

/// Six hex digits that are this machine's for ever, made of the machine id without giving it away.
fn machine() -> String {
    let id = ["/etc/machine-id", "/var/lib/dbus/machine-id"].iter().find_map(|f| std::fs::read_to_string(f).ok());
    let text = format!("pinpost {}", id.unwrap_or_default().trim());
    format!("{:06x}", crc32fast::hash(text.as_bytes()) & 0x00ff_ffff)
}

/// Shows problems on stderr.
pub fn show(problems: &[Problem], path: &Path, text: &str) {
    if !problems.is_empty() {
        let shown = report::render(problems, &path.display().to_string(), text, crate::logging::colours());
        say(shown.trim_end());
    }
}

/// A plan that can run, for those who only look into the file: what is merely doubtful in it is not said.
pub fn plan_quietly(path: &Path) -> Result<Plan, Failure> {
    match check(path, When::Check, false).plan {
        Some(plan) => Ok(plan),
        None => plan(path, When::Check, false),
    }
}

/// A plan that can run, or everything that is wrong, said, and the exit code for it.
pub fn plan(path: &Path, when: When, simulate: bool) -> Result<Plan, Failure> {
    plan_of(&read(path)?, path, when, simulate)
}

/// A file's bytes, or why there are none, said, and the exit code for it.
pub fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    config::read(path).map_err(|problem| refused(&[*problem], path, ""))
}

/// The same of what was read from a file.
pub fn plan_of(bytes: &[u8], path: &Path, when: When, simulate: bool) -> Result<Plan, Failure> {
    let Checked { plan, problems, text } = check_of(bytes, path, when, simulate);
    match plan {
        Some(plan) => {
            show(&problems, path, &text);
            Ok(plan)
        }
        None => Err(refused(&problems, path, &text)),
    }
}

fn refused(problems: &[Problem], path: &Path, text: &str) -> Failure {
    show(problems, path, text);
    let count = problems.iter().filter(|p| !p.warning).count();
    let what = if count == 1 { "1 error".to_owned() } else { format!("{count} errors") };
    say(&format!("pinpost: {what} in {}; nothing was started", path.display()));
    Failure::silent(exit::CONFIG)
}
