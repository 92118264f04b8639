"""The job of a User Mode Linux: `uml.py PROGRAM pins|day`. The ordinary pinpost on the character device of the running kernel,
whose simulated chips (gpio-sim) this script wires up, with a mosquitto beside it."""

import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time

from lab import ANSWER, Broker, same

RUN = "/run"
EDGES = 300
# The simulated chip raises its interrupts with the tick of this kernel, a hundred a second: what is faster is one edge.
TICK = 0.015


class Chip:
    """A simulated GPIO chip. Source: Documentation/admin-guide/gpio/gpio-sim.rst of the kernel."""

    def __init__(self, label, lines):
        self.config = f"/sys/kernel/config/gpio-sim/{label}"
        os.makedirs(f"{self.config}/bank0")
        write(f"{self.config}/bank0/num_lines", lines)
        write(f"{self.config}/bank0/label", label)
        self.live(True)

    def live(self, yes):
        write(f"{self.config}/live", int(yes))
        if yes:
            device, chip = read(f"{self.config}/dev_name"), read(f"{self.config}/bank0/chip_name")
            self.lines = f"/sys/devices/platform/{device}/{chip}/sim_gpio"

    def drive(self, line, high):
        write(f"{self.lines}{line}/pull", "pull-up" if high else "pull-down")

    def level(self, line):
        return int(read(f"{self.lines}{line}/value"))

    def pull(self, line):
        return read(f"{self.lines}{line}/pull")


def write(path, value):
    with open(path, "w") as out:
        out.write(f"{value}\n")


def read(path):
    with open(path) as file:
        return file.read().strip()


def start(program, port, devices, gpio):
    with open(f"{RUN}/pinpost.yaml", "w") as out:
        out.write(f"version: 1\ngateway: {{ id: pi }}\nmqtt: {{ url: 'mqtt://127.0.0.1:{port}', keep_alive: 10m }}\n")
        out.write(f"queue: {{ dir: {RUN}/state/queue }}\ngpio: {gpio}\ndevices:\n{devices}")
    return subprocess.Popen([program, "run", "-c", f"{RUN}/pinpost.yaml"], stderr=open(f"{RUN}/log", "ab"))


def answer(broker, device):
    return json.loads(broker.expect(f"pi/{device}/result"))["outcome"]


def health(broker, device):
    broker.publish("pi/bridge/request/health", "")
    return json.loads(broker.expect("pi/bridge/response/health"))["devices"][device]


def bare(port, line):
    """The shortest way there is: waits for edges of a line of the first chip and publishes each at once. Source:
    linux/gpio.h, uAPI v2; MQTT 3.1.1."""
    chip = os.open("/dev/gpiochip0", os.O_RDWR)
    inputs_with_both_edges = 1 << 2 | 1 << 4 | 1 << 5
    request = bytearray(592)
    struct.pack_into("<I", request, 0, line)
    struct.pack_into("<Q", request, 288, inputs_with_both_edges)
    struct.pack_into("<I", request, 560, 1)
    fcntl.ioctl(chip, 0xC250B407, request)
    edges = struct.unpack_from("<i", request, 588)[0]
    broker = socket.create_connection(("127.0.0.1", port))
    broker.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    broker.sendall(b"\x10\x10\x00\x04MQTT\x04\x02\x00\x00\x00\x04bare")
    broker.recv(4)
    print("ready", flush=True)
    while True:
        os.read(edges, 48)
        broker.sendall(b"\x30\x0a\x00\x07pi/bare1")


def latency(broker, chip, line, other):
    """From an edge to its message at a subscriber, in turn with the bare loop on another line."""
    loop = subprocess.Popen([sys.executable, __file__, "bare", f"{broker.port}:{other}"], stdout=subprocess.PIPE)
    loop.stdout.readline()
    took = {line: [], other: []}
    for n in range(EDGES):
        for at, topic in ((line, "pi/bell"), (other, "pi/bare")):
            begun = time.monotonic()
            chip.drive(at, (n + 1) % 2)
            broker.expect(topic)
            took[at].append((time.monotonic() - begun) * 1e3)
    loop.kill()
    loop.wait()
    at = lambda which, part: sorted(took[which])[int((EDGES - 1) * part)]
    for name, which in (("pinpost", line), ("bare loop", other)):
        print(f"== edge to message, {EDGES} edges, {name}: p50 {at(which, 0.5):.2f} ms, p99 {at(which, 0.99):.2f} ms")
    print(f"== p99 behind the bare loop: {at(line, 0.99) - at(other, 0.99):.2f} ms")


PINS = """
  door: { kind: digital_in, pin: 17, pull: up, inverted: true, debounce: 50ms }
  water: { kind: counter, pin: 22, pull: down, every: 1s }
  knob: { kind: encoder, pins: [20, 21], pull: up }
  pump: { kind: digital_out, pin: 27 }
  lamp: { kind: digital_out, pin: 5, inverted: true, initial: off }
  valve: { kind: digital_out, pin: 103 }
  level: { kind: digital_in, pin: 108, pull: up }
  bell: { kind: digital_in, pin: 24, pull: down }
"""


