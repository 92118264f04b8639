//! `clamp: {min: 0, max: 100}` brings a number into its bounds.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{At, Filter, FilterWord, number, read, schema_of};
use crate::config::Word;
use crate::model::Value;

pub(super) const WORD: FilterWord = FilterWord {
    word: Word { name: "clamp", summary: "brings a number into its bounds", schema: schema_of::<Bounds> },
    build: |params, _| {
        let bounds: Bounds = read(params)?;
        if bounds.min.unwrap_or(f64::MIN) > bounds.max.unwrap_or(f64::MAX) {
            return Err("`min` is greater than `max`".into());
        }
        Ok(Box::new(bounds))
    },
};

/// Bounds of a number.
#[derive(Deserialize, JsonSchema)]
struct Bounds {
    /// Least.
    min: Option<f64>,
    /// Greatest.
    max: Option<f64>,
}

impl Filter for Bounds {
    fn apply(&mut self, value: Value, _: &At) -> Option<Value> {
        number(value, |n| n.max(self.min.unwrap_or(f64::MIN)).min(self.max.unwrap_or(f64::MAX)))
    }
}
