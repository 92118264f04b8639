"""host.py PROGRAM: the gateway as a Sparkplug edge node, judged by a foreign implementation (pysparkplug).

A real mosquitto, a real pty with an instrument on it, and a primary host that checks what a host checks: births first,
`seq` without a hole, `bdSeq` of the will and of the birth, aliases and types as born, nothing of a device that is not
born. It switches an output, asks for a rebirth, and finds what was read while it, or the broker, was away marked as
historical, once each and with its own time.
"""

import os
import pathlib
import pty
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tty

import pysparkplug as psp
from paho.mqtt import client as mqtt

PATIENCE = 30
program = str(pathlib.Path(sys.argv[1]).resolve())
home = pathlib.Path(tempfile.mkdtemp())
running = []


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


PORT = free_port()


def start(name, *command):
    log = open(home / f"{name}.log", "ab")
    process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    running.append(process)
    return process


def broker():
    command = ["mosquitto", "-c", str(home / "mosquitto.conf")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    running.append(process)
    for line in process.stderr:
        if " running" in line:
            return process
    raise AssertionError("mosquitto does not run")


def gateway():
    return start("gateway", program, "run", "-c", str(home / "gateway.yaml"), "--simulate")


def end(process, how):
    process.send_signal(how)
    process.wait(PATIENCE)


class Plain:
    """A plain MQTT client: what comes on a filter."""

    def __init__(self, *filters):
        self.got, self.ready = queue.Queue(), queue.Queue()
        self.client = mqtt.Client(clean_session=True)
        self.client.on_message = lambda c, u, m: self.got.put((m.topic, m.payload.decode(errors="replace")))
        self.client.on_subscribe = lambda *a: self.ready.put(True)
        self.client.on_connect = lambda c, *a: c.subscribe([(f, 1) for f in filters])
        self.client.reconnect_delay_set(1, 1)
        self.client.connect("127.0.0.1", PORT)
        self.client.loop_start()
        self.ready.get(timeout=PATIENCE)

    def until(self, topic, payload):
        seen = []
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                got = self.got.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"waited for {topic} {payload}; there was {seen[-20:]}")
            seen.append(got)
            if got == (topic, payload):
                return


