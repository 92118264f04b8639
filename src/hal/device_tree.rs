//! Which pins of the header the device tree has given away: to I2C, SPI, a UART, 1-Wire or any other overlay.
//!
//! A node that is switched on names groups of pins by handles (`pinctrl-0`); a group lists them (`brcm,pins` as numbers,
//! on the Pi 5 `pins` as names). So no overlay needs to be known here. Source: Devicetree Specification 0.4 sections 2.3
//! and 3.3; the kernel's pinctrl-bindings.txt, brcm,bcm2835-gpio.txt and raspberrypi,rp1-gpio.yaml.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A pin that the device tree has given away.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Taken {
    /// BCM number.
    pub pin: u8,
    /// To whom: `i2c1`, `spi0`, `onewire`.
    pub by: String,
}

impl Taken {
    /// How its owner takes it back, as a person does it.
    pub fn remedy(&self) -> String {
        let bus = self.by.trim_end_matches(|c: char| c.is_ascii_digit());
        let line = match bus {
            "i2c" if self.by == "i2c1" => "write `dtparam=i2c_arm=off`",
            "spi" if self.by == "spi0" => "write `dtparam=spi=off`",
            "onewire" => "take out `dtoverlay=w1-gpio`",
            "serial" | "uart" => "write `enable_uart=0`, or take out its `dtoverlay`",
            _ => "take out its `dtparam` or `dtoverlay`",
        };
        format!("{line} in /boot/firmware/config.txt and start anew, or choose another pin")
    }
}

/// A device tree has some hundred nodes; what is far beyond is none.
const NODES: usize = 20_000;
const DEPTH: usize = 24;
/// Pins of the header.
const PINS: u32 = 28;

/// The pins given away on this machine, by pin; empty where there is no device tree.
pub fn taken() -> Vec<Taken> {
    taken_in(Path::new("/"))
}

/// [`taken`] of the tree at `root`.
pub fn taken_in(root: &Path) -> Vec<Taken> {
    let Some(base) =
        ["proc/device-tree", "sys/firmware/devicetree/base"].iter().map(|d| root.join(d)).find(|d| d.is_dir())
    else {
        return Vec::new();
    };
    let mut tree = Tree::default();
    tree.walk(&base, DEPTH);
    let names = aliases(&base);
    let mut taken: Vec<Taken> = tree
        .users
        .iter()
        .flat_map(|(node, groups)| {
            let by = called(node, &base, &names);
            let pins = groups.iter().filter_map(|handle| tree.groups.get(handle)).flatten();
            pins.map(move |pin| Taken { pin: *pin, by: by.clone() }).collect::<Vec<_>>()
        })
        .collect();
    taken.sort();
    taken.dedup();
    taken
}

#[derive(Default)]
struct Tree {
    nodes: usize,
    /// Pins by the handle of their group.
    groups: HashMap<u32, Vec<u8>>,
    /// Nodes that are on, with the handles of the groups they use.
    users: Vec<(PathBuf, Vec<u32>)>,
}

impl Tree {
    fn walk(&mut self, node: &Path, depth: usize) {
        self.nodes += 1;
        // what is off takes nothing, nor does anything below it; groups of pins have no status
        if depth == 0 || self.nodes > NODES || !is_on(node) {
            return;
        }
        if let Some(handle) = cells(&node.join("phandle")).first() {
            let pins = pins(node);
            if !pins.is_empty() {
                self.groups.insert(*handle, pins);
            }
        }
        let wanted = cells(&node.join("pinctrl-0"));
        if !wanted.is_empty() {
            self.users.push((node.to_owned(), wanted));
        }
        let Ok(entries) = fs::read_dir(node) else { return };
        let mut below: Vec<PathBuf> = entries
            .filter_map(Result::ok)
            .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
            .map(|e| e.path())
            .collect();
        below.sort();
        for child in below {
            self.walk(&child, depth - 1);
        }
    }
}

