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
    let mut checked = read(path, when, simulate);
    if let Some(board) = boards::here().filter(|_| !simulate) {
        checked.judge(board, &device_tree::taken());
    }
    checked
}

/// A file, its pins judged as those of another board.
pub fn check_for(path: &Path, board: &BoardTable) -> Checked {
    let mut checked = read(path, When::Check, false);
    checked.judge(board, &[]);
    checked
}

fn read(path: &Path, when: When, simulate: bool) -> Checked {
    let bytes = match config::read(path) {
        Ok(bytes) => bytes,
        Err(problem) => return Checked { plan: None, problems: vec![*problem], text: String::new() },
    };
    let host = nix::unistd::gethostname().ok().and_then(|h| h.into_string().ok()).unwrap_or_else(|| "pinpost".into());
    plan::check(
        &bytes,
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
    let Checked { plan, problems, text } = check(path, when, simulate);
    show(&problems, path, &text);
    plan.ok_or_else(|| {
        let count = problems.iter().filter(|p| !p.warning).count();
        let what = if count == 1 { "1 error".to_owned() } else { format!("{count} errors") };
        say(&format!("pinpost: {what} in {}; nothing was started", path.display()));
        Failure::silent(exit::CONFIG)
    })
}
