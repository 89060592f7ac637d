"""A line through a network namespace: it can be shaped, lose packets, or be dead. Root only.

What is sent to the line's address goes through a pair of virtual interfaces to a relay in the
namespace, which connects to the node's address: by the same pair, so in both directions.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

__all__ = ["NamespaceLine", "namespace_line"]

#: Seconds in which the relay listens.
_STARTS_WITHIN = 60.0
_TWISTD = str(Path(sys.executable).with_name("twistd"))


class NamespaceLine:
    """The line: a node listens on `here`, and is reached at `there` and the port of `relay`."""

    def __init__(self, name: str, number: int, cleanup: ExitStack) -> None:
        self.here, self.there = f"10.213.{number}.1", f"10.213.{number}.2"
        self._name = name
        self._outside, self._inside = f"{name}a", f"{name}b"
        self._cleanup = cleanup
        _run("ip", "netns", "add", name)
        cleanup.callback(_run, "ip", "netns", "del", name)
        inside = ("peer", "name", self._inside, "netns", name)
        _run("ip", "link", "add", self._outside, "type", "veth", *inside)
        # A namespace that is deleted keeps its end for a while, and with it this one.
        cleanup.callback(_run, "ip", "link", "del", self._outside)
        _run("ip", "addr", "add", f"{self.here}/30", "dev", self._outside)
        _run("ip", "link", "set", self._outside, "up")
        self._within("ip", "addr", "add", f"{self.there}/30", "dev", self._inside)
        self._within("ip", "link", "set", self._inside, "up")

    def relay(self, port: int) -> int:
        """Have connections to `there` go on to `port` of `here`; return the port of `there`."""
        listening = 20_000 + port % 10_000
        options = ["-n", "--pidfile", "", "portforward", "-h", self.here, "-d", str(port)]
        options += ["-p", f"tcp:{listening}:interface={self.there}"]
        command = ["ip", "netns", "exec", self._name, sys.executable, _TWISTD, *options]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self._cleanup.callback(process.wait)
        self._cleanup.callback(process.kill)
        deadline = time.monotonic() + _STARTS_WITHIN
        while True:
            try:
                socket.create_connection((self.there, listening), 1).close()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return listening

    def shape(self, bytes_per_second: float) -> None:
        """Limit what goes to the node's side."""
        rate = f"{bytes_per_second * 8 / 1000:.0f}kbit"
        limits = ("burst", "128kb", "latency", "100ms")
        _run("tc", "qdisc", "add", "dev", self._outside, "root", "tbf", "rate", rate, *limits)

    def lose(self, share: float) -> None:
        """Lose this share of all packets, in both directions; all of them for a dead line."""
        self._within("iptables", "-F")
        if share >= 1:
            rule = []
        else:
            rule = ["-m", "statistic", "--mode", "random", "--probability", str(share)]
        if share > 0:
            for chain in ("INPUT", "OUTPUT"):
                self._within("iptables", "-A", chain, *rule, "-j", "DROP")

    @property
    def sent(self) -> int:
        """Bytes that were sent to the line, with the headers of all layers."""
        command = ["ip", "-json", "-stats", "link", "show", "dev", self._outside]
        found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        sent: int = found[0]["stats64"]["tx"]["bytes"]
        return sent

    def _within(self, *command: str) -> None:
        _run("ip", "netns", "exec", self._name, *command)


@contextmanager
def namespace_line() -> Iterator[NamespaceLine]:
    """Make a line, and remove it afterwards."""
    with ExitStack() as cleanup:
        yield NamespaceLine(f"wings{os.getpid()}", os.getpid() % 250, cleanup)


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
