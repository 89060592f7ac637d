"""A real daemon for tests: `twistd wingsd` as a process of its own, and the fake Panel."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import ssl
import tarfile
from collections.abc import Sequence
from pathlib import Path
from socket import socket
from typing import Any
from urllib.parse import urlsplit

import trustme
from twisted.internet.threads import deferToThread
from twisted.internet.utils import getProcessOutputAndValue

from tests.daemon.daemon import TIMEOUT, Daemon, reactor
from tests.support import Node, Panel, server_settings

__all__ = ["UUID", "House", "archive", "reactor", "sha256"]

UUID = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10"


def archive(size: int = 100_000) -> bytes:
    """Return a small server as tar.gz, the same each time; `size` bytes of it do not compress."""
    buffer = io.BytesIO()
    with (
        # Not by tarfile: that has the time in it, and with each second another checksum.
        gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for name, content in (
            ("server.properties", b"server-port=25565\n"),
            ("world/region/r.0.0.mca", hashlib.shake_128(b"seed").digest(size)),
        ):
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.mode = len(content), 1_700_000_000, 0o640
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class House(Daemon):
    """A node with TLS, its Panel, and one server on its way to it from another node."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.volumes = directory / "volumes"
        self.panel = Panel()
        self.source = self.panel.add_node("https://source.invalid:8080")
        self.node: Node = self.panel.add_node("https://node.invalid:8080")
        self.panel.add_server(server_settings(UUID), self.source)
        self.panel.open_transfer(UUID, self.node)
        self.authority = trustme.CA()
        self.authority.cert_pem.write_to_path(str(directory / "ca.pem"))
        self.issue_certificate()

    def issue_certificate(self, prefix: str = "") -> None:
        """Write a new certificate and key to where the configuration names them.

        With `prefix` before the files' names, they are others.
        """
        issued = self.authority.issue_cert("127.0.0.1")
        issued.private_key_pem.write_to_path(str(self.directory / f"{prefix}key.pem"))
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        (self.directory / f"{prefix}cert.pem").write_bytes(chain)

    def configuration(self, **changes: Any) -> dict[str, Any]:
        """Return what the Panel would print for this node, with whole keys replaced."""
        usual = {
            "token_id": self.node.token_id,
            "token": self.node.token,
            "remote": self.panel.url,
            "api": {
                "ssl": {
                    "enabled": True,
                    "cert": str(self.directory / "cert.pem"),
                    "key": str(self.directory / "key.pem"),
                }
            },
            "system": {
                "data": str(self.volumes),
                "root_directory": str(self.directory),
                "backup_directory": str(self.directory / "backups"),
                "log_directory": str(self.directory / "logs"),
                "username": "",
                "user": {"uid": os.getuid(), "gid": os.getgid()},
            },
            "docker": {"enabled": False},
            "control": {"socket": str(self.control)},
        }
        return usual | changes

    async def start(self, **changes: Any) -> None:
        """Start the Panel and the daemon; return when it listens."""
        await self.listen_panel()
        self.launch("--endpoint", "tcp:0:interface=127.0.0.1", **changes)
        await self.listening()

    async def loaded(self) -> None:
        """Return when the daemon knows its servers and has told the Panel of its start."""
        await self.wait_for_line("servers loaded")
        await self.panel.called("/reset")

    async def start_with(self, *passed: socket, options: Sequence[str] = ()) -> None:
        """Start both, and hand the daemon these sockets as systemd would."""
        await self.listen_panel()
        names = ":".join("wingsd.socket" for _ in passed)
        variables = f"LISTEN_FDS={len(passed)} LISTEN_FDNAMES={names}"
        command = self.command(self.configuration(), *options)
        self.spawn(
            # The variables must name the process that the shell becomes.
            ["/bin/sh", "-c", f'LISTEN_PID=$$ {variables} exec "$@"', "sh", *command],
            {number: one.fileno() for number, one in enumerate(passed, 3)},
        )

    def launch(self, *options: str, **changes: Any) -> None:
        """Start the daemon's process."""
        self.spawn(self.command(self.configuration(**changes), *options))

    async def listen_panel(self) -> None:
        if not self.panel.url.startswith("http://127.0.0.1"):
            await self.panel.listen(reactor)

    async def close(self) -> None:
        """End everything."""
        await super().close()
        await self.panel.close()

    # What clients do

    def token(self, **claims: Any) -> str:
        """Return the Panel's token for the server's transfer to this node."""
        return self.panel.transfer_token(UUID, self.node, **claims)

    async def curl(self, *arguments: str, token: str | None = None) -> tuple[int, Any]:
        """Send a request to the endpoint with curl; return status and decoded body."""
        command = ["-sS", "-X", "POST", f"{self.url}/api/transfers"]
        command += ["--cacert", str(self.directory / "ca.pem"), "--max-time", str(TIMEOUT)]
        command += ["-H", f"Authorization: Bearer {token or self.token()}"]
        command += ["-w", "\n%{http_code}", *arguments]
        out, err, status = await getProcessOutputAndValue("/usr/bin/curl", command, os.environ)
        assert status == 0, err.decode()
        body, _, code = out.decode().rpartition("\n")
        return int(code), json.loads(body) if body else None

    async def upload(self, data: bytes, checksum: str | None = None) -> tuple[int, Any]:
        """Send an archive as the document's curl example does."""
        path = self.directory / "server-archive.tar.gz"
        path.write_bytes(data)
        checksum = sha256(data) if checksum is None else checksum
        return await self.curl("-F", f"archive=@{path}", "-F", f"checksum={checksum}")

    async def served_certificate(self) -> str:
        """Return the certificate that a new connection is shown, as PEM."""
        url = urlsplit(self.url)
        address = (url.hostname or "", url.port or 0)
        pem: str = await deferToThread(ssl.get_server_certificate, address)
        return pem

    async def told_of_failure(self) -> None:
        """Return when the Panel has heard of it, and the server is free for another transfer."""
        await self.wait_for_line(f"{UUID}: the failed transfer is cleaned up")
        await self.wait_for_line(f"{UUID}: the Panel was told of the failure")

    def states(self) -> list[str]:
        """Return the states that the log tells of the server."""
        return [m[1] for line in self.log if (m := re.search(rf"{UUID}: state (\w+)", line))]

    def left(self) -> list[str]:
        """Return what is in the volumes directory and its staging area."""
        staging = self.directory / ".volumes.staging"
        names = [path.name for place in (self.volumes, staging) for path in place.iterdir()]
        return sorted(name for name in names if name != ".lock")
