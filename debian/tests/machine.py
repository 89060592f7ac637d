"""The machine under test: its service, the Panel whose node it is, and who sends it servers."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pwd
import subprocess
import sys
import tarfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any
from uuid import uuid4

import trustme
import yaml
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import deferLater, react
from twisted.internet.threads import deferToThread

# Its helpers are the source's; the daemon under test is the installed one.
sys.path.append(str(Path(__file__).parents[2]))

from tests.support import Panel, server_settings

__all__ = [
    "CONFIGURATION",
    "HOME",
    "STAGING",
    "VOLUMES",
    "Failed",
    "Machine",
    "check",
    "main",
    "run",
    "serving",
]

HOME = Path("/var/lib/pterodactyl")
VOLUMES = HOME / "volumes"
STAGING = HOME / ".volumes.staging"
#: Where a Panel has its configuration saved.
CONFIGURATION = Path("/etc/pterodactyl/config.yml")
CERTIFICATES = Path("/etc/letsencrypt/live/node")
#: Seconds, for what takes a moment.
PATIENCE = 60


class Failed(Exception):
    """The package does not do what it should."""


def check(what: str, holds: object, found: object = "") -> None:
    """Print what is so. Raises `Failed` when it is not."""
    if not holds:
        raise Failed(f"not so: {what}\n{found}".rstrip())
    print(f"ok: {what}", flush=True)


async def run(*command: str, env: dict[str, str] | None = None) -> str:
    """Run a command as root; return what it writes. Raises `Failed` when it fails."""
    done = await deferToThread(
        subprocess.run,
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | (env or {}),
    )
    if done.returncode:
        raise Failed(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}")
    return str(done.stdout)


class Machine:
    """A node by the configuration that a Panel prints, and a Panel that really is there."""

    def __init__(self, reactor: Any, directory: Path) -> None:
        self.panel = Panel()
        self._reactor = reactor
        self._directory = directory
        self.ca = directory / "ca.pem"
        self._authority = trustme.CA()
        self._authority.cert_pem.write_to_path(str(self.ca))
        self.issue_certificate()
        self.source = self.panel.add_node("https://source.invalid:8080")
        self.node = self.panel.add_node("https://127.0.0.1:8080", reachable=True, ca=str(self.ca))
        self.archive, self.content = _archive(directory / "server.tar.gz")

    # The node

    def issue_certificate(self) -> None:
        """Make a new certificate, for root's eyes alone as certbot does."""
        issued = self._authority.issue_cert("127.0.0.1")
        CERTIFICATES.mkdir(parents=True, exist_ok=True)
        CERTIFICATES.parent.chmod(0o700)
        _write(CERTIFICATES / "privkey.pem", issued.private_key_pem.bytes())
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        _write(CERTIFICATES / "fullchain.pem", chain)

    async def configure(self, *, engine: bool = False) -> None:
        """Save what the Panel prints, for root alone; without an `engine`, that there is none."""
        await self.panel.listen(self._reactor)
        printed: dict[str, Any] = {
            "debug": False,
            "uuid": str(uuid4()),
            "token_id": self.node.token_id,
            "token": self.node.token,
            "api": {
                "host": "0.0.0.0",  # noqa: S104 - as it is printed
                "port": 8080,
                "ssl": {
                    "enabled": True,
                    "cert": str(CERTIFICATES / "fullchain.pem"),
                    "key": str(CERTIFICATES / "privkey.pem"),
                },
                "upload_limit": 100,
            },
            "system": {"data": str(VOLUMES), "sftp": {"bind_port": 2022}},
            "allowed_mounts": [],
            "remote": self.panel.url,
        }
        if not engine:
            printed["docker"] = {"enabled": False}
        CONFIGURATION.parent.mkdir(exist_ok=True)
        _write(CONFIGURATION, yaml.safe_dump(printed).encode())

    async def property(self, name: str, unit: str = "wingsd") -> str:
        """Return what systemd knows of the service."""
        return (await run("systemctl", "show", "--value", "--property", name, unit)).strip()

    async def log(self) -> str:
        """Return what the service has logged."""
        return await run("journalctl", "--unit", "wingsd", "--output", "cat", "--no-pager")

    async def until(self, holds: Callable[[], object], what: str) -> None:
        """Return once something is so. Raises `Failed` when it is not in time."""
        for _ in range(PATIENCE * 20):
            if holds():
                return
            await deferLater(self._reactor, 0.05)
        raise Failed(f"waited in vain for {what}; the service's log:\n{await self.log()}")

    async def until_answer(self, path: str, holds: Callable[[Any], bool]) -> None:
        """Return once the node answers the Panel so. Raises `Failed` when it does not in time."""
        for _ in range(PATIENCE * 20):
            status, answer = await self.panel.ask(self.node, "GET", path)
            if status == HTTPStatus.OK and holds(answer):
                return
            await deferLater(self._reactor, 0.05)
        raise Failed(f"{path} has {answer} in the end; the service's log:\n{await self.log()}")

    async def within(self, awaited: Deferred[Any], what: str) -> None:
        """Return once something has happened. Raises `Failed` when it has not in time."""
        await self.until(lambda: awaited.called, what)

    # Servers

    def new_server(self, **settings: Any) -> str:
        """Have the Panel begin to move a new server from its source to this node."""
        uuid = str(uuid4())
        self.panel.add_server(server_settings(uuid, **settings), self.source)
        self.panel.open_transfer(uuid, self.node)
        return uuid

    async def send(self, uuid: str, *options: str) -> tuple[int, Any]:
        """Send a server as the README's curl example does; status 0: there was no answer."""
        command = [*options, "--header", f"Authorization: Bearer {self._token(uuid)}"]
        command += ["--form", f"archive=@{self.archive};type=application/gzip"]
        command += ["--form", f"checksum={_sha256(self.archive.read_bytes())}"]
        return await self.curl("/api/transfers", *command)

    async def curl(self, path: str, *options: str) -> tuple[int, Any]:
        """Send the node a request; return status and body, status 0 without an answer."""
        command = ["curl", "--silent", "--show-error", "--cacert", str(self.ca), *options]
        command += ["--write-out", "\n%{http_code}", f"{self.node.address}{path}"]
        done = await deferToThread(subprocess.run, command, capture_output=True, text=True)
        body, _, status = done.stdout.rpartition("\n")
        return int(status), json.loads(body) if body else done.stderr

    def _token(self, uuid: str) -> str:
        return self.panel.transfer_token(uuid, self.node)

    def reports(self, uuid: str) -> list[str]:
        """Return what the Panel was told of a server's transfers, in order."""
        return [outcome for server, outcome in self.panel.reports() if server == uuid]

    def arriving(self, uuid: str) -> bool:
        """Tell whether a server's files are on their way to their place."""
        return (STAGING / uuid).exists()

    def check_files(self, uuid: str) -> None:
        """Raise `Failed` unless the server is here, whole, its user's, and nothing else of it."""
        files = [path for path in (VOLUMES / uuid).rglob("*") if path.is_file()]
        found = {str(path.relative_to(VOLUMES / uuid)): path.read_bytes() for path in files}
        check("its files are here", found == self.content, sorted(found))
        owner = pwd.getpwnam("pterodactyl")
        owners = {(s.st_uid, s.st_gid) for s in map(os.lstat, [VOLUMES / uuid, *files])}
        check("they are the servers' user's", owners == {(owner.pw_uid, owner.pw_gid)}, owners)
        check("nothing else is left of it", not self._leftovers(uuid), self._leftovers(uuid))

    def check_nothing_of(self, uuid: str) -> None:
        """Raise `Failed` when anything of the server is on this node."""
        left = [*self._leftovers(uuid), *VOLUMES.glob(f"{uuid}*")]
        check("nothing of it is left here", not left, left)

    def _leftovers(self, uuid: str) -> list[Path]:
        return list(STAGING.glob(f"**/{uuid}*"))


@contextmanager
def serving(place: Path) -> Iterator[int]:
    """Serve the files of a directory on this machine; give the port."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(place))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def _archive(path: Path) -> tuple[Path, dict[str, bytes]]:
    """Write a small server; return where, and its files."""
    content = {
        "server.properties": b"server-port=25565\n",
        "world/region/r.0.0.mca": hashlib.shake_128(b"seed").digest(8_000_000),
    }
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = len(data), 0o640, 1_700_000_000
            tar.addfile(member, io.BytesIO(data))
    return path, content


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(data)


def main(test: Callable[[Machine], Awaitable[None]]) -> None:
    """Run a test; when it fails, say why and end with status 1."""

    async def whole(reactor: Any) -> None:
        with TemporaryDirectory() as directory:
            machine = Machine(reactor, Path(directory))
            try:
                await test(machine)
            except Failed as failed:
                print(f"{failed}\n\nthe service's log:\n{await machine.log()}", file=sys.stderr)
                raise SystemExit(1) from None
            finally:
                await machine.panel.close()

    react(lambda reactor: ensureDeferred(whole(reactor)))
