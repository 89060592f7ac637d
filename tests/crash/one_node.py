"""Kills of one node: it receives, installs or restores servers, or makes or uploads backups."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import tarfile
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, ClassVar

from docker.errors import NotFound
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from tests.crash.engine import Broken
from tests.crash.nodes import Kill, Kills, is_finished, steps
from tests.support.backups import packed_backup
from tests.support.docker_engine import Engine
from tests.support.node_process import NodeProcess, reactor
from tests.support.nodes import NodeError
from tests.support.panel import Panel
from tests.support.receiving_node import ReceivingNode
from tests.support.s3_store import PART_SIZE, PartSigner, S3Store
from tests.support.sample_server import UUID, archive
from tests.support.settings import process_configuration, server_settings
from tests.support.state import Refused
from tests.support.upload_client import Unanswered, UploadClient
from tests.support.upload_forms import calagopus, pelican

Content = dict[str, bytes]


def contents(directory: Path) -> Content:
    """Return the regular files below a directory, by their paths in it."""
    found = {}
    for parent, _, names in os.walk(directory):
        for path in (Path(parent, name) for name in names):
            if not path.is_symlink():
                found[str(path.relative_to(directory))] = path.read_bytes()
    return found


class OneNode(Kills):
    """One node with its Panel. Kinds say when it may be killed, and what varies."""

    #: Seconds at most from the beginning to a kill at random, and after a line of the log.
    latest: ClassVar[float]
    linger: ClassVar[float]
    #: Lines of the log, and the share of kills that are at random moments.
    moments: ClassVar[Sequence[str]]
    at_random: ClassVar[float] = 1 / 2
    #: Whether half of the kills at a line come at once.
    half_at_once: ClassVar[bool] = False
    variants: ClassVar[Sequence[str]] = ()
    role: ClassVar[str] = "node"

    def __init__(self, node: NodeProcess) -> None:
        super().__init__()
        self.node = node
        self.panel = node.panel
        #: Changes to the node's configuration.
        self.changes: dict[str, Any] = {}
        #: How often something was begun, and whether the node has accepted it this time.
        self.number = 0
        self.accepted = False

    @property
    def nodes(self) -> Mapping[str, NodeProcess]:
        """There is only this one."""
        return {self.role: self.node}

    def prepare(self) -> None:
        """Make what is there before the node starts."""

    async def start(self) -> None:
        self.prepare()
        await self.restart(self.node)

    async def close(self) -> None:
        await self.node.close()
        await self.panel.close()

    def plan(self, rng: random.Random) -> Kill:
        variant = rng.choice(self.variants) if self.variants else ""
        if rng.random() < self.at_random:
            return Kill((self.role,), rng.uniform(0, self.latest), variant=variant)
        moment, delay = rng.choice(self.moments), rng.uniform(0, self.linger)
        if self.half_at_once:
            delay = rng.choice([0.0, delay])
        return Kill((self.role,), moment, (delay,), variant)

    async def restart(self, node: NodeProcess) -> None:
        await node.start_loaded(**self.changes)
        node.node.address, node.node.ca = node.url, str(node.ca)

    async def ask(self, path: str, body: Any, patience: float = 0.0) -> None:
        """Ask the node for something that it should accept; it may be killed before it answers.

        A conflict is waited for that may end by itself.
        """
        self.accepted = False
        deadline = reactor.seconds() + patience
        with suppress(NodeError):
            status, answer = await self.panel.ask(self.node.node, "POST", path, body)
            while status == HTTPStatus.CONFLICT and reactor.seconds() < deadline:
                await deferLater(reactor, 0.05)
                status, answer = await self.panel.ask(self.node.node, "POST", path, body)
            if status != HTTPStatus.ACCEPTED:
                raise Broken(f"it cannot be begun: {status}, {answer}")
            self.accepted = True

    def unfinished(self, staged: Sequence[Path] = ()) -> str:
        """Return what the node has not finished, or has left in staging areas."""
        if not is_finished(self.node):
            return "the node does not finish what it has begun"
        left = sorted({path.name for path in staged} - {".lock", ".quarantine"})
        return f"something stays staged: {left}" if left else ""


class _Backups(OneNode):
    """The node makes backups of a server. The Panel does not show one as being made for ever."""

    adapter: ClassVar[str]

    def __init__(self, directory: Path) -> None:
        super().__init__(NodeProcess(directory, Panel()))
        self.place = directory / "backups"
        self.backup = ""
        self._content: Content = {}

    def add_server(self, files: Content) -> None:
        settings = server_settings(UUID)
        self.panel.add_server(settings, self.node.node, process_configuration())
        for name, data in files.items():
            path = self.node.files() / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        self._content = files

    async def begin(self, variant: str = "") -> None:
        self.number += 1
        self.backup = str(uuid.uuid5(uuid.NAMESPACE_OID, f"backup {self.number}"))
        self.panel.backups.add(self.backup, UUID)
        body = {"adapter": self.adapter, "uuid": self.backup, "ignore": ""}
        await self.ask(f"/api/servers/{UUID}/backup", body)

    async def unsettled(self) -> str:
        if self.accepted and not self.panel.backups.known[self.backup].is_over:
            return "the Panel shows the backup as being made"
        return self.unfinished()

    async def check(self) -> None:
        if contents(self.node.files()) != self._content:
            raise Broken("the server is not as it was")

    @property
    def report(self) -> dict[str, Any]:
        """The report of a success, empty for none or of a failure."""
        told = self.panel.backups.known[self.backup].told or {}
        return told if told.get("successful") else {}

    def check_data(self, data: bytes) -> None:
        """Check that an archive is the one that was reported. Raises `Broken`."""
        digest = hashlib.new(self.report["checksum_type"], data, usedforsecurity=False)
        if (self.report["size"], self.report["checksum"]) != (len(data), digest.hexdigest()):
            raise Broken("the backup is not the one that was reported")

    def check_success(self) -> None:
        if not self.report:
            raise Broken("the next backup does not go well")


class Makings(_Backups):
    """After each kill the Panel and the disk agree: the backup is whole, or nothing of it is left.

    The server is as it was. The node is of one family or another.
    """

    adapter = "wings"
    latest, linger = 0.6, 0.1
    #: It is being made, it is in its place, and the Panel has heard of it.
    moments = (
        "A backup of the server is being made",
        "The backup is complete",
        "was reported to the Panel",
    )
    variants = ("pterodactyl", "pelican", "calagopus")
    #: Files of the server, their bytes in all, and MiB/s at which they are written: half a second.
    FILES, SIZE, RATE = 40, 12 << 20, 24

    def prepare(self) -> None:
        self.changes = {"family": self.variants[0]}
        self.changes["system"] = {"backups": {"write_limit": self.RATE}}
        size = self.SIZE // self.FILES
        self.add_server({f"world/{number}": os.urandom(size) for number in range(self.FILES)})
        (self.node.files() / "world/empty").mkdir()
        (self.node.files() / "link").symlink_to("world/1")

    async def begin(self, variant: str = "") -> None:
        """Ask for a backup; the node is started again to be of another family."""
        if variant and variant != self.changes["family"]:
            self.changes["family"] = variant
            await self.node.kill()
            await self.restart(self.node)
        await super().begin(variant)

    async def check(self) -> None:
        await super().check()
        found = {path for path in self.place.rglob("*") if path.is_file()}
        here = {path for path in found if self.backup in path.name}
        if any(".part" in path.name for path in found):
            raise Broken("a part is left over")
        if not self.report:
            if here:
                raise Broken(f"something of a failed backup is left: {here}")
            return
        names = {f"{self.backup}.tar.gz", f"{self.backup}.catalogue.json"}
        if {path.name for path in here} != names:
            raise Broken(f"the backup that the Panel has is not there, or not alone: {here}")
        (made,) = (path for path in here if path.suffix == ".gz")
        self.check_data(made.read_bytes())
        subprocess.run(["gzip", "--test", str(made)], check=True)
        with tarfile.open(made) as members:
            files = {member.name for member in members if member.isfile()}
        if len(files) != self.FILES:
            raise Broken(f"the backup has {len(files)} files")


class Uploads(_Backups):
    """A backup is in the store, whole and with all parts reported, or reported as failed.

    Nothing of it stays on the node in either case, and the server's files are as they were.
    """

    adapter = "s3"
    latest, linger = 0.5, 0.05
    moments = (
        "A backup of the server is being made",
        "its upload begins",
        "parts are uploaded",
    )
    half_at_once = True

    def __init__(self, directory: Path, family: str = "pterodactyl") -> None:
        super().__init__(directory)
        self.changes = {"family": family}
        self._store = S3Store(reactor)
        self._signer = PartSigner(self._store)

    def prepare(self) -> None:
        self._store.listen()
        self.panel.backups.signer = self._signer
        self.add_server({"world.mca": random.Random(UUID).randbytes(3 * PART_SIZE)})

    async def close(self) -> None:
        await super().close()
        await self._store.close()

    async def unsettled(self) -> str:
        if left := await super().unsettled():
            return left
        left_files = [path.name for path in self.place.rglob("*") if path.is_file()]
        return f"something is left over: {left_files}" if left_files else ""

    async def check(self) -> None:
        await super().check()
        if not self.report:
            return
        upload = self._signer.upload_of(self.backup)
        self.check_data(self._store.object(upload))
        for part in self.report["parts"]:
            stored = self._store.parts[upload, part["part_number"]]
            digest = hashlib.md5(stored, usedforsecurity=False).hexdigest()
            if part["etag"] != f'"{digest}"':
                raise Broken("the Panel has another ETag than the store")


class Restores(OneNode):
    """After each kill the server has its old content or the new one, whole, as the Panel says.

    Nothing is staged or unfinished. Replaced files are whole in quarantine where all were to be
    replaced, and the backups are as they were.
    """

    latest, linger = 1.0, 0.04
    #: An archive is read, and has been; it is in place; the Panel knows.
    moments = (
        "restoring the backup",
        "the backup is read and verified",
        "the backup is read and verified",
        "Completed server restoration",
        "the Panel knows that the backup",
    )
    at_random = 1 / 3
    variants = ("replacing all", "laid over")
    #: Files of a backup, and bytes of each.
    FILES, SIZE = 80, 20_000

    def __init__(self, directory: Path) -> None:
        super().__init__(NodeProcess(directory, Panel()))
        uuids = [f"5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c1{number}" for number in range(2)]
        self._backups = {each: self._files_of(each) for each in uuids}
        self._archives = {each: packed_backup(files) for each, files in self._backups.items()}
        self._truncates = False
        self._before: Content = {}
        self._after: Content = {}

    def _files_of(self, backup: str) -> Content:
        """Return the files of a backup. Half of the names are in each of them."""
        names = [
            f"world/region/{number}" if number % 2 else f"{backup[-1]}/{number % 7}/{number}"
            for number in range(self.FILES)
        ]
        return {
            name: hashlib.shake_128(f"{backup}{name}".encode()).digest(self.SIZE) for name in names
        }

    def prepare(self) -> None:
        self.panel.add_server(server_settings(UUID), self.node.node, process_configuration())
        self._write(next(iter(self._backups.values())))
        (self.node.directory / "backups").mkdir()
        for each, data in self._archives.items():
            self._archive(each).write_bytes(data)

    def _archive(self, backup: str) -> Path:
        return self.node.directory / "backups" / f"{backup}.tar.gz"

    async def begin(self, variant: str = "") -> None:
        """Restore the other backup, after the server has written a file."""
        shutil.rmtree(self.node.staging / ".quarantine", ignore_errors=True)
        self.number += 1
        self._write({f"later/{self.number % 5}": str(self.number).encode()})
        backup = [*self._backups][self.number % 2]
        self._truncates = variant == "replacing all"
        self._before = contents(self.node.files())
        kept = {} if self._truncates else self._before
        self._after = {**kept, **self._backups[backup]}
        self.accepted = False
        with suppress(NodeError):
            await self.panel.restore(UUID, backup, truncate_directory=self._truncates)
            self.accepted = True

    def _write(self, files: Content) -> None:
        for name, content in files.items():
            path = self.node.files() / name
            path.parent.mkdir(parents=True, exist_ok=True)
            # As a game does it: what is a hard link in quarantine keeps its content.
            path.unlink(missing_ok=True)
            path.write_bytes(content)

    async def unsettled(self) -> str:
        if self.panel.restoring(UUID):
            return "the Panel shows the server as being restored"
        return self.unfinished([*self.node.staging.iterdir()])

    async def check(self) -> None:
        if self.panel.forgotten:
            raise Broken("the Panel ended the state of a server that was being restored")
        found = contents(self.node.files())
        restored = self.panel.restored(UUID) if self.accepted else found == self._after
        if found != (self._after if restored else self._before):
            raise Broken(f"the Panel has heard {restored}, and the server has something else")
        for each, data in self._archives.items():
            if self._archive(each).read_bytes() != data:
                raise Broken("a backup is not as it was")
        quarantine = self.node.staging / ".quarantine"
        kept = [*quarantine.iterdir()] if quarantine.is_dir() else []
        is_replaced = bool(restored) and self._truncates
        if len(kept) != is_replaced or any(contents(each) != self._before for each in kept):
            raise Broken(f"the replaced files are not whole in quarantine: {len(kept)}")

    def check_success(self) -> None:
        if contents(self.node.files()) != self._after:
            raise Broken("the next restore does not go well")


class Arrivals(OneNode):
    """A server arrives with both backups and the log, by the Panel's word, or nothing of it does.

    The backups are whole, and where the family keeps them. Nothing stays staged or unfinished,
    and a backup that was there before is as it was.
    """

    latest, linger = 0.4, 0.02
    moments = tuple(steps("destination"))
    at_random = 1 / 4
    half_at_once = True
    variants = ("pelican", "calagopus")
    role = "destination"
    LOG, PRECIOUS = b"installed\n", b"another backup"

    def __init__(self, directory: Path) -> None:
        self._receiver = ReceivingNode(directory)
        super().__init__(self._receiver)
        # It describes a server to a transfer's nodes only, by which they know what is over.
        self.panel.strict = True
        self._precious = directory / "backups" / "precious.tar.gz"
        #: The server on its way, and the files that come with it: the data by the path.
        self._server = ""
        self._files: Content = {}
        self._sending: Deferred[None] = Deferred()

    def prepare(self) -> None:
        self._precious.parent.mkdir()
        self._precious.write_bytes(self.PRECIOUS)
        self._sending.callback(None)

    async def begin(self, variant: str = "") -> None:
        """Begin to send a new server, as a node of the family named `variant` does."""
        self.number += 1
        number, oid = self.number, uuid.NAMESPACE_OID
        self._server = server = str(uuid.uuid5(oid, f"server {number}"))
        names = [str(uuid.uuid5(oid, f"backup {number} {each}")) for each in range(2)]
        backups = {name: hashlib.shake_128(name.encode()).digest(200_000) for name in names}
        prefix = f"{server}/" if variant == "pelican" else ""
        self._files = {f"backups/{prefix}{name}.tar.gz": data for name, data in backups.items()}
        self._files[f"logs/install/{server}.log"] = self.LOG
        self._receiver.expect(server)
        family = (pelican if variant == "pelican" else calagopus)(self.LOG, backups)
        token = self._receiver.token(server)
        client = UploadClient(self._receiver, archive(), token=token, family=family)
        self._sending = Deferred.fromCoroutine(self._send(client, server))

    async def _send(self, client: UploadClient, server: str) -> None:
        status = 0
        with suppress(OSError, Unanswered):
            await client.begin()
            status, _ = await client.finish()
        if status != HTTPStatus.OK:
            # A source without an answer reports a failure, which may come after a success.
            with suppress(Refused):
                self.panel.finish_transfer(self._receiver.source, server, "failure")

    async def restart(self, node: NodeProcess) -> None:
        """Start the node again when its client has noticed its end."""
        await self._sending
        await node.start_loaded()

    async def unsettled(self) -> str:
        if not self._sending.called or self.panel.in_transfer(self._server):
            return "the Panel's transfer does not end"
        areas = (self.node.staging.glob("*"), self._precious.parent.glob(".wingsd-*/*"))
        return self.unfinished([path for area in areas for path in area])

    async def check(self) -> None:
        is_here = self._is_here()
        if (self.node.volumes / self._server).exists() is not is_here:
            raise Broken("the server's files are not where the Panel says")
        for path, data in self._files.items():
            place = self.node.directory / path
            if place.exists() is not is_here:
                raise Broken(f"{path} {'is lost' if is_here else 'is left over'}")
            if is_here and (place.read_bytes() != data or place.stat().st_nlink != 1):
                raise Broken(f"{path} is not what was sent, or has another name")
        if self._precious.read_bytes() != self.PRECIOUS:
            raise Broken("a backup that was here before is not as it was")

    def check_success(self) -> None:
        if not self._is_here():
            raise Broken("the next transfer does not go well")

    def _is_here(self) -> bool:
        return self.panel.node_of(self._server) is self.node.node


class Installations(OneNode):
    """After each kill the server is installed whole, the Panel knows it, and nothing is left.

    It crashes when it is started, is offline in the end, and can be installed again.
    """

    latest, linger = 1.5, 0.1
    #: The script is started, its container is removed, the Panel has heard of it, and the server
    #: runs, and has crashed.
    moments = (
        "Starting installation process",
        "Installation process completed",
        "installer removed",
        "the success of its installation was reported",
        f"{UUID}: running",
        f"{UUID}: offline",
    )
    variants = ("create", "reinstall", "create and start")
    #: The script makes a file that no other run has, in two steps: half of it can be seen.
    SCRIPT = """echo begun\r
