//! `pinpost run`: the daemon.

use clap::Args;

use super::{ConfigOption, Failure, Outcome};

/// Arguments of `pinpost run`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinpost run                                 the daemon, with /etc/pinpost/config.yaml
  pinpost run -c my.yaml --simulate           the same on any machine: the pins are simulated

Exit code 78 says that the file is wrong; `pinpost check FILE` shows where.")]
pub struct RunArgs {
    #[command(flatten)]
    pub config: ConfigOption,
    /// Use a simulated board; everything above it is the same
    #[arg(long)]
    pub simulate: bool,
}

/// Runs until it is told to stop.
pub fn run(_args: &RunArgs) -> Outcome {
    Err(Failure::failed("`run` is not built yet"))
}