fn is_on(node: &Path) -> bool {
    match fs::read(node.join("status")) {
        Ok(status) => matches!(status.split(|b| *b == 0).next(), Some(b"okay" | b"ok")),
        Err(_) => true,
    }
}

/// A property of big-endian 32-bit cells.
fn cells(file: &Path) -> Vec<u32> {
    let bytes = fs::read(file).unwrap_or_default();
    bytes.chunks_exact(4).filter_map(|c| c.try_into().ok()).map(u32::from_be_bytes).collect()
}

/// The header's pins of a group.
fn pins(group: &Path) -> Vec<u8> {
    let by_number = cells(&group.join("brcm,pins")).into_iter().filter(|n| *n < PINS);
    let names = fs::read(group.join("pins")).unwrap_or_default();
    let by_name = names
        .split(|b| *b == 0)
        .filter_map(|name| std::str::from_utf8(name).ok()?.strip_prefix("gpio")?.parse::<u32>().ok())
        .filter(|n| *n < PINS);
    by_number.chain(by_name).filter_map(|n| u8::try_from(n).ok()).collect()
}

/// Short names by path: `/soc/i2c@7e804000` is `i2c1`. The highest number wins: `i2c_arm` and `i2c1` are the same bus.
fn aliases(base: &Path) -> HashMap<String, String> {
    let Ok(entries) = fs::read_dir(base.join("aliases")) else { return HashMap::new() };
    let mut names: Vec<(String, String)> = entries
        .filter_map(Result::ok)
        .filter_map(|e| {
            let path = String::from_utf8(fs::read(e.path()).ok()?).ok()?;
            Some((path.trim_end_matches('\0').to_owned(), e.file_name().into_string().ok()?))
        })
        .filter(|(_, name)| name.ends_with(|c: char| c.is_ascii_digit()))
        .collect();
    names.sort();
    // `serial0` is whichever UART is on the header; its own name says more
    names.into_iter().collect()
}

