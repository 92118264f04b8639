"""The real Home Assistant is asked what it makes of what pinpost tells it: judge.py PINPOST PYTHON.

`PYTHON` is the one with Home Assistant, found through PYTHONPATH (.ci/home-assistant.sh installs both). A mosquitto, the
gateway with simulated pins and house.yaml, and Home Assistant run as at home; every step below is awaited, and at the
end Home Assistant's log must hold no warning.
"""

import base64
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from parts import Broker, Gateway, Home, Line, Process, Watch, Wrong, end_all

HERE = Path(__file__).parent
HOUSE = (HERE / "house.yaml").read_text()
WORDS = HERE.parent.parent / "src/wire/home_assistant_words.rs"
JPEG = bytes.fromhex("ffd8ffe000104a46494600010100000100010000") + b"a picture" + bytes.fromhex("ffd9")

# Units of its newer documentation; this version shows them, and wishes for others.
NEWER = {"frequency": {"mHz"}, "nitrogen_dioxide": {"ppm"}, "ozone": {"ppm"}, "power": {"BTU/h"}}

# What a bare Home Assistant without its other integrations says of itself, and of a topic that is emptied twice: it
# empties those of a device that went once more.
OF_ITSELF = ("Skipping pip installation", "zlib_ng and isal are not available", "No device components to cleanup")


def entity(platform, unique, name, device=None, **more):
    """What Home Assistant is to have: its words for an entity, and the attributes that matter."""
    path = unique.split(".")
    return "pinpost.shed." + unique, {
        "entity_id": f"{platform}.shed_" + "_".join(path),
        "platform": platform,
        "device": ".".join(["pinpost.shed", *([path[0]] if device is None else [device])]).rstrip("."),
        "category": more.pop("category", None),
        "disabled": more.pop("disabled", None),
        "attributes": {"friendly_name": name, **more},
    }


