//! `pinpost explain`: a file as the daemon would run it.

use clap::Args;

use super::{ConfigFile, Outcome, file, out};
use crate::config::When;
use crate::plan::{explain, explain_json};

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
pub fn run(args: &ExplainArgs) -> Outcome {
    let plan = file::plan(&args.config.file, When::Check, false)?;
    if args.json {
        return out::data(format!("{:#}\n", explain_json(&plan)).as_bytes());
    }
    out::data(explain(&plan).as_bytes())
}
