//! `pinpost demo`: the main job with no hardware and no broker.

use clap::Args;

use super::{Failure, Outcome};
use crate::config::scalar::Span;

/// Arguments of `pinpost demo`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinpost demo                     until Ctrl-C
  pinpost demo --for 10s           ten seconds, then a summary")]
pub struct DemoArgs {
    /// End after this time, with a summary
    #[arg(long = "for", value_name = "DURATION")]
    pub time: Option<Span>,
}

/// Runs the demo.
pub fn run(_args: &DemoArgs) -> Outcome {
    Err(Failure::failed("`demo` is not built yet"))
}