class Host:
    """The primary host: subscribes, then says that it listens; checks the order of all that comes."""

    def __init__(self):
        self.got, self.broken = queue.Queue(), []
        self.seq, self.births, self.alive, self.bd_seq = None, {}, set(), None
        self.client = psp.Client(client_options=psp.ClientOptions(reconnection_delay_min=1, reconnection_delay_max=1))
        self.client.set_will(self.state_message(False))
        ready = queue.Queue()
        self.client.subscribe(psp.Topic(group_id="plant", message_type="#"), psp.QoS.AT_LEAST_ONCE, self.hear)
        self.client._client.on_subscribe = lambda *a: ready.put(True)
        self.client.connect("127.0.0.1", port=PORT)
        self.subscribed = lambda: ready.get(timeout=PATIENCE)
        self.subscribed()

    def state_message(self, online):
        topic = psp.Topic(message_type=psp.MessageType.STATE, sparkplug_host_id="scada")
        payload = psp.State(timestamp=psp.get_current_timestamp(), online=online)
        return psp.Message(topic=topic, payload=payload, qos=psp.QoS.AT_LEAST_ONCE, retain=True)

    def say(self, online):
        self.client.publish(self.state_message(online))

    def hear(self, _, message):
        try:
            self.judge(message)
        except Exception as why:  # told by the thread that waits
            self.broken.append(f"{why!r} at {message}")
        self.got.put(message)

    def judge(self, message):
        kind, device, payload = message.topic.message_type, message.topic.device_id, message.payload
        if kind in (psp.MessageType.NCMD, psp.MessageType.DCMD):
            return
        assert message.topic.edge_node_id == "gw" and not message.retain
        if kind == psp.MessageType.NDEATH:
            assert payload.bd_seq_metric.value == self.bd_seq, (payload, self.bd_seq)
            self.seq = None
            return
        assert message.qos == psp.QoS.AT_MOST_ONCE
        if kind == psp.MessageType.NBIRTH:
            self.seq, self.alive = -1, set()
            metrics = {m.name: m for m in payload.metrics}
            assert metrics["bdSeq"].datatype == psp.DataType.INT64
            self.bd_seq = metrics["bdSeq"].value
            rebirth = metrics["Node Control/Rebirth"]
            assert rebirth.value is False and rebirth.alias is None
        assert self.seq is not None, "something before NBIRTH"
        assert payload.seq == (self.seq + 1) % 256, f"seq {payload.seq} after {self.seq}"
        self.seq = payload.seq
        if kind == psp.MessageType.DBIRTH:
            self.alive.add(device)
            aliases = [m.alias for m in payload.metrics]
            others = [a for d, b in self.births.items() if d != device for a in b]
            assert not set(aliases) & set(others) and len(set(aliases)) == len(aliases)
            self.births[device] = {m.alias: m for m in payload.metrics}
        if kind == psp.MessageType.DDATA:
            assert device in self.alive, f"{device} is not born"
            assert all(m.alias in self.births[device] for m in payload.metrics)
        if kind == psp.MessageType.DDEATH:
            self.alive.remove(device)

    def until(self, kind, device=None, found=lambda p: True):
        seen = []
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                message = self.got.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"waited for {kind} of {device}; there was {seen[-20:]}")
            assert not self.broken, self.broken
            seen.append(message)
            if (message.topic.message_type, message.topic.device_id) == (kind, device) and found(message.payload):
                return message.payload

    def born(self, *devices):
        birth = self.until(psp.MessageType.NBIRTH)
        births = {d: self.until(psp.MessageType.DBIRTH, d) for d in devices}
        return birth, births

    def values(self, count):
        """So many readings of the thermometer: value, time, historical."""
        found = []
        while len(found) < count:
            data = self.until(psp.MessageType.DDATA, "weather")
            found += [(m.value, m.timestamp, m.is_historical) for m in data.metrics]
        return found

    def command(self, device, metric):
        now = psp.get_current_timestamp()
        kind, payload = (psp.MessageType.DCMD, psp.DCmd) if device else (psp.MessageType.NCMD, psp.NCmd)
        topic = psp.Topic(group_id="plant", message_type=kind, edge_node_id="gw", device_id=device)
        payload = payload(timestamp=now, metrics=(metric,))
        message = psp.Message(topic=topic, payload=payload, qos=psp.QoS.AT_MOST_ONCE, retain=False)
        self.client.publish(message, include_dtypes=True)


def metric(name, datatype, value, alias=None):
    return psp.Metric(timestamp=psp.get_current_timestamp(), name=name, datatype=datatype, value=value, alias=alias)


def value(data):
    (one,) = data.metrics
    return one.value


