//! `timeout: 30s` says that the last value is stale when nothing has come for that time. It stands where the silence is
//! measured: first, or what the filters before it hold back counts as silence.

use std::time::Duration;

use super::{At, Filter, FilterWord, read, schema_of};
use crate::config::Word;
use crate::config::scalar::Span;
use crate::model::{Mono, Quality, Value};

pub(super) const WORD: FilterWord = FilterWord {
    word: Word {
        name: "timeout",
        summary: "after this silence the last value is said again as stale, once",
        schema: schema_of::<Span>,
    },
    build: |params, _| match read::<Span>(params)?.0 {
        after if after >= Duration::from_millis(100) => Ok(Box::new(Timeout { after, last: None })),
        _ => Err("`timeout` is at least 100ms".into()),
    },
};

struct Timeout {
    after: Duration,
    /// The last value and when it came; `None` once it was called stale.
    last: Option<(Value, Mono)>,
}

impl Filter for Timeout {
    fn apply(&mut self, value: Value, at: &At) -> Option<Value> {
        self.last = Some((value.clone(), at.now));
        Some(value)
    }
    fn next_wake(&self) -> Option<Mono> {
        self.last.as_ref().map(|(_, at)| at.after(self.after))
    }
    fn wake(&mut self, _: Mono) -> Option<(Value, Quality)> {
        self.last.take().map(|(value, _)| (value, Quality::Stale))
    }
    fn interrupted(&mut self) {
        // a bad value is no silence, and what was good before it is no longer what is held
        self.last = None;
    }
}
