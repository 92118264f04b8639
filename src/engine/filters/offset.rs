//! `offset: -0.4` adds.

use super::{At, Filter, FilterWord, number, read, schema_of};
use crate::config::Word;
use crate::model::Value;

pub(super) const WORD: FilterWord = FilterWord {
    word: Word { name: "offset", summary: "adds a number", schema: schema_of::<f64> },
    build: |params, _| Ok(Box::new(Offset(read(params)?))),
};

struct Offset(f64);

impl Filter for Offset {
    fn apply(&mut self, value: Value, _: &At) -> Option<Value> {
        number(value, |n| n + self.0)
    }
}
