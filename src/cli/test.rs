//! `pinpost test`: a user's scenario, played in virtual time. The gateway is the real one, from the file to the pins'
//! registers and the broker's socket, which are simulated; an hour of it takes about a second.

mod play;
mod report;
mod script;

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Failure, Outcome, exit, file, out};
use crate::config;
use play::Trouble;
use script::Script;

/// Arguments of `pinpost test`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinpost test pump.test.yaml                 plays one scenario
  pinpost test tests/*.yaml                   plays them all; the last line counts

A scenario names the gateway's file and what happens at which time:

  config: greenhouse.yaml
  steps:
    - { at: 1s, pin: 17, to: 0 }
    - { expect: greenhouse/door, payload: ON }

docs/testing.md has all the words. Exit code 0: all passed. 1: one did not. 78: a file is wrong.")]
pub struct TestArgs {
    /// Scenario files
    #[arg(value_name = "SCENARIO", required = true)]
    pub scenarios: Vec<PathBuf>,
    /// Say only what failed
    #[arg(short, long)]
    pub quiet: bool,
}

/// Plays the scenarios, one after the other.
pub fn run(args: &TestArgs) -> Outcome {
    let (mut failed, mut wrong) = (0, 0);
    for path in &args.scenarios {
        let bytes = config::read(path);
        let (script, problems, text) = match bytes {
            Ok(bytes) => script::load(&bytes, path.parent().unwrap_or(Path::new(""))),
            Err(problem) => (None, vec![*problem], String::new()),
        };
        let Some(script) = script else {
            file::show(&problems, path, &text);
            wrong += 1;
            continue;
        };
        let begun = std::time::Instant::now();
        match perform(&script) {
            Ok(took) => {
                let name = script.name.as_deref().map(|name| format!(": {name}")).unwrap_or_default();
                let real = begun.elapsed().as_secs_f64();
                let steps = script.steps.len();
                let line =
                    format!("ok    {}{name} ({steps} steps, {} in {real:.1}s)\n", path.display(), report::time(took));
                if !args.quiet {
                    out::data(line.as_bytes())?;
                }
            }
            Err(Trouble::Wrong { file, text, problems }) => {
                file::show(&problems, &file, &text);
                wrong += 1;
            }
            Err(Trouble::Broken(why)) => {
                out::data(format!("FAIL  {}: {why}\n", path.display()).as_bytes())?;
                failed += 1;
            }
            Err(Trouble::Failed { step, at, lines }) => {
                out::data(failure(&script, path, &text, step, report::time(at), lines).as_bytes())?;
                failed += 1;
            }
        }
    }
    let passed = args.scenarios.len() - failed - wrong;
    let wrong_files = if wrong > 0 { format!(", {wrong} could not be played: a file is wrong") } else { String::new() };
    out::say(&format!("{passed} passed, {failed} failed{wrong_files}"));
    match (failed, wrong) {
        (0, 0) => Ok(()),
        (_, 0) => Err(Failure::silent(exit::FAILED)),
        _ => Err(Failure::silent(exit::CONFIG)),
    }
}

/// Plays one in a runtime of its own, whose time is held.
fn perform(script: &Script) -> Result<std::time::Duration, Trouble> {
    let broken = |e: std::io::Error| Trouble::Broken(format!("it cannot be begun: {e}"));
    let home = Home::make().map_err(broken)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().map_err(broken)?;
    let outcome = runtime.block_on(play::play(script, &home.0));
    runtime.shutdown_background();
    outcome
}

/// The step as it stands in the file, and what was wrong.
fn failure(script: &Script, path: &Path, text: &str, step: usize, at: String, lines: Vec<String>) -> String {
    let place = script.steps.get(step).and_then(|act| act.place);
    let place = place.map(|p| format!(":{}:{}", p.line, p.col)).unwrap_or_default();
    let line = script.steps.get(step).and_then(|act| act.place).and_then(|p| text.lines().nth(p.line - 1));
    let name = script.name.as_deref().map(|name| format!(" ({name})")).unwrap_or_default();
    let mut told = format!("FAIL  {}{place}: step {} at {at}{name}\n", path.display(), step + 1);
    told.extend(line.map(|line| format!("      {}\n", line.trim())));
    let colours = crate::logging::colours();
    for line in lines {
        let paint = match line.as_bytes().first() {
            Some(b'-') if colours => ("\x1b[31m", "\x1b[0m"),
            Some(b'+') if colours => ("\x1b[32m", "\x1b[0m"),
            _ => ("", ""),
        };
        told.push_str(&format!("        {}{line}{}\n", paint.0, paint.1));
    }
    told
}

/// A directory of a scenario's own, gone with it.
struct Home(PathBuf);

impl Home {
    fn make() -> std::io::Result<Home> {
        use std::os::unix::fs::DirBuilderExt;
        let name = format!("pinpost-test-{}-{:08x}", std::process::id(), fastrand::u32(..));
        let path = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Home(path))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
