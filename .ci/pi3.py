#!/usr/bin/env python3
"""The whole gateway on an emulated Raspberry Pi 3B, seen from outside: `pi3.py IMAGES PROGRAM`, images of `.ci/pi3.sh install`.

A test writes to the sensor's end of the UART, reads and writes the GPIO registers over QEMU's qtest socket, and talks MQTT to
a mosquitto of its own on a free port of 127.0.0.1. Every wait has a deadline; every process it starts ends with it.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

from lab import ANSWER, Broker, Lines, same

# BCM2835 ARM Peripherals, chapter 6; base of the BCM2837.
GPIO, GPSET0, GPCLR0, GPLEV0 = 0x3F200000, 0x1C, 0x28, 0x34
DOOR, LAMP, SHUT = 22, 17, 27
BOOT = 90

def config(port):
    return f"""version: 1
gateway: {{ id: pi }}
mqtt: {{ url: "mqtt://10.0.2.2:{port}" }}
queue: {{ dir: /tmp/state/queue }}
ports:
  meter: {{ path: /dev/ttyAMA0, baud_rate: 9600 }}
devices:
  door: {{ kind: digital_in, pin: {DOOR} }}
  lamp: {{ kind: digital_out, pin: {LAMP}, max_on: 10m }}
  shut: {{ kind: digital_out, pin: {SHUT}, inverted: true }}
  weather:
    kind: serial
    port: meter
    frame: {{ delimiter: "\\n" }}
    decode: {{ type: keyvalue, pair: ";", assign: "=" }}
    points:
      temperature: {{ field: T, unit: °C }}
      humidity: {{ field: H, unit: "%" }}
"""


def archive(files, into):
    """A cpio archive (newc) of files, name -> (content, mode); the kernel lays it over the root."""
    made = set()
    with open(into, "wb") as out:

        def entry(name, mode, data):
            header = [0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
            out.write(b"070701" + b"".join(b"%08x" % n for n in header) + name.encode() + b"\0")
            out.write(b"\0" * (-out.tell() % 4) + data)
            out.write(b"\0" * (-out.tell() % 4))

        for name, (data, mode) in files.items():
            folder = os.path.dirname(name)
            if folder and folder not in made:
                entry(folder, 0o040755, b"")
                made.add(folder)
            entry(name, 0o100000 | mode, data)
        entry("TRAILER!!!", 0, b"")


class Pi:
    """An emulated Pi, its console, its sensor line and its registers."""

    def __init__(self, images, program, port, work):
        self.work = work
        files = {"bin/pinpost": (open(program, "rb").read(), 0o755), "etc/pinpost.yaml": (config(port).encode(), 0o644)}
        archive(files, f"{work}/job.cpio")
        with open(f"{work}/root", "wb") as root:
            root.write(open(f"{images}/root.cpio.gz", "rb").read())
            root.write(b"\0" * (-root.tell() % 4) + open(f"{work}/job.cpio", "rb").read())
        line = lambda name, wait: ["-chardev", f"socket,id={name},path={work}/{name},server=on,wait={wait}", "-serial", f"chardev:{name}"]
        self.process = subprocess.Popen(
            ["qemu-system-aarch64", "-M", "raspi3b", "-kernel", f"{images}/vmlinuz", "-dtb", f"{images}/pi3.dtb"]
            + ["-initrd", f"{work}/root", "-append", "console=ttyS1,115200 iomem=relaxed panic=-1 quiet"]
            + line("sensor", "off") + line("console", "on")
            + ["-device", "usb-net,netdev=n0", "-netdev", "user,id=n0", "-display", "none", "-monitor", "none", "-no-reboot"]
            + ["-qtest", f"unix:{work}/qtest,server=on,wait=off", "-qtest-log", "/dev/null", "-accel", "tcg"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=open(f"{work}/stderr", "wb"))
        self.console = self.connect("console")
        self.console.settimeout(None)
        self.lines = Lines(self.console.makefile("rb"))
        self.bus = self.connect("qtest").makefile("rwb")
        self.sensor = self.connect("sensor")

    def connect(self, name):
        end = time.monotonic() + ANSWER
        while time.monotonic() < end and self.process.poll() is None:
            try:
                peer = socket.socket(socket.AF_UNIX)
                peer.connect(f"{self.work}/{name}")
                peer.settimeout(ANSWER)
                return peer
            except OSError:
                time.sleep(0.05)
        sys.exit("QEMU: " + open(f"{self.work}/stderr").read())

    def sh(self, command, seconds=ANSWER):
        """What a command of the Pi's shell says; it must end with 0."""
        self.lines.seen.clear()
        self.console.sendall(command.encode() + b"\n")
        rc = self.lines.wait(f"the end of `{command}`", seconds, r"@rc (\d+)$").group(1)
        said = "\n".join(self.lines.seen[:-1])
        if rc != "0":
            sys.exit(f"`{command}` ended with {rc}:\n{said}")
        return said

    def ask(self, request):
        self.bus.write(request.encode() + b"\n")
        self.bus.flush()
        while True:
            answer = self.bus.readline().decode().split()
            if answer and answer[0] == "OK":
                return answer[1:]
            if not answer or answer[0] != "IRQ":
                sys.exit(f"qtest: {request}: {answer}")

    def level(self, pin):
        return int(self.ask(f"readl {GPIO + GPLEV0:#x}")[0], 16) >> pin & 1

    def drive(self, pin, high):
        """QEMU keeps one level for each pin, which these registers change whatever the pin's mode is."""
        self.ask(f"writel {GPIO + (GPSET0 if high else GPCLR0):#x} {1 << pin:#x}")

    def end(self):
        self.process.kill()
        self.process.wait()