echo -n half > /mnt/server/{run}\r
sleep 0.2\r
echo whole > /mnt/server/{run}\r
"""
    #: The server is up at once, and crashes: the first time it is started again.
    CRASHING = "echo up; sleep 0.2; exit 1"
    #: Seconds within which a server can be installed again: it may just be started again after a
    #: crash, or the node reports its restart.
    FREE_WITHIN = 10.0

    def __init__(self, engine: Engine) -> None:
        super().__init__(NodeProcess(engine.volumes, Panel()))
        self._engine = engine
        self.changes = engine.for_node(UUID)
        self._installer = engine.will_make_container(f"{UUID}_installer")

    async def begin(self, variant: str = "") -> None:
        """Create the server, or install it again."""
        self.number += 1
        node, panel, image = self.node.node, self.panel, self._engine.image
        is_known = UUID in [server["uuid"] for server in panel.servers_of(node)]
        reinstalls = is_known and variant == "reinstall"
        if is_known and not reinstalls:
            status, _ = await panel.ask(node, "DELETE", f"/api/servers/{UUID}")
            if status != HTTPStatus.NO_CONTENT:
                raise Broken(f"the server cannot be deleted: {status}")
        if not reinstalls:
            settings = server_settings(UUID, image=image, invocation=self.CRASHING)
            panel.add_server(settings, node, process_configuration(startup={"done": ["up"]}))
        script = self.SCRIPT.format(run=f"run-{self.number}")
        panel.set_script(UUID, container_image=image, entrypoint="sh", script=script)
        panel.await_install(UUID)
        path, body = f"/api/servers/{UUID}/reinstall", dict[str, Any]()
        if not reinstalls:
            body = {"uuid": UUID, "start_on_completion": variant.endswith("start")}
            path = "/api/servers"
        await self.ask(path, body, self.FREE_WITHIN)
        if self.accepted:
            panel.show_installing(UUID)

    async def unsettled(self) -> str:
        if self.accepted and self.panel.installed(UUID) is None:
            return "the Panel has no report of the installation"
        if left := self.unfinished():
            return left
        status, found = await self.panel.ask(self.node.node, "GET", f"/api/servers/{UUID}")
        if status == HTTPStatus.OK and found["state"] != "offline":
            return f"the server is {found['state']}"
        scripts = self.node.directory / "tmp"
        if scripts.is_dir() and any(scripts.iterdir()):
            return "a script is left over"
        with suppress(NotFound):
            self._engine.client.inspect_container(self._installer)
            return "an installer is left over"
        return ""

    async def check(self) -> None:
        if self.panel.forgotten:
            raise Broken("the Panel took a half installed server for an installed one")
        if not self.accepted:
            return
        if self.panel.installed(UUID) is not True:
            raise Broken("the installation failed")
        made = self.node.files() / f"run-{self.number}"
        if not made.exists() or made.read_text() != "whole\n":
            raise Broken("the script did not run to its end")
        log = (self.node.directory / "logs" / "install" / f"{UUID}.log").read_text()
        if not log.endswith("begun\n"):
            raise Broken(f"the log does not end with the script's output: {log[-100:]!r}")
