//! `modbus`: units of their own making on a real pty and behind TCP, read and written through the daemon.

use crate::support::gateway::{Home, Pty, Watch, publish};
use crate::support::modbus_unit::{Unit, Units, on_pty, on_tcp, units};
use crate::support::mosquitto::Mosquitto;

/// A meter as many on a DIN rail are: floats as input registers with holes between, limits to be set.
fn meter() -> Unit {
    let mut unit = Unit::default();
    for (at, value) in [(0, 230.4_f32), (6, 1.5), (12, -345.6)] {
        let bits = value.to_bits();
        unit.input.insert(at, (bits >> 16) as u16);
        unit.input.insert(at + 1, bits as u16);
    }
    unit.holding = [(0x10, 215), (0x11, 0), (0x20, 0), (0x21, 0)].into();
    unit.coils = [(0, false), (1, true)].into();
    unit.discrete = [(100, true)].into();
    unit
}

const METER: &str = "every: 100ms
    timeout: 300ms
    retries: 1
    points:
      voltage: { input: 0, as: f32, unit: V }
      current: { input: 6, as: f32be }
      power: { input: 12, as: f32, filters: [ { round: 0 } ] }
      target: { holding: 0x10, scale: 0.1, writable: true, min: 5, max: 30 }
      night: { holding: 0x11, bit: 3, writable: true }
      limit: { holding: 0x20, as: u32, word_order: low_first, writable: true }
      relay: { coil: 0, writable: true }
      fault: { discrete: 100 }
";

fn reads_and_writes(all: &mut Watch, broker: &Mosquitto, units: &Units, id: u8) {
    all.expect("gw/meter/availability", "online");
    for (point, value) in [("voltage", "230.4"), ("current", "1.5"), ("power", "-346"), ("target", "21.5")] {
        all.expect(&format!("gw/meter/{point}"), value);
    }
    all.expect("gw/meter/relay", "OFF");
    all.expect("gw/meter/fault", "ON");

    publish(broker, "gw/meter/target/set", "19.5", &[]);
    let result = all.next("gw/meter/target/result").json();
    assert_eq!((&result["outcome"], result["value"].as_f64()), (&"done".into(), Some(19.5)));
    all.until_payload("gw/meter/target", "19.5");
    publish(broker, "gw/meter/target/set", "31", &[]);
    let result = all.next("gw/meter/target/result").json();
    assert_eq!(result["outcome"], "rejected");
    assert!(result["reason"].as_str().unwrap().contains("5 to 30"), "{result}");
    publish(broker, "gw/meter/night/set", "ON", &[]);
    assert_eq!(all.next("gw/meter/night/result").json()["value"], "ON");
    publish(broker, "gw/meter/limit/set", "70000", &[]);
    assert_eq!(all.next("gw/meter/limit/result").json()["outcome"], "done");
    publish(broker, "gw/meter/relay/set", "ON", &[]);
    assert_eq!(all.next("gw/meter/relay/result").json()["outcome"], "done");
    {
        let units = units.lock().unwrap();
        let unit = &units[&id];
        assert_eq!(unit.holding, [(0x10, 195), (0x11, 8), (0x20, 70_000_u32 as u16), (0x21, 1)].into());
        assert!(unit.coils[&0]);
        // one register by function 6, two by 16
        assert!(unit.asked.contains(&(6, 0x10, 195)) && unit.asked.contains(&(16, 0x20, 2)), "{:?}", unit.asked);
    }
    units.lock().unwrap().get_mut(&id).unwrap().stubborn = true;
    publish(broker, "gw/meter/target/set", "25", &[]);
    let result = all.next("gw/meter/target/result").json();
    assert_eq!((&result["outcome"], &result["reason"]), (&"failed".into(), &"it reads back 19.5".into()));
    publish(broker, "gw/meter/voltage/set", "1", &[]);
}

#[test]
fn two_units_share_an_rtu_bus_and_a_dead_one_does_not_stall_the_other() {
    let mut broker = Mosquitto::start();
    let dir = tempfile::tempdir().unwrap();
    let pty = Pty::new(dir.path().join("bus"));
    let dead = Unit { mute: true, holding: [(0, 7)].into(), ..Unit::default() };
    let units = units([(17, meter()), (18, dead)]);
    on_pty(pty.master(), pty.name(), units.clone(), true);
    let home = Home::simple(
        &broker,
        &format!(
            "ports:
  bus: {{ path: {}, baud_rate: 19200 }}
devices:
  meter:
    kind: modbus
    port: bus
    unit_id: 17
    {METER}
  dead: {{ kind: modbus, port: bus, unit_id: 18, every: 100ms, timeout: 100ms, retries: 0, points: {{ v: {{ holding: 0 }} }} }}
",
            pty.name().display()
        ),
    );
    let mut all = Watch::on(&mut broker, "gw/#");
    let gateway = home.online(&mut all);
    all.expect("gw/dead/availability", "offline");
    reads_and_writes(&mut all, &broker, &units, 17);
    // the holes made it read part by part: what exists was read, and asked for by itself from then on
    {
        let units = units.lock().unwrap();
        let asked = &units[&17].asked;
        assert!(asked.contains(&(4, 0, 14)), "neighbours are asked for at once: {asked:?}");
        assert!(asked.contains(&(4, 6, 2)), "{asked:?}");
    }
    // it wakes up
    units.lock().unwrap().get_mut(&18).unwrap().mute = false;
    all.until_payload("gw/dead/availability", "online");
    all.expect("gw/dead", "7");
    gateway.stop();
}

#[test]
fn the_same_meter_is_read_and_written_over_tcp() {
    let mut broker = Mosquitto::start();
    let units = units([(1, meter())]);
    let address = on_tcp(units.clone());
    let rest = format!(
        "ports: {{ lan: {{ tcp: \"{address}\" }} }}\ndevices:\n  meter:\n    kind: modbus\n    port: lan\n    {METER}"
    );
    let home = Home::simple(&broker, &rest);
    let mut all = Watch::on(&mut broker, "gw/#");
    let gateway = home.online(&mut all);
    reads_and_writes(&mut all, &broker, &units, 1);
    gateway.stop();
}
