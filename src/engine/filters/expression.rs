//! `expression: "value * 1.8 + 32"` computes; `fields.<name>` reads other fields of the frame, a point's name its last
//! value. What cannot be computed, or gives `none`, is held back.

use super::{At, BuildError, Filter, FilterWord, read, schema_of};
use crate::config::Word;
use crate::expr::{Expression, Lookup, Seen, Zone};
use crate::model::{Now, PointId, Value};

pub(super) const WORD: FilterWord = FilterWord {
    word: Word {
        name: "expression",
        summary: "computes: \"value * 1.8 + 32\"; fields.NAME reads another field of the frame",
        schema: schema_of::<String>,
    },
    build: |params, scope| {
        let text: String = read(params)?;
        let scope = scope.clone().with_value().with_fields();
        let wrong = |e: crate::expr::ExprError| BuildError { text: e.text, help: e.help, offset: Some(e.offset) };
        Ok(Box::new(Computed(Expression::compile(&text, &scope).map_err(wrong)?)))
    },
};

struct Computed(Expression);

impl Filter for Computed {
    fn apply(&mut self, value: Value, at: &At) -> Option<Value> {
        self.0.value(&Within { value: &value, at: at.lookup }).ok()
    }
    fn reads(&self) -> &[PointId] {
        self.0.points()
    }
    fn reads_fields(&self) -> bool {
        self.0.uses_fields()
    }
}

/// What is known, with the value as it has come through the filters so far.
struct Within<'a> {
    value: &'a Value,
    at: &'a dyn Lookup,
}

impl Lookup for Within<'_> {
    fn now(&self) -> Now {
        self.at.now()
    }
    fn point(&self, id: PointId) -> Seen<'_> {
        self.at.point(id)
    }
    fn value(&self) -> Option<&Value> {
        Some(self.value)
    }
    fn field(&self, name: &str) -> Option<&Value> {
        self.at.field(name)
    }
    fn zone(&self) -> &Zone {
        self.at.zone()
    }
}
