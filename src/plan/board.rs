//! A plan on a board: what its pins cannot do there, and which of them are given away. Only warnings: a file may be
//! written for another machine, and an overlay may be gone tomorrow.

use crate::config::Places;
use crate::config::raw::{Backend, Expander, Gpio};
use crate::device::BusPin;
use crate::hal::boards::BoardTable;
use crate::hal::device_tree::Taken;
use crate::hal::port::{PortKind, PortSpec};
use crate::model::{Place, Problem};

use super::{Checked, DevicePlan, HEADER_LAST, Plan};

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

/// The pins of a port that is the header's UART by its name on every Raspberry Pi. Which of the other nodes it is depends
/// on the board: of those is only warned.
pub(super) fn uart_pins(port: &PortSpec, places: &Places) -> Vec<BusPin> {
    if !matches!(&port.kind, PortKind::Path { path, .. } if path == "/dev/serial0") {
        return Vec::new();
    }
    let place = places.value(&["ports", &port.name, "path"]);
    let pin = |pin, role: &str| BusPin {
        pin,
        role: format!("{role} of /dev/serial0"),
        user: format!("port `{}`", port.name),
        place,
    };
    vec![pin(14, "TXD"), pin(15, "RXD")]
}

/// Pins that a device has for itself and a bus uses too. Lines of another chip than the header's are no such pins.
pub(super) fn bus_conflicts(gpio: &Gpio, pins: &[(u8, String, Option<Place>)], buses: &[BusPin]) -> Vec<Problem> {
    if gpio.backend == Backend::Chardev || gpio.chip.is_some() {
        return Vec::new();
    }
    let conflict = |(pin, _, place): &(u8, String, Option<Place>)| {
        let bus = buses.iter().find(|bus| bus.pin == *pin)?;
        let text = format!("GPIO{pin} is {}, which {} uses", bus.role, bus.user);
        let problem = Problem::error(*place, text).related(bus.place, format!("{} uses it here", bus.user));
        Some(problem.help("choose another pin: a bus has its pins for itself"))
    };
    pins.iter().filter_map(conflict).collect()
}

/// What is wrong with the expanders, and with their pins.
pub(super) fn expanders(
    expanders: &[Expander],
    places: &Places,
    pins: &[(u8, String, Option<Place>)],
    devices: &[DevicePlan],
) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (i, expander) in expanders.iter().enumerate() {
        let n = i.to_string();
        let mut error = |key: &str, text: String, help: &str| {
            problems.push(Problem::error(places.value(&["gpio", "expanders", &n, key]), text).help(help));
        };
        let own = expander.pins();
        if expander.chip.is_empty() {
            error(
                "chip",
                "`chip` is empty".into(),
                "write a label such as mcp23017; `pinpost pins` or gpiodetect shows it",
            );
        }
        if expander.first <= HEADER_LAST {
            let text = format!("`first` of {}: these are the numbers of the header", expander.first);
            error("first", text, "write a number from 28 on, such as 100");
        }
        if own.is_empty() || own.end > 256 {
            let text = format!("{} lines of `{}` from pin {} on", own.len(), expander.chip, own.start);
            error("first", text, "an expander has at least one line, and pins end at 255");
        }
        let others = expanders.iter().take(i).map(Expander::pins);
        if others.into_iter().any(|other| other.start < own.end && own.start < other.end) {
            error(
                "first",
                "two expanders have the same pins".into(),
                "give each numbers of its own, such as 100 and 120",
            );
        }
    }
    let kind = |name: &str| devices.iter().find(|d| d.spec.name == name).map_or("", |d| d.spec.kind);
    for (pin, device, place) in pins.iter().filter(|(_, device, _)| matches!(kind(device), "pwm" | "servo")) {
        if expanders.iter().any(|e| e.pins().contains(&u16::from(*pin))) {
            let text = format!("`{device}` wants pulses on pin {pin}, which is on an expander");
            problems.push(Problem::error(*place, text).help("its bus is too slow for them; take a pin of the header"));
        }
    }
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
