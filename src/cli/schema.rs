//! `pinpost schema`: the JSON Schema of the configuration.

use clap::Args;

use super::{Outcome, out};

/// Arguments of `pinpost schema`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinpost schema > pinpost.schema.json
  and as the first line of the YAML file, for editors with a YAML language server:
  # yaml-language-server: $schema=pinpost.schema.json")]
pub struct SchemaArgs {}

/// Prints the schema.
pub fn run(_args: &SchemaArgs) -> Outcome {
    let schema = crate::config::schema(&crate::plan::vocabulary());
    out::data(format!("{schema:#}\n").as_bytes())
}
