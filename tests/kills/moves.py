"""Scenarios of two nodes: a server moves to and fro, and one of them dies, or both."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs

from tests.kills.containers import Containers
from tests.kills.engine import Broken, Kill, is_finished, random_step, steps_of, until_none
from tests.support.archives import seen
from tests.support.backups import without_catalogues
from tests.support.docker_engine import Engine
from tests.support.node_process import NodeProcess
from tests.support.sample_server import UUID
from tests.support.two_nodes import TwoNodes

#: Seconds at most from a transfer's beginning to a kill at random.
LATEST = 0.6
#: Seconds at most that an engine is given for its work: until the first dies, then the second.
ENGINE_DELAY = 0.15
#: Bytes of the server that do not compress.
SIZE = 400_000
VICTIMS = (("source",), ("destination",), ("source", "destination"))
BACKUPS = {
    uuid: hashlib.shake_128(uuid.encode()).digest(50_000)
    for uuid in (f"5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c1{number}" for number in range(2))
}
#: A backup of each node that does not move, and its data.
STAYING, STAYING_DATA = "5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c19.tar.gz", b"another backup"


class Transfers:
    """After each kill one whole copy of the server is where the Panel says, and no other.

    Of others there may be one in quarantine. Nothing is unfinished in the state databases.
    """

    victims: ClassVar[Sequence[tuple[str, ...]]] = VICTIMS
    #: The paths of the server at the node that has it.
    kept: ClassVar[Sequence[str]] = (f"volumes/{UUID}",)
    #: What is in the paths of copies that may be left.
    excused: ClassVar[Sequence[str]] = (".quarantine",)
    #: What the Panel's request has more.
    request: ClassVar[dict[str, Any]] = {}

    def __init__(self, directory: Path, pools: tuple[str, str] = ("", "")) -> None:
        self.pair = TwoNodes(directory, pools)
        # It describes a server to a transfer's nodes only, by which they know what is over.
        self.pair.panel.strict = True
        #: Changes to both nodes' configuration, and the server's description.
        self.changes: dict[str, Any] = {}
        self.settings: dict[str, Any] = {}
        self._before: Any = None
        self._destination: NodeProcess | None = None

    @property
    def owner(self) -> NodeProcess:
        """The node that has the server."""
        return self.pair.owner

    @property
    def nodes(self) -> Mapping[str, NodeProcess]:
        """The node that has the server is the source."""
        source, other = self.pair.source, self.pair.destination
        if self.owner is other:
            source, other = other, source
        return {"source": source, "destination": other}

    async def start(self) -> None:
        self.pair.add_server(SIZE, **self.settings)
        for node in self.nodes.values():
            # One that dies is not waited for as if only its answer were lost.
            node.transfers = {"answer_grace": 0}
        await self.pair.start(self.changes, self.changes)
        self._before = seen(self.pair.source.files())

    async def close(self) -> None:
        await self.pair.close()

    def plan(self, rng: random.Random) -> Kill:
        """Return the next kill; a third of them are at random moments."""
        victims = rng.choice(self.victims)
        if rng.random() < 1 / 3:
            return Kill(victims, rng.uniform(0, LATEST))
        return Kill(victims, random_step(rng, victims[0]))

    async def begin(self, variant: str = "") -> None:
        """Have the Panel move the server to the node that does not have it."""
        for node in self.nodes.values():
            shutil.rmtree(node.staging / ".quarantine", ignore_errors=True)
        self._destination = self.nodes["destination"]
        await self._order()

    async def _order(self) -> None:
        assert self._destination is not None
        await self.pair.panel.transfer(UUID, self._destination.node, **self.request)

    async def restart(self, node: NodeProcess) -> None:
        """Start a node again that was killed; return when it knows its servers."""
        await node.start_loaded(**self.changes)

    async def unsettled(self) -> str:
        """Return what has not ended yet; deletions and clean-ups run in the background."""
        if self.pair.panel.in_transfer(UUID):
            return "the Panel's transfer does not end"
        for node in self.nodes.values():
            if not is_finished(node) or _is_deleting(node):
                found = ", ".join(steps_of(node))
                return f"{node.directory.name} does not finish what it has begun: {found}"
        return ""

    async def check(self) -> None:
        here, there = self.nodes.values()
        if not here.files().is_dir():
            raise Broken("the server is lost: it is not where the Panel says")
        if seen(here.files()) != self._before:
            raise Broken("the server is not whole where the Panel says that it is")
        paths = [path for path in here.paths_of_server() if path not in self.kept]
        left = [
            path
            for path in paths + there.paths_of_server()
            if not any(each in path for each in self.excused)
        ]
        if left:
            raise Broken(f"something is left over: {left}")

    def check_success(self) -> None:
        """Check that the server is where it was to move."""
        if self.owner is not self._destination:
            raise Broken("the next transfer does not go well")


def _is_deleting(node: NodeProcess) -> bool:
    return any(".deleting" in path for path in node.paths_of_server()) or any(
        path.name.endswith(".discarded") for path in node.staging.iterdir()
    )


class Removals(Transfers):
    """Two backups move along, and are whole where the server is, and nowhere else.

    Calagopus' Panel wants them deleted at the source. Another backup of each node stays as it is.
    """

    request: ClassVar[dict[str, Any]] = {
        "archive_format": "tar_gz",
        "backups": [*BACKUPS],
        "delete_backups": True,
    }

    async def start(self) -> None:
        for node in (self.pair.source, self.pair.destination):
            _backups(node).mkdir()
            (_backups(node) / STAYING).write_bytes(STAYING_DATA)
        for uuid, data in BACKUPS.items():
            (_backups(self.pair.source) / f"{uuid}.tar.gz").write_bytes(data)
        await super().start()

    async def check(self) -> None:
        await super().check()
        here, there = (_files(node) for node in self.nodes.values())
        if here.pop(STAYING, b"") != STAYING_DATA or there.pop(STAYING, b"") != STAYING_DATA:
            raise Broken("a backup that was not to be moved is not as it was")
        if here != {f"{uuid}.tar.gz": data for uuid, data in BACKUPS.items()}:
            raise Broken(f"where the server is, its backups are not, or not whole: {list(here)}")
        if there:
            raise Broken(f"where the server is not, backups are left: {list(there)}")


def _backups(node: NodeProcess) -> Path:
    return node.directory / "backups"


def _files(node: NodeProcess) -> dict[str, bytes]:
    """Return the files in a node's directory of backups, without the catalogues of these."""
    found = {path.name: path.read_bytes() for path in _backups(node).iterdir() if path.is_file()}
    return without_catalogues(found)


