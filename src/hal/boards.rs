//! What each pin can do, by model of Raspberry Pi: for `pins`, for `check --board`, and for whoever asks for hardware PWM.
//!
//! A model is one row of [`BOARDS`]. The header chip is known by its label, never by its number, which the Pi 5 has moved.
//! Sources: "BCM2835 ARM Peripherals" section 6.2, "BCM2711 ARM Peripherals" section 5.3, "RP1 Peripherals" section 3.1.1
//! (alternative functions of GPIO 0 to 27); the device trees of Raspberry Pi's kernel for the names of the models.

use std::path::Path;

use super::list;

/// A pin that has a PWM channel in hardware.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PwmPin {
    /// BCM number.
    pub pin: u8,
    /// Channel; pins of one channel carry the same signal.
    pub channel: u8,
}

/// A family of boards whose pins can do the same.
#[derive(Debug, PartialEq, Eq)]
pub struct BoardTable {
    /// The word for `--board`.
    pub name: &'static str,
    /// What people call it.
    pub title: &'static str,
    /// Label of the header's GPIO chip.
    pub chip: &'static str,
    /// Other words for `--board`, as [`key`] leaves them.
    aliases: &'static [&'static str],
    /// What the device tree calls the boards, as the beginning of its model.
    models: &'static [&'static str],
    /// Pins with PWM in hardware.
    pub pwm: &'static [PwmPin],
    /// What pins can do beyond what all boards can.
    more: &'static [(u8, &'static str)],
}

const fn pwm(pin: u8, channel: u8) -> PwmPin {
    PwmPin { pin, channel }
}

const PWM_BCM: &[PwmPin] = &[pwm(12, 0), pwm(13, 1), pwm(18, 0), pwm(19, 1)];
const PWM_RP1: &[PwmPin] = &[pwm(12, 0), pwm(13, 1), pwm(14, 2), pwm(15, 3), pwm(18, 2), pwm(19, 3)];

/// BCM2711: four more UARTs, four more I2C and four more SPI buses.
const MORE_2711: &[(u8, &str)] = &[
    (0, "UART2 TX, SPI3 CE0, I2C6 SDA"),
    (1, "UART2 RX, SPI3 MISO, I2C6 SCL"),
    (2, "SPI3 MOSI, I2C3 SDA"),
    (3, "SPI3 SCLK, I2C3 SCL"),
    (4, "UART3 TX, SPI4 CE0, I2C3 SDA"),
    (5, "UART3 RX, SPI4 MISO, I2C3 SCL"),
    (6, "SPI4 MOSI, I2C4 SDA"),
    (7, "SPI4 SCLK, I2C4 SCL"),
    (8, "UART4 TX, I2C4 SDA"),
    (9, "UART4 RX, I2C4 SCL"),
    (10, "I2C5 SDA"),
    (11, "I2C5 SCL"),
    (12, "UART5 TX, SPI5 CE0, I2C5 SDA"),
    (13, "UART5 RX, SPI5 MISO, I2C5 SCL"),
    (14, "SPI5 MOSI"),
    (15, "SPI5 SCLK"),
    (18, "SPI6 CE0"),
    (19, "SPI6 MISO"),
    (20, "SPI6 MOSI"),
    (21, "SPI6 SCLK"),
    (22, "I2C6 SDA"),
    (23, "I2C6 SCL"),
];

/// RP1: five UARTs, four I2C and six SPI buses on the header, and four channels of PWM.
const MORE_RP1: &[(u8, &str)] = &[
    (0, "UART1 TX, I2C0 SDA, SPI2 CE0"),
    (1, "UART1 RX, I2C0 SCL, SPI2 MISO"),
    (2, "SPI2 MOSI"),
    (3, "SPI2 SCLK"),
    (4, "UART2 TX, I2C2 SDA, SPI3 CE0"),
    (5, "UART2 RX, I2C2 SCL, SPI3 MISO"),
    (6, "I2C3 SDA, SPI3 MOSI"),
    (7, "I2C3 SCL, SPI3 SCLK"),
    (8, "UART3 TX, I2C0 SDA, SPI4 CE0"),
    (9, "UART3 RX, I2C0 SCL, SPI4 MISO"),
    (10, "I2C1 SDA, SPI4 MOSI"),
    (11, "I2C1 SCL, SPI4 SCLK"),
    (12, "UART4 TX, I2C2 SDA, SPI5 CE0"),
    (13, "UART4 RX, I2C2 SCL, SPI5 MISO"),
    (14, "PWM0 channel 2, I2C3 SDA, SPI5 MOSI"),
    (15, "PWM0 channel 3, I2C3 SCL, SPI5 SCLK"),
    (18, "PWM0 channel 2"),
    (19, "PWM0 channel 3"),
];

