//! `pinpost pins`: the header.

use clap::Args;

use super::{Failure, Outcome};

/// Arguments of `pinpost pins`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinpost pins                     the header with BCM numbers and who uses what
  pinpost pins --json")]
pub struct PinsArgs {
    /// Print them as JSON
    #[arg(long)]
    pub json: bool,
}

/// Shows the pins.
pub fn run(_args: &PinsArgs) -> Outcome {
    Err(Failure::failed("`pins` is not built yet"))
}
