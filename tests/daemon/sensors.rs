//! `onewire`, `iio`, `hwmon`, `system`: sensors of the kernel, in a tree of files that stands for `/sys` and `/proc`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use crate::support::gateway::{Home, Watch};
use crate::support::mosquitto::Mosquitto;

/// A machine of files.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Tree {
        Tree(tempfile::tempdir().unwrap())
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    /// Whole or not at all: it is being read.
    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let new = path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, path).unwrap();
    }
    /// `class/name` is a link to the place at the bus, as in sysfs.
    fn link(&self, link: &str, place: &str) {
        let link = self.path(link);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(self.path(place), link).unwrap();
    }
    /// A file that nobody ever gets an answer from.
    fn stuck(&self, name: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
}

const YES: &str = "72 01 4b 46 7f ff 0e 10 57 : crc=57 YES\n72 01 4b 46 7f ff 0e 10 57";
const SLAVE: &str = "sys/bus/w1/devices/28-3c01d607c2a1/w1_slave";

#[test]
fn sensors_of_the_kernel_are_found_by_name_and_read_in_the_units_of_people() {
    let tree = Tree::new();
    for (number, place, temp) in [(0, "1-0076", "21437"), (1, "1-0077", "4000")] {
        let at = format!("sys/devices/i2c-1/{place}/iio:device{number}");
        tree.write(&format!("{at}/name"), "bme280\n");
        tree.write(&format!("{at}/in_temp_input"), temp);
        tree.write(&format!("{at}/in_pressure_input"), "101.325000000");
        tree.write(&format!("{at}/in_humidityrelative_input"), "45123");
        tree.link(&format!("sys/bus/iio/devices/iio:device{number}"), &at);
    }
    let adc = "sys/devices/i2c-1/1-0048/iio:device2";
    tree.write(&format!("{adc}/name"), "ads1015\n");
    tree.write(&format!("{adc}/in_voltage0_raw"), "1100");
    tree.write(&format!("{adc}/in_voltage_offset"), "4");
    tree.write(&format!("{adc}/in_voltage0_scale"), "3");
    tree.link("sys/bus/iio/devices/iio:device2", adc);
    let hwmon = "sys/devices/virtual/thermal/thermal_zone0/hwmon0";
    tree.write(&format!("{hwmon}/name"), "cpu_thermal\n");
    tree.write(&format!("{hwmon}/temp1_input"), "48312\n");
    tree.write(&format!("{hwmon}/temp1_label"), "Core\n");
    tree.link("sys/class/hwmon/hwmon0", hwmon);
    tree.write("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n");
    tree.write("sys/class/thermal/thermal_zone0/temp", "48312\n");
    tree.write("sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n");
    tree.write("proc/loadavg", "0.42 0.30 0.20 1/123 4567\n");
    tree.write("proc/meminfo", "MemTotal:        1000 kB\nMemFree: 1 kB\nMemAvailable:     750 kB\n");
    tree.write(
        "proc/net/wireless",
        "Inter-| sta-|   Quality\n face | tus | link level noise\n wlan0: 0000   54.  -56.  -256        0\n",
    );

    let mut broker = Mosquitto::start();
    let home = Home::simple(
        &broker,
        "devices:
  outside: { kind: iio, name: bme280, at: 1-0077, points: { temperature: { channel: temp } } }
  inside:
    kind: iio
    name: bme280
    at: 1-0076
    points:
      temperature: { channel: temp }
      pressure: { filters: [ { round: 1 } ] }
      humidity: { channel: humidityrelative }
  battery: { kind: iio, name: ads1015, points: { voltage: { channel: voltage0 } } }
  which: { kind: iio, name: bme280, every: 100ms, retries: 0, points: { temp: {} } }
  cpu: { kind: hwmon, name: cpu_thermal, points: { temperature: { channel: Core } } }
  pi: { kind: system }
  wet: { kind: iio, name: bme280, at: 1-0077, retries: 0, points: { humidity: { channel: humidityrelative }, lux: { channel: illuminance } } }
",
    )
    .with_env("PINPOST_SYSFS", tree.0.path().to_str().unwrap());
    let mut all = Watch::on(&mut broker, "gw/#");
    let gateway = home.online(&mut all);
    for (topic, value) in [
        ("outside", "4"),
        ("inside/temperature", "21.437"),
        ("inside/pressure", "1013.3"),
        ("inside/humidity", "45.123"),
        ("battery", "3.312"),
        ("cpu", "48.312"),
        ("pi/cpu_temperature", "48.312"),
        ("pi/load", "0.42"),
        ("pi/memory", "25"),
        ("pi/wifi_signal", "-56"),
        ("pi/under_voltage", "ON"),
        ("pi/throttled", "ON"),
        ("wet/humidity", "45.123"),
    ] {
        all.expect(&format!("gw/{topic}"), value);
    }
    assert!((0.0..=100.0).contains(&all.next("gw/pi/disk").payload.parse().unwrap()));
    let why = all.until("gw/bridge/event", |g| g.payload.contains("\"which\"")).json();
    assert!(why["reason"].as_str().unwrap().contains("say which: at: 1-0076 or 1-0077"), "{why}");
    gateway.stop();
}

