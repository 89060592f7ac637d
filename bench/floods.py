"""Floods by clients, most without a token: the latency of others, and the node's memory.

`bench/flood_kinds.py` has what is sent.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from functools import cache
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import asyncssh
import attrs
from attrs import frozen
from twisted.internet.threads import deferToThread

from bench.figures import Bound, Column, Measured, Table, grid
from bench.flood_client import CONNECTIONS, LARGE, Target, frame_with
from bench.flood_kinds import KINDS
from bench.meter import Meter
from bench.node import BenchNode, Site
from bench.openssh import free_port
from bench.series import Bars, Run, Series
from tests.support.sftp_users import SftpUser
from tests.support.state import Node
from tests.support.tokens import console_claims, signed

__all__ = ["FLOODS", "ask"]

#: Seconds that a flood lasts.
_SECONDS = 8
#: Seconds between two requests of the authorized client, and its timeout.
_ASK_EVERY = 0.05
_GIVE_UP = 60
#: Servers of the node. A server has at most 30 WebSockets, so these have one for each connection.
_SERVERS = 10
#: Bytes of the file that is downloaded, all of them holes.
_LARGE = 64 << 20
#: The user of SFTP, by a name, a UUID and a password.
_USER, _USER_UUID, _PASSWORD = "user", "6c0f5b52-0d8c-4c5b-9a3e-2b3b5a0b8c11", "a password"
#: The node's promise in seconds.
_WITHIN = Bound(1)
#: The client that is measured, but for what a flood names.
_REQUEST = "request"


@frozen
class _FloodResult:
    """The result of a flood: seconds that another client waited for answers, and MiB of memory.

    `answers` is how many answers that client got; `idle` and `peak` are resident memory before
    the flood and at most during it, of which it may be `mib` more. `reference` is what that client
    did.
    """

    kind: str
    answers: int
    middle: float
    longest: float
    idle: float
    peak: float
    reference: str = _REQUEST
    mib: int = 64


async def _measure_flood(kind: str, directory: Path) -> _FloodResult:
    """Start a node in `directory`, flood it, and meanwhile use it as an authorized client."""
    site = Site(directory)
    await site.open()
    node = BenchNode(site, directory / "node")
    uuids = [site.add_server(number, node.node) for number in range(1, _SERVERS + 1)]
    for uuid in uuids:
        (node.volumes / uuid).mkdir(parents=True)
        with open(f"{node.volumes / uuid}{LARGE}", "wb") as file:
            file.truncate(_LARGE)
    (node.volumes / uuids[0] / "many").mkdir()
    for number in range(KINDS[kind].names):
        (node.volumes / uuids[0] / "many" / f"a file with a long name {number:06d}.txt").touch()
    user = SftpUser(_USER_UUID, _PASSWORD, permissions={uuids[0]: ["*"]})
    site.panel.sftp_users.add(_USER, user)
    port = free_port()
    sftp = {"enabled": True, "bind_address": "127.0.0.1", "bind_port": port}
    await node.start_loaded(docker={"enabled": False}, system={"sftp": sftp})
    servers = [(uuid, _console_token(node.node, site, uuid)) for uuid in uuids]
    sftp_user = f"{_USER}.{uuids[0][:8]}"
    token = f"{node.node.token}"
    urls = (node.url, str(site.ca), site.panel.url)
    target = Target(*urls, servers, token, port, sftp_user, _PASSWORD)
    flood = KINDS[kind]
    use = _REFERENCES[flood.reference]
    try:
        await deferToThread(use, target, token)  # starts what an idle node does without
        meter = Meter(node.pid)
        meter.begin()
        idle = meter.resident()
        waits = await deferToThread(_flood, kind, target, lambda: use(target, token))
        cost = meter.end()
    finally:
        await node.close()
        await site.close()
    figures = (len(waits), median(waits), max(waits), idle, cost.peak)
    return _FloodResult(kind, *figures, flood.reference, flood.mib)


def _console_token(node: Node, site: Site, uuid: str) -> str:
    """Return the token of a user of that server's console, as the Panel issues it."""
    permissions = ("websocket.connect", "*")
    issued = int(time.time())
    claims = console_claims(site.panel.url, node, uuid, "a user", permissions, issued)
    return signed(claims, {}, node.token)


def _flood(kind: str, target: Target, use: Callable[[], float]) -> list[float]:
    """Return the seconds of each use while the node is flooded."""
    command = [sys.executable, "-m", "bench.flood_kinds", kind, str(_SECONDS)]
    command.append(json.dumps(attrs.asdict(target)))
    waits: list[float] = []
    over = threading.Event()

    def use_on() -> None:
        while not over.is_set():
            waits.append(use())
            over.wait(_ASK_EVERY)

    using = threading.Thread(target=use_on)
    with subprocess.Popen(command) as client:
        using.start()
        try:
            client.wait(_SECONDS + _GIVE_UP)
        finally:
            client.kill()
            over.set()
            using.join()
    return waits


def _request(target: Target, token: str) -> float:
    return ask(target.url, Path(target.ca), token)


def _console_login(target: Target, _: str) -> float:
    """Open a WebSocket, show a token; return the seconds until it is accepted."""
    host, port = target.address
    uuid, token = target.servers[0]
    key = base64.b64encode(os.urandom(16)).decode()
    upgrade = (
        f"GET /api/servers/{uuid}/ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: {key}\r\nOrigin: {target.origin}\r\n\r\n"
    )
    sent = upgrade.encode() + frame_with(json.dumps({"event": "auth", "args": [token]}))
    begun = time.monotonic()
    answer = _exchange(host, port, Path(target.ca), sent, b'"auth success"')
    waited = time.monotonic() - begun
    return waited if b'"auth success"' in answer else max(waited, _GIVE_UP)