def main():
    (home / "mosquitto.conf").write_text(f"user root\nlistener {PORT} 127.0.0.1\nallow_anonymous true\n")
    ours, theirs = pty.openpty()
    tty.setraw(ours)
    tty.setraw(theirs)
    (home / "gateway.yaml").write_text(
        f"""
version: 1
gateway: {{ id: gw }}
mqtt: {{ url: "mqtt://127.0.0.1:{PORT}" }}
queue: {{ dir: {home}/state/queue }}
sparkplug: {{ group: plant, primary_host: scada }}
ports: {{ line: {{ path: {os.ttyname(theirs)} }} }}
devices:
  door: {{ kind: digital_in, pin: 17 }}
  pump: {{ kind: digital_out, pin: 27 }}
  weather:
    kind: serial
    port: line
    frame: {{ delimiter: "\\n" }}
    decode: {{ type: keyvalue, pair: ";", assign: "=" }}
    points: {{ temperature: {{ field: T, unit: °C }} }}
"""
    )

    def read(*numbers):
        os.write(ours, "".join(f"T={n}\n" for n in numbers).encode())

    server = broker()
    plain = Plain("gw/#")
    host = Host()
    node = gateway()
    # connected and silent until the host listens
    plain.until("gw/bridge/state", "online")
    assert host.got.empty()
    host.say(True)
    birth, births = host.born("door", "pump", "weather")
    first = host.bd_seq
    assert {m.name for m in births["pump"].metrics} == {"state"}
    assert [m.datatype for m in births["weather"].metrics] == [psp.DataType.DOUBLE]
    print("births:", first, [m.name for m in birth.metrics])

    # readings under their aliases, round the 256 numbers
    read("first", 1)
    found = host.until(psp.MessageType.DDATA, "weather", lambda d: d.metrics[0].value == 1)
    assert not found.metrics[0].is_historical
    for chunk in range(30):
        read(*range(2 + chunk * 10, 12 + chunk * 10))
    found = host.values(300)
    assert [v for v, *_ in found] == list(range(2, 302)) and not any(h for *_, h in found)
    print("301 readings, seq without a hole")

    # commands: by name, by alias; the pin follows and is read back; what is no number is refused
    host.command("pump", metric("state", psp.DataType.BOOLEAN, True))
    host.until(psp.MessageType.DDATA, "pump", lambda d: value(d) is True)
    plain.until("gw/sim/pin/27", "1")
    alias = next(iter(host.births["pump"]))
    host.command("pump", metric(None, psp.DataType.BOOLEAN, False, alias))
    host.until(psp.MessageType.DDATA, "pump", lambda d: value(d) is False)
    plain.until("gw/sim/pin/27", "0")
    print("a command switches the output")

    host.command(None, metric("Node Control/Rebirth", psp.DataType.BOOLEAN, True))
    host.born("door", "pump", "weather")
    assert host.bd_seq == first
    print("a rebirth on demand")

    # the broker is away: what is read meanwhile comes behind the births, as history
    end(server, signal.SIGKILL)
    while not host.got.empty():
        host.got.get()
    lost = psp.get_current_timestamp()
    read(*range(1000, 1020))
    server = broker()
    host.subscribed()
    host.say(True)
    birth, births = host.born("door", "pump", "weather")
    assert host.bd_seq == first + 1
    found = host.values(20)
    assert [v for v, *_ in found] == list(range(1000, 1020)), found
    assert all(h and lost - 1000 <= t <= birth.timestamp for _, t, h in found), found
    read(1)
    assert host.values(1)[0][2] is False
    print("20 readings of an outage: history, in order, with their times")

    # the host is away: the node says goodbye and waits
    host.say(False)
    host.until(psp.MessageType.NDEATH)
    read(2000, 2001, 2002)
    plain.until("gw/bridge/state", "online")
    host.say(True)
    host.born("door", "pump", "weather")
    assert host.bd_seq == first + 2
    found = host.values(3)
    assert [(v, h) for v, _, h in found] == [(2000, True), (2001, True), (2002, True)], found
    print("nothing without the primary host")

    # killed: the broker says so, in both dialects, and the next run's birth follows
    end(node, signal.SIGKILL)
    host.until(psp.MessageType.NDEATH)
    plain.until("gw/bridge/state", "offline")
    node = gateway()
    host.born("door", "pump", "weather")
    assert host.bd_seq == first + 3, host.bd_seq
    # an orderly stop says goodbye by itself, once
    end(node, signal.SIGTERM)
    assert node.returncode == 0, node.returncode
    host.until(psp.MessageType.NDEATH)
    plain.until("gw/bridge/state", "offline")
    assert not host.broken, host.broken
    print("deaths of both kinds")
    host.client.disconnect()


try:
    main()
except BaseException:
    for log in sorted(home.glob("*.log")):
        print(f"---- {log.name}\n{log.read_text(errors='replace')[-6000:]}", file=sys.stderr)
    raise
finally:
    for process in running:
        if process.poll() is None:
            process.kill()
            process.wait()
    subprocess.run(["rm", "-rf", str(home)], check=False)