OWN = {"device": "", "category": "diagnostic"}
NUMBER = {"state_class": "measurement"}
ENTITIES = dict(
    [
        entity("binary_sensor", "door", "Door", device_class="door"),
        entity("binary_sensor", "gate", "Gate", device_class="opening", icon="mdi:gate"),
        entity("binary_sensor", "bell.state", "Bell State"),
        entity("event", "bell.gesture", "Bell Gesture", device_class="button", event_types=["click", "double", "long"]),
        entity("sensor", "switches", "Switches", **NUMBER),
        entity(
            "sensor", "water.total", "Water Total",
            device_class="water", unit_of_measurement="L", state_class="total_increasing",
        ),
        entity(
            "sensor", "water.rate", "Water Rate",
            device_class="volume_flow_rate", unit_of_measurement="L/min", **NUMBER,
        ),
        entity("number", "knob", "Knob", min=0, max=100),
        entity("switch", "pump", "Pump", device_class="outlet"),
        entity("number", "heater", "Heater", min=0, max=80, unit_of_measurement="%", mode="slider"),
        entity("light", "lamp", "Lamp", supported_color_modes=["brightness"]),
        entity("fan", "vent", "Vent"),
        entity("number", "flap", "Flap", min=0, max=180, unit_of_measurement="°"),
        entity(
            "sensor", "weather.temperature", "Weather Temperature",
            device_class="temperature", unit_of_measurement="°C", **NUMBER,
        ),
        entity(
            "sensor", "weather.humidity", "Weather Humidity",
            device_class="humidity", unit_of_measurement="%", **NUMBER,
        ),
        entity(
            "sensor", "weather.energy", "Weather Energy",
            device_class="energy", unit_of_measurement="kWh", state_class="total_increasing",
        ),
        entity("sensor", "weather.wind", "Weather Wind", state_class=None, unit_of_measurement=None),
        entity("binary_sensor", "weather.frost", "Weather Frost", device_class="cold"),
        entity("sensor", "weather.odd", "Weather Odd", device_class=None, unit_of_measurement="furlong", **NUMBER),
        entity("number", "weather.target.command", "Weather Target", min=5, max=30),
        entity("select", "weather.mode.command", "Weather Mode", options=["auto", "manual"]),
        entity("button", "weather.reset.command", "Weather Reset"),
        entity("text", "weather.label.command", "Weather Label", min=0, max=12),
        entity("switch", "weather.light.command", "Weather Light"),
        entity("camera", "camera.live", "Camera Live"),
        entity("image", "camera.still", "Camera Still"),
        entity(
            "sensor", "boiler.voltage", "Boiler Voltage",
            device_class="voltage", unit_of_measurement="V", **NUMBER,
        ),
        entity(
            "number", "boiler.setpoint", "Boiler Setpoint",
            device_class="temperature", unit_of_measurement="°C", min=5, max=30,
        ),
        entity("switch", "boiler.relay", "Boiler Relay"),
        entity("binary_sensor", "boiler.fault", "Boiler Fault", device_class="problem"),
        entity("binary_sensor", "bridge.link", "The shed Link", **OWN, device_class="connectivity"),
        entity("sensor", "bridge.queue", "The shed Queue waiting", **OWN, **NUMBER),
        entity("sensor", "bridge.dropped", "The shed Readings dropped", **OWN, state_class="total_increasing"),
        entity("sensor", "bridge.errors", "The shed Errors", **OWN, state_class="total_increasing"),
        entity("sensor", "bridge.uptime", None, **OWN, disabled="integration"),
        entity("sensor", "pi.load", "The shed Load", **OWN, **NUMBER),
        entity("sensor", "pi.memory", "The shed Memory", **OWN, unit_of_measurement="%", **NUMBER),
        entity("sensor", "pi.disk", "The shed Disk", **OWN, unit_of_measurement="%", **NUMBER),
        # 21.5 °C come as °F, and a metric Home Assistant shows them as it shows all temperatures.
        entity(
            "sensor", "fahrenheit", "The shed Fahrenheit", "",
            device_class="temperature", unit_of_measurement="°C", **NUMBER,
        ),
        entity("sensor", "warm", "The shed Warm", "", state_class=None),
    ]
)


def same(what, has, wanted):
    if has != wanted:
        raise Wrong(f"{what} is {has}, not {wanted}")


def announced(home):
    """Every entity and every device is there, with its words, and none besides."""

    def settled(all):
        return set(all["entities"]) >= set(ENTITIES) and all["entities"]["pinpost.shed.pi.load"]["state"]

    everything = home.until(f"{len(ENTITIES)} entities", settled)
    has = everything["entities"]
    same("what Home Assistant has", sorted(has), sorted(ENTITIES))
    for unique, wanted in ENTITIES.items():
        for key, value in wanted.items():
            if key != "attributes":
                same(f"{unique}: its {key}", has[unique][key], value)
        for key, value in wanted["attributes"].items():
            same(f"{unique}: its {key}", has[unique]["attributes"].get(key), value)
    devices = everything["devices"]
    same("the devices", sorted(devices), sorted({e["device"] for e in ENTITIES.values()}))
    for name, device in devices.items():
        own = name == "pinpost.shed"
        word = name.rsplit(".", 1)[1]
        same(f"{name}: its name", device["name"], "The shed" if own else word.capitalize())
        same(f"{name}: its way", device["via"], None if own else "pinpost.shed")
        same(f"{name}: its area and maker", (device["area"], device["manufacturer"]), ("Garden", "pinpost"))
    if not devices["pinpost.shed"]["version"]:
        raise Wrong("the gateway says no version")
    return f"{len(has)} entities of {len({e['platform'] for e in has.values()})} platforms, {len(devices)} devices"


def number(test):
    """A state that is a number, for which `test` holds."""

    def holds(state):
        try:
            return test(float(state))
        except ValueError:
            return False

    return holds


