//! What happens to a reading between the device and the topic. Pure; an entry is one file and one word in [`FILTERS`].
//!
//! Filters run in the order they are written. A filter lets a value pass (changed or not) or holds it back; a filter
//! with a clock may also speak up by itself. Numbers that a filter computes are rounded to nine decimals, so that
//! `20.3 - 0.4` reads 19.9; what would be NaN or infinite is held back.

mod clamp;
mod delta;
mod heartbeat;
mod map;
mod median;
mod offset;
mod round;
mod scale;
mod smooth;
mod throttle;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;

use crate::config::Word;
use crate::config::raw::Params;
use crate::model::value::tidy;
use crate::model::{Mono, Value};

/// One step of a chain.
pub trait Filter: Send {
    /// Judges a value: what goes on, or nothing.
    fn apply(&mut self, value: Value, now: Mono) -> Option<Value>;
    /// When it wants to be woken.
    fn next_wake(&self) -> Option<Mono> {
        None
    }
    /// Woken: what goes on, or nothing.
    fn wake(&mut self, _now: Mono) -> Option<Value> {
        None
    }
}

/// A word of the list.
pub struct FilterWord {
    /// Name, summary and schema, for the configuration.
    pub word: Word,
    /// Builds the filter from its value.
    pub build: fn(&Params) -> Result<Box<dyn Filter>, String>,
}

/// The list.
pub const FILTERS: &[FilterWord] = &[
    scale::WORD,
    offset::WORD,
    round::WORD,
    clamp::WORD,
    median::WORD,
    smooth::MOVING_AVERAGE,
    smooth::EMA,
    delta::WORD,
    throttle::WORD,
    heartbeat::WORD,
    map::WORD,
];

/// Filters in order.
#[derive(Default)]
pub struct Chain(Vec<Box<dyn Filter>>);

impl Chain {
    /// Builds a chain; an error names the entry by its index.
    pub fn build(params: &[Params]) -> Result<Chain, Vec<(usize, String)>> {
        let mut chain = Vec::new();
        let mut errors = Vec::new();
        for (i, entry) in params.iter().enumerate() {
            let built = match entry.word() {
                Some((name, value)) => match FILTERS.iter().find(|f| f.word.name == name) {
                    Some(found) => (found.build)(&value),
                    None => Err(format!("there is no filter `{name}`")),
                },
                None => Err("a filter is one key and its value: { round: 1 }".into()),
            };
            match built {
                Ok(filter) => chain.push(filter),
                Err(e) => errors.push((i, e)),
            }
        }
        if errors.is_empty() { Ok(Chain(chain)) } else { Err(errors) }
    }

    /// Whether nothing is filtered.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Passes a value through.
    pub fn apply(&mut self, value: Value, now: Mono) -> Option<Value> {
        self.from(0, value, now)
    }

    /// When the chain wants to be woken.
    pub fn next_wake(&self) -> Option<Mono> {
        self.0.iter().filter_map(|f| f.next_wake()).min()
    }

    /// Wakes whoever is due; gives the values that come out.
    pub fn wake(&mut self, now: Mono) -> Vec<Value> {
        let mut out = Vec::new();
        for i in 0..self.0.len() {
            if self.0[i].next_wake().is_some_and(|t| t <= now)
                && let Some(value) = self.0[i].wake(now)
                && let Some(value) = self.from(i + 1, value, now)
            {
                out.push(value);
            }
        }
        out
    }

    fn from(&mut self, first: usize, value: Value, now: Mono) -> Option<Value> {
        self.0.iter_mut().skip(first).try_fold(value, |v, f| f.apply(v, now))
    }
}

/// Schema of a filter's value.
fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// Reads a filter's value.
fn read<T: DeserializeOwned>(params: &Params) -> Result<T, String> {
    params.read()
}

