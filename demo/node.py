"""A node: a certificate, a configuration, a throttled proxy, and `twistd wingsd` as a process."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import sys
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import trustme
import yaml
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.utils import getProcessOutputAndValue

from demo.engine import network
from demo.output import Failed
from demo.process import Process
from tests.support import Panel
from tests.support.line import Line

__all__ = ["GROUP", "OWNER", "RunningNode", "free_port"]

_HOST = "127.0.0.1"
#: Seconds until the node must listen, and until it must have ended.
_READY_WITHIN = 120
_END_WITHIN = 15
#: What a node's line carries, in bytes a second: a transfer takes long enough to be watched.
_LINE = 6 * 1024 * 1024
#: The user and group of the servers' files: an account of no one, or ours without root.
OWNER = 988 if os.getuid() == 0 else os.getuid()
GROUP = 988 if os.getuid() == 0 else os.getgid()


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as sock:
        sock.bind((_HOST, 0))
        port: int = sock.getsockname()[1]
        return port


def _is_left(server: str, path: str) -> bool:
    return not os.path.basename(path).startswith(f"{server}.moved.")


class RunningNode:
    """A node with all its directories in `directory`, and its process.

    `game_port` is the one it gives to a server that arrives; `authority` makes its certificate
    and is the only one that it trusts besides the system's. SFTP is at `sftp_port`.
    """

    def __init__(
        self, reactor: Any, name: str, directory: Path, panel: Panel, authority: trustme.CA
    ) -> None:
        self.name = name
        self.game_port = free_port()
        self.authority = directory / "ca.pem"
        self.config = directory / "config.yml"
        self.volumes = directory / "volumes"
        self.log_file = directory / "node.log"
        self.control = directory / "control.sock"
        self._uuid = str(uuid5(NAMESPACE_URL, name))
        self._reactor = reactor
        self._directory = directory
        self._listens_on = free_port()
        self.sftp_port = free_port()
        self._process: Process | None = None
        directory.mkdir()
        self._history = directory.with_name(f"history-{name}")
        self._history.mkdir()
        #: The line to it.
        self.line = Line(reactor, self._listens_on, _LINE)
        authority.cert_pem.write_to_path(str(self.authority))
        self._issue_certificate(authority)
        self.node = panel.add_node(
            f"https://{_HOST}:{self.line.listening_port}",
            reachable=True,
            ca=str(self.authority),
            port=self.game_port,
            uuid=self._uuid,
        )

    @property
    def log(self) -> str:
        """The node's log."""
        return self.log_file.read_text(encoding="utf-8") if self.log_file.exists() else ""

    def files(self, server: str) -> Path:
        """Return the directory of a server on this node."""
        return self.volumes / server

    def leftovers(self, server: str) -> list[str]:
        """Return the leftovers of a server in this node's directories, beside `kept`."""
        return [path for path in self._found(server) if _is_left(server, path)]

    def kept(self, server: str) -> list[str]:
        """Return where files are kept for a while of a server that was moved while it ran."""
        return [path for path in self._found(server) if not _is_left(server, path)]

    def _found(self, server: str) -> list[str]:
        # Unlike Path.rglob it does not mind what vanishes meanwhile.
        return [
            os.path.join(where, name)
            for where, directories, files in os.walk(self._directory)
            for name in (*directories, *files)
            if server in name
        ]

    def speed(self, server: str) -> str:
        """Return the size and speed of a received server from the log."""
        found = re.search(rf"{server}: received (.*)", self.log)
        return found[1] if found else "the log does not tell"

    def _issue_certificate(self, authority: trustme.CA) -> None:
        pem = str(self._directory / "node.pem")
        authority.issue_cert(_HOST).private_key_and_cert_chain_pem.write_to_path(pem)

    def configure(self, panel: str) -> None:
        """Write the configuration as a Panel prints it, with some keys of wingsd's own."""
        pem = str(self._directory / "node.pem")
        config = {
            "uuid": self._uuid,
            "token_id": self.node.token_id,
            "token": self.node.token,
            "remote": panel,
            "api": {
                "host": _HOST,
                "port": self._listens_on,
                "ssl": {"enabled": True, "cert": pem, "key": pem},
            },
            "system": {
                "root_directory": str(self._directory),
                "data": str(self.volumes),
                "backup_directory": str(self._directory / "backups"),
                "log_directory": str(self._directory / "log"),
                "tmp_directory": str(self._directory / "tmp"),
                "machine_id": {"directory": str(self._directory / "machine-id")},
                "sftp": {"bind_address": _HOST, "bind_port": self.sftp_port},
                "username": "",
                "user": {"uid": OWNER, "gid": GROUP},
                # Points are made by hand.
                "history": {"directory": str(self._history)},
                # Batches as for a line that breaks often.
                "transfers": {"ca_file": str(self.authority), "moves": {"batch": 1}},
            },
            "docker": {"network": network()},
            "control": {"socket": str(self.control)},
        }
        self.config.write_text(yaml.safe_dump(config, sort_keys=False))

    async def start(self) -> int:
        """Start the node; return its process id once it listens."""
        twistd = str(Path(sys.executable).with_name("twistd"))
        command = [twistd, "-n", "--pidfile=", "wingsd", "--config", str(self.config)]
        self._process = Process(self._reactor, command, self._directory, self.log_file)
        deadline = self._reactor.seconds() + _READY_WITHIN
        while not await self._listens():
            if self._process.ended.called or self._reactor.seconds() > deadline:
                raise Failed(f"node {self.name} does not listen")
            await deferLater(self._reactor, 0.1)
        return self._process.pid

    async def _listens(self) -> bool:
        endpoint = HostnameEndpoint(self._reactor, _HOST.encode(), self._listens_on)
        try:
            connection: Any = await endpoint.connect(Factory.forProtocol(Protocol))
        except ConnectError:
            return False
        connection.transport.loseConnection()
        return True

    async def wingsctl(self, *words: str) -> str:
        """Run `wingsctl` for this node; return what it has printed. Raises `Failed`."""
        command = ["-m", "wingsd.cli", "--socket", str(self.control), *words]
        out, err, status = await getProcessOutputAndValue(sys.executable, command, os.environ)
        if status:
            raise Failed(f"wingsctl {shlex.join(words)}: {err.decode()}")
        return str(out.decode())

    async def stop(self) -> None:
        """Stop the node. Raises `Failed` for an error."""
        process, self._process = self._process, None
        try:
            status = 0 if process is None else await process.end(_END_WITHIN)
        finally:
            await self.line.close()
        # twistd ends, when all is done, by the signal that asked it to.
        if status not in (0, -signal.SIGTERM, -signal.SIGINT):
            raise Failed(f"node {self.name} ended with the status {status}")
