"""What the tests of this folder share that drive a machine from outside: lines of a stream, a broker. Every wait has a deadline."""

import os
import queue
import re
import shutil
import socket
import subprocess
import sys
import threading
import time

ANSWER = 30


class Lines:
    """Lines of a stream, with a deadline for each wait."""

    def __init__(self, stream, show=""):
        self.queue, self.seen = queue.Queue(), []
        threading.Thread(target=self.read, args=(stream, show), daemon=True).start()

    def read(self, stream, show):
        for line in stream:
            line = line.decode("utf8", "replace").strip("\r\n")
            if show:
                print(show + line, flush=True)
            self.queue.put(line)
        self.queue.put(None)

    def wait(self, what, seconds, pattern):
        """The next line that matches; those before it are kept in `seen`."""
        end = time.monotonic() + seconds
        while True:
            try:
                line = self.queue.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                sys.exit(f"{what} never came; the last lines:\n" + "\n".join(self.seen[-30:]))
            self.seen.append(line)
            found = re.search(pattern, line)
            if found:
                return found


class Broker:
    """A mosquitto on a free port, or on this one, and everything that is said there."""

    def __init__(self, work, port=0):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            self.port = probe.getsockname()[1]
        with open(f"{work}/mosquitto.conf", "w") as out:
            out.write(f"listener {self.port} 127.0.0.1\nallow_anonymous true\nuser root\nset_tcp_nodelay true\n")
        quiet = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        paths = os.environ["PATH"] + ":/usr/sbin"
        program = shutil.which("mosquitto", path=paths) or sys.exit("mosquitto is missing")
        self.processes = [subprocess.Popen([program, "-c", f"{work}/mosquitto.conf"], stdout=subprocess.DEVNULL, **quiet)]
        end = time.monotonic() + ANSWER
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                if time.monotonic() > end:
                    sys.exit("mosquitto does not start")
                time.sleep(0.05)
        here = ["-h", "127.0.0.1", "-p", str(self.port)]
        self.here = here
        self.processes.append(subprocess.Popen(
            ["mosquitto_sub", *here, "-q", "1", "-v", "-t", "pi/#"], stdout=subprocess.PIPE, **quiet))
        self.lines, self.unread = Lines(self.processes[-1].stdout), []

    def publish(self, topic, payload):
        subprocess.run(["mosquitto_pub", *self.here, "-q", "1", "-t", topic, "-m", payload], check=True, timeout=ANSWER)

    def expect(self, topic, payload=".*", seconds=ANSWER):
        """The next message on a topic with this payload; those of other topics stay to be asked for."""
        end = time.monotonic() + seconds
        while True:
            for i, (at, said) in enumerate(self.unread):
                if at == topic and re.fullmatch(payload, said):
                    self.unread = [m for m in self.unread[:i] if m[0] != topic] + self.unread[i + 1 :]
                    return said
            line = self.lines.wait(f"`{payload}` on {topic}", end - time.monotonic(), "").string
            self.unread.append(line.split(" ", 1) if " " in line else (line, ""))

    def end(self):
        for process in reversed(self.processes):
            process.kill()
            process.wait()


def same(what, is_, wanted):
    if is_ != wanted:
        sys.exit(f"{what}: {is_!r}, not {wanted!r}")
