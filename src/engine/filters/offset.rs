//! `offset: -0.4` adds.

use super::{Filter, FilterWord, number, read, schema_of};
use crate::config::Word;
use crate::model::{Mono, Value};

pub(super) const WORD: FilterWord = FilterWord {
    word: Word { name: "offset", summary: "adds a number", schema: schema_of::<f64> },
    build: |params| Ok(Box::new(Offset(read(params)?))),
};

struct Offset(f64);

impl Filter for Offset {
    fn apply(&mut self, value: Value, _: Mono) -> Option<Value> {
        number(value, |n| n + self.0)
    }
}
