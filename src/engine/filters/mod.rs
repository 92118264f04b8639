//! What happens to a reading between the device and the topic. Pure; an entry is one file and one word in [`FILTERS`].
//!
//! Filters see good values only; what is bad or stale goes past them, and they are told ([`Filter::interrupted`]).
//! They run in the order they are written. A filter lets a value pass (changed or not) or holds it back; a filter
//! with a clock may also speak up by itself. Numbers that a filter computes are rounded to nine decimals, so that
//! `20.3 - 0.4` reads 19.9; what would be NaN or infinite is held back.

mod calibrate;
mod clamp;
mod delta;
mod expression;
mod heartbeat;
mod map;
mod median;
mod offset;
mod round;
mod scale;
mod smooth;
mod throttle;
mod timeout;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;

use crate::config::Word;
use crate::config::raw::Params;
use crate::expr::{Lookup, Scope};
use crate::model::value::tidy;
use crate::model::{Mono, PointId, Quality, Value};

/// The moment of a value, and what else is known.
pub struct At<'a> {
    /// By the clock that never jumps.
    pub now: Mono,
    /// The points, and the fields of the frame.
    pub lookup: &'a dyn Lookup,
}

/// One step of a chain.
pub trait Filter: Send {
    /// Judges a good value: what goes on, or nothing.
    fn apply(&mut self, value: Value, at: &At) -> Option<Value>;
    /// When it wants to be woken.
    fn next_wake(&self) -> Option<Mono> {
        None
    }
    /// Woken: what goes on, or nothing. What is not good goes past the filters behind.
    fn wake(&mut self, _now: Mono) -> Option<(Value, Quality)> {
        None
    }
    /// A value that is not good has gone past: what was said before is not what the receiver holds now.
    fn interrupted(&mut self) {}
    /// The points it reads beside its own.
    fn reads(&self) -> &[PointId] {
        &[]
    }
    /// Whether it reads other fields of the frame.
    fn reads_fields(&self) -> bool {
        false
    }
}

/// Why a filter cannot be built.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildError {
    /// What is wrong.
    pub text: String,
    /// What to write instead.
    pub help: Option<String>,
    /// Where in its text, in bytes.
    pub offset: Option<usize>,
}

impl<T: Into<String>> From<T> for BuildError {
    fn from(text: T) -> BuildError {
        BuildError { text: text.into(), help: None, offset: None }
    }
}

/// A filter, or why its value makes none.
type Made = Result<Box<dyn Filter>, BuildError>;

/// A word of the list.
pub struct FilterWord {
    /// Name, summary and schema, for the configuration.
    pub word: Word,
    /// Builds the filter from its value.
    pub build: fn(&Params, &Scope) -> Made,
}

/// The list.
pub const FILTERS: &[FilterWord] = &[
    scale::WORD,
    offset::WORD,
    round::WORD,
    clamp::WORD,
    calibrate::WORD,
    median::WORD,
    smooth::MOVING_AVERAGE,
    smooth::EMA,
    delta::WORD,
    throttle::WORD,
    heartbeat::WORD,
    map::WORD,
    timeout::WORD,
    expression::WORD,
];

/// Filters in order.
#[derive(Default)]
pub struct Chain(Vec<Box<dyn Filter>>);

