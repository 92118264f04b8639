//! `delta: 0.1` or `delta: 2%` holds back what has moved by less since the last value that passed.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::{At, Filter, FilterWord, read, schema_of};
use crate::config::Word;
use crate::model::Value;

pub(super) const WORD: FilterWord = FilterWord {
    word: Word { name: "delta", summary: "least change that passes: 0.1 or 2%", schema: schema_of::<Step> },
    build: |params, _| Ok(Box::new(Delta { step: read(params)?, last: None })),
};

/// An amount, or a part of the last value.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "Written")]
enum Step {
    Amount(f64),
    Part(f64),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(f64),
    Text(String),
}

impl TryFrom<Written> for Step {
    type Error = String;
    fn try_from(written: Written) -> Result<Step, String> {
        let step = match written {
            Written::Number(n) => Step::Amount(n),
            Written::Text(t) => {
                let number = |t: &str| t.trim().parse().map_err(|_| format!("`{t}` is no change; write 0.1 or 2%"));
                match t.trim().strip_suffix('%') {
                    Some(percent) => Step::Part(number(percent)? / 100.0),
                    None => Step::Amount(number(&t)?),
                }
            }
        };
        match step {
            Step::Amount(n) | Step::Part(n) if n >= 0.0 && n.is_finite() => Ok(step),
            _ => Err("a change is 0 or more".into()),
        }
    }
}

impl JsonSchema for Step {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Step".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["number", "string"], "pattern": r"^[0-9.]+ *%?$", "examples": [0.1, "2%"] })
    }
}

struct Delta {
    step: Step,
    last: Option<Value>,
}

impl Filter for Delta {
    fn apply(&mut self, value: Value, _: &At) -> Option<Value> {
        let moved = match (&value, &self.last) {
            (Value::Number(n), Some(Value::Number(last))) => {
                let least = match self.step {
                    Step::Amount(a) => a,
                    Step::Part(p) => last.abs() * p,
                };
                // a hair less, so that 1.4 -> 1.5 is a change of 0.1 in spite of binary fractions
                let change = (n - last).abs();
                change >= least * (1.0 - 1e-9) && (change > 0.0 || least == 0.0)
            }
            (_, Some(last)) => value != *last,
            (_, None) => true,
        };
        if moved {
            self.last = Some(value.clone());
        }
        moved.then_some(value)
    }
    fn interrupted(&mut self) {
        self.last = None;
    }
}