/// Applies `f` to a number; other values pass as they are, and a number that is no longer finite is held back.
fn number(value: Value, f: impl FnOnce(f64) -> f64) -> Option<Value> {
    match value {
        Value::Number(n) => {
            let n = tidy(f(n));
            n.is_finite().then_some(Value::Number(n))
        }
        other => Some(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn params(yaml: &str) -> Vec<Params> {
        serde_yaml_from(yaml)
    }
    fn serde_yaml_from(yaml: &str) -> Vec<Params> {
        crate::config::raw::params_list(yaml)
    }
    fn at(s: u64) -> Mono {
        Mono(Duration::from_secs(s))
    }
    fn run(yaml: &str, values: &[f64]) -> Vec<String> {
        let mut chain = Chain::build(&params(yaml)).unwrap();
        let pass = |(i, v): (usize, &f64)| chain.apply(Value::Number(*v), at(i as u64)).map(|v| v.to_string());
        values.iter().enumerate().filter_map(pass).collect()
    }

    #[test]
    fn filters_run_in_the_order_they_are_written() {
        assert_eq!(run("[{scale: 2}, {offset: 1}]", &[10.0]), ["21"]);
        assert_eq!(run("[{offset: 1}, {scale: 2}]", &[10.0]), ["22"]);
        assert_eq!(run("[{offset: -0.4}]", &[20.3]), ["19.9"]);
        assert_eq!(run("[{round: 1}]", &[20.25, 20.35, -1.0]), ["20.3", "20.4", "-1"]);
    }

    #[test]
    fn delta_holds_back_what_hardly_moved_since_it_last_let_pass() {
        assert_eq!(run("[{delta: 0.5}]", &[1.0, 1.4, 1.5, 1.9, 2.1]), ["1", "1.5", "2.1"]);
        assert_eq!(run("[{delta: 10%}]", &[100.0, 105.0, 110.0, 120.0, 121.0]), ["100", "110", "121"]);
    }

    #[test]
    fn throttle_lets_one_pass_in_its_time() {
        assert_eq!(run("[{throttle: 3s}]", &[1.0, 2.0, 3.0, 4.0, 5.0]), ["1", "4"]);
    }

    #[test]
    fn heartbeat_repeats_the_last_value_after_a_silence() {
        let mut chain = Chain::build(&params("[{delta: 1}, {heartbeat: 10s}]")).unwrap();
        assert_eq!(chain.next_wake(), None);
        assert!(chain.apply(Value::Number(5.0), at(0)).is_some());
        assert!(chain.apply(Value::Number(5.1), at(9)).is_none());
        assert_eq!(chain.next_wake(), Some(at(10)));
        assert_eq!(chain.wake(at(10)), [Value::Number(5.0)]);
        assert_eq!(chain.next_wake(), Some(at(20)));
    }

    #[test]
    fn smoothing_and_bounds() {
        assert_eq!(run("[{median: 3}]", &[1.0, 9.0, 2.0]), ["1", "5", "2"]);
        assert_eq!(run("[{moving_average: 2}]", &[1.0, 3.0, 5.0]), ["1", "2", "4"]);
        assert_eq!(run("[{ema: 0.5}]", &[0.0, 4.0, 4.0]), ["0", "2", "3"]);
        assert_eq!(run("[{clamp: {min: 0, max: 10}}]", &[-3.0, 5.0, 99.0]), ["0", "5", "10"]);
        assert_eq!(run("[{map: {1: open, 0: shut}}]", &[1.0, 0.0, 7.0]), ["open", "shut", "7"]);
    }

    #[test]
    fn wrong_values_are_named_by_their_place() {
        let errors = Chain::build(&params("[{round: 1}, {median: 0}, {ema: 3}]")).err().unwrap();
        assert_eq!(errors.iter().map(|e| e.0).collect::<Vec<_>>(), [1, 2]);
    }

    proptest! {
        #[test]
        fn no_chain_lets_a_number_out_that_is_not_finite(
            values in proptest::collection::vec(any::<f64>().prop_filter("finite", |n| n.is_finite()), 1..50),
        ) {
            let yaml = "[{scale: 1e300}, {offset: 1e308}, {median: 3}, {moving_average: 3}, {ema: 0.3}, {round: 2}]";
            let mut chain = Chain::build(&params(yaml)).unwrap();
            for (i, v) in values.iter().enumerate() {
                if let Some(Value::Number(n)) = chain.apply(Value::Number(*v), at(i as u64)) {
                    prop_assert!(n.is_finite());
                }
            }
        }
    }
}