def _sftp_login(target: Target, _: str) -> float:
    """Log in by SFTP with a password; return the seconds until a directory is listed."""

    async def listed() -> None:
        async with _sftp(target) as connection, connection.start_sftp_client() as client:
            await client.listdir(".")

    return _seconds_of(listed, asyncio.run)


def _sftp_listing(target: Target, _: str) -> float:
    """List a directory in a session that is open all the time; return the seconds."""
    session = _open_session(target.sftp_port)
    enter = session.stack.enter_async_context

    async def listed() -> None:
        if session.client is None:
            connection = await enter(_sftp(target))
            session.client = await enter(connection.start_sftp_client())
        assert session.client is not None
        await session.client.listdir(".")

    return _seconds_of(listed, session.runner.run)


@attrs.define(eq=False)
class _OpenSession:
    """A session of SFTP, and the loop that it runs in."""

    runner: asyncio.Runner = attrs.field(factory=asyncio.Runner)
    stack: AsyncExitStack = attrs.field(factory=AsyncExitStack)
    client: asyncssh.SFTPClient | None = None


@cache
def _open_session(_: int) -> _OpenSession:
    return _OpenSession()


def _sftp(target: Target) -> Any:
    host, _ = target.address
    return asyncssh.connect(
        host,
        target.sftp_port,
        username=target.sftp_user,
        password=target.sftp_password,
        known_hosts=None,
        client_keys=None,
        config=None,
    )


def _seconds_of(
    use: Callable[[], Coroutine[Any, Any, None]],
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> float:
    begun = time.monotonic()
    try:
        run(asyncio.wait_for(use(), _GIVE_UP))
    except (OSError, TimeoutError, asyncssh.Error):  # it is refused, or has ended
        return max(time.monotonic() - begun, _GIVE_UP)
    return time.monotonic() - begun


#: The clients that are measured: seconds of one use, with the Panel's token for the node.
_REFERENCES: dict[str, Callable[[Target, str], float]] = {
    _REQUEST: _request,
    "console login": _console_login,
    "SFTP login": _sftp_login,
    "SFTP listing": _sftp_listing,
}


def ask(url: str, ca: Path, token: str) -> float:
    """Ask for `/api/system` on a new connection; return the seconds until the answer's end."""
    host, _, port = url.rpartition("//")[2].rpartition(":")
    request = (
        f"GET /api/system HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
        "Connection: close\r\n\r\n"
    )
    begun = time.monotonic()
    answer = _exchange(host, int(port), ca, request.encode())
    waited = time.monotonic() - begun
    return waited if answer.startswith(b"HTTP/1.1 200") else max(waited, _GIVE_UP)


def _exchange(host: str, port: int, ca: Path, sent: bytes, until: bytes = b"") -> bytes:
    """Send on a new connection; return the answer up to `until`, or to its end for none."""
    answer = b""
    with suppress(OSError):  # the answer is then what came before
        context = ssl.create_default_context(cafile=str(ca))
        with (
            socket.create_connection((host, port), _GIVE_UP) as plain,
            context.wrap_socket(plain, server_hostname=host) as connection,
        ):
            connection.sendall(sent)
            while not (until and until in answer) and (piece := connection.recv(65536)):
                answer += piece
    return answer


async def _measure(run: Run) -> Measured:
    results = []
    for kind in KINDS:
        if run.wants(kind):
            with TemporaryDirectory() as directory:
                results.append(await _measure_flood(kind, Path(directory)))
            last = results[-1]
            run.say(f"{kind}: {last.longest:.2f} s at most, {last.peak - last.idle:.0f} MiB more")
    return Measured(tables=[_table(results)])


def _table(results: Sequence[_FloodResult]) -> Table:
    # A row also says what is measured, if it is not a request.
    rows = {
        one.kind if one.reference == _REQUEST else f"{one.kind} ({one.reference})": [one]
        for one in results
    }
    return grid(
        rows,
        Column("uses", lambda one: one.answers),
        Column("median s", lambda one: one.middle),
        Column("longest s", lambda one: one.longest, _WITHIN),
        Column(
            "MiB more",
            lambda one: one.peak - one.idle,
            {name: Bound(one.mib) for name, (one,) in rows.items()},
        ),
    )


FLOODS = Series(
    "floods",
    "Floods",
    f"""
    While somebody floods a node, others get an answer within {_WITHIN.required:g} s, and it needs
    at most 64 MiB more memory: 128 where files are downloaded and not read, 192 where 16 listings
    of 100,000 names are made at once. For {_SECONDS} s each, {CONNECTIONS} connections over TLS
    send what a client without a token can send, or with a token where a row says so, or the Panel;
    for SFTP it is 20 or 64 connections that have not logged in. As a rule half of them read the
    answers, half never do, and each is opened again when the node closes it. Meanwhile another
    client uses the node, each time on a new connection: it requests `/api/system`, logs in to a
    console, or logs in by SFTP and lists a directory; for an SFTP listing its session is open all
    the time. The table has how often it did, and its waits. All clients take CPU time from the
    node.
    """,
    _measure,
    (
        Bars("longest wait, seconds", columns=("longest s",)),
        Bars("MiB more", columns=("MiB more",)),
    ),
)
