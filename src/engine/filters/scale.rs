//! `scale: 0.1` multiplies.

use super::{At, Filter, FilterWord, number, read, schema_of};
use crate::config::Word;
use crate::model::Value;

pub(super) const WORD: FilterWord = FilterWord {
    word: Word { name: "scale", summary: "multiplies by a number", schema: schema_of::<f64> },
    build: |params, _| Ok(Box::new(Scale(read(params)?))),
};

struct Scale(f64);

impl Filter for Scale {
    fn apply(&mut self, value: Value, _: &At) -> Option<Value> {
        number(value, |n| n * self.0)
    }
}