/// What a node is called for people.
fn called(node: &Path, base: &Path, names: &HashMap<String, String>) -> String {
    let path = node.strip_prefix(base).map(|p| format!("/{}", p.display())).unwrap_or_default();
    match names.get(&path) {
        Some(name) => name.clone(),
        None => {
            let name = node.file_name().unwrap_or_default().to_string_lossy();
            name.split('@').next().unwrap_or_default().to_owned()
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn be(cells: &[u32]) -> Vec<u8> {
        cells.iter().flat_map(|c| c.to_be_bytes()).collect()
    }

    /// Writes nodes with their properties below a root's device tree.
    pub fn tree(model: &str, properties: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let base = root.path().join("proc/device-tree");
        let model = format!("{model}\0").into_bytes();
        for (path, bytes) in properties.iter().cloned().chain([("model", model)]) {
            let file = base.join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, bytes).unwrap();
        }
        root
    }

    fn found(root: &tempfile::TempDir) -> Vec<(u8, String)> {
        taken_in(root.path()).into_iter().map(|t| (t.pin, t.by)).collect()
    }

    fn pairs(list: &[(u8, &str)]) -> Vec<(u8, String)> {
        list.iter().map(|(pin, by)| (*pin, (*by).to_owned())).collect()
    }

    /// As on a Zero 2 W, 3B+ and 4B: groups below the GPIO node, pins as numbers.
    pub fn bcm(model: &str, i2c: &str) -> tempfile::TempDir {
        tree(
            model,
            &[
                ("aliases/i2c1", b"/soc/i2c@7e804000\0".to_vec()),
                ("aliases/i2c", b"/soc/i2c@7e804000\0".to_vec()),
                ("aliases/spi0", b"/soc/spi@7e204000\0".to_vec()),
                ("soc/gpio@7e200000/i2c1/brcm,pins", be(&[2, 3])),
                ("soc/gpio@7e200000/i2c1/phandle", be(&[20])),
                ("soc/gpio@7e200000/spi0_pins/brcm,pins", be(&[9, 10, 11])),
                ("soc/gpio@7e200000/spi0_pins/phandle", be(&[21])),
                ("soc/gpio@7e200000/emmc_pins/brcm,pins", be(&[48, 49, 50])),
                ("soc/gpio@7e200000/emmc_pins/phandle", be(&[22])),
                ("soc/gpio@7e200000/w1_pins@0/brcm,pins", be(&[4])),
                ("soc/gpio@7e200000/w1_pins@0/phandle", be(&[23])),
                ("soc/i2c@7e804000/status", format!("{i2c}\0").into_bytes()),
                ("soc/i2c@7e804000/pinctrl-0", be(&[20])),
                ("soc/spi@7e204000/status", b"disabled\0".to_vec()),
                ("soc/spi@7e204000/pinctrl-0", be(&[21])),
                ("soc/mmc@7e300000/status", b"okay\0".to_vec()),
                ("soc/mmc@7e300000/pinctrl-0", be(&[22])),
                ("onewire@0/compatible", b"w1-gpio\0".to_vec()),
                ("onewire@0/pinctrl-0", be(&[23])),
            ],
        )
    }

    #[test]
    fn a_bus_that_is_on_takes_its_pins_and_one_that_is_off_does_not() {
        for model in ["Raspberry Pi Zero 2 W Rev 1.0", "Raspberry Pi 3 Model B Plus Rev 1.3", "Raspberry Pi 4 Model B"]
        {
            let on = bcm(model, "okay");
            assert_eq!(found(&on), pairs(&[(2, "i2c1"), (3, "i2c1"), (4, "onewire")]), "{model}");
            assert_eq!(found(&bcm(model, "disabled")), pairs(&[(4, "onewire")]), "{model}");
        }
    }

    #[test]
    fn the_pins_of_a_pi_5_have_names() {
        let root = tree(
            "Raspberry Pi 5 Model B Rev 1.0",
            &[
                ("aliases/spi0", b"/axi/pcie@120000/rp1/spi@50000\0".to_vec()),
                ("axi/pcie@120000/rp1/gpio@d0000/rp1_spi0_gpio9/pins", b"gpio9\0gpio10\0gpio11\0".to_vec()),
                ("axi/pcie@120000/rp1/gpio@d0000/rp1_spi0_gpio9/phandle", be(&[7])),
                ("axi/pcie@120000/rp1/gpio@d0000/rp1_spi0_cs_gpio7/pins", b"gpio7\0gpio8\0".to_vec()),
                ("axi/pcie@120000/rp1/gpio@d0000/rp1_spi0_cs_gpio7/phandle", be(&[8])),
                ("axi/pcie@120000/rp1/gpio@d0000/sdio/pins", b"gpio40\0".to_vec()),
                ("axi/pcie@120000/rp1/gpio@d0000/sdio/phandle", be(&[9])),
                ("axi/pcie@120000/rp1/spi@50000/status", b"okay\0".to_vec()),
                ("axi/pcie@120000/rp1/spi@50000/pinctrl-0", be(&[7, 8, 9])),
            ],
        );
        let spi = "spi0";
        assert_eq!(found(&root), pairs(&[(7, spi), (8, spi), (9, spi), (10, spi), (11, spi)]));
    }

    #[test]
    fn what_is_below_a_node_that_is_off_takes_nothing() {
        let root = tree(
            "any",
            &[
                ("gpio/g/brcm,pins", be(&[5])),
                ("gpio/g/phandle", be(&[1])),
                ("bus/status", b"disabled\0".to_vec()),
                ("bus/dev/pinctrl-0", be(&[1])),
            ],
        );
        assert_eq!(found(&root), []);
    }

    #[test]
    fn a_machine_without_a_device_tree_has_given_nothing_away() {
        assert_eq!(taken_in(tempfile::tempdir().unwrap().path()), []);
        // properties of odd lengths, no groups
        let odd = tree("any", &[("x/pinctrl-0", vec![0, 0, 1]), ("y/pinctrl-0", be(&[77])), ("g/phandle", vec![1])]);
        assert_eq!(found(&odd), []);
    }
}
