//! `pinpost check`: every problem of a file at once.

use clap::Args;

use super::{ConfigFile, Failure, Outcome};

/// Arguments of `pinpost check`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinpost check my.yaml
  pinpost check --json my.yaml     for programs

Exit code 0: the file can be run. 78: it cannot.")]
pub struct CheckArgs {
    #[command(flatten)]
    pub config: ConfigFile,
    /// Print the problems as JSON
    #[arg(long)]
    pub json: bool,
}

/// Checks the file.
pub fn run(_args: &CheckArgs) -> Outcome {
    Err(Failure::failed("`check` is not built yet"))
}
