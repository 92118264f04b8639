//! What this machine has: its serial ports with their stable names, its model, what each pin of the header is for and
//! which program holds it.
//!
//! Reads sysfs, the device tree and the GPIO chip's own records; opens no port and disturbs nobody. What is read from
//! files has a twin that takes the root directory, so that a tree made by a test can stand for a machine.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
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

/// What a pin (BCM number) of any Raspberry Pi can do beside being a plain pin; [`super::boards`] knows more.
pub fn role(pin: u8) -> &'static str {
    ROLES.get(usize::from(pin)).copied().unwrap_or("")
}

/// The 40 places in order.
pub fn header() -> Vec<HeaderPin> {
    let mut pins = Vec::with_capacity(HEADER.len());
    for (place, &bcm) in (1u8..).zip(HEADER.iter()) {
        let bcm = u8::try_from(bcm).ok();
        let role = match bcm {
            Some(n) => role(n),
            None => POWER.iter().find(|(p, _)| *p == place).map_or("", |(_, word)| word),
        };
        pins.push(HeaderPin { place, bcm, role });
    }
    pins
}

/// Somebody who has a pin requested from the kernel: a driver, or another program. What only writes to the registers, as
/// the outputs of this gateway do, is not seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinUser {
    /// BCM number.
    pub bcm: u8,
    /// The name it gave; empty where the kernel only knows that the pin serves another purpose.
    pub consumer: String,
    /// Whether it drives the pin.
    pub output: bool,
}

/// Everybody who has a pin of the header; empty where there is no GPIO chip of a Raspberry Pi, or none that may be
/// opened.
pub fn pin_users() -> Vec<PinUser> {
    let Some(chip) = chip() else { return Vec::new() };
    (0..28).filter_map(|bcm| user_at(&chip, bcm)).collect()
}

/// Who has a pin (BCM number); `None` if nobody, or if it cannot be told.
pub fn pin_user(bcm: u8) -> Option<PinUser> {
    user_at(&chip()?, bcm)
}

/// `struct gpiochip_info`; source: linux/gpio.h, uAPI v2, as all below.
#[repr(C)]
struct ChipInfo {
    name: [u8; 32],
    label: [u8; 32],
    lines: u32,
}

/// `struct gpio_v2_line_info`.
#[repr(C)]
struct LineInfo {
    name: [u8; 32],
    consumer: [u8; 32],
    offset: u32,
    num_attrs: u32,
    flags: u64,
    attrs: [u64; 20],
    padding: [u32; 4],
}

const GET_CHIPINFO: u32 = 0x8044_b401;
const GET_LINEINFO: u32 = 0xc100_b405;
const FLAG_USED: u64 = 1;
const FLAG_OUTPUT: u64 = 1 << 3;
/// Labels of the chip behind the header: Pi 0 to 3, 4, 5.
const CHIPS: [&str; 3] = ["pinctrl-bcm2835", "pinctrl-bcm2711", "pinctrl-rp1"];
/// More chips than any Pi has; the header's is 0 or, on some kernels of the Pi 5, 4.
const CHIP_NUMBERS: u8 = 32;

fn chip() -> Option<File> {
    (0..CHIP_NUMBERS).find_map(|n| {
        let file = OpenOptions::new().read(true).write(true).open(format!("/dev/gpiochip{n}")).ok()?;
        let mut info = ChipInfo { name: [0; 32], label: [0; 32], lines: 0 };
        // SAFETY: the request fills exactly this struct.
        let rc = unsafe { libc::ioctl(file.as_raw_fd(), GET_CHIPINFO as libc::Ioctl, &raw mut info) };
        (rc == 0 && CHIPS.contains(&name(&info.label).as_str())).then_some(file)
    })
}

fn user_at(chip: &File, bcm: u8) -> Option<PinUser> {
    let mut info = LineInfo {
        name: [0; 32],
        consumer: [0; 32],
        offset: bcm.into(),
        num_attrs: 0,
        flags: 0,
        attrs: [0; 20],
        padding: [0; 4],
    };
    // SAFETY: the request reads the offset and fills exactly this struct.
    let rc = unsafe { libc::ioctl(chip.as_raw_fd(), GET_LINEINFO as libc::Ioctl, &raw mut info) };
    (rc == 0 && info.flags & FLAG_USED != 0).then(|| PinUser {
        bcm,
        consumer: name(&info.consumer),
        output: info.flags & FLAG_OUTPUT != 0,
    })
}

