//! RS-485 on a line whose driver moves RTS itself: the transmitter is switched on only while we speak, to the bit.
//!
//! Source: Linux, Documentation/driver-api/serial/serial-rs485.rst and include/uapi/linux/serial.h (TIOCSRS485,
//! struct serial_rs485). Most USB adapters switch by themselves and know nothing of it; the Pi's own UARTs do not
//! switch at all.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use crate::hal::{HalError, HalErrorKind};

/// Longest delay that the kernel takes.
pub const LONGEST_DELAY: Duration = Duration::from_millis(100);

const ENABLED: u32 = 1 << 0;
const RTS_ON_SEND: u32 = 1 << 1;
const RTS_AFTER_SEND: u32 = 1 << 2;
const RX_DURING_TX: u32 = 1 << 4;

/// How RTS is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rs485 {
    /// Whether RTS is asserted while sending, and not in between; else the other way round.
    pub rts_on_send: bool,
    /// From RTS to the first bit; at most [`LONGEST_DELAY`].
    pub before: Duration,
    /// From the last bit to RTS; at most [`LONGEST_DELAY`].
    pub after: Duration,
    /// Whether what is sent is received too.
    pub listen: bool,
}

/// struct serial_rs485.
#[repr(C)]
#[derive(Debug, Default, PartialEq)]
struct Settings {
    flags: u32,
    before_ms: u32,
    after_ms: u32,
    padding: [u32; 5],
}

impl From<Rs485> for Settings {
    fn from(rs485: Rs485) -> Settings {
        let ms = |d: Duration| d.min(LONGEST_DELAY).as_millis() as u32;
        let rts = if rs485.rts_on_send { RTS_ON_SEND } else { RTS_AFTER_SEND };
        let listen = if rs485.listen { RX_DURING_TX } else { 0 };
        Settings {
            flags: ENABLED | rts | listen,
            before_ms: ms(rs485.before),
            after_ms: ms(rs485.after),
            ..Settings::default()
        }
    }
}

/// Has the driver of an open line drive RTS; refuses where it cannot.
pub fn set(fd: RawFd, path: &str, rs485: Rs485) -> Result<(), HalError> {
    let mut settings = Settings::from(rs485);
    let wanted = settings.flags;
    // SAFETY: the descriptor is open, and the request reads and writes one struct of this form.
    let rc = unsafe { libc::ioctl(fd, libc::TIOCSRS485, &raw mut settings) };
    if rc != 0 {
        let error = io::Error::last_os_error();
        let text = format!(
            "the driver of {path} cannot switch RTS for RS-485 ({error}); leave `rs485` out if the adapter switches by \
             itself, else take one that does"
        );
        return Err(HalError::new(HalErrorKind::Unsupported, text));
    }
    // the kernel writes back what it made of it
    if settings.flags & ENABLED == 0 || (settings.flags ^ wanted) & (RTS_ON_SEND | RTS_AFTER_SEND) != 0 {
        let text = format!("the driver of {path} does not take `rs485` as it is written; try the other `rts`");
        return Err(HalError::new(HalErrorKind::Unsupported, text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_are_those_of_the_kernels_header() {
        assert_eq!(size_of::<Settings>(), 32);
        let ms = Duration::from_millis;
        let usual = Rs485 { rts_on_send: true, before: ms(1), after: ms(2), listen: false };
        let is = Settings::from(usual);
        assert_eq!((is.flags, is.before_ms, is.after_ms), (0b011, 1, 2));
        let other = Rs485 { rts_on_send: false, before: ms(500), listen: true, ..usual };
        let is = Settings::from(other);
        assert_eq!((is.flags, is.before_ms), (0b1_0101, 100));
    }
}
