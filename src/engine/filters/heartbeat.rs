//! `heartbeat: 5m` repeats the last value when nothing has passed for that time.

use std::time::Duration;

use super::{At, Filter, FilterWord, read, schema_of};
use crate::config::Word;
use crate::config::scalar::Span;
use crate::model::{Mono, Quality, Value};

pub(super) const WORD: FilterWord = FilterWord {
    word: Word { name: "heartbeat", summary: "repeats the last value after this silence", schema: schema_of::<Span> },
    build: |params, _| match read::<Span>(params)?.0 {
        every if every >= Duration::from_millis(100) => Ok(Box::new(Heartbeat { every, last: None })),
        _ => Err("`heartbeat` is at least 100ms".into()),
    },
};

struct Heartbeat {
    every: Duration,
    last: Option<(Value, Mono)>,
}

impl Filter for Heartbeat {
    fn apply(&mut self, value: Value, at: &At) -> Option<Value> {
        self.last = Some((value.clone(), at.now));
        Some(value)
    }
    fn next_wake(&self) -> Option<Mono> {
        self.last.as_ref().map(|(_, at)| at.after(self.every))
    }
    fn wake(&mut self, now: Mono) -> Option<(Value, Quality)> {
        let (value, at) = self.last.as_mut()?;
        *at = now;
        Some((value.clone(), Quality::Good))
    }
    fn interrupted(&mut self) {
        // what is no longer believed is not repeated
        self.last = None;
    }
}
