//! `calibrate: [[0, 0.4], [100, 99.1]]` bends a number along these pairs of read and true; beyond the outermost it goes
//! on along the line of the two nearest. One pair shifts.

use super::{At, Filter, FilterWord, number, read, schema_of};
use crate::config::Word;
use crate::model::Value;

/// The most pairs.
const MOST: usize = 256;

pub(super) const WORD: FilterWord = FilterWord {
    word: Word {
        name: "calibrate",
        summary: "pairs of read and true, with straight lines between them: [[0, 0.4], [100, 99.1]]",
        schema: schema_of::<Vec<(f64, f64)>>,
    },
    build: |params, _| {
        let mut pairs: Vec<(f64, f64)> =
            read(params).map_err(|_| "`calibrate` takes pairs of read and true: [[0, 0.4], [100, 99.1]]")?;
        if pairs.is_empty() || pairs.len() > MOST {
            return Err(format!("`calibrate` takes 1 to {MOST} pairs").into());
        }
        pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
        if let Some(twice) = pairs.windows(2).find(|w| w[0].0 == w[1].0) {
            return Err(format!("`calibrate` gives {} two true values", twice[0].0).into());
        }
        Ok(Box::new(Calibrate(pairs)))
    },
};

/// Sorted by what is read, each once.
struct Calibrate(Vec<(f64, f64)>);

impl Calibrate {
    fn bend(&self, x: f64) -> f64 {
        if let [(from, to)] = self.0.as_slice() {
            return x + (to - from);
        }
        // the first pair behind x, but never the first of all
        let right = self.0.partition_point(|(from, _)| *from <= x).clamp(1, self.0.len().saturating_sub(1).max(1));
        match (self.0.get(right - 1), self.0.get(right)) {
            (Some((x0, y0)), Some((x1, y1))) => y0 + (x - x0) / (x1 - x0) * (y1 - y0),
            _ => x,
        }
    }
}

impl Filter for Calibrate {
    fn apply(&mut self, value: Value, _: &At) -> Option<Value> {
        number(value, |n| self.bend(n))
    }
}