const BCM2835: &str = "pinctrl-bcm2835";
const BCM2711: &str = "pinctrl-bcm2711";
const RP1: &str = "pinctrl-rp1";

/// The boards. Where two rows fit a model, the longer beginning counts.
pub const BOARDS: &[BoardTable] = &[
    BoardTable {
        name: "zero",
        title: "Raspberry Pi Zero and Zero W",
        chip: BCM2835,
        aliases: &["0", "0w", "zerow", "zerowh"],
        models: &["Raspberry Pi Zero"],
        pwm: PWM_BCM,
        more: &[],
    },
    BoardTable {
        name: "zero2w",
        title: "Raspberry Pi Zero 2 W",
        chip: BCM2835,
        aliases: &["02", "02w", "zero2", "zero2wh"],
        models: &["Raspberry Pi Zero 2"],
        pwm: PWM_BCM,
        more: &[],
    },
    BoardTable {
        name: "pi1",
        title: "Raspberry Pi 1 A+ and B+",
        chip: BCM2835,
        aliases: &["1a", "1b", "cm1"],
        models: &["Raspberry Pi Model", "Raspberry Pi Compute Module Rev"],
        pwm: PWM_BCM,
        more: &[],
    },
    BoardTable {
        name: "pi2",
        title: "Raspberry Pi 2",
        chip: BCM2835,
        aliases: &["2b"],
        models: &["Raspberry Pi 2"],
        pwm: PWM_BCM,
        more: &[],
    },
    BoardTable {
        name: "pi3",
        title: "Raspberry Pi 3",
        chip: BCM2835,
        aliases: &["3a", "3b", "cm3"],
        models: &["Raspberry Pi 3", "Raspberry Pi Compute Module 3"],
        pwm: PWM_BCM,
        more: &[],
    },
    BoardTable {
        name: "pi4",
        title: "Raspberry Pi 4, 400 and Compute Module 4",
        chip: BCM2711,
        aliases: &["4b", "400", "cm4", "cm4s"],
        models: &["Raspberry Pi 4", "Raspberry Pi Compute Module 4"],
        pwm: PWM_BCM,
        more: MORE_2711,
    },
    BoardTable {
        name: "pi5",
        title: "Raspberry Pi 5, 500 and Compute Module 5",
        chip: RP1,
        aliases: &["5b", "500", "cm5"],
        models: &["Raspberry Pi 5", "Raspberry Pi Compute Module 5"],
        pwm: PWM_RP1,
        more: MORE_RP1,
    },
];

/// A word as it is compared: `Raspberry Pi 3B+` and `pi3b` are the same.
fn key(word: &str) -> String {
    let word: String = word.to_ascii_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
    let word = word.strip_prefix("raspberry").unwrap_or(&word);
    let word = word.strip_prefix("pi").unwrap_or(word);
    word.replace("plus", "").replace("model", "")
}

/// The board of a word such as `pi5`, `3B+` or `zero 2 w`; an error lists them.
pub fn by_name(word: &str) -> Result<&'static BoardTable, String> {
    let wanted = key(word);
    BOARDS.iter().find(|b| key(b.name) == wanted || b.aliases.contains(&wanted.as_str())).ok_or_else(|| {
        let names: Vec<_> = BOARDS.iter().map(|b| b.name).collect();
        format!("`{word}` is no board that is known here; write one of {}", names.join(", "))
    })
}

