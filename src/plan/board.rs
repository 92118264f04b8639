//! A plan on a board: what its pins cannot do there, and which of them are given away. Only warnings: a file may be
//! written for another machine, and an overlay may be gone tomorrow.

use crate::hal::boards::BoardTable;
use crate::hal::device_tree::Taken;
use crate::hal::port::{PortKind, PortSpec};
use crate::model::{Place, Problem};

use super::{Checked, Plan};

/// A pin that a device has for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinClaim {
    /// BCM number.
    pub pin: u8,
    /// Whose.
    pub device: String,
    /// Where it is written.
    pub place: Option<Place>,
}

/// Pins of the identification EEPROM of a HAT.
const EEPROM: [u8; 2] = [0, 1];
/// Pins of the header's UART.
const UART: [u8; 2] = [14, 15];
/// Device nodes that may be the header's UART.
const UART_NODES: [&str; 5] = ["/dev/serial0", "/dev/serial1", "/dev/ttyAMA0", "/dev/ttyS0", "/dev/ttyAMA10"];

impl Checked {
    /// Adds what is to be said of this plan on a board.
    pub fn judge(&mut self, board: &BoardTable, taken: &[Taken]) {
        let Some(plan) = &self.plan else { return };
        let found = judge(plan, board, taken);
        self.problems.extend(found);
        self.problems.sort_by_key(|p| p.place);
    }
}

fn judge(plan: &Plan, board: &BoardTable, taken: &[Taken]) -> Vec<Problem> {
    if plan.gpio.chip.as_deref().is_some_and(|chip| chip != board.chip) {
        // the lines of another chip, or of one whose number alone is known
        return Vec::new();
    }
    let mut problems = Vec::new();
    for claim in &plan.pins {
        let pin = claim.pin;
        let warn = |text: String, help: String| Problem::warning(claim.place, text).help(help);
        if let Some(by) = taken.iter().find(|t| t.pin == pin) {
            problems.push(warn(format!("GPIO{pin} is given to {} on this board", by.by), by.remedy()));
        } else if EEPROM.contains(&pin) {
            let text = format!("GPIO{pin} belongs to the identification EEPROM of a HAT, which is read at boot");
            problems.push(warn(text, "choose another pin, unless no HAT will ever be there".into()));
        }
        if UART.contains(&pin)
            && let Some(port) = plan.lines.iter().find(|p| is_header_uart(p))
        {
            let text = format!("GPIO{pin} is the line of port `{}`, the header's UART", port.name);
            problems.push(warn(text, "choose another pin, or an adapter for USB".into()));
        }
    }
    problems.extend(pwm(plan, board));
    problems
}

fn is_header_uart(port: &PortSpec) -> bool {
    matches!(&port.kind, PortKind::Path { path, .. } if UART_NODES.contains(&path.as_str()))
}

/// Kinds that want a signal, and where the hardware does not make it for each of them.
fn pwm(plan: &Plan, board: &BoardTable) -> Vec<Problem> {
    let kind = |name: &str| plan.devices.iter().find(|d| d.spec.name == name).map_or("", |d| d.spec.kind);
    let claims: Vec<&PinClaim> = plan.pins.iter().filter(|c| matches!(kind(&c.device), "pwm" | "servo")).collect();
    let mut problems = Vec::new();
    for (i, claim) in claims.iter().enumerate() {
        let pin = claim.pin;
        let Some(channel) = board.pwm_channel(pin) else {
            let list: Vec<String> = board.pwm.iter().map(|p| format!("GPIO{}", p.pin)).collect();
            let text = format!("GPIO{pin} of a {} has no PWM in hardware; software will make the signal", board.title);
            let help = format!("that costs CPU time and trembles a little; hardware is on {}", list.join(", "));
            problems.push(Problem::warning(claim.place, text).help(help));
            continue;
        };
        let same = claims.iter().take(i).find(|c| board.pwm_channel(c.pin) == Some(channel));
        if let Some(other) = same {
            let text = format!("GPIO{pin} and GPIO{} of a {} carry the same PWM signal", other.pin, board.title);
            problems.push(
                Problem::warning(claim.place, text)
                    .related(other.place, format!("`{}` is on it", other.device))
                    .help("give one of the two a pin of another channel"),
            );
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::super::{Ask, check};
    use super::*;
    use crate::config::When;
    use crate::hal::boards::by_name;

    fn said(yaml: &str, board: &str, taken: &[Taken]) -> Vec<String> {
        let ask = Ask {
            env: &|_| None,
            base: std::path::Path::new(""),
            when: When::Check,
            simulate: false,
            host: "h",
            machine: "m",
        };
        let mut checked = check(yaml.as_bytes(), &ask);
        assert!(checked.plan.is_some(), "{:?}", checked.problems);
        checked.judge(by_name(board).unwrap(), taken);
        checked.problems.into_iter().map(|p| format!("{} ({})", p.text, p.help.unwrap_or_default())).collect()
    }

    #[test]
    fn a_pin_that_an_overlay_has_is_named_with_its_remedy() {
        let yaml = "version: 1\ndevices: { door: { kind: digital_in, pin: 2 }, gate: { kind: digital_in, pin: 4 } }\n";
        let taken = [Taken { pin: 2, by: "i2c1".into() }, Taken { pin: 4, by: "onewire".into() }];
        let said = said(yaml, "pi3", &taken);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].contains("GPIO2 is given to i2c1") && said[0].contains("dtparam=i2c_arm=off"), "{said:?}");
        assert!(said[1].contains("GPIO4 is given to onewire") && said[1].contains("w1-gpio"), "{said:?}");
    }

    #[test]
    fn a_plain_pin_is_plain_on_every_board() {
        let yaml = "version: 1\ndevices: { door: { kind: digital_in, pin: 17 } }\n";
        for board in crate::hal::boards::BOARDS {
            assert_eq!(said(yaml, board.name, &[]), [""; 0]);
        }
    }
}