def states_follow(home, broker, line, pictures):
    def pin(number, level):
        broker.publish(f"shed/sim/pin/{number}/set", level)

    for level, state in (("1", "on"), ("0", "off"), ("1", "on")):
        pin(17, level)
        home.state("binary_sensor.shed_door", state)
    pin(4, "1")
    home.state("binary_sensor.shed_gate", "on")
    pin(16, "1")
    home.state("sensor.shed_switches", "2")
    for _ in range(10):
        pin(22, "1")
        pin(22, "0")
    home.state("sensor.shed_water_total", number(lambda n: n == 1))
    pin(23, "1")
    home.state("binary_sensor.shed_bell_state", "on")
    pin(23, "0")
    home.state("event.shed_bell_gesture", lambda state: state != "unknown", event_type="click")
    home.state("sensor.shed_pi_memory", number(lambda n: 0 < n < 100))
    home.state("binary_sensor.shed_bridge_link", "on")
    # What came before the first line break is no line.
    line.say(b"half a line\nT=21.5;H=40;E=3.5;W=gusty;F=1;O=2\n")
    for point, state in (("temperature", "21.5"), ("humidity", "40"), ("energy", "3.5"), ("wind", "gusty"), ("odd", "2")):
        home.state(f"sensor.shed_weather_{point}", state)
    home.state("binary_sensor.shed_weather_frost", "on")
    home.state("sensor.shed_warm", "ON")
    home.state("sensor.shed_fahrenheit", number(lambda n: abs(n - 21.5) < 0.1))
    pictures.say(JPEG)
    home.state("image.shed_camera_still", lambda state: state != "unknown")
    for picture in ("camera.shed_camera_live", "image.shed_camera_still"):
        if base64.b64decode(home.ask("picture", picture)) != JPEG:
            raise Wrong(f"{picture} shows another picture")
    return "inputs, counters, gestures, frames, JSON, computed values, pictures"


def commands(home, broker, line):
    pins = Watch(broker, "shed/sim/pin/+")

    def does(service, entity, number, level, **data):
        home.call(service, entity, **data)
        pins.until(f"shed/sim/pin/{number}", level)

    pump, lamp, vent = "switch.shed_pump", "light.shed_lamp", "fan.shed_vent"
    does("switch.turn_on", pump, 27, "1")
    home.state(pump, "on")
    does("switch.turn_off", pump, 27, "0")
    home.state(pump, "off")
    does("switch.toggle", pump, 27, "1")
    home.state(pump, "on")
    does("number.set_value", "number.shed_heater", 18, "0.4", value=40)
    home.state("number.shed_heater", "40")
    does("light.turn_on", lamp, 13, "0.5", brightness_pct=50)
    home.state(lamp, "on", brightness=128)
    # Home Assistant's dimmest is below what this lamp can do.
    does("light.turn_on", lamp, 13, "0.1", brightness=1)
    does("light.turn_off", lamp, 13, "0")
    home.state(lamp, "off")
    does("light.turn_on", lamp, 13, "1", brightness=255)
    home.state(lamp, "on", brightness=255)
    does("fan.set_percentage", vent, 19, "1", percentage=100)
    home.state(vent, "on", percentage=100)
    does("fan.set_percentage", vent, 19, "0.6", percentage=50)
    home.state(vent, "on", percentage=50)
    does("fan.turn_off", vent, 19, "0")
    home.state(vent, "off", percentage=0)
    does("fan.turn_on", vent, 19, "0.6")
    home.call("number.set_value", "number.shed_flap", value=90)
    home.state("number.shed_flap", "90")
    home.call("number.set_value", "number.shed_knob", value=35)
    home.state("number.shed_knob", "35")
    for service, word, data, heard in (
        ("number.set_value", "target", {"value": 21.5}, "TARGET 21.5"),
        ("select.select_option", "mode", {"option": "manual"}, "MODE manual"),
        ("button.press", "reset", {}, "RESET"),
        ("text.set_value", "label", {"value": "north"}, "LABEL north"),
        ("switch.turn_on", "light", {}, "LIGHT ON"),
    ):
        home.call(service, f"{service.split('.')[0]}.shed_weather_{word}_command", **data)
        line.hears(heard)
    pins.end()
    return "switch, light, fan, number, select, button, text"


