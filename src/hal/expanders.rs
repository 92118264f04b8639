//! The header's pins and those of port expanders as one board. An expander is a GPIO chip of the kernel: its driver
//! speaks over I2C or SPI, so that reading or driving such a pin takes a millisecond and not a microsecond.

use std::sync::Arc;

use super::chardev::Chardev;
use super::{Board, Bounce, EdgeSender, HalError, InputPin, OutputPin, Pull, PwmPin, Start};
use crate::config::raw::Expander;

/// A board with expanders.
pub struct Expanded {
    main: Arc<dyn Board>,
    expanders: Vec<(Expander, Chardev)>,
}

impl Expanded {
    /// Adds expanders to a board. Their chips may come later: pins of one that is not there are refused until then.
    pub fn new(main: Arc<dyn Board>, expanders: &[Expander]) -> Result<Expanded, HalError> {
        let open = |e: &Expander| Ok((e.clone(), Chardev::open(Some(e.chip.clone()))?));
        Ok(Expanded { main, expanders: expanders.iter().map(open).collect::<Result<_, _>>()? })
    }

    /// Does something with the pin's own board and its number there.
    fn at<T>(&self, pin: u8, on: impl FnOnce(&dyn Board, u8) -> Result<T, HalError>) -> Result<T, HalError> {
        match self.expanders.iter().find(|(e, _)| e.pins().contains(&u16::from(pin))) {
            Some((expander, board)) => on(board, pin - expander.first)
                .map_err(|e| HalError { text: format!("pin {pin} of {}: {}", expander.chip, e.text), ..e }),
            None => on(&*self.main, pin),
        }
    }
}

impl Board for Expanded {
    fn describe(&self) -> String {
        let of = |(e, _): &(Expander, Chardev)| format!(" + {} from {}", e.chip, e.first);
        self.main.describe() + &self.expanders.iter().map(of).collect::<String>()
    }
    fn input(&self, pin: u8, pull: Pull, edges: EdgeSender) -> Result<Box<dyn InputPin>, HalError> {
        self.at(pin, |board, line| board.input(line, pull, edges))
    }
    fn contact(&self, pin: u8, pull: Pull, bounce: Bounce, edges: EdgeSender) -> Result<Box<dyn InputPin>, HalError> {
        self.at(pin, |board, line| board.contact(line, pull, bounce, edges))
    }
    fn output(&self, pin: u8, start: Start) -> Result<Box<dyn OutputPin>, HalError> {
        self.at(pin, |board, line| board.output(line, start))
    }
    fn pwm(&self, pin: u8, frequency: f64, high: f64, rest: super::Level) -> Result<Box<dyn PwmPin>, HalError> {
        self.at(pin, |board, line| board.pwm(line, frequency, high, rest))
    }
}
