//! `pinpost check`: every problem of a file at once.

use clap::Args;

use super::{ConfigFile, Failure, Outcome, exit, file, out};
use crate::config::{When, report};
use crate::hal::boards::{self, BoardTable};
use crate::plan::Checked;

/// Arguments of `pinpost check`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinpost check my.yaml
  pinpost check --board pi5 my.yaml
                                   what its pins can do on a Raspberry Pi 5
  pinpost check --json my.yaml     for programs

Exit code 0: the file can be run. 78: it cannot.")]
pub struct CheckArgs {
    #[command(flatten)]
    pub config: ConfigFile,
    /// Judge the pins as those of this board: zero, zero2w, pi1 to pi5 [default: this machine, if it is one]
    #[arg(long, value_name = "BOARD", value_parser = boards::by_name)]
    pub board: Option<&'static BoardTable>,
    /// Print the problems as JSON
    #[arg(long)]
    pub json: bool,
}

/// Checks the file.
pub fn run(args: &CheckArgs) -> Outcome {
    let path = &args.config.file;
    let Checked { plan, problems, text } = match args.board {
        Some(board) => file::check_for(path, board),
        None => file::check(path, When::Check, false),
    };
    if args.json {
        let list = report::render_json(&problems, &path.display().to_string(), &text);
        out::data(format!("{list:#}\n").as_bytes())?;
    } else {
        file::show(&problems, path, &text);
    }
    let errors = problems.iter().filter(|p| !p.warning).count();
    let warnings = problems.len() - errors;
    let counted = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
    let found = format!("{}, {}", counted(errors, "error"), counted(warnings, "warning"));
    match plan {
        Some(plan) => {
            if !args.json {
                let what =
                    format!("{}, {}", counted(plan.devices.len(), "device"), counted(plan.points.len(), "point"));
                out::say(&format!("{}: can be run: {what}; {found}", path.display()));
            }
            Ok(())
        }
        None => {
            if !args.json {
                out::say(&format!("{}: cannot be run: {found}", path.display()));
            }
            Err(Failure::silent(exit::CONFIG))
        }
    }
}
