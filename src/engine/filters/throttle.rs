//! `throttle: 5s` lets at most one value pass in that time; the others are dropped.

use std::time::Duration;

use super::{At, Filter, FilterWord, read, schema_of};
use crate::config::Word;
use crate::config::scalar::Span;
use crate::model::{Mono, Value};

pub(super) const WORD: FilterWord = FilterWord {
    word: Word { name: "throttle", summary: "at most one value in this time", schema: schema_of::<Span> },
    build: |params, _| Ok(Box::new(Throttle { every: read::<Span>(params)?.0, last: None })),
};

struct Throttle {
    every: Duration,
    last: Option<Mono>,
}

impl Filter for Throttle {
    fn apply(&mut self, value: Value, at: &At) -> Option<Value> {
        if self.last.is_some_and(|last| at.now.since(last) < self.every) {
            return None;
        }
        self.last = Some(at.now);
        Some(value)
    }
    fn interrupted(&mut self) {
        self.last = None;
    }
}