#[test]
fn a_sensor_that_fails_or_hangs_is_offline_alone_and_comes_back() {
    let tree = Tree::new();
    tree.write(SLAVE, &format!("{YES} t=85000\n"));
    tree.write("sys/class/hwmon/hwmon3/name", "lm75\n");
    tree.stuck("sys/class/hwmon/hwmon3/temp1_input");
    tree.write("proc/loadavg", "1.5 0 0 1/1 1\n");
    let mut broker = Mosquitto::start();
    let home = Home::simple(
        &broker,
        "devices:
  boiler: { kind: onewire, id: 28-3c01d607c2a1, every: 100ms, retries: 1 }
  gone: { kind: onewire, id: 28-000000000001, every: 100ms, retries: 0 }
  hung: { kind: hwmon, name: lm75, every: 100ms, timeout: 50ms, retries: 0, points: { temp1: {} } }
  pi: { kind: system, every: 100ms, points: { load: { retain: true } } }
",
    )
    .with_env("PINPOST_SYSFS", tree.0.path().to_str().unwrap());
    let mut all = Watch::on(&mut broker, "gw/#");
    let gateway = home.online(&mut all);
    let mut events = Vec::new();
    while events.len() < 3 {
        events.push(all.until("gw/bridge/event", |g| g.payload.contains("offline")).json());
    }
    for (device, why) in [
        ("boiler", "85 °C is what it says before it has measured"),
        ("gone", "the kernel sees 28-3c01d607c2a1"),
        ("hung", "no answer within 50 ms"),
    ] {
        all.until_payload(&format!("gw/{device}/availability"), "offline");
        let event = events.iter().find(|e| e["device"] == device).unwrap();
        assert!(event["reason"].as_str().unwrap().contains(why), "{event}");
    }
    // the others do not wait for it
    for _ in 0..3 {
        all.expect("gw/pi", "1.5");
    }
    tree.write(SLAVE, &format!("{YES} t=23125\n"));
    all.until_payload("gw/boiler/availability", "online");
    all.expect("gw/boiler", "23.125");
    // the answer that never came comes: a file takes the place of what hung, whoever waits on it is let go
    let fifo = fs::OpenOptions::new().write(true).open(tree.path("sys/class/hwmon/hwmon3/temp1_input")).unwrap();
    drop(fifo);
    fs::remove_file(tree.path("sys/class/hwmon/hwmon3/temp1_input")).unwrap();
    tree.write("sys/class/hwmon/hwmon3/temp1_input", "19500\n");
    all.until_payload("gw/hung/availability", "online");
    all.expect("gw/hung", "19.5");
    gateway.stop();
}

#[test]
fn a_chip_is_read_by_its_registers_on_the_simulated_bus() {
    let tree = Tree::new();
    tree.write("dev/i2c-1/0x48", "00: 40 00\n05: 12 3a ff\n");
    tree.write("dev/spi0.1", "01 80 00: 00 01 ff\n");
    let mut broker = Mosquitto::start();
    let home = Home::simple(
        &broker,
        "devices:
  adc:
    kind: i2c
    address: 0x48
    init: [\"03 80 00\", \"02 00 00\"]
    convert: \"01 c3 83\"
    delay: 10ms
    every: 200ms
    retries: 0
    points:
      voltage: { register: \"00\", as: i16be, unit: V, formula: \"value * 4.096 / 32768\" }
      double: { register: \"00\", as: u16be, formula: \"fields.voltage * 2\" }
      status: { register: \"05\", at: 1, bit: 1 }
      part: { register: \"05\", bits: [4, 7] }
  mcp3008: { kind: spi, select: 1, points: { light: { register: \"01 80 00\", at: 1, as: u16be, bits: [0, 9] } } }
  nobody: { kind: i2c, address: 0x77, retries: 0, points: { id: { register: \"d0\", as: u8 } } }
",
    )
    .with_env("PINPOST_SYSFS", tree.0.path().to_str().unwrap());
    let mut all = Watch::on(&mut broker, "gw/#");
    let gateway = home.online(&mut all);
    for (topic, value) in
        [("adc/voltage", "2.048"), ("adc/double", "32768"), ("adc/status", "ON"), ("adc/part", "1"), ("mcp3008", "511")]
    {
        all.expect(&format!("gw/{topic}"), value);
    }
    let why = all.until("gw/bridge/event", |g| g.payload.contains("\"nobody\"")).json();
    assert!(why["reason"].as_str().unwrap().contains("no simulated chip i2c-1/0x77"), "{why}");
    let written = || fs::read_to_string(tree.path("dev/i2c-1/0x48.written")).unwrap();
    assert!(written().starts_with("03 80 00\n02 00 00\n01 c3 83\n"), "{}", written());

    // gone and back, perhaps without its settings: they are written again
    fs::remove_file(tree.path("dev/i2c-1/0x48")).unwrap();
    all.until_payload("gw/adc/availability", "offline");
    tree.write("dev/i2c-1/0x48", "00: e0 00\n05: 00 00\n");
    all.until_payload("gw/adc/availability", "online");
    all.until_payload("gw/adc/voltage", "-1.024");
    assert_eq!(written().matches("02 00 00").count(), 2, "{}", written());
    gateway.stop();
}