def scenario(pi, broker):
    pi.drive(DOOR, 1)
    up = pi.lines.wait("the Pi", BOOT, r"@ready ([0-9.]+)").group(1)
    print(f"the Pi is up after {up} s of its own time")
    pi.sh("pinpost check /etc/pinpost.yaml")
    board = json.loads(pi.sh("pinpost pins --json"))["family"]
    same("the board", board, "pi3")

    pi.sh("pinpost run -c /etc/pinpost.yaml >/tmp/log 2>&1 & echo $! >/tmp/pid")
    try:
        gateway(pi, broker)
    except SystemExit:
        print(pi.sh("cat /tmp/log"))
        raise


def gateway(pi, broker):
    info = json.loads(broker.expect("pi/bridge/info"))
    same("the board", info["board"], "Raspberry Pi 3 B (rppal)")
    broker.expect("pi/lamp", "OFF")
    broker.expect("pi/door", "ON")
    same("lamp and shut at the start", (pi.level(LAMP), pi.level(SHUT)), (0, 1))

    pi.sensor.sendall(b"half a li\nT=21.5;H=40\n")
    broker.expect("pi/weather/temperature", "21.5")
    broker.expect("pi/weather/humidity", "40")

    for device, pin, high in (("lamp", LAMP, 1), ("shut", SHUT, 0)):
        broker.publish(f"pi/{device}/set", "ON")
        same("the answer", json.loads(broker.expect(f"pi/{device}/result"))["outcome"], "done")
        same(f"the level of {device}", pi.level(pin), high)
    broker.publish("pi/lamp/set", "OFF")
    broker.expect("pi/lamp", "OFF")
    same("the level of lamp", pi.level(LAMP), 0)
    broker.publish("pi/lamp/set", "ON")
    broker.expect("pi/lamp", "ON")

    # a crash: the registers keep their levels, and safe-state takes them away
    pi.sh("kill -9 $(cat /tmp/pid)")
    broker.expect("pi/bridge/state", "offline")
    same("lamp and shut after the crash", (pi.level(LAMP), pi.level(SHUT)), (1, 0))
    pi.sh("STATE_DIRECTORY=/tmp/state SERVICE_RESULT=signal pinpost safe-state")
    same("lamp and shut after safe-state", (pi.level(LAMP), pi.level(SHUT)), (0, 1))

    # and again, to an orderly end
    pi.sh("pinpost run -c /etc/pinpost.yaml >/tmp/log 2>&1 & echo $! >/tmp/pid")
    broker.expect("pi/bridge/state", "online")
    broker.expect("pi/lamp", "OFF")
    broker.publish("pi/lamp/set", "ON")
    broker.expect("pi/lamp", "ON")
    pi.sh("kill $(cat /tmp/pid); wait")
    broker.expect("pi/bridge/state", "offline")
    same("lamp and shut at the end", (pi.level(LAMP), pi.level(SHUT)), (0, 1))


def main():
    images, program = sys.argv[1:]
    for file in (f"{images}/vmlinuz", program):
        if not os.path.exists(file):
            sys.exit(f"{file} is missing: .ci/pi3.sh install, .ci/cross.sh build")
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        # a debugging build has ten times its size of names
        small = f"{work}/pinpost"
        shutil.copy(program, small)
        subprocess.run(["aarch64-linux-gnu-strip", small], check=True)
        broker = Broker(work)
        try:
            pi = Pi(images, small, broker.port, work)
            try:
                scenario(pi, broker)
            finally:
                pi.end()
        finally:
            broker.end()
    print(f"An emulated Pi 3B: registers, UART and network, in {time.monotonic() - begun:.1f} s")


main()
