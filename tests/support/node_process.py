"""A whole node as a process: `twistd wingsd`, started and observed by a test."""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NoReturn
from uuid import NAMESPACE_URL, uuid5

import attrs
import trustme
import yaml
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.utils import getProcessOutputAndValue
from twisted.python.failure import Failure

from tests.support.forked_process import ForkedProcess
from tests.support.line import Line
from tests.support.panel import Panel
from tests.support.sample_server import UUID
from wingsd.callbacks import MINUTE
from wingsd.config import parse
from wingsd.errors import ConfigError

#: Seconds that a line of the log is waited for.
TIMEOUT = 180
#: Bytes a second through a node's proxy: at the slow rate, an archive of some MiB takes long.
SLOW, FAST = 256 * 1024.0, float("inf")
#: Options of the daemon: a free port of loopback.
LOOPBACK = ("--endpoint", "tcp:0:interface=127.0.0.1")
_programs = (Path(sys.executable).with_name(name) for name in ("twistd", "twistd3"))
#: The program that runs the daemon, by its own name or by Debian's.
TWISTD = str(next((program for program in _programs if program.exists()), "twistd"))
reactor: Any = installed_reactor


def free_port() -> int:
    """Return a free port of loopback, which the kernel gives to no other socket by itself."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = 10_000 + secrets.randbelow(first - 10_000)
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port


@attrs.frozen
class CommandResult:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class _Process(ProcessProtocol):
    """The daemon's process: its output, line by line, and its end."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.ended: Deferred[int] = Deferred()
        self.status: int | None = None
        self._rest = b""
        self._waiting: list[tuple[str, Deferred[str]]] = []

    def wait_for(self, text: str, since: int, within: float) -> Deferred[str]:
        found: Deferred[str] = Deferred()
        for line in self.lines[since:]:
            if text in line:
                found.callback(line)
                return found
        self._waiting.append((text, found))
        return found.addTimeout(within, reactor, lambda *_: self._miss(text, within))

    def _miss(self, text: str, within: float) -> NoReturn:
        log = "\n".join(self.lines)
        raise TimeoutError(f"no line with {text!r} within {within:g} s:\n{log}")

    def outReceived(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in map(bytes.decode, lines):
            self.lines.append(line)
            for entry in [entry for entry in self._waiting if entry[0] in line]:
                self._waiting.remove(entry)
                entry[1].callback(line)

    errReceived = outReceived

    def processEnded(self, reason: Failure) -> None:
        ended: Any = reason.value
        self.end(-ended.signal if ended.signal else ended.exitCode)

    def end(self, status: int) -> None:
        """Note the exit status; a signal's number is negative."""
        self.status = status
        self.ended.callback(status)
        for _, found in self._waiting:
            found.errback(RuntimeError("the daemon ended:\n" + "\n".join(self.lines)))


class NodeProcess:
    """A node with TLS; its state, servers and configuration are in `directory`.

    A `proxied` one is reached through a proxy that can be throttled, and that keeps the node's
    address across restarts. Nodes with a `pool` have one volume, beside their directories.
    """

    def __init__(
        self,
        directory: Path,
        panel: Panel,
        authority: trustme.CA | None = None,
        *,
        proxied: bool = False,
        port: int = 25566,
        pool: str = "",
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.panel, self.pool = directory, panel, pool
        self.control = directory / "control.sock"
        self.ca, self.cert, self.key = (directory / f"{n}.pem" for n in ("ca", "cert", "key"))
        self.authority = authority or trustme.CA()
        self.authority.cert_pem.write_to_path(str(self.ca))
        #: The addresses that its certificate is for.
        self.names: tuple[str, ...] = ("127.0.0.1",)
        self.issue_certificate()
        self.uuid = str(uuid5(NAMESPACE_URL, directory.name))
        home = directory.parent if pool else directory
        self.volumes = home / "volumes"
        self.staging = home / f".volumes.staging{f'.{self.uuid}' if pool else ''}"
        address = "https://127.0.0.1:1" if proxied else "https://node.invalid:8080"
        #: The Panel's record of this node.
        self.node = panel.add_node(
            address, reachable=proxied, ca=str(self.ca), port=port, uuid=self.uuid
        )
        #: The address at which the daemon listens.
        self.url = ""
        #: Keys of `system.transfers` in its configuration.
        self.transfers: dict[str, Any] = {}
        #: Environment variables besides this process's own. As those of an installed package,
        #: modules are compiled only once.
        self.variables = {"PYTHONDONTWRITEBYTECODE": ""}
        #: Runs the daemon in place of this process's own interpreter, and with it its code.
        self.python = ""
        #: The log of the processes before this one.
        self.past: list[str] = []
        self._proxied = proxied
        self._proxy: Line | None = None
        self._process = _Process()
        #: How many starts the Panel knew of before this process's.
        self._resets = 0
        self._transport: Any = None

    def issue_certificate(self, prefix: str = "") -> None:
        """Write a new certificate and key, with `prefix` before the names of their files."""
        issued = self.authority.issue_cert(*self.names)
        issued.private_key_pem.write_to_path(str(self.key.with_name(prefix + self.key.name)))
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        self.cert.with_name(prefix + self.cert.name).write_bytes(chain)

    def configuration(self, **changes: Any) -> dict[str, Any]:
        """Return what the Panel would print for this node; `changes` are merged into it."""
        pool = {"storage_pool": {"enabled": True, "pool_name": self.pool}} if self.pool else {}
        usual = {
            "uuid": self.uuid,
            "token_id": self.node.token_id,
            "token": self.node.token,
            "remote": self.panel.url,
            "api": {"ssl": {"enabled": True, "cert": str(self.cert), "key": str(self.key)}},
            "system": {
                "data": str(self.volumes),
                "root_directory": str(self.directory),
                "backup_directory": str(self.directory / "backups"),
                "log_directory": str(self.directory / "logs"),
                "tmp_directory": str(self.directory / "tmp"),
                "machine_id": {"directory": str(self.directory / "machine-id")},
                # Several nodes run on this machine.
                "sftp": {"enabled": False},
                "username": "",
                "user": {"uid": os.getuid(), "gid": os.getgid()},
                "transfers": {"ca_file": str(self.ca), **pool, **self.transfers},
            },
            "docker": {"enabled": False},
            "control": {"socket": str(self.control)},
        }
        return _merged(usual, changes)

    def command(self, *options: str, **changes: Any) -> list[str]:
        """Write the configuration; return the command line that runs the daemon with it."""
        path = self.directory / "config.yml"
        text = yaml.safe_dump(self.configuration(**changes))
        path.write_text(text)
        with suppress(ConfigError):
            self.node.family = parse(text, str(path))[0].family
        return [TWISTD, "-n", "--pidfile", "", "wingsd", "--config", str(path), *options]

    def spawn(self, command: Sequence[str], descriptors: dict[int, int] | None = None) -> None:
        """Start a process that is the daemon, or becomes it; `descriptors` as in `childFDs`."""
        self.past += self.log
        self._resets = sum("/reset" in call.path for call in self.panel.calls)
        self._process = process = _Process()
        environment = {**os.environ, **self.variables}
        if self.python:
            command = [self.python, *command]
        elif command[0] == TWISTD and not descriptors:
            self._transport = ForkedProcess(
                command, environment, self.directory, process.outReceived, process.end
            )
            return
        self._transport = reactor.spawnProcess(
            process,
            command[0],
            command,
            env=environment,
            path=str(self.directory),
            childFDs={0: "w", 1: "r", 2: "r"} | (descriptors or {}),
        )

    def launch(self, *options: str, **changes: Any) -> None:
        """Start the daemon with these options in place of the loopback endpoint."""
        self.spawn(self.command(*options, **changes))

    async def start(self, *wrapper: str, **changes: Any) -> None:
        """Start the daemon, and the Panel if need be; return when the daemon listens.

        `wrapper` are the words of a command that runs the one that follows.
        """
        await self.listen_panel()
        self.spawn([*wrapper, *self.command(*LOOPBACK, **changes)])
        await self.listening()

    async def start_loaded(self, **changes: Any) -> None:
        """Start the daemon; return when it knows its servers and the Panel knows of its start."""
        await self.start(**changes)
        await self.loaded()

    async def start_without_panel(self) -> None:
        """Start the daemon where no Panel answers; return when it listens."""
        self.spawn(self.command(*LOOPBACK, remote="http://127.0.0.1:9"))
        await self.listening()

    async def listen_panel(self) -> None:
        if not self.panel.url.startswith("http://127.0.0.1"):
            await self.panel.listen(reactor)

    async def listening(self) -> None:
        """Return when the daemon listens; `url` and the Panel then have the address."""
        found = re.search(r"listens on (\S+?),", await self.wait_for_line("listens on"))
        assert found
        self.url = found[1]
        if not self._proxied:
            return
        port = int(self.url.rpartition(":")[2])
        if self._proxy is None:
            self._proxy = Line(reactor, port, FAST)
            self.node.address = f"https://127.0.0.1:{self._proxy.listening_port}"
        self._proxy.port = port

    async def loaded(self) -> None:
        """Return when the daemon knows its servers and the Panel knows of its start."""
        await self.wait_for_line("servers loaded")
        await self.panel.called("/reset", self._resets + 1)

    def throttle(self, bytes_per_second: float) -> None:
        """Limit what clients send to a proxied node."""
        self.line.bytes_per_second = bytes_per_second

    @property
    def address(self) -> str:
        """Where clients reach the daemon: itself, or its proxy."""
        return self.node.address if self._proxied else self.url

    async def fetch(
        self, path: str, *arguments: str, token: str | None = None
    ) -> tuple[int, bytes]:
        """Send a request with curl, as the Panel or with another token; return status and body."""
        target = self.directory / f"answer-{secrets.token_hex(4)}"
        target.touch()
        bearer = self.node.token if token is None else token
        command = ["-sS", "--cacert", str(self.ca), "--max-time", str(TIMEOUT)]
        command += ["-o", str(target), "-w", "%{http_code}", f"{self.url}{path}"]
        command += [*(["-H", f"Authorization: Bearer {bearer}"] if bearer else []), *arguments]
        out, err, status = await getProcessOutputAndValue("/usr/bin/curl", command, os.environ)
        assert status == 0, (path, err.decode())
        body = target.read_bytes()
        target.unlink()
        return int(out), body

    @property
    def line(self) -> Line:
        """The line to a proxied node that has listened."""
        assert self._proxy is not None
        return self._proxy

    @property
    def pid(self) -> int:
        pid: int = self._transport.pid
        return pid

    def signal(self, name: str) -> None:
        """Send the daemon a signal, such as "HUP"."""
        self._transport.signalProcess(name)

    async def ended(self) -> int:
        """Return the daemon's exit status when it has ended; a signal's number is negative."""
        return await self._process.ended

    async def kill(self) -> None:
        self.signal("KILL")
        await self.ended()

    async def close(self) -> None:
        if not self._process.ended.called and self._transport is not None:
            with suppress(ProcessExitedAlready):  # A test has just killed it.
                self.signal("KILL")
            await self.ended()
        if self._proxy is not None:
            await self._proxy.close()

    def age_transfers(self) -> None:
        """While the daemon does not run, set the start of its transfers back by a minute.

        A transfer of which the Panel denies the outcome is then over: it is asked no more.
        """
        with closing(sqlite3.connect(self.directory / "wingsd.db")) as database, database:
            database.execute("UPDATE transfers SET begun = begun - ?", (MINUTE,))

    def has_ended_transfers(self) -> bool:
        """Return whether the state database has the outcome of every transfer."""
        with closing(sqlite3.connect(self.directory / "wingsd.db")) as database:
            counted = database.execute("SELECT count(*) FROM transfers WHERE outcome IS NULL")
            return bool(counted.fetchone() == (0,))

    def wingsctl(self, *arguments: str, **environment: str) -> Deferred[CommandResult]:
        """Run a subcommand; the result comes when it has ended."""
        return self.start_wingsctl(*arguments, **environment)[1]

    def start_wingsctl(
        self, *arguments: str, **environment: str
    ) -> tuple[ForkedProcess, Deferred[CommandResult]]:
        """Start a subcommand; return its process, and the result when it has ended."""
        command = ["wingsctl", "--socket", str(self.control), *arguments]
        out, err, result = bytearray(), bytearray(), Deferred[CommandResult]()

        def end(status: int) -> None:
            result.callback(CommandResult(status, out.decode(), err.decode()))

        variables = os.environ | environment
        return (
            ForkedProcess(command, variables, Path.cwd(), out.extend, end, err.extend),
            result,
        )

    @property
    def log(self) -> list[str]:
        return self._process.lines

    @property
    def status(self) -> int | None:
        """The exit status of the daemon, None while it runs; a signal's number is negative."""
        return self._process.status

    def lines_with(self, text: str) -> list[str]:
        return [line for line in self.log if text in line]

    def wait_for_line(self, text: str, since: int = 0, within: float = TIMEOUT) -> Deferred[str]:
        """Return a Deferred of the log's first line, from line `since` on, with `text` in it.

        It fails after `within` seconds.
        """
        return self._process.wait_for(text, since, within)

    def states(self) -> list[str]:
        """Return the states of the server's transfers that were logged."""
        return [m[1] for line in self.log if (m := re.search(rf"{UUID}: state (\w+)", line))]

    def files(self) -> Path:
        return self.volumes / UUID

    def stored(self) -> list[str]:
        """Return the names in the directories of servers and of staging."""
        names = [path.name for place in (self.volumes, self.staging) for path in place.iterdir()]
        return sorted(name for name in names if name != ".lock")

    def paths_of_server(self) -> list[str]:
        """Return the paths in this node's directory that have the server's UUID in their name."""
        found = []
        # Unlike Path.rglob, it does not mind what vanishes meanwhile.
        for directory, directories, files in os.walk(self.directory):
            names = [name for name in (*directories, *files) if UUID in name]
            found += [os.path.relpath(f"{directory}/{name}", self.directory) for name in names]
        return sorted({without_mark(path) for path in found})


def without_mark(path: str) -> str:
    """Return the path of a machine id for that of a node's mark beside it, and any other as is."""
    return re.sub(r"(machine-id/)\.([^.]+)\.[0-9a-f]{12}$", r"\1\2", path)


def _merged(usual: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return `usual` with `changes`, where maps are merged key by key."""
    merged = dict(usual)
    for key, value in changes.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged
