//! What a counter promises, on the simulated board.

use super::*;
use crate::device::Report;
use crate::device::testing::Bench;
use crate::hal::sim::SimBoard;
use crate::hal::{Board, HalError, HalErrorKind, OutputPin, Start};
use proptest::prelude::*;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
fn us(n: u64) -> Duration {
    Duration::from_micros(n)
}
fn counter(edge: EdgeKey, hold: Duration, every: Duration) -> Counter {
    Counter { pin: 22, pull: Pull::Off, inverted: false, edge, hold, per_unit: 1000.0, every, per: 3600.0 }
}
fn readings(reports: &[Report], id: u32) -> Vec<f64> {
    reports
        .iter()
        .filter_map(|r| match r {
            Report::Reading { point, value: Value::Number(n), .. } if point.0 == id => Some(*n),
            _ => None,
        })
        .collect()
}

#[test]
fn the_rate_is_that_of_the_pulses_however_the_reports_fall() {
    let t = Instant::now();
    let every = ms(1000);
    let mut meter = Meter::default();
    assert_eq!(meter.rate(t, every), 0.0);
    // one pulse says nothing; two are a rate
    meter.pulse(t + ms(100));
    assert_eq!(meter.rate(t + ms(1000), every), 0.0);
    for at in [600, 1100, 1600] {
        meter.pulse(t + ms(at));
    }
    assert_eq!(meter.rate(t + ms(2000), every), 2.0);
    // nothing for a while: it can be no more than one pulse in that time
    assert_eq!(meter.rate(t + ms(2600), every), 1.0);
    assert_eq!(meter.rate(t + ms(5600), every), 0.25);
    // and after ten gaps it is over, and begins anew
    assert_eq!(meter.rate(t + ms(6700), every), 0.0);
    meter.pulse(t + ms(60_000));
    assert_eq!(meter.rate(t + ms(60_100), every), 0.0);
    meter.pulse(t + ms(60_200));
    assert_eq!(meter.rate(t + ms(60_300), every), 5.0);
}

proptest! {
    #[test]
    fn an_even_beat_has_its_rate_whenever_it_is_asked_for(gap in 1u64..5000, asks in proptest::collection::vec(1u64..20_000, 1..20)) {
        let t = Instant::now();
        let mut meter = Meter::default();
        let (mut pulses, mut now) = (0u64, 0u64);
        for ask in asks {
            now += ask;
            while pulses * gap <= now {
                meter.pulse(t + ms(pulses * gap));
                pulses += 1;
            }
            let rate = meter.rate(t + ms(now), ms(20_000));
            let want = if pulses < 2 { 0.0 } else { 1000.0 / gap as f64 };
            prop_assert!((rate - want).abs() <= 1e-6 * want, "{rate} is not {want}");
        }
    }

    /// The reference of a debounced counter: a level that held for the window and was not the one before.
    #[test]
    fn pulses_shorter_than_the_window_are_not_counted(
        gaps in proptest::collection::vec(1u64..40, 1..80), hold in 1u64..30,
    ) {
        let t = Instant::now();
        for edge in [EdgeKey::Rising, EdgeKey::Falling, EdgeKey::Both] {
            let driver = counter(edge, ms(hold), ms(1000));
            let mut count = count(&driver, Some(Debouncer::new(ms(hold), ms(hold), false)));
            let (mut level, mut believed, mut at, mut want) = (false, false, 0, 0);
            for gap in &gaps {
                level = !level;
                count.edge(Edge { level: if level { Level::High } else { Level::Low }, at: t + ms(at) });
                if *gap >= hold && level != believed {
                    believed = level;
                    want += u64::from(edge == EdgeKey::Both || level == (edge == EdgeKey::Rising));
                }
                at += gap;
            }
            count.settle(t + ms(at));
            prop_assert_eq!(count.pulses, want);
        }
    }
}

fn count(driver: &Counter, debounce: Option<Debouncer>) -> Count {
    Count {
        edge: driver.edge,
        inverted: false,
        hold: driver.hold,
        debounce,
        guard: Guard::new(LIMIT),
        meter: Meter::default(),
        pulses: 0,
        edges: 0,
        lost: 0,
        storm: false,
        gone: false,
        called: false,
    }
}

#[tokio::test]
async fn the_simulated_board_counts_a_hundred_thousand_edges_at_10_khz_exactly() {
    let board = SimBoard::new();
    let mut bench = Bench::new(Arc::new(board.clone()));
    let driver = Counter { per_unit: 1.0, per: 1.0, ..counter(EdgeKey::Both, ms(0), ms(250)) };
    let counters = bench.counters_now();
    let drive = move || {
        std::thread::spawn(move || {
            let begun = Instant::now();
            let mut level = Level::Low;
            for n in 0..100_000u32 {
                level = !level;
                board.drive(22, level).unwrap();
                while begun.elapsed() < us(100) * n {
                    std::thread::park_timeout(us(100));
                }
            }
        });
    };
    // the reports of 14 s: the edges are over after 10
    let reports = bench.run_while(&driver, 2 + 2 * 56, 2, drive).await;
    let (totals, rates) = (readings(&reports, 0), readings(&reports, 1));
    assert_eq!(totals.last(), Some(&100_000.0));
    assert!(totals.is_sorted(), "{totals:?}");
    let steady = &rates[4..32];
    let mean = steady.iter().sum::<f64>() / steady.len() as f64;
    assert!((9_000.0..11_000.0).contains(&mean), "{rates:?}");
    assert_eq!(rates.last(), Some(&0.0));
    let seen = counters.read();
    assert_eq!((seen.edges, seen.lost_edges, seen.storms), (100_000, 0, 0));
}

