//! `spi`: a chip at an SPI bus by its registers, for what the kernel has no driver of.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::Word;
use crate::config::raw::Params;
use crate::hal::chip::ChipSpec;

use super::registers::{self, RegisterKeys};
use super::{Built, Desk, Kind};

/// The word.
pub const KIND: Kind = Kind {
    word: Word {
        name: "spi",
        summary: "a chip at an SPI bus, by its registers",
        schema: |generator| generator.subschema_for::<Keys>(),
    },
    build,
};

/// Keys of `spi`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
struct Keys {
    /// N of /dev/spidevN.M, 0 to 6; default 0.
    #[schemars(range(min = 0, max = 6))]
    bus: Option<u8>,
    /// M of it: the chip select, 0 to 2; default 0.
    #[schemars(range(min = 0, max = 2))]
    select: Option<u8>,
    /// Bits a second; default 1000000.
    #[schemars(range(min = 1000, max = 125000000))]
    speed: Option<u32>,
    /// Polarity and phase, 0 to 3; default 0.
    #[schemars(range(min = 0, max = 3))]
    mode: Option<u8>,
    #[serde(flatten)]
    registers: RegisterKeys,
}

fn build(params: &Params, desk: &mut Desk) -> Option<Built> {
    let keys: Keys = desk.read(params)?;
    let chip = ChipSpec::Spi {
        bus: keys.bus.unwrap_or(0),
        select: keys.select.unwrap_or(0),
        speed: keys.speed.unwrap_or(1_000_000),
        mode: keys.mode.unwrap_or(0),
    };
    registers::build(keys.registers, chip, desk)
}
