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

/// The pins of a bus and of its chip select; where an overlay decides they are not known. Source: as for I2C.
fn pins(bus: u8, select: u8) -> Vec<(u8, &'static str)> {
    let (lines, selects): ([u8; 3], &[u8]) = match bus {
        0 => ([9, 10, 11], &[8, 7]),
        1 => ([19, 20, 21], &[18, 17, 16]),
        _ => return Vec::new(),
    };
    let select = selects.get(usize::from(select)).map(|pin| (*pin, "the chip select"));
    lines.into_iter().zip(["MISO", "MOSI", "SCLK"]).chain(select).collect()
}

fn build(params: &Params, desk: &mut Desk) -> Option<Built> {
    let keys: Keys = desk.read(params)?;
    let (bus, select) = (keys.bus.unwrap_or(0), keys.select.unwrap_or(0));
    let key = if desk.written(&["bus"]) { "bus" } else { "select" };
    desk.use_bus(&format!("SPI bus {bus}"), &pins(bus, select), &[key]);
    let chip = ChipSpec::Spi { bus, select, speed: keys.speed.unwrap_or(1_000_000), mode: keys.mode.unwrap_or(0) };
    registers::build(keys.registers, chip, desk)
}
