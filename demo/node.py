"""The node: a certificate, a configuration, and `twistd wingsd` as a process of its own."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import trustme
import yaml
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater

from demo.engine import network
from demo.process import Process
from demo.show import Failed
from wingsd.testing import Node

__all__ = ["OWNER", "RunningNode", "free_port", "speed", "states"]

_HOST = "127.0.0.1"
#: Seconds until the node must listen, and until it must have ended.
_READY_WITHIN = 20
_END_WITHIN = 15
#: Whom the servers' files belong to: nobody in particular, or us where only that is possible.
OWNER = 988 if os.getuid() == 0 else os.getuid()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind((_HOST, 0))
        port: int = sock.getsockname()[1]
        return port


def states(log: str, server: str) -> list[str]:
    """Return the states that a node's log tells of a server, in order."""
    return re.findall(rf"{server}: state (\w+)", log)


def speed(log: str, server: str) -> str:
    """Return what a node's log tells of a server's size and speed."""
    found = re.search(rf"{server}: received (.*)", log)
    return found[1] if found else "the log does not tell"


class RunningNode:
    """A node with all its directories in `directory`, and its process."""

    def __init__(self, reactor: Any, directory: Path, port: int) -> None:
        self.port = port
        self.authority = directory / "ca.pem"
        self.config = directory / "config.yml"
        self.volumes = directory / "volumes"
        self.log_file = directory / "node.log"
        self._reactor = reactor
        self._directory = directory
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """The node's address."""
        return f"https://{_HOST}:{self.port}"

    @property
    def log(self) -> str:
        """Everything the node logged."""
        return self.log_file.read_text(encoding="utf-8") if self.log_file.exists() else ""

    def configure(self, node: Node, panel: str) -> None:
        """Write the certificate, and the configuration as a Panel would print it."""
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.authority))
        pem = self._directory / "node.pem"
        authority.issue_cert(_HOST).private_key_and_cert_chain_pem.write_to_path(str(pem))
        ssl = {"enabled": True, "cert": str(pem), "key": str(pem)}
        config = {
            "token_id": node.token_id,
            "token": node.token,
            "remote": panel,
            "api": {"host": _HOST, "port": self.port, "ssl": ssl},
            "system": {
                "root_directory": str(self._directory),
                "data": str(self.volumes),
                "log_directory": str(self._directory / "log"),
                "username": "",
                "user": {"uid": OWNER, "gid": OWNER if os.getuid() == 0 else os.getgid()},
            },
            "docker": {"network": network()},
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
                raise Failed("the node does not listen")
            await deferLater(self._reactor, 0.1)
        return self._process.pid

    async def _listens(self) -> bool:
        endpoint = HostnameEndpoint(self._reactor, _HOST.encode(), self.port)
        try:
            connection: Any = await endpoint.connect(Factory.forProtocol(Protocol))
        except ConnectError:
            return False
        connection.transport.loseConnection()
        return True

    async def stop(self) -> None:
        """End the node. Raises `Failed` when it does not end well."""
        process, self._process = self._process, None
        if process is None:
            return
        status = await process.end(_END_WITHIN)
        # twistd ends, when all is done, by the signal that asked it to.
        if status not in (0, -signal.SIGTERM, -signal.SIGINT):
            raise Failed(f"the node ended with the status {status}")
