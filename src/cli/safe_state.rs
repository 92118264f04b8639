//! `pinpost safe-state`: what systemd calls after a crash.

use std::path::PathBuf;

use clap::Args;

use super::{Failure, Outcome};

/// Arguments of `pinpost safe-state`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinpost safe-state               outputs of the configuration that was last applied
  pinpost safe-state -c my.yaml    outputs of this file

In a systemd unit: ExecStopPost=/usr/bin/pinpost safe-state")]
pub struct SafeStateArgs {
    /// Use this file's outputs instead of those that were last applied
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Drives the outputs to their safe state.
pub fn run(_args: &SafeStateArgs) -> Outcome {
    Err(Failure::failed("`safe-state` is not built yet"))
}
