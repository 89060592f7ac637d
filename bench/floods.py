"""Whether others are answered, and what memory is taken, while a client without a token floods."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median

from attrs import frozen
from twisted.internet.threads import deferToThread

from bench.flood_client import CONNECTIONS
from bench.meter import Meter
from bench.node import BenchNode, Site

__all__ = ["FloodResult", "ask", "flood_report", "measure_flood"]

#: Seconds that a flood lasts.
_SECONDS = 8
#: Seconds between two questions of the client that is let in, and until it gives up.
_ASK_EVERY = 0.05
_GIVE_UP = 60
#: Servers of the node. A server has at most 30 WebSockets, so these have one for each connection.
_SERVERS = 10
#: What the node promises: seconds, and MiB more than it had.
MUST_SECONDS, MUST_MIB = 1.0, 64


@frozen
class FloodResult:
    """What one flood did: seconds that another client waited for its answers, and MiB of memory.

    `answers` is how many answers that client got; `idle` and `peak` are resident memory before
    the flood and at most during it.
    """

    kind: str
    answers: int
    middle: float
    longest: float
    idle: float
    peak: float


async def measure_flood(kind: str, directory: Path) -> FloodResult:
    """Start a node in `directory`, flood it, and ask it meanwhile as a Panel does."""
    site = Site(directory)
    await site.open()
    node = BenchNode(site, directory / "node")
    servers = [site.add_server(number, node.node) for number in range(1, _SERVERS + 1)]
    await node.start()
    try:
        token = f"{node.node.token}"
        await deferToThread(ask, node.url, site.ca, token)
        meter = Meter(node.pid)
        meter.begin()
        idle = meter.resident()
        waits = await deferToThread(_flood, kind, node, site, servers, token)
        cost = meter.end()
    finally:
        await node.close()
        await site.close()
    return FloodResult(kind, len(waits), median(waits), max(waits), idle, cost.peak)


def _flood(
    kind: str, node: BenchNode, site: Site, servers: Sequence[str], token: str
) -> list[float]:
    command = [sys.executable, "-m", "bench.flood_client", kind, node.url, str(site.ca)]
    command += [str(_SECONDS), site.panel.url, *servers]
    waits: list[float] = []
    over = threading.Event()

    def ask_on() -> None:
        while not over.is_set():
            waits.append(ask(node.url, site.ca, token))
            over.wait(_ASK_EVERY)

    asking = threading.Thread(target=ask_on)
    with subprocess.Popen(command) as client:
        asking.start()
        try:
            client.wait(_SECONDS + _GIVE_UP)
        finally:
            client.kill()
            over.set()
            asking.join()
    return waits


def ask(url: str, ca: Path, token: str) -> float:
    """Ask for `/api/system` on a new connection; return the seconds until the answer's end."""
    host, _, port = url.rpartition("//")[2].rpartition(":")
    request = (
        f"GET /api/system HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
        "Connection: close\r\n\r\n"
    )
    begun = time.monotonic()
    answer = b""
    with suppress(OSError):  # It counts as the time until then, and has no answer.
        context = ssl.create_default_context(cafile=str(ca))
        with (
            socket.create_connection((host, int(port)), _GIVE_UP) as plain,
            context.wrap_socket(plain, server_hostname=host) as connection,
        ):
            connection.sendall(request.encode())
            while piece := connection.recv(65536):
                answer += piece
    waited = time.monotonic() - begun
    return waited if answer.startswith(b"HTTP/1.1 200") else max(waited, _GIVE_UP)


def flood_report(results: Sequence[FloodResult], machine: str, version: str) -> str:
    """Return the document."""
    lines = [
        "# Floods",
        "",
        "Written by `make bench SERIES=floods`; nothing of it by hand.",
        "",
        f"For {_SECONDS} s each, {CONNECTIONS} connections over TLS send a node what a client",
        "without a token may send; half of them read the answers, half never do, each is opened",
        "again when the node closes it. Meanwhile another client asks for `/api/system`, on a new",
        "connection each time. All of it runs on one machine, so that the clients take processor",
        "time from the node.",
        "",
        f"Promised: an answer within {MUST_SECONDS:g} s, and at most {MUST_MIB} MiB more memory.",
        "",
        f"Machine: {machine}. Version: {version}.",
        "",
        "| what is sent | answers | median s | longest s | | MiB more | |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in results:
        more = one.peak - one.idle
        lines.append(
            f"| {one.kind} | {one.answers} | {one.middle:.2f} | {one.longest:.2f} "
            f"| {_held(one.longest <= MUST_SECONDS)} | {more:.0f} | {_held(more <= MUST_MIB)} |"
        )
    return "\n".join([*lines, ""])


def _held(is_held: bool) -> str:
    return "held" if is_held else "**missed**"
