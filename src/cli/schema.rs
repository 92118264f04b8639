//! `pinpost schema`: the JSON Schema of the configuration.

use clap::Args;

use super::{Failure, Outcome};

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
    Err(Failure::failed("`schema` is not built yet"))
}
