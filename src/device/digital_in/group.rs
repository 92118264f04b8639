//! Several pins as one word: bit 0 is the first pin of the list.
//!
//! The word is believed when no pin has moved for the whole window and it reads the same at its two ends: what is
//! published is never half of a change.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::device::input::{self, Guard, PAUSE};
use crate::device::{Context, Counters, DeviceError, Driver, Task};
use crate::hal::{Edge, EdgeSender, EdgeSink, HalError, InputPin, Level, Pull};
use crate::model::{Quality, Value};

use super::LIMIT;

/// How long a word must hold where `debounce` does not say so.
pub(super) const SETTLE: Duration = Duration::from_millis(5);

/// The driver.
pub(super) struct Group {
    pub pins: Vec<u8>,
    pub pull: Pull,
    pub inverted: bool,
    pub hold: Duration,
}

/// Rung by the edges of all pins.
struct Bell {
    notify: Notify,
    last: Mutex<(Option<Instant>, Guard)>,
    edges: AtomicU64,
    lost: AtomicU64,
    storm: AtomicBool,
    gone: AtomicBool,
}

impl Bell {
    fn new() -> Bell {
        Bell {
            notify: Notify::new(),
            last: Mutex::new((None, Guard::new(LIMIT))),
            edges: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            storm: AtomicBool::new(false),
            gone: AtomicBool::new(false),
        }
    }
    /// When the last edge was.
    fn last(&self) -> Option<Instant> {
        self.last.lock().unwrap_or_else(|e| e.into_inner()).0
    }
}

impl EdgeSink for Bell {
    fn edge(&self, edge: Edge) {
        self.edges.fetch_add(1, Ordering::Relaxed);
        let mut last = self.last.lock().unwrap_or_else(|e| e.into_inner());
        last.0 = last.0.max(Some(edge.at));
        if last.1.storms(edge.at, 1) {
            self.storm.store(true, Ordering::Relaxed);
        }
        drop(last);
        self.notify.notify_one();
    }
    fn lost(&self, n: u64) {
        self.lost.fetch_add(n, Ordering::Relaxed);
        self.notify.notify_one();
    }
    fn storm(&self) {
        self.storm.store(true, Ordering::Relaxed);
        self.notify.notify_one();
    }
    fn gone(&self) {
        self.gone.store(true, Ordering::Relaxed);
        self.notify.notify_one();
    }
}

/// A word that waits to be believed.
#[derive(Clone, Copy)]
struct Waiting {
    word: u32,
    since: Instant,
}

/// All pins, in the order of the bits.
type Pins = Vec<Box<dyn InputPin>>;

impl Group {
    fn take(&self, cx: &Context) -> Result<(Arc<Bell>, Pins), HalError> {
        let bell = Arc::new(Bell::new());
        let pins = self.pins.iter().map(|pin| cx.board.input(*pin, self.pull, EdgeSender::to(bell.clone())));
        Ok((bell.clone(), pins.collect::<Result<_, _>>()?))
    }

    fn read(&self, pins: &[Box<dyn InputPin>]) -> Result<u32, HalError> {
        let mut word = 0;
        for (i, pin) in pins.iter().enumerate() {
            let on = (pin.read()? == Level::High) != self.inverted;
            word |= u32::from(on) << i;
        }
        Ok(word)
    }

    fn due(&self, waiting: Waiting) -> Instant {
        waiting.since + self.hold
    }
}

impl Driver for Group {
    fn run<'a>(&'a self, cx: &'a mut Context) -> Task<'a, Result<(), DeviceError>> {
        Box::pin(async move {
            let (mut bell, mut pins) = self.take(cx)?;
            let mut believed = self.read(&pins)?;
            cx.online().await;
            cx.reading(0, Value::Number(f64::from(believed)), Quality::Good, Instant::now()).await;
            let mut waiting: Option<Waiting> = None;
            let mut calm: Option<Instant> = None;
            loop {
                let due = waiting.map(|w| self.due(w));
                tokio::select! {
                    biased;
                    order = cx.orders.recv() => match order {
                        Some(order) => cx.acted(order.ticket, Err("an input cannot be set".into())).await,
                        None => return Ok(()),
                    },
                    () = bell.notify.notified() => {
                        Counters::add(&cx.counters.edges, bell.edges.swap(0, Ordering::Relaxed));
                        input::lost(cx, bell.lost.swap(0, Ordering::Relaxed));
                        if bell.gone.load(Ordering::Relaxed) {
                            return Err(DeviceError("the board gave a pin of the group up".into()));
                        }
                        if bell.storm.load(Ordering::Relaxed) {
                            input::flooding(cx, true, LIMIT);
                            pins.clear();
                            if !super::pause(cx, PAUSE).await {
                                return Ok(());
                            }
                            (bell, pins) = self.take(cx)?;
                            calm = Some(Instant::now() + PAUSE);
                        }
                        waiting = Some(Waiting { word: self.read(&pins)?, since: bell.last().unwrap_or_else(Instant::now) });
                    }
                    () = async { sleep_until(due.unwrap_or_else(Instant::now)).await }, if due.is_some() => {
                        let word = self.read(&pins)?;
                        match waiting.take() {
                            // an edge is on its way to us: the window begins anew
                            Some(w) if w.word != word => waiting = Some(Waiting { word, since: Instant::now() }),
                            Some(w) if word != believed => {
                                believed = word;
                                cx.reading(0, Value::Number(f64::from(word)), Quality::Good, w.since).await;
                            }
                            _ => {}
                        }
                    }
                    () = async { sleep_until(calm.unwrap_or_else(Instant::now)).await }, if calm.is_some() => {
                        calm = None;
                        input::flooding(cx, false, LIMIT);
                    }
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Report;
    use crate::device::testing::Bench;
    use crate::hal::sim::SimBoard;

    fn group() -> Group {
        Group { pins: vec![5, 6, 7, 8], pull: Pull::Off, inverted: false, hold: Duration::from_millis(20) }
    }

    fn words(reports: &[Report]) -> Vec<f64> {
        reports
            .iter()
            .filter_map(|r| match r {
                Report::Reading { value: Value::Number(n), .. } => Some(*n),
                _ => None,
            })
            .collect()
    }

    #[tokio::test]
    async fn a_word_settles_as_one_and_its_first_pin_is_bit_0() {
        let board = SimBoard::new();
        let mut bench = Bench::new(Arc::new(board.clone()));
        let driver = group();
        let hand = board.clone();
        // 7 → 8 through every word between, one pin at a time
        for pin in [5, 6, 7] {
            board.drive(pin, Level::High).unwrap();
        }
        let reports = bench
            .run_while(&driver, 3, 2, move || {
                for (pin, level) in [(5, Level::Low), (6, Level::Low), (8, Level::High), (7, Level::Low)] {
                    hand.drive(pin, level).unwrap();
                }
            })
            .await;
        assert_eq!(words(&reports), [7.0, 8.0]);
    }
}