/// The board of a device tree's model; `None` if it is no Raspberry Pi, or one that is newer than this program.
pub fn by_model(model: &str) -> Option<&'static BoardTable> {
    let length = |b: &BoardTable| b.models.iter().filter(|m| model.starts_with(**m)).map(|m| m.len()).max();
    BOARDS.iter().filter_map(|b| Some((length(b)?, b))).max_by_key(|(n, _)| *n).map(|(_, b)| b)
}

/// The board of this machine.
pub fn here() -> Option<&'static BoardTable> {
    here_in(Path::new("/"))
}

/// [`here`] of the tree at `root`.
pub fn here_in(root: &Path) -> Option<&'static BoardTable> {
    by_model(&list::board_model_in(root)?)
}

impl BoardTable {
    /// What a pin (BCM number) can do beside being a plain pin; empty if nothing.
    pub fn functions(&self, pin: u8) -> String {
        let common = list::role(pin);
        let more = self.more.iter().find(|(p, _)| *p == pin).map_or("", |(_, text)| text);
        [common, more].into_iter().filter(|t| !t.is_empty()).collect::<Vec<_>>().join(", ")
    }

    /// The PWM channel behind a pin.
    pub fn pwm_channel(&self, pin: u8) -> Option<u8> {
        self.pwm.iter().find(|p| p.pin == pin).map(|p| p.channel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_board_is_found_by_what_people_call_it() {
        for (word, name) in [
            ("pi5", "pi5"),
            ("Raspberry Pi 5", "pi5"),
            ("5", "pi5"),
            ("3B+", "pi3"),
            ("pi 3 model B plus", "pi3"),
            ("zero2w", "zero2w"),
            ("Pi Zero 2 W", "zero2w"),
            ("CM4", "pi4"),
            ("pi400", "pi4"),
            ("zero", "zero"),
        ] {
            assert_eq!(by_name(word).map(|b| b.name), Ok(name), "{word}");
        }
        let error = by_name("pi9").unwrap_err();
        assert!(error.contains("pi5") && error.contains("zero2w"), "{error}");
    }

    #[test]
    fn a_board_is_found_by_its_device_tree() {
        for (model, name) in [
            ("Raspberry Pi Zero 2 W Rev 1.0", Some("zero2w")),
            ("Raspberry Pi Zero W Rev 1.1", Some("zero")),
            ("Raspberry Pi 3 Model B Plus Rev 1.3", Some("pi3")),
            ("Raspberry Pi 4 Model B Rev 1.4", Some("pi4")),
            ("Raspberry Pi 400 Rev 1.0", Some("pi4")),
            ("Raspberry Pi 5 Model B Rev 1.0", Some("pi5")),
            ("Raspberry Pi 500 Rev 1.0", Some("pi5")),
            ("Raspberry Pi Compute Module 5 Rev 1.0", Some("pi5")),
            ("Raspberry Pi Compute Module Rev 1.0", Some("pi1")),
            ("Raspberry Pi Model B Plus Rev 1.2", Some("pi1")),
            ("Radxa ROCK 4 SE", None),
            ("Raspberry Pi 9", None),
        ] {
            assert_eq!(by_model(model).map(|b| b.name), name, "{model}");
        }
    }

    #[test]
    fn pins_can_do_different_things_on_different_boards() {
        let board = |name| by_name(name).unwrap();
        assert!(board("pi4").functions(4).contains("UART3 TX"));
        assert!(board("pi5").functions(4).contains("UART2 TX"));
        assert!(!board("pi3").functions(4).contains("UART"));
        assert_eq!(board("pi3").functions(22), "");
        assert_eq!(board("pi3").pwm_channel(18), Some(0));
        assert_eq!(board("pi5").pwm_channel(18), Some(2));
        assert_eq!(board("pi4").pwm_channel(17), None);
        assert_eq!(board("pi5").pwm_channel(14), Some(2));
    }

    #[test]
    fn no_two_boards_share_a_word() {
        let mut words: Vec<String> =
            BOARDS.iter().flat_map(|b| b.aliases.iter().map(|a| (*a).to_owned()).chain([key(b.name)])).collect();
        words.sort();
        words.dedup_by(|a, b| {
            assert_ne!(a, b, "said twice");
            false
        });
    }
}
