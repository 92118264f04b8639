//! `pinpost explain`: a file as the daemon would run it.

use clap::Args;

use super::{ConfigFile, Failure, Outcome};

/// Arguments of `pinpost explain`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinpost explain my.yaml          every device with its topics, types, filters, delivery and pins
  pinpost explain --json my.yaml   the same for programs")]
pub struct ExplainArgs {
    #[command(flatten)]
    pub config: ConfigFile,
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
}

/// Explains the file.
pub fn run(_args: &ExplainArgs) -> Outcome {
    Err(Failure::failed("`explain` is not built yet"))
}
