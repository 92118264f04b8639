//! What this machine has: its serial ports with their stable names, its model, and what each pin of the header is for.
//!
//! Reads sysfs and `/dev` only, opens no port and disturbs nobody. Every function has a twin that takes the root
//! directory, so that a tree made by a test can stand for a machine.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::scalar::{HEADER, UsbId};

/// A serial port that exists now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PortInfo {
    /// Device node: `/dev/ttyUSB0`. It may be another one after the next plugging.
    pub path: PathBuf,
    /// Stable name: `/dev/serial/by-id/…`, or `/dev/serial0` for the header's UART; the one to write into the file.
    pub by_id: Option<PathBuf>,
    /// USB vendor.
    pub vid: Option<UsbId>,
    /// USB product.
    pub pid: Option<UsbId>,
    /// USB serial number.
    pub serial: Option<String>,
    /// USB manufacturer, for people.
    pub manufacturer: Option<String>,
    /// USB product name, for people.
    pub product: Option<String>,
    /// Kernel driver: `ftdi_sio`, `uart-pl011`.
    pub driver: Option<String>,
}

impl PortInfo {
    /// The name that stays the same: by-id where there is one, else the node.
    pub fn stable(&self) -> &Path {
        self.by_id.as_deref().unwrap_or(&self.path)
    }
}

/// The serial ports of this machine, by path. Consoles, pseudo terminals and UART numbers without hardware are left
/// out.
pub fn serial_ports() -> Vec<PortInfo> {
    serial_ports_in(Path::new("/"))
}

/// [`serial_ports`] of the tree at `root`.
pub fn serial_ports_in(root: &Path) -> Vec<PortInfo> {
    let links = stable_names(root);
    let Ok(entries) = fs::read_dir(root.join("sys/class/tty")) else { return Vec::new() };
    let mut ports: Vec<PortInfo> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            // only what hangs on a bus has this link
            let device = fs::canonicalize(entry.path().join("device")).ok()?;
            // type 0 is the kernel's word for "a number without a UART behind it"
            if text(&entry.path().join("type")).as_deref() == Some("0") {
                return None;
            }
            let path = Path::new("/dev").join(&name);
            let mut info = PortInfo {
                by_id: links.iter().find(|(_, node)| *node == name).map(|(link, _)| link.clone()),
                path,
                driver: driver(&device),
                ..PortInfo::default()
            };
            if let Some(usb) = device.ancestors().find(|d| d.join("idVendor").is_file()) {
                let id = |file: &str| text(&usb.join(file)).and_then(|t| t.parse().ok());
                info.vid = id("idVendor");
                info.pid = id("idProduct");
                info.serial = text(&usb.join("serial"));
                info.manufacturer = text(&usb.join("manufacturer"));
                info.product = text(&usb.join("product"));
            }
            Some(info)
        })
        .collect();
    ports.sort_by(|a, b| a.path.cmp(&b.path));
    ports
}

/// Links that keep their names, best first, each with the bare name of the node it leads to.
fn stable_names(root: &Path) -> Vec<(PathBuf, String)> {
    let mut links = Vec::new();
    let mut take = |link: PathBuf| {
        let target = fs::read_link(root.join(&link)).ok()?;
        let node = target.file_name()?.to_str()?.to_owned();
        links.push((Path::new("/").join(link), node));
        Some(())
    };
    for dir in ["dev/serial/by-id", "dev/serial/by-path"] {
        let mut names: Vec<PathBuf> = fs::read_dir(root.join(dir))
            .map(|entries| entries.filter_map(Result::ok).map(|e| Path::new(dir).join(e.file_name())).collect())
            .unwrap_or_default();
        names.sort();
        names.into_iter().for_each(|name| {
            take(name);
        });
    }
    for name in ["dev/serial0", "dev/serial1"] {
        take(name.into());
    }
    links
}

/// The driver of a port. Since Linux 6.5 a UART's `device` is a `port` on an inner bus: its parent has the real one.
fn driver(device: &Path) -> Option<String> {
    device
        .ancestors()
        .take(4)
        .filter_map(|d| fs::read_link(d.join("driver")).ok()?.file_name()?.to_str().map(str::to_owned))
        .find(|name| name != "port" && name != "ctrl")
}

/// A small file's text without the white space and NULs at its end; `None` if empty or not there.
fn text(path: &Path) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_matches(|c: char| c == '\0' || c.is_whitespace());
    (!text.is_empty()).then(|| text.to_owned())
}

/// The machine's name by its device tree: `Raspberry Pi 4 Model B Rev 1.4`. `None` where there is no device tree.
pub fn board_model() -> Option<String> {
    board_model_in(Path::new("/"))
}

/// [`board_model`] of the tree at `root`.
pub fn board_model_in(root: &Path) -> Option<String> {
    ["proc/device-tree/model", "sys/firmware/devicetree/base/model"].iter().find_map(|f| text(&root.join(f)))
}

/// A place of the 40-pin header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeaderPin {
    /// Place, 1 to 40; odd ones are in the row away from the board's edge.
    pub place: u8,
    /// BCM number; `None` for power and ground.
    pub bcm: Option<u8>,
    /// What it is besides a plain pin: `I2C1 SDA`; for power and ground that word.
    pub role: &'static str,
}

/// Power and ground by place. Source: Raspberry Pi documentation, "GPIO and the 40-pin header".
const POWER: [(u8, &str); 12] = [
    (1, "3.3 V"),
    (2, "5 V"),
    (4, "5 V"),
    (6, "ground"),
    (9, "ground"),
    (14, "ground"),
    (17, "3.3 V"),
    (20, "ground"),
    (25, "ground"),
    (30, "ground"),
    (34, "ground"),
    (39, "ground"),
];

/// The usual other use of each BCM number. Source: BCM2711 ARM Peripherals, "Alternative Function Assignments", as
/// the Raspberry Pi documentation marks them on the header.
const ROLES: [&str; 28] = [
    "ID EEPROM SDA (leave it alone)",
    "ID EEPROM SCL (leave it alone)",
    "I2C1 SDA",
    "I2C1 SCL",
    "GPCLK0, 1-Wire",
    "GPCLK1",
    "GPCLK2",
    "SPI0 CE1",
    "SPI0 CE0",
    "SPI0 MISO",
    "SPI0 MOSI",
    "SPI0 SCLK",
    "PWM0",
    "PWM1",
    "UART0 TX",
    "UART0 RX",
    "SPI1 CE2",
    "SPI1 CE1",
    "PWM0, PCM CLK, SPI1 CE0",
    "PWM1, PCM FS, SPI1 MISO",
    "PCM DIN, SPI1 MOSI",
    "PCM DOUT, SPI1 SCLK",
    "",
    "",
    "",
    "",
    "",
    "",
];

/// The 40 places in order.
pub fn header() -> Vec<HeaderPin> {
    let mut pins = Vec::with_capacity(HEADER.len());
    for (place, &bcm) in (1u8..).zip(HEADER.iter()) {
        // places 27 and 28 are pins too, kept for the ID EEPROM
        let bcm = u8::try_from(bcm).ok();
        let role = match bcm {
            Some(n) => ROLES.get(usize::from(n)).copied().unwrap_or(""),
            None => POWER.iter().find(|(p, _)| *p == place).map_or("", |(_, word)| word),
        };
        pins.push(HeaderPin { place, bcm, role });
    }
    pins
}
