//! `i2c`: a chip at an I2C bus by its registers, for what the kernel has no driver of.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::Word;
use crate::config::raw::Params;
use crate::config::scalar::Plain;
use crate::hal::chip::ChipSpec;

use super::registers::{self, RegisterKeys};
use super::{Built, Desk, Kind};

/// The word.
pub const KIND: Kind = Kind {
    word: Word {
        name: "i2c",
        summary: "a chip at an I2C bus, by its registers",
        schema: |generator| generator.subschema_for::<Keys>(),
    },
    build,
};

/// Keys of `i2c`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
struct Keys {
    /// N of /dev/i2c-N; default 1, the header's.
    bus: Option<u8>,
    /// The chip's address, as i2cdetect shows it: 0x48.
    address: Plain,
    #[serde(flatten)]
    registers: RegisterKeys,
}

/// The pins of a bus; where an overlay decides they are not known. Source: Raspberry Pi documentation, "GPIO and the
/// 40-pin header".
fn pins(bus: u8) -> &'static [(u8, &'static str)] {
    match bus {
        0 => &[(0, "SDA"), (1, "SCL")],
        1 => &[(2, "SDA"), (3, "SCL")],
        _ => &[],
    }
}

fn build(params: &Params, desk: &mut Desk) -> Option<Built> {
    let keys: Keys = desk.read(params)?;
    let typed = keys.address.0.trim();
    let hex = typed.strip_prefix("0x").and_then(|hex| u8::from_str_radix(hex, 16).ok());
    let Some(address) = hex.filter(|a| (0x03..=0x77).contains(a)) else {
        let text = format!("`{typed}` is not the address of a chip");
        desk.error(&["address"], text, "write it as i2cdetect shows it: 0x03 to 0x77");
        return None;
    };
    let bus = keys.bus.unwrap_or(1);
    desk.use_bus(&format!("I2C bus {bus}"), pins(bus), &["bus"]);
    registers::build(keys.registers, ChipSpec::I2c { bus, address }, desk)
}