def pins(program):
    broker = Broker(RUN)
    header, expander = Chip("header", 54), Chip("mcp23017", 16)
    gpio = "{ backend: chardev, chip: header, expanders: [ { chip: mcp23017, first: 100 } ] }"
    gateway = start(program, broker.port, PINS, gpio)
    broker.expect("pi/bridge/state", "online")
    for device, first in (("door", "OFF"), ("pump", "OFF"), ("lamp", "OFF"), ("level", "ON"), ("knob", "0")):
        broker.expect(f"pi/{device}", first)
    broker.expect("pi/water/total", "0")
    same("the bias of the inputs", [header.pull(n) for n in (17, 22)] + [expander.pull(8)], ["pull-up", "pull-down", "pull-up"])
    same("the outputs", (header.level(27), header.level(5), expander.level(3)), (0, 1, 0))

    # a contact that bounces: the kernel keeps that to itself
    before = health(broker, "door").get("edges", 0)
    for n in range(21):
        header.drive(17, n % 2)
        time.sleep(TICK)
    broker.expect("pi/door", "ON")
    header.drive(17, 1)
    broker.expect("pi/door", "OFF")
    same("edges of the door", health(broker, "door")["edges"] - before, 2)
    same("its interrupts", "pinpost-17" in read("/proc/interrupts"), True)

    for n in range(200):
        header.drive(22, (n + 1) % 2)
        time.sleep(TICK)
    broker.expect("pi/water/total", "100")
    same("lost edges", health(broker, "water").get("lost_edges", 0), 0)
    for line, high in ((20, 0), (21, 0), (20, 1), (21, 1)):
        header.drive(line, high)
        time.sleep(TICK)
    broker.expect("pi/knob", "1")

    for device, chip, line, high in (("pump", header, 27, 1), ("lamp", header, 5, 0), ("valve", expander, 3, 1)):
        broker.publish(f"pi/{device}/set", "ON")
        same(f"the answer of {device}", answer(broker, device), "done")
        same(f"the level of {device}", chip.level(line), high)
    expander.drive(8, 0)
    broker.expect("pi/level", "OFF")

    broker.expect("pi/bell", "OFF")
    latency(broker, header, 24, 25)

    # a chip that vanishes while it is watched is that chip's trouble alone
    expander.live(False)
    broker.expect("pi/level/availability", "offline")
    same("the pump", header.level(27), 1)
    expander.live(True)
    broker.expect("pi/level/availability", "online")

    gateway.kill()
    gateway.wait()
    broker.expect("pi/bridge/state", "offline")
    begun = time.monotonic()
    subprocess.run([program, "--version"], check=True, timeout=ANSWER, stdout=subprocess.DEVNULL)
    bare_start = time.monotonic() - begun
    environment = os.environ | {"STATE_DIRECTORY": f"{RUN}/state", "SERVICE_RESULT": "signal"}
    begun = time.monotonic()
    subprocess.run([program, "safe-state"], env=environment, check=True, timeout=ANSWER)
    took = time.monotonic() - begun
    print(f"== safe-state took {took * 1e3:.0f} ms, its program's start alone {bare_start * 1e3:.0f} ms")
    gateway = start(program, broker.port, PINS, gpio)
    broker.expect("pi/bridge/state", "online")
    broker.expect("pi/pump", "OFF")
    broker.expect("pi/valve", "OFF")
    gateway.send_signal(signal.SIGTERM)
    same("the end", gateway.wait(ANSWER), 0)
    broker.end()


def day(program):
    """24 hours of a meter, a pulse a minute, with no broker until their end: mosquitto wakes ten times a second, and the clock
    jumps only while everybody waits."""
    header = Chip("header", 54)
    devices = "  water: { kind: counter, pin: 22, pull: down, every: 1h, rate_unit: h }\n"
    gateway = start(program, 1883, devices, "{ backend: chardev }")
    begun = time.monotonic()
    for n in range(24 * 60):
        time.sleep(30)
        header.drive(22, 1)
        time.sleep(30)
        header.drive(22, 0)
    passed = time.monotonic() - begun
    same("hours", round(passed / 3600), 24)
    broker = Broker(RUN, 1883)
    totals = [int(broker.expect("pi/water/total", "[0-9]+", 7200)) for _ in range(25)]
    same("the totals of every hour", [round(total / 60) for total in totals], list(range(25)))
    print(f"== {passed / 3600:.2f} hours, 1440 pulses, by the hour {totals}")
    gateway.send_signal(signal.SIGTERM)
    same("the end", gateway.wait(ANSWER), 0)
    broker.end()


def main():
    program, scenario = sys.argv[1:]
    if program == "bare":
        return bare(*map(int, scenario.split(":")))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    try:
        {"pins": pins, "day": day}[scenario](program)
    except BaseException:
        print(open(f"{RUN}/log").read() if os.path.exists(f"{RUN}/log") else "no log", flush=True)
        raise


main()
