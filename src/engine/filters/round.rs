//! `round: 1` rounds to so many decimals, halves away from zero.

use super::{At, Filter, FilterWord, number, read, schema_of};
use crate::config::Word;
use crate::model::Value;

pub(super) const WORD: FilterWord = FilterWord {
    word: Word { name: "round", summary: "rounds to this many decimals, 0 to 9", schema: schema_of::<u8> },
    build: |params, _| match read::<u8>(params)? {
        digits @ 0..=9 => Ok(Box::new(Round(10f64.powi(i32::from(digits))))),
        _ => Err("`round` takes 0 to 9 decimals".into()),
    },
};

struct Round(f64);

impl Filter for Round {
    fn apply(&mut self, value: Value, _: &At) -> Option<Value> {
        // beyond 2^53 there are no decimals left to round, and the product could overflow
        number(value, |n| if n.abs() < 9e15 { (n * self.0).round() / self.0 } else { n })
    }
}