/// A name that ends at the first NUL.
fn name(field: &[u8; 32]) -> String {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    field.get(..end).map(|b| String::from_utf8_lossy(b).into_owned()).unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Vendor, product, serial number.
    type UsbIds<'a> = (&'a str, &'a str, &'a str);

    /// A tree that looks like a machine's: name, driver and ids of each port.
    pub fn machine(ports: &[(&str, &str, Option<UsbIds>)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let dir = |path: String| {
            let path = root.path().join(path);
            fs::create_dir_all(&path).unwrap();
            path
        };
        let class = dir("sys/class/tty".into());
        let by_id = dir("dev/serial/by-id".into());
        for (n, (tty, driver, usb)) in ports.iter().enumerate() {
            let device = dir(format!("sys/devices/bus/{n}/{n}:1.0/{tty}"));
            let drivers = dir(format!("sys/bus/drivers/{driver}"));
            symlink(&drivers, device.join("driver")).unwrap();
            let node = dir(format!("sys/devices/bus/{n}/{n}:1.0/{tty}/tty/{tty}"));
            symlink(&device, node.join("device")).unwrap();
            symlink(&node, class.join(tty)).unwrap();
            if let Some((vid, pid, serial)) = usb {
                let usb = root.path().join(format!("sys/devices/bus/{n}"));
                fs::write(usb.join("idVendor"), format!("{vid}\n")).unwrap();
                fs::write(usb.join("idProduct"), format!("{pid}\n")).unwrap();
                if !serial.is_empty() {
                    fs::write(usb.join("serial"), format!("{serial}\n")).unwrap();
                    symlink(format!("../../{tty}"), by_id.join(format!("usb-{serial}-if00"))).unwrap();
                }
            }
        }
        root
    }

    fn dir(root: &Path, path: &str) -> PathBuf {
        fs::create_dir_all(root.join(path)).unwrap();
        root.join(path)
    }

    #[test]
    fn a_usb_port_is_listed_with_its_stable_name_and_ids() {
        let root = machine(&[("ttyUSB3", "ftdi_sio", Some(("0403", "6001", "A10K3")))]);
        fs::write(root.path().join("sys/devices/bus/0/manufacturer"), "FTDI\n").unwrap();
        fs::write(root.path().join("sys/devices/bus/0/product"), "FT232R USB UART\n").unwrap();
        let expected = PortInfo {
            path: "/dev/ttyUSB3".into(),
            by_id: Some("/dev/serial/by-id/usb-A10K3-if00".into()),
            vid: Some(UsbId(0x0403)),
            pid: Some(UsbId(0x6001)),
            serial: Some("A10K3".into()),
            manufacturer: Some("FTDI".into()),
            product: Some("FT232R USB UART".into()),
            driver: Some("ftdi_sio".into()),
        };
        assert_eq!(serial_ports_in(root.path()), [expected]);
    }

    #[test]
    fn only_ports_with_hardware_are_listed() {
        let root = machine(&[("ttyS0", "port", None), ("ttyAMA0", "uart-pl011", None)]);
        let class = root.path().join("sys/class/tty");
        // a UART number without a UART, a console, a pseudo terminal
        fs::write(class.join("ttyS0/type"), "0\n").unwrap();
        fs::write(class.join("ttyAMA0/type"), "32\n").unwrap();
        dir(root.path(), "sys/class/tty/tty1");
        dir(root.path(), "sys/class/tty/ptmx");
        symlink("ttyAMA0", root.path().join("dev/serial0")).unwrap();
        let ports = serial_ports_in(root.path());
        assert_eq!(ports.len(), 1, "{ports:?}");
        assert_eq!(ports[0].path, Path::new("/dev/ttyAMA0"));
        assert_eq!(ports[0].stable(), Path::new("/dev/serial0"));
        assert_eq!(ports[0].driver.as_deref(), Some("uart-pl011"));
    }

    #[test]
    fn the_driver_behind_the_inner_bus_of_new_kernels_is_found() {
        let root = machine(&[("ttyS4", "serial8250", None)]);
        let outer = root.path().join("sys/devices/bus/0/0:1.0/ttyS4");
        let inner = dir(&outer, "00:00:0.0");
        symlink(dir(root.path(), "sys/bus/drivers/port"), inner.join("driver")).unwrap();
        let device = outer.join("tty/ttyS4/device");
        fs::remove_file(&device).unwrap();
        symlink(inner, device).unwrap();
        assert_eq!(serial_ports_in(root.path())[0].driver.as_deref(), Some("serial8250"));
    }

    #[test]
    fn a_machine_without_anything_has_an_empty_list() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(serial_ports_in(root.path()), []);
        assert_eq!(board_model_in(root.path()), None);
    }

    #[test]
    fn the_board_is_named_by_its_device_tree() {
        let root = tempfile::tempdir().unwrap();
        fs::write(dir(root.path(), "sys/firmware/devicetree/base").join("model"), "Raspberry Pi 5 Model B Rev 1.0\0")
            .unwrap();
        assert_eq!(board_model_in(root.path()).as_deref(), Some("Raspberry Pi 5 Model B Rev 1.0"));
    }

    #[test]
    fn the_header_has_every_pin_once_and_names_power_and_other_uses() {
        let pins = header();
        assert_eq!(pins.len(), 40);
        let mut numbers: Vec<u8> = pins.iter().filter_map(|p| p.bcm).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..28).collect::<Vec<u8>>());
        let at = |place: usize| (pins[place - 1].place as usize, pins[place - 1].bcm, pins[place - 1].role);
        assert_eq!(at(1), (1, None, "3.3 V"));
        assert_eq!(at(3), (3, Some(2), "I2C1 SDA"));
        assert_eq!(at(8), (8, Some(14), "UART0 TX"));
        assert_eq!(at(11), (11, Some(17), "SPI1 CE1"));
        assert_eq!(at(23), (23, Some(11), "SPI0 SCLK"));
        assert_eq!(at(39), (39, None, "ground"));
        assert!(pins.iter().all(|p| p.bcm.is_some() || !p.role.is_empty()));
    }
}
