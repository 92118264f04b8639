//! The fake Pi's registers and its wiring, in one file that both sides map: the shim inside the gateway's process, and
//! the test outside (or beside it).
//!
//! The first page of the file is the GPIO block of a BCM2711 as `/dev/gpiomem` shows it; source of the offsets: BCM2711
//! ARM Peripherals, chapter 5. The second page is the world around it: what drives a pin from outside, who holds a line.
//! LEV always follows from the rest: an output shows its latch, an input what drives it, else its pull.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

/// Bytes of the file.
pub const SIZE: usize = 8192;
/// Pins of the header: 0 to 27, all in the first word of each register.
pub const PINS: u8 = 28;

// word offsets of the registers
pub const FSEL: usize = 0;
pub const SET: usize = 0x1c / 4;
pub const CLR: usize = 0x28 / 4;
pub const LEV: usize = 0x34 / 4;
pub const PULL: usize = 0xe4 / 4;
/// Words of the block that rppal maps.
pub const REGISTERS: usize = 61;

// word offsets of the world
const WORLD: usize = 1024;
const LATCH: usize = WORLD;
const DRIVEN: usize = WORLD + 1;
const OUTSIDE: usize = WORLD + 2;
const LOCK: usize = WORLD + 3;
/// Pins that another program holds, as a mask.
pub const BUSY: usize = WORLD + 4;
/// By pin: number of the last event of the present line request.
pub const SEQ: usize = WORLD + 64;
/// By pin: the debounce that the present line request asks of the kernel, in µs.
pub const DEBOUNCE: usize = WORLD + 96;

/// The file, mapped. Copies show the same page.
#[derive(Clone, Copy)]
pub struct Page(usize);

impl Page {
    /// # Safety
    /// `address` is a shared mapping of [`SIZE`] bytes that is never unmapped.
    pub const unsafe fn at(address: usize) -> Page {
        Page(address)
    }

    pub fn word(&self, n: usize) -> &AtomicU32 {
        assert!(n < SIZE / 4);
        // SAFETY: inside the mapping, aligned, and everybody uses it atomically
        unsafe { &*(self.0 as *const AtomicU32).add(n) }
    }

    /// What a store to a register does.
    pub fn store(&self, register: usize, value: u32) {
        self.locked(|| match register {
            SET => {
                self.word(LATCH).fetch_or(value, SeqCst);
            }
            CLR => {
                self.word(LATCH).fetch_and(!value, SeqCst);
            }
            LEV => {}
            _ => self.word(register).store(value, SeqCst),
        });
    }

    /// Drives a pin from outside; `None` lets go of it.
    pub fn drive(&self, pin: u8, level: Option<bool>) {
        self.locked(|| {
            let bit = |word: usize, on: bool| match on {
                true => self.word(word).fetch_or(1 << pin, SeqCst),
                false => self.word(word).fetch_and(!(1 << pin), SeqCst),
            };
            bit(DRIVEN, level.is_some());
            bit(OUTSIDE, level == Some(true));
        });
    }

    /// Function select of a pin: 0 is input, 1 output, the others are the alternate functions.
    pub fn mode(&self, pin: u8) -> u32 {
        self.word(FSEL + usize::from(pin) / 10).load(SeqCst) >> (pin % 10 * 3) & 7
    }

    /// 0 is none, 1 up, 2 down.
    pub fn pull(&self, pin: u8) -> u32 {
        self.word(PULL + usize::from(pin) / 16).load(SeqCst) >> (pin % 16 * 2) & 3
    }

    pub fn level(&self, pin: u8) -> bool {
        self.word(LEV).load(SeqCst) >> pin & 1 == 1
    }

    /// Changes something and lets LEV follow. The lock spans processes; one that was killed inside it loses it.
    fn locked(&self, change: impl FnOnce()) {
        let lock = self.word(LOCK);
        let mut tries = 0u32;
        while lock.compare_exchange_weak(0, 1, Acquire, Relaxed).is_err() && tries < 50_000_000 {
            tries += 1;
            std::hint::spin_loop();
        }
        change();
        let mut level = 0;
        for pin in 0..PINS {
            let is = |word: usize| self.word(word).load(SeqCst) >> pin & 1 == 1;
            let high = match self.mode(pin) {
                1 => is(LATCH),
                _ if is(DRIVEN) => is(OUTSIDE),
                _ => self.pull(pin) == 1,
            };
            level |= u32::from(high) << pin;
        }
        self.word(LEV).store(level, SeqCst);
        lock.store(0, Release);
    }
}