impl Chain {
    /// Builds a chain; expressions in it use the names of `scope`. An error names the entry by its index.
    pub fn build(params: &[Params], scope: &Scope) -> Result<Chain, Vec<(usize, BuildError)>> {
        let mut chain = Vec::new();
        let mut errors = Vec::new();
        for (i, entry) in params.iter().enumerate() {
            let built = match entry.word() {
                Some((name, value)) => match FILTERS.iter().find(|f| f.word.name == name) {
                    Some(found) => (found.build)(&value, scope),
                    None => Err(format!("there is no filter `{name}`").into()),
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

    /// The points that its filters read beside its own.
    pub fn reads(&self) -> impl Iterator<Item = PointId> {
        self.0.iter().flat_map(|f| f.reads()).copied()
    }

    /// Whether one of its filters reads other fields of the frame.
    pub fn reads_fields(&self) -> bool {
        self.0.iter().any(|f| f.reads_fields())
    }

    /// Passes a good value through.
    pub fn apply(&mut self, value: Value, at: &At) -> Option<Value> {
        self.from(0, value, at)
    }

    /// A value that is not good goes past all of them.
    pub fn pass_by(&mut self) {
        self.0.iter_mut().for_each(|f| f.interrupted());
    }

    /// When the chain wants to be woken.
    pub fn next_wake(&self) -> Option<Mono> {
        self.0.iter().filter_map(|f| f.next_wake()).min()
    }

    /// Wakes whoever is due; gives the values that come out.
    pub fn wake(&mut self, at: &At) -> Vec<(Value, Quality)> {
        let mut out = Vec::new();
        for i in 0..self.0.len() {
            let Some(filter) = self.0.get_mut(i).filter(|f| f.next_wake().is_some_and(|t| t <= at.now)) else {
                continue;
            };
            match filter.wake(at.now) {
                Some((value, Quality::Good)) => {
                    out.extend(self.from(i + 1, value, at).map(|value| (value, Quality::Good)));
                }
                Some((value, quality)) => {
                    self.0.iter_mut().skip(i + 1).for_each(|f| f.interrupted());
                    out.push((value, quality));
                }
                None => {}
            }
        }
        out
    }

    fn from(&mut self, first: usize, value: Value, at: &At) -> Option<Value> {
        self.0.iter_mut().skip(first).try_fold(value, |v, f| f.apply(v, at))
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
    use crate::expr::Given;
    use crate::model::{Now, Wall};
    use proptest::prelude::*;
    use std::time::Duration;

    fn params(yaml: &str) -> Vec<Params> {
        serde_yaml_from(yaml)
    }
    fn serde_yaml_from(yaml: &str) -> Vec<Params> {
        crate::config::raw::params_list(yaml)
    }
    fn at(s: u64) -> At<'static> {
        static NOTHING: Given =
            Given { now: Now { wall: Wall(0), mono: Mono(Duration::ZERO), synced: false }, value: None, words: &[] };
        At { now: moment(s), lookup: &NOTHING }
    }
    fn moment(s: u64) -> Mono {
        Mono(Duration::from_secs(s))
    }
    fn build(yaml: &str) -> Chain {
        Chain::build(&params(yaml), &Scope::new()).unwrap()
    }
    fn run(yaml: &str, values: &[f64]) -> Vec<String> {
        let mut chain = build(yaml);
        let pass = |(i, v): (usize, &f64)| chain.apply(Value::Number(*v), &at(i as u64)).map(|v| v.to_string());
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
        let mut chain = build("[{delta: 1}, {heartbeat: 10s}]");
        assert_eq!(chain.next_wake(), None);
        assert!(chain.apply(Value::Number(5.0), &at(0)).is_some());
        assert!(chain.apply(Value::Number(5.1), &at(9)).is_none());
        assert_eq!(chain.next_wake(), Some(moment(10)));
        assert_eq!(chain.wake(&at(10)), [(Value::Number(5.0), Quality::Good)]);
        assert_eq!(chain.next_wake(), Some(moment(20)));
    }

    #[test]
    fn a_timeout_says_once_that_the_last_value_is_stale_and_the_next_is_news_again() {
        let mut chain = build("[{timeout: 30s}, {delta: 1}, {heartbeat: 10s}]");
        assert!(chain.apply(Value::Number(5.0), &at(0)).is_some());
        assert_eq!(chain.wake(&at(10)), [(Value::Number(5.0), Quality::Good)]);
        assert_eq!(chain.wake(&at(30)), [(Value::Number(5.0), Quality::Stale)]);
        assert_eq!(chain.next_wake(), None, "what is stale is not repeated");
        assert!(chain.apply(Value::Number(5.0), &at(40)).is_some(), "delta does not hold back what is good again");
        assert_eq!(chain.next_wake(), Some(moment(50)));
    }

    #[test]
    fn after_a_bad_value_the_next_good_one_passes() {
        let mut chain = build("[{delta: 1}, {throttle: 1h}]");
        assert!(chain.apply(Value::Number(5.0), &at(0)).is_some());
        chain.pass_by();
        assert!(chain.apply(Value::Number(5.0), &at(1)).is_some());
    }

    #[test]
    fn calibration_bends_along_its_points_and_goes_on_straight_beyond_them() {
        let yaml = "[{calibrate: [[0, 4], [100, 104], [200, 304]]}]";
        assert_eq!(run(yaml, &[0.0, 50.0, 100.0, 150.0, -10.0, 210.0]), ["4", "54", "104", "204", "-6", "324"]);
        assert_eq!(run("[{calibrate: [[10, 12.5]]}]", &[10.0, 20.0]), ["12.5", "22.5"]);
        for wrong in ["[]", "[[1, 2], [1, 3]]", "[[1]]", "[[1, 2, 3]]", "5"] {
            assert!(Chain::build(&params(&format!("[{{calibrate: {wrong}}}]")), &Scope::new()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_expression_computes_and_holds_back_what_it_cannot() {
        assert_eq!(run("[{expression: value * 1.8 + 32}]", &[20.0, -40.0]), ["68", "-40"]);
        assert_eq!(run("[{expression: 100 / value}]", &[4.0, 0.0]), ["25"]);
        assert_eq!(run("[{expression: value if value > 3 else none}]", &[4.0, 1.0]), ["4"]);
        let errors = Chain::build(&params("[{round: 1}, {expression: valu * 2}]"), &Scope::new()).err().unwrap();
        assert_eq!((errors[0].0, errors[0].1.offset), (1, Some(0)));
        assert_eq!(errors[0].1.help.as_deref(), Some("did you mean `value`?"));
    }

    #[test]
    fn smoothing_and_bounds() {
        assert_eq!(run("[{median: 3}]", &[1.0, 9.0, 2.0]), ["1", "5", "2"]);
        assert_eq!(run("[{moving_average: 2}]", &[1.0, 3.0, 5.0]), ["1", "2", "4"]);
        assert_eq!(run("[{ema: 0.5}]", &[0.0, 4.0, 4.0]), ["0", "2", "3"]);
        assert_eq!(run("[{clamp: {min: 0, max: 10}}]", &[-3.0, 5.0, 99.0]), ["0", "5", "10"]);
        assert_eq!(run("[{map: {1: open, 0: shut}}]", &[1.0, 0.0, 7.0]), ["open", "shut", "7"]);
    }

    /// The tables of docs/filters.md: filter, what is read one second after the other, what comes out.
    #[test]
    fn the_page_of_filters_tells_what_they_do() {
        let page = include_str!("../../../docs/filters.md");
        let mut rows = 0;
        for line in page.lines().filter(|l| l.starts_with("| `")) {
            let cells: Vec<&str> = line.split('`').collect();
            let [_, filter, _, read, _, published, _] = cells.as_slice() else { continue };
            if filter.contains("heartbeat") || filter.contains("timeout") {
                continue;
            }
            rows += 1;
            let mut chain = build(&format!("[{{{filter}}}]"));
            let out: Vec<String> = read
                .split_whitespace()
                .enumerate()
                .map(|(i, v)| chain.apply(Value::parse(v), &at(i as u64)).map_or("·".into(), |v| v.to_string()))
                .collect();
            assert_eq!(out, published.split_whitespace().collect::<Vec<_>>(), "{line}");
        }
        assert!(rows >= 12, "the tables were not found");
    }

    #[test]
    fn wrong_values_are_named_by_their_place() {
        let errors = Chain::build(&params("[{round: 1}, {median: 0}, {ema: 3}]"), &Scope::new()).err().unwrap();
        assert_eq!(errors.iter().map(|e| e.0).collect::<Vec<_>>(), [1, 2]);
    }

    proptest! {
        #[test]
        fn no_chain_lets_a_number_out_that_is_not_finite(
            values in proptest::collection::vec(any::<f64>().prop_filter("finite", |n| n.is_finite()), 1..50),
        ) {
            for yaml in [
                "[{scale: 1e300}, {offset: 1e308}, {median: 3}, {moving_average: 3}, {ema: 0.3}, {round: 2}]",
                "[{calibrate: [[-1e308, 1e308], [1e308, -1e308], [1.5e308, 1e308]]}]",
                "[{calibrate: [[0, 0], [1e-308, 1e308]]}, {expression: value ** 3 / (value - 1)}]",
                "[{expression: value * value}, {ema: 0.5}, {moving_average: 2}]",
                "[{median: 4}, {delta: 10%}, {clamp: {min: -5, max: 5}}, {expression: value | log}]",
            ] {
                let mut chain = build(yaml);
                for (i, v) in values.iter().enumerate() {
                    if let Some(Value::Number(n)) = chain.apply(Value::Number(*v), &at(i as u64)) {
                        prop_assert!(n.is_finite(), "{yaml} made {n} of {v}");
                    }
                }
            }
        }
    }
}
