//! `moving_average: 10` gives the mean of the last values; `ema: 0.2` moves by that part towards each new value.

use std::collections::VecDeque;

use super::{At, Filter, FilterWord, number, read, schema_of};
use crate::config::Word;
use crate::model::Value;

pub(super) const MOVING_AVERAGE: FilterWord = FilterWord {
    word: Word { name: "moving_average", summary: "the mean of this many values", schema: schema_of::<u16> },
    build: |params, _| match read::<u16>(params)? {
        n @ 1..=1000 => Ok(Box::new(MovingAverage { size: n.into(), window: VecDeque::new() })),
        _ => Err("`moving_average` takes 1 to 1000 values".into()),
    },
};

pub(super) const EMA: FilterWord = FilterWord {
    word: Word { name: "ema", summary: "exponential mean; weight of a new value, 0 to 1", schema: schema_of::<f64> },
    build: |params, _| match read::<f64>(params)? {
        weight if weight > 0.0 && weight <= 1.0 => Ok(Box::new(Ema { weight, mean: None })),
        _ => Err("`ema` takes a weight above 0 and up to 1".into()),
    },
};

struct MovingAverage {
    size: usize,
    window: VecDeque<f64>,
}

impl Filter for MovingAverage {
    fn apply(&mut self, value: Value, _: &At) -> Option<Value> {
        number(value, |n| {
            if self.window.len() == self.size {
                self.window.pop_front();
            }
            self.window.push_back(n);
            // summed anew each time: a running sum drifts
            self.window.iter().map(|v| v / self.window.len() as f64).sum()
        })
    }
}

struct Ema {
    weight: f64,
    mean: Option<f64>,
}

impl Filter for Ema {
    fn apply(&mut self, value: Value, _: &At) -> Option<Value> {
        number(value, |n| {
            let mean = self.mean.map_or(n, |mean| mean * (1.0 - self.weight) + n * self.weight);
            self.mean = Some(mean);
            mean
        })
    }
}