#[tokio::test]
async fn a_total_is_set_remembered_and_recalled() {
    let board = SimBoard::new();
    let mut bench = Bench::new(Arc::new(board.clone()));
    let driver = counter(EdgeKey::Falling, ms(0), ms(50));
    let wish = Action::Verb { point: Some(0), verb: "set".into(), value: Value::Number(12.5) };
    bench.order(1, wish);
    let reports = bench.run(&driver, 5).await;
    assert!(matches!(&reports[2], Report::Remember { urgent: true, .. }), "{reports:?}");
    assert_eq!(readings(&reports, 0), [0.0, 12.5]);
    assert!(matches!(&reports[4], Report::Acted(_, Ok(Some(Value::Number(n)))) if *n == 12.5), "{reports:?}");
    // the next run, and one with another number of pulses per unit
    let reports = bench.run(&driver, 2).await;
    assert_eq!(readings(&reports, 0), [12.5]);
    let reports = bench.run(&Counter { per_unit: 450.0, ..driver }, 2).await;
    assert_eq!(readings(&reports, 0), [12.5]);
}

#[tokio::test]
async fn at_a_stop_every_pulse_is_remembered() {
    let board = SimBoard::new();
    let (mut context, orders, mut reports) = Bench::new(Arc::new(board.clone())).taken_apart();
    let driver = counter(EdgeKey::Rising, ms(0), ms(60_000));
    let mut run = driver.run(&mut context);
    let begun = async {
        for _ in 0..2 {
            reports.recv().await.unwrap();
        }
        for level in [Level::High, Level::Low, Level::High] {
            board.drive(22, level).unwrap();
        }
        drop(orders);
    };
    let (ended, ()) = tokio::join!(&mut run, begun);
    ended.unwrap();
    drop(run);
    assert_eq!(context.recall(KEY).unwrap()["pulses"], 2);
}

/// A board whose pin gives what the test tells it to.
struct Told(Mutex<Vec<EdgeSender>>);
struct Low;
impl InputPin for Low {
    fn read(&self) -> Result<Level, HalError> {
        Ok(Level::Low)
    }
}
impl Board for Told {
    fn describe(&self) -> String {
        "told".into()
    }
    fn input(&self, _: u8, _: Pull, edges: EdgeSender) -> Result<Box<dyn InputPin>, HalError> {
        self.0.lock().unwrap().push(edges);
        Ok(Box::new(Low))
    }
    fn output(&self, _: u8, _: Start) -> Result<Box<dyn OutputPin>, HalError> {
        Err(HalError::new(HalErrorKind::Unsupported, "no outputs"))
    }
}

#[tokio::test]
async fn missed_edges_are_counted_as_missed_and_a_chip_that_is_gone_ends_the_task() {
    let board = Arc::new(Told(Mutex::new(Vec::new())));
    let mut bench = Bench::new(board.clone());
    let driver = counter(EdgeKey::Rising, ms(0), ms(20));
    let hand = board.clone();
    let then = move || {
        let senders = hand.0.lock().unwrap();
        let sender = senders.last().unwrap();
        sender.push(Edge { level: Level::High, at: Instant::now() });
        sender.lose(7);
    };
    let counters = bench.counters_now();
    let (mut context, orders, mut reports) = {
        let reports = bench.run_while(&driver, 4, 2, then).await;
        assert_eq!(readings(&reports, 0).last(), Some(&0.001));
        bench.taken_apart()
    };
    assert_eq!((counters.read().lost_edges, counters.read().errors), (7, 7));
    let mut run = driver.run(&mut context);
    let gone = async {
        reports.recv().await.unwrap();
        board.0.lock().unwrap().clear();
    };
    let (ended, ()) = tokio::join!(&mut run, gone);
    assert!(ended.unwrap_err().0.contains("gave GPIO22 up"));
    drop(orders);
}

#[tokio::test]
async fn a_storm_is_let_go_and_what_was_counted_stays() {
    let board = SimBoard::new();
    let mut bench = Bench::new(Arc::new(board.clone()));
    let driver = Counter { per_unit: 1.0, ..counter(EdgeKey::Rising, ms(0), ms(100)) };
    let counters = bench.counters_now();
    let then = move || {
        for _ in 0..LIMIT {
            board.drive(22, Level::High).unwrap();
            board.drive(22, Level::Low).unwrap();
        }
    };
    let reports = bench.run_while(&driver, 60, 2, then).await;
    let seen = counters.read();
    assert_eq!((seen.storms, seen.flooding), (1, false), "{seen:?}");
    let total = *readings(&reports, 0).last().unwrap();
    assert!(total >= f64::from(LIMIT / 2) && total <= f64::from(LIMIT), "{total}");
}
