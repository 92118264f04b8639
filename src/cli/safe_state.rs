//! `pinpost safe-state`: what systemd calls after a crash.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::out::say;
use super::{Failure, Outcome, file};
use crate::config::When;
use crate::config::raw::Gpio;
use crate::hal::{Board, HalError, Level, Start, backend};
use crate::runtime::{Applied, last_applied};

/// A board, or why there is none.
type Opened = Result<Arc<dyn Board>, HalError>;

/// Arguments of `pinpost safe-state`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinpost safe-state               outputs of the configuration that was last applied
  pinpost safe-state -c my.yaml    outputs of this file

In a systemd unit: ExecStopPost=/usr/bin/pinpost safe-state")]
pub struct SafeStateArgs {
    /// Use this file's outputs instead of those that were last applied
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Drives the outputs to their safe state. Every pin is tried, whatever becomes of the others.
pub fn run(args: &SafeStateArgs) -> Outcome {
    // after an orderly stop the outputs are where `on_stop` wants them
    if args.config.is_none() && std::env::var("SERVICE_RESULT").is_ok_and(|r| r == "success") {
        return Ok(());
    }
    let applied = match &args.config {
        Some(path) => vec![Applied::of(&file::plan(path, When::Check, false)?)],
        None => last_applied()
            .map_err(|e| Failure::failed(format!("{e}; name a file with -c if its state lies elsewhere")))?,
    };
    let (simulated, real): (Vec<_>, Vec<_>) = applied.into_iter().partition(|a| a.simulated);
    if !simulated.is_empty() {
        say("the pins were simulated; there is nothing to drive");
    }
    // where two say something of a pin, the later one holds
    let mut by_pin = BTreeMap::new();
    for Applied { gpio, outputs, .. } in real {
        let place = |pin| {
            let (chip, line) = gpio.place(pin);
            (chip.map(str::to_owned), line)
        };
        by_pin.extend(outputs.into_iter().map(|o| (place(o.1.pin), (gpio.clone(), o))));
    }
    let mut boards: Vec<(Gpio, Opened)> = Vec::new();
    let mut failed = 0;
    for (gpio, (device, safe)) in by_pin.values() {
        let at = boards.iter().position(|b| b.0 == *gpio).unwrap_or_else(|| {
            boards.push((gpio.clone(), backend::open(gpio)));
            boards.len() - 1
        });
        let board = match boards.get(at).map(|b| &b.1) {
            Some(Ok(board)) => board,
            Some(Err(e)) => {
                failed += 1;
                say(&format!("{device}: {e}"));
                continue;
            }
            None => continue,
        };
        let level = if safe.high { Level::High } else { Level::Low };
        match board.output(safe.pin, Start::At(level)).and_then(|pin| pin.read()) {
            Ok(read) if read == level => say(&format!("{device}: GPIO{} is {}", safe.pin, word(level))),
            Ok(_) => {
                failed += 1;
                say(&format!("{device}: GPIO{} was set {} and does not read so", safe.pin, word(level)));
            }
            Err(e) => {
                failed += 1;
                say(&format!("{device}: {e}"));
            }
        }
    }
    if failed == 0 { Ok(()) } else { Err(Failure::failed(format!("{failed} outputs are not in their safe state"))) }
}

fn word(level: Level) -> &'static str {
    if level == Level::High { "high" } else { "low" }
}
