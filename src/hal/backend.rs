//! Which backend drives the pins, as `gpio:` in the file says.

use std::sync::Arc;

use super::chardev::Chardev;
use super::expanders::Expanded;
use super::raspberry_pi::RaspberryPi;
use super::{Board, HalError};
use crate::config::raw::{Backend, Gpio};

/// Opens the pins of this machine. A chip of the character device may come later: its pins are refused until then.
pub fn open(gpio: &Gpio) -> Result<Arc<dyn Board>, HalError> {
    let chardev = || Chardev::open(gpio.chip.clone()).map(|board| Arc::new(board) as Arc<dyn Board>);
    let rppal = || RaspberryPi::open().map(|board| Arc::new(board) as Arc<dyn Board>);
    let main = match gpio.backend {
        Backend::Rppal => rppal(),
        Backend::Chardev => chardev(),
        // a chip that is named is meant
        Backend::Auto if gpio.chip.is_some() => chardev(),
        Backend::Auto if RaspberryPi::known() => rppal(),
        Backend::Auto => chardev(),
    }?;
    if gpio.expanders.is_empty() {
        return Ok(main);
    }
    Ok(Arc::new(Expanded::new(main, &gpio.expanders)?))
}
