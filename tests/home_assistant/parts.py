"""What judge.py plays with: a broker, the gateway, a Home Assistant and an instrument, each to be awaited, never slept for.

All are on loopback and free ports, and end with the program.
"""

import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import threading
import time
import tty
from pathlib import Path

# Seconds until something that has not come counts as not coming; Home Assistant alone takes some to start.
PATIENCE = 60


class Wrong(Exception):
    """What does not hold."""


def end_all():
    """Whatever still runs, in whatever state."""
    for process in Process.all:
        if process.poll() is None:
            process.kill()
            process.wait()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Process:
    """A program whose lines come through a queue."""

    all = []

    def __init__(self, command, **more):
        self.name = Path(command[0]).name
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "errors": "replace"}
        self.process = subprocess.Popen(command, **pipes, **more)
        Process.all.append(self.process)
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line.rstrip("\n"))
        self.lines.put(None)

    def line(self, end, what):
        """The next line, before `end`, by someone who waits for `what`."""
        try:
            line = self.lines.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            raise Wrong(f"waited {PATIENCE} s for {what}") from None
        if line is None:
            raise Wrong(f"{self.name} ended while waiting for {what}")
        return line

    def end(self, with_signal=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(with_signal)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise Wrong(f"{self.name} does not end") from None


class Broker(Process):
    """A mosquitto."""

    def __init__(self, folder):
        self.port = free_port()
        file = folder / "mosquitto.conf"
        file.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\nuser root\n")
        super().__init__([shutil.which("mosquitto"), "-c", str(file)], stderr=subprocess.DEVNULL)
        end = time.monotonic() + PATIENCE
        while subprocess.run(self.client("pub", "-r", "-t", "up", "-m", "1"), stderr=subprocess.DEVNULL).returncode:
            if time.monotonic() > end or self.process.poll() is not None:
                raise Wrong("mosquitto does not start")

    def client(self, which, *arguments):
        return [f"mosquitto_{which}", "-h", "127.0.0.1", "-p", str(self.port), "-q", "1", *arguments]

    def publish(self, topic, payload):
        subprocess.run(self.client("pub", "-t", topic, "-m", payload), check=True)


class Watch(Process):
    """What is said on topics."""

    def __init__(self, broker, *topics, form="%t %p"):
        filters = [word for topic in topics for word in ("-t", topic)]
        super().__init__(broker.client("sub", "-F", form, *filters))

    def until(self, topic, payload, *others):
        end = time.monotonic() + PATIENCE
        missing = {f"{topic} {payload}", *others}
        while missing:
            missing.discard(self.line(end, missing))


class Gateway(Process):
    """A run of the program with its pins simulated."""

    def __init__(self, program, folder, broker, file):
        self.log = open(folder / "pinpost.log", "a")
        environment = {**os.environ, "BROKER_PORT": str(broker.port), "FOLDER": str(folder)}
        # Only what is said now: of an earlier run the broker has kept the same words.
        watch = Watch(broker, "up", "shed/bridge/state", "shed/heater/availability", form="%r %t %p")
        watch.until("1 up", "1")
        super().__init__([program, "run", "--simulate", "-c", str(file)], stderr=self.log, env=environment)
        watch.until("0 shed/bridge/state", "online", "0 shed/heater/availability online")
        watch.end()

    def stop(self):
        if (status := self.end()) != 0:
            raise Wrong(f"pinpost ended with {status}")


class Home(Process):
    """A Home Assistant; its folder remembers what it knew."""

    def __init__(self, python, folder, broker):
        folder.mkdir(exist_ok=True)
        self.warnings = []
        self.changed = False
        self.errors = open(folder / "stderr.log", "a")
        program = Path(__file__).with_name("home.py")
        command = [python, str(program), str(folder), str(broker.port), str(free_port())]
        super().__init__(command, stderr=self.errors)
        self._answer("Home Assistant's start")

    def _take(self, end, what):
        said = json.loads(self.line(end, what))
        if "log" in said:
            self.warnings.append(said["log"])
        self.changed |= "event" in said
        return said

    def _answer(self, what):
        end = time.monotonic() + PATIENCE
        while "answer" not in (said := self._take(end, what)):
            pass
        return said["answer"]

    def ask(self, *words):
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()
        answer = self._answer(words)
        if isinstance(answer, dict) and "error" in answer:
            raise Wrong(f"{words}: {answer['error']}")
        return answer

    def call(self, service, entity, **data):
        """As a person's click does it; waits until Home Assistant has sent it."""
        domain, word = service.split(".")
        self.ask("call", domain, word, {"entity_id": entity, **data})

    def until(self, what, holds):
        """Everything, as soon as `holds` of it."""
        end = time.monotonic() + PATIENCE
        while True:
            self.changed = False
            everything = self.ask("all")
            if holds(everything):
                return everything
            while not self.changed:
                try:
                    self._take(end, what)
                except Wrong as wrong:
                    there = [f"{e['entity_id']}: {e['state']}" for e in everything["entities"].values()]
                    raise Wrong(f"{wrong}; there is {', '.join(there)}") from None

    def state(self, entity, wanted, **attributes):
        def holds(everything):
            e = next((e for e in everything["entities"].values() if e["entity_id"] == entity), None)
            if e is None or e["state"] is None:
                return False
            has = e["attributes"]
            good = wanted(e["state"]) if callable(wanted) else e["state"] == wanted
            return good and all(has.get(key) == value for key, value in attributes.items())

        self.until(f"{entity} to be {wanted} {attributes}", holds)

    def stop(self):
        self.ask("stop")
        self.process.wait(PATIENCE)


class Line:
    """An instrument at the other end of a serial line."""

    def __init__(self, path):
        self.master, slave = os.openpty()
        tty.setraw(slave)
        path.symlink_to(os.ttyname(slave))
        self.slave = slave  # held open, so that the line stays up between two runs of the gateway
        self.heard = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        data = b""
        while True:
            try:
                data += os.read(self.master, 4096)
            except OSError:
                return
            *lines, data = data.split(b"\n")
            for line in lines:
                self.heard.put(line.decode())

    def say(self, data):
        os.write(self.master, data)

    def hears(self, line):
        try:
            heard = self.heard.get(timeout=PATIENCE)
        except queue.Empty:
            heard = "nothing"
        if heard != line:
            raise Wrong(f"the instrument was to hear `{line}` and heard `{heard}`")

