//! Who holds a port, which adapter is meant, and the words for each refusal.

use super::*;
use crate::hal::list::tests::machine;

fn ids(vid: u16, pid: u16, serial: Option<&str>) -> Ids {
    Ids { vid: UsbId(vid), pid: UsbId(pid), serial: serial.map(str::to_owned) }
}

#[test]
fn the_adapter_with_the_ids_is_found_wherever_it_is_plugged_in() {
    let root = machine(&[
        ("ttyUSB0", "cp210x", Some(("10c4", "ea60", "0001"))),
        ("ttyUSB7", "ftdi_sio", Some(("0403", "6001", "A10K3"))),
        ("ttyUSB8", "ftdi_sio", Some(("0403", "6001", "B22"))),
    ]);
    let found = |ids| find_usb(root.path(), &ids);
    assert_eq!(found(ids(0x10c4, 0xea60, None)).unwrap(), Path::new("/dev/ttyUSB0"));
    assert_eq!(found(ids(0x0403, 0x6001, Some("B22"))).unwrap(), Path::new("/dev/ttyUSB8"));

    let several = found(ids(0x0403, 0x6001, None)).unwrap_err();
    assert_eq!(several.kind, HalErrorKind::Unsupported);
    for part in ["A10K3", "B22", "/dev/serial/by-id/usb-B22-if00", "write `serial:`"] {
        assert!(several.text.contains(part), "{several}");
    }
    let other = found(ids(0x0403, 0x6001, Some("C"))).unwrap_err();
    assert_eq!(other.kind, HalErrorKind::NotFound);
    assert!(other.text.contains("A10K3") && !other.text.contains("10c4"), "{other}");
    assert!(found(ids(1, 2, None)).unwrap_err().text.contains("10c4:ea60"));
}

#[test]
fn adapters_without_different_serial_numbers_are_told_apart_by_path() {
    let root =
        machine(&[("ttyUSB0", "ch341", Some(("1a86", "7523", ""))), ("ttyUSB1", "ch341", Some(("1a86", "7523", "")))]);
    let e = find_usb(root.path(), &ids(0x1a86, 0x7523, None)).unwrap_err();
    assert!(e.text.contains("/dev/ttyUSB1") && e.text.contains("`path:`"), "{e}");
}

#[test]
fn a_missing_node_names_what_is_connected_the_likeliest_first() {
    let root = machine(&[("ttyS0", "port", None), ("ttyUSB1", "ftdi_sio", Some(("0403", "6001", "A10K3")))]);
    let e = explain(root.path(), "/dev/serial/by-id/usb-A10K4-if00").unwrap();
    assert_eq!(e.kind, HalErrorKind::NotFound);
    assert!(e.text.contains("there is no /dev/serial/by-id/usb-A10K4-if00; connected now: /dev/serial/by-id/usb-A10K3-if00 (0403:6001 serial A10K3), /dev/ttyS0"), "{e}");
    let bare = tempfile::tempdir().unwrap();
    assert!(explain(bare.path(), "/dev/ttyUSB77").unwrap().text.ends_with("no serial port is connected"));
}

#[test]
fn the_program_that_holds_a_port_is_named() {
    let (_master, path) = super::super::tests::pty();
    let slave = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(&path).unwrap();
    let mut other = std::process::Command::new("sleep").arg("1000").stdin(slave).spawn().unwrap();
    // spawn returns when the program runs, so it has its own name
    let e = held(&path);
    let pid = other.id();
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(e.kind, HalErrorKind::Busy);
    assert_eq!(e.text, format!("{path} is held by sleep (pid {pid}); end it, or give it another port"));
}

#[test]
fn the_usual_holders_come_with_their_cure() {
    assert!(advice("agetty", "/dev/ttyAMA0").ends_with("disable --now serial-getty@ttyAMA0"));
    assert!(advice("ModemManager", "/dev/ttyUSB0").ends_with("disable --now ModemManager"));
}

#[test]
fn a_holder_that_cannot_be_seen_gets_the_usual_suspects() {
    let e = held("/dev/ttyUSB77");
    assert!(e.text.contains("ModemManager") && e.text.contains("serial-getty@ttyUSB77"), "{e}");
}

#[test]
fn a_forbidden_port_says_which_group_to_join() {
    let say = |opens, member| forbidden_words("/dev/ttyUSB0", "pinpost", "dialout", opens, member);
    assert!(say(true, false).contains("user pinpost may not open /dev/ttyUSB0"));
    assert!(say(true, false).contains("sudo usermod -aG dialout pinpost"));
    assert!(say(true, true).contains("DeviceAllow=/dev/ttyUSB0 rw"));
    assert!(say(false, false).contains("udev"));
}

#[test]
fn a_line_counts_its_bits() {
    assert_eq!(Line::default().bits_per_byte(), 10);
    let line = Line { parity: Parity::Even, stop_bits: 2, ..Line::default() };
    assert_eq!((line.bits_per_byte(), line.to_string().as_str()), (12, "9600 8E2"));
}
