//! WHAT WAS WRITTEN: the YAML file, as serde types in the order of `config.example.yaml`, with the place of every
//! node kept so that each problem can be shown where it stands.
//!
//! The only room that names `serde_yaml`. It knows no device kind and no filter: those words come from above as a
//! [`Vocabulary`], so that a kind or filter stays one file and one word in its own list.

pub mod raw;
pub mod scalar;

use schemars::{Schema, SchemaGenerator};

/// A word of an open list (a device kind, a filter) with the schema of what may follow it.
#[derive(Clone, Copy)]
pub struct Word {
    /// As written in the YAML.
    pub name: &'static str,
    /// One line for `schema` and hover texts.
    pub summary: &'static str,
    /// Schema of a kind's own keys, or of a filter's value.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
}

/// The open lists, as the rooms above know them.
#[derive(Clone, Default)]
pub struct Vocabulary {
    /// Device kinds (`kind: …`).
    pub kinds: Vec<Word>,
    /// Filters (`filters: [{NAME: …}]`).
    pub filters: Vec<Word>,
}
