//! `map: {1: open, 0: shut}` puts other words for values; what is not listed passes as it is.

use std::collections::HashMap;

use schemars::{Schema, SchemaGenerator, json_schema};

use super::{At, Filter, FilterWord, read};
use crate::config::Word;
use crate::config::scalar::Plain;
use crate::model::Value;

pub(super) const WORD: FilterWord = FilterWord {
    word: Word { name: "map", summary: "other words for values: { 1: open, 0: shut }", schema },
    build: |params, _| {
        let list: HashMap<Plain, Plain> = read(params)?;
        Ok(Box::new(Map(list.into_iter().map(|(k, v)| (k.0, Value::parse(&v.0))).collect())))
    },
};

fn schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "additionalProperties": { "type": ["string", "number", "boolean"] } })
}

struct Map(HashMap<String, Value>);

impl Filter for Map {
    fn apply(&mut self, value: Value, _: &At) -> Option<Value> {
        Some(self.0.get(&value.to_string()).cloned().unwrap_or(value))
    }
}