class Pooled(Transfers):
    """The nodes share a volume: each file of the server stays the very one that it was.

    Nothing else is on the volume, and neither node has anything of the server among its own.
    """

    def __init__(self, directory: Path) -> None:
        # The names of pools are compared without regard to case.
        super().__init__(directory, ("attic", "Attic"))
        self._inodes: dict[Path, int] = {}

    async def start(self) -> None:
        await super().start()
        self._inodes = self._identities()

    def _identities(self) -> dict[Path, int]:
        files = self.pair.source.files()
        return {path: path.lstat().st_ino for path in (files, *files.rglob("*"))}

    async def check(self) -> None:
        files = self.pair.source.files()
        if not files.is_dir():
            raise Broken("the server is lost: its directory is not in the pool")
        if seen(files) != self._before or self._identities() != self._inodes:
            raise Broken("the server's files are not those that were there")
        on_volume = sorted(path.name for path in files.parent.iterdir())
        if on_volume != [UUID]:
            raise Broken(f"something else is on the volume: {on_volume}")
        for node in self.nodes.values():
            staged = [path.name for path in node.staging.iterdir() if path.name != ".lock"]
            if staged or node.paths_of_server():
                raise Broken(f"something is left over: {staged}, {node.paths_of_server()}")


class Containered(Transfers):
    """The nodes share a Docker engine: the server has one container, that of the right node.

    The other node keeps no file of it either.
    """

    # The container shows the second one.
    kept: ClassVar[Sequence[str]] = (*Transfers.kept, f"machine-id/{UUID}")
    victims: ClassVar[Sequence[tuple[str, ...]]] = (*VICTIMS, ("destination", "source"))

    def __init__(self, directory: Path, engine: Engine) -> None:
        super().__init__(directory)
        self._containers = Containers(engine, self.pair)
        self.changes = self._containers.configuration
        self.settings = self._containers.settings

    async def start(self) -> None:
        """Start the Panel and both nodes, and the server: its container is made by that."""
        await super().start()
        await self._containers.run()

    def plan(self, rng: random.Random) -> Kill:
        """Return the next kill.

        What the engine is asked for takes it some time: a node may die before it begins, in the
        middle of it, or when only its answer is missing, and the other while it rolls back.
        """
        delays = (rng.uniform(0, ENGINE_DELAY), rng.uniform(0, ENGINE_DELAY))
        variant = "running" if rng.random() < 1 / 3 else ""
        return attrs.evolve(super().plan(rng), delays=delays, variant=variant)

    async def begin(self, variant: str = "") -> None:
        """Have the Panel move the server, which may run before."""
        if variant:
            await self._containers.run()
        await super().begin()

    async def check(self) -> None:
        await super().check()
        await until_none(self._containers.fault)