def availability(home, gateway, start):
    home.until("boiler, which nobody answers for, to be unavailable", lambda all: all_unavailable(all, "boiler"))
    gateway.stop()
    home.until("everything to be unavailable without the gateway", all_unavailable)
    home.state("binary_sensor.shed_bridge_link", "off")
    gateway = start()
    home.state("switch.shed_pump", "off")
    home.state("binary_sensor.shed_door", "off")
    gateway.process.kill()
    home.until("everything to be unavailable by the Will", all_unavailable)
    gateway.process.wait()
    gateway = start()
    home.state("switch.shed_pump", "off")
    return gateway, "a device alone, an orderly stop, a kill"


def all_unavailable(all, device=None):
    prefix = "pinpost.shed" + (f".{device}." if device else ".")
    them = [e for u, e in all["entities"].items() if u.startswith(prefix) and not u.endswith("bridge.link")]
    return all_of(e["state"] == "unavailable" for e in them if not e["disabled"])


all_of = all


def restart(home, again, broker):
    """Home Assistant ends, the house goes on, it comes back: the states that last are told again."""
    home.call("switch.turn_on", "switch.shed_pump")
    home.state("switch.shed_pump", "on")
    home.stop()
    judge_log(home)
    # Neither is retained: only a gateway that hears that Home Assistant is back can tell it.
    broker.publish("shed/sim/pin/4/set", "0")
    home = again()
    home.state("switch.shed_pump", "on")
    home.state("binary_sensor.shed_gate", "off")
    return home, "states are told anew after Home Assistant's restart"


def changed(home, gateway, restart_with):
    """Renamed, removed, and of another kind: nothing of before is left."""
    text = HOUSE.replace("  pump: {", "  well: {").replace(", gestures: [click, double, long]", "")
    text = re.sub(r"  flap: .*\n", "", text)
    text = text.replace("vent: { kind: pwm, pin: 19, min: 20, device_class: fan }", "vent: { kind: digital_out, pin: 19 }")
    gateway.stop()
    gateway = restart_with(text)
    gone = {"pump", "flap", "bell.gesture", "bell.state"}
    come = {"well": "switch.shed_well", "bell": "binary_sensor.shed_bell", "vent": "switch.shed_vent"}

    def holds(all):
        has = {u.removeprefix("pinpost.shed."): e for u, e in all["entities"].items()}
        there = all_of(has.get(u, {}).get("entity_id") == e for u, e in come.items())
        devices = {"pinpost.shed.pump", "pinpost.shed.flap"}
        return there and not gone & set(has) and not devices & set(all["devices"])

    home.until(f"{gone} to go and {come} to come", holds)
    # Nothing changes it and it is not retained: it is told again for a Home Assistant to which it was new.
    home.state("switch.shed_well", "off")
    gateway.stop()
    gateway = restart_with(HOUSE.replace("homeassistant: {}", "homeassistant: { enabled: no }"))
    home.until("everything to go", lambda all: not all["entities"] and not all["devices"])
    return gateway, "renamed, removed, another platform, switched off: no ghost"


