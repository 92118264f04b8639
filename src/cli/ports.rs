//! `pinpost ports`: the serial ports of this machine.

use clap::Args;

use super::{Failure, Outcome};

/// Arguments of `pinpost ports`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinpost ports                    what to write behind `path:` or `usb:`
  pinpost ports --json")]
pub struct PortsArgs {
    /// Print them as JSON
    #[arg(long)]
    pub json: bool,
}

/// Lists the ports.
pub fn run(_args: &PortsArgs) -> Outcome {
    Err(Failure::failed("`ports` is not built yet"))
}
