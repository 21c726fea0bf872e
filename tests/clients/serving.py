"""Starts the built server on any free port with the bundled model, for the tests beside this file."""

import os
import pathlib
import signal
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("LONGSHORE", str(ROOT / "build/release/longshore"))


class Server:
    """A context manager; `address` is http://127.0.0.1:PORT."""

    def __init__(self, *flags):
        port = [] if "--port" in flags else ["--port", "0"]
        command = [BINARY, "serve", str(ROOT / "models/glm-nano"), *port, "--log-level", "warning", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        first = self.process.stdout.readline()
        if " on http://" not in first:
            raise RuntimeError(f"the server did not start: {first!r}")
        self.curl = self.process.stdout.readline().strip()
        self.address = first.split(" on ")[1].split(" ")[0]
        self.port = int(self.address.rsplit(":", 1)[1])

    def rss_mib(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            line = next(line for line in status if line.startswith("VmRSS:"))
        return int(line.split()[1]) / 1024

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds=60):
        return self.process.wait(seconds)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.terminate()
            try:
                self.wait()
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise
        self.process.stdout.close()


def metric(families, name, **labels):
    """The value of a sample among prometheus_client's parsed families."""
    for family in families:
        for sample in family.samples:
            if sample.name == "longshore:" + name and labels.items() <= sample.labels.items():
                return sample.value
    raise KeyError(f"no metric {name} {labels}")


def eventually(condition, seconds=10):
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True