def words(home, program, folder):
    """pinpost's classes and units are Home Assistant's: it warns of none that are, and knows none that are not."""
    theirs = home.ask("classes")
    points, number = [], 0
    tables = {"sensor": "{ field: a, type: number, %s }", "number": "{ holding: %d, writable: true, min: 0, max: 9, %s }"}
    for platform, line in tables.items():
        for name, units in theirs[platform].items():
            if name in ("date", "timestamp", "enum"):
                continue
            for unit in units if units is not None else [""]:
                number += 1
                said = f'device_class: {name}' + (f', unit: "{unit}"' if unit else "")
                points.append((platform, f"p{number}: " + (line % said if platform == "sensor" else line % (number, said))))
    def table(platform):
        return "\n".join("      " + text for p, text in points if p == platform)

    file = folder / "words.yaml"
    file.write_text(
        "version: 1\nhomeassistant: {}\nports: { a: { tcp: '127.0.0.1:9' }, b: { tcp: '127.0.0.1:8' } }\ndevices:\n"
        f"  s:\n    kind: serial\n    port: a\n    decode: {{ type: json }}\n    points:\n{table('sensor')}\n"
        f"  n:\n    kind: modbus\n    port: b\n    unit_id: 1\n    points:\n{table('number')}\n"
        "  w:\n    kind: serial\n    port: a\n    decode: { type: json }\n    points:\n"
        + "".join(f"      b_{c}: {{ type: bool, device_class: {c} }}\n" for c in theirs["binary_sensor"])
    )
    done = subprocess.run([program, "check", str(file)], capture_output=True, text=True)
    if done.returncode or "0 errors, 0 warnings" not in done.stdout + done.stderr:
        raise Wrong(f"pinpost doubts what Home Assistant takes:\n{done.stdout}{done.stderr}")
    source = WORDS.read_text().split("#[cfg(test)]")[0]
    table = source[source.index("const MEASURED") : source.index("];", source.index("const MEASURED"))]
    ours = {}
    for name, units in re.findall(r'\(\s*"(\w+)",\s*&\[([^\]]*)\]', table):
        ours[name] = set(re.findall(r'"([^"]*)"', units))
    if len(ours) < 40:
        raise Wrong(f"only {len(ours)} classes are read from {WORDS}")
    strange = {}
    for name, units in ours.items():
        both = {p: theirs[p].get(name) for p in ("sensor", "number") if name in theirs[p]}
        if not both:
            strange[name] = None
            continue
        known = {u for list in both.values() for u in list or units}
        # The sign of micro and the Greek letter are one to it.
        units = {u.replace("\u00b5", "\u03bc") for u in units}
        known = {u.replace("\u00b5", "\u03bc") for u in known}
        if units - known:
            strange[name] = units - known
    same("what pinpost knows beyond Home Assistant", strange, NEWER)
    return f"{len(points)} pairs of class and unit, {len(theirs['binary_sensor'])} classes of binary sensors"


def judge_log(home):
    bad = [w for w in home.warnings if not w["text"].startswith(OF_ITSELF)]
    if bad:
        raise Wrong("Home Assistant's log:\n" + "\n".join(f"{w['level']} {w['by']}: {w['text']}" for w in bad))


def run(program, python, folder):
    broker = Broker(folder)
    line, pictures = Line(folder / "line"), Line(folder / "pictures")
    file = folder / "house.yaml"
    file.write_text(HOUSE)

    begin = time.monotonic()

    def step(name, result):
        print(f"{time.monotonic() - begin:.0f} s: {name}: {result}", flush=True)

    def start():
        return Gateway(program, folder, broker, file)

    def restart_with(text):
        file.write_text(text)
        return start()

    def home_again():
        return Home(python, folder / "home", broker)

    gateway = start()
    home = home_again()
    step("announced", announced(home))
    step("states", states_follow(home, broker, line, pictures))
    step("commands", commands(home, broker, line))
    gateway, said = availability(home, gateway, start)
    step("availability", said)
    home, said = restart(home, home_again, broker)
    step("restart", said)
    gateway, said = changed(home, gateway, restart_with)
    step("changes", said)
    step("words", words(home, program, folder))
    home.stop()
    judge_log(home)
    gateway.stop()
    step("log", "no warning")


def main():
    program, python = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        try:
            run(program, python, Path(folder))
        except Wrong as wrong:
            for name in ("pinpost.log", "home/stderr.log"):
                if (log := Path(folder) / name).exists():
                    print(f"--- {name}\n{log.read_text()[-3000:]}", file=sys.stderr)
            sys.exit(f"WRONG: {wrong}")
        finally:
            end_all()


main()
