//! `median: 5` gives the middle of the last values; of an even number the mean of the two in the middle.

use std::collections::VecDeque;

use super::{At, Filter, FilterWord, number, read, schema_of};
use crate::config::Word;
use crate::model::Value;

pub(super) const WORD: FilterWord = FilterWord {
    word: Word { name: "median", summary: "the middle of this many values", schema: schema_of::<u16> },
    build: |params, _| match read::<u16>(params)? {
        n @ 1..=1000 => Ok(Box::new(Median { size: n.into(), window: VecDeque::new(), sorted: Vec::new() })),
        _ => Err("`median` takes 1 to 1000 values".into()),
    },
};

struct Median {
    size: usize,
    window: VecDeque<f64>,
    sorted: Vec<f64>,
}

impl Filter for Median {
    fn apply(&mut self, value: Value, _: &At) -> Option<Value> {
        number(value, |n| {
            if self.window.len() == self.size {
                self.window.pop_front();
            }
            self.window.push_back(n);
            self.sorted.clear();
            self.sorted.extend(&self.window);
            self.sorted.sort_by(f64::total_cmp);
            let mid = self.sorted.len() / 2;
            let upper = self.sorted.get(mid).copied().unwrap_or(n);
            let lower = if self.sorted.len().is_multiple_of(2) {
                self.sorted.get(mid - 1).copied().unwrap_or(n)
            } else {
                upper
            };
            lower / 2.0 + upper / 2.0
        })
    }
}
