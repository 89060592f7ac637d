"""Kills of two nodes between which a server moves: one of them dies, or both.

Before or meanwhile the line between them may break. With an engine, both nodes share it.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shlex
import shutil
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from datetime import datetime, timedelta
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, ClassVar
from uuid import NAMESPACE_URL, uuid5

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from tests.crash.engine import Broken, until_none
from tests.crash.nodes import Kill, Kills, is_finished, random_step, steps_of
from tests.moves.changing import Changes
from tests.support.archives import Tree, seen
from tests.support.backups import without_catalogues
from tests.support.docker_engine import Engine
from tests.support.http_proxy import HttpProxy
from tests.support.line import Line
from tests.support.node_process import FAST, NodeProcess, reactor
from tests.support.nodes import NodeError
from tests.support.points import rebuild
from tests.support.reactor import until
from tests.support.sample_server import UUID
from tests.support.settings import process_configuration, server_settings
from tests.support.two_nodes import TwoNodes
from wingsd.backups.catalogue import COMPLETE, VERSION, Catalogue
from wingsd.backups.store import BackupStore
from wingsd.config import PTERODACTYL
from wingsd.filesystem.open_directories import closing_descriptor
from wingsd.history.names import read_names
from wingsd.history.store import HistoryStore
from wingsd.transfers.storage.staging import KEPT

VICTIMS = (("source",), ("destination",), ("source", "destination"))
#: Changes of a server's files.
CHANGED = (
    *("file", "big", "directory", "symlink", "hard link", "touch", "mode", "write", "rewrite"),
    *("truncate", "grow", "rename", "rename", "swap", "delete"),
)


class Containers:
    """All containers on the engine that show a server's files of either node or have its name."""

    #: A game that is up at once, and ends with the first line that is typed into its console.
    GAME = "echo listening on; read -r line"
    #: A node that gives a server no container before its next start says so, since on a shared
    #: engine the other node's still has the name; nothing else excuses that there is none.
    OWED = ("the next start does it", "is on this Docker engine already")
    #: The states of a container that is neither half made nor half removed.
    WHOLE = ("created", "running", "exited")

    def __init__(self, engine: Engine, pair: TwoNodes, server: str = UUID) -> None:
        self._engine = engine
        self._pair = pair
        self._server = server
        #: What was owed by either node, and is there.
        self._paid: set[str] = set()
        self.settings = {
            "image": engine.image,
            "invocation": self.GAME,
            "process": process_configuration(stop={"type": "command", "value": "stop"}),
        }

    async def run(self) -> None:
        """Start the server, unless it runs at the node that has it.

        That there is another one's container of its name is what the node says then.
        """
        here = self._owner
        if self.running() != [str(here.volumes / self._server)]:
            mark = len(here.log)
            await self._pair.panel.power(self._server, "start")
            await here.wait_for_line(f"{self._server}: running", since=mark)

    @property
    def _owner(self) -> NodeProcess:
        """The node that has the server, according to the Panel."""
        at_source = self._pair.panel.node_of(self._server) is self._pair.source.node
        return self._pair.source if at_source else self._pair.destination

    @property
    def owes(self) -> bool:
        """True if the server's node has put its container off until the next start."""
        return bool(self._owed(self._owner) - self._paid)

    def _owed(self, node: NodeProcess) -> set[str]:
        lines = (*node.past, *node.log)
        words = (self._server, *self.OWED)
        return {line for line in lines if all(each in line for each in words)}

    async def fault(self) -> str:
        """Return what is wrong, empty for nothing.

        There must be one container of the server, whole and with its files at the node that the
        Panel says, and that node must know whether it runs. The one that is owed is made by a
        start, which must go well.
        """
        here = self._owner
        if not self._found() and self.owes:
            await self.run()
        found = self._found()
        if [(each["Names"], _homes(each)) for each in found] != [
            ([f"/{self._server}"], [str(here.volumes / self._server)])
        ]:
            shown = [(each["Names"], _homes(each), each["State"]) for each in found]
            return f"there is not one container, of {here.directory.name}'s, but {shown}"
        state = found[0]["State"]
        if state not in self.WHOLE:
            return f"its container is {state}"
        path = f"/api/servers/{self._server}"
        status, told = await self._pair.panel.ask(here.node, "GET", path)
        if status != HTTPStatus.OK or (told["state"] == "offline") is (state == "running"):
            return f"the engine says {state}, and {here.directory.name} says {status}, {told}"
        self._paid = self._owed(self._pair.source) | self._owed(self._pair.destination)
        return ""

    def _found(self) -> list[dict[str, Any]]:
        """Return those of the server, and those that show anything of either node."""
        nodes = [f"{node.directory}/" for node in (self._pair.source, self._pair.destination)]
        return [
            each
            for each in self._engine.client.containers(all=True)
            if f"/{self._server}" in (each["Names"] or [])
            or any(
                str(mount.get("Source")).startswith(node) and self._server in mount["Source"]
                for mount in each["Mounts"]
                for node in nodes
            )
        ]

    def running(self) -> list[str]:
        """Return the directories of the server's containers that run."""
        found = self._engine.client.containers(filters={"name": f"^/{self._server}$"})
        return [home for each in found for home in _homes(each)]

    def most_at_once(self, since: int) -> int:
        """Return how many of the server's containers ran at once since a time (Unix, s)."""
        running: set[str] = set()
        most = 0
        found: Any = self._engine.client.events(
            since=since,
            until=int(time.time()),
            filters={"type": "container", "event": ["start", "die"]},
            decode=True,
        )
        for event in found:
            if event["Actor"]["Attributes"].get("name") == self._server:
                change = running.add if event["Action"] == "start" else running.discard
                change(event["Actor"]["ID"])
                most = max(most, len(running))
        return most


def _homes(container: dict[str, Any]) -> list[str]:
    mounts = container["Mounts"]
    return [mount["Source"] for mount in mounts if mount["Destination"] == "/home/container"]


class Transfers(Kills):
    """After each kill one whole copy of the server is where the Panel says, and no other.

    Of others there may be one in quarantine. Nothing is unfinished in the state databases. With an
    engine there is one container of the server, that of the right node.
    """

    victims: ClassVar[Sequence[tuple[str, ...]]] = VICTIMS
    #: Seconds at most from a transfer's beginning to a kill at random.
    latest: ClassVar[float] = 0.6
    #: Parts of the paths of copies that may be left.
    excused: ClassVar[Sequence[str]] = (".quarantine",)
    #: More of the Panel's request.
    request: ClassVar[dict[str, Any]] = {}
    #: Bytes of the server that do not compress.
    size: ClassVar[int] = 400_000
    #: Keys of `system.transfers`. A node that dies is not waited for as if only its answer were
    #: lost.
    configured: ClassVar[dict[str, Any]] = {"answer_grace": 0}

    def __init__(
        self,
        directory: Path,
        engine: Engine | None = None,
        pools: tuple[str, str] = ("", ""),
    ) -> None:
        super().__init__()
        self.pair = TwoNodes(directory, pools)
        # It describes a server to a transfer's nodes only, by which they know what is over.
        self.pair.panel.strict = True
        #: The paths of the server at the node that has it.
        self.kept = [f"volumes/{UUID}"]
        self._changes: dict[str, Any] = {}
        self.containers: Containers | None = None
        if engine is not None:
            self.containers = Containers(engine, self.pair)
            self._changes = engine.for_node(UUID)
            # The container shows it.
            self.kept.append(f"machine-id/{UUID}")
        self.before: Any = None
        self.destination: NodeProcess = self.pair.destination

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
        """Start the Panel and both nodes, and with an engine the server, to have a container."""
        for node in (self.pair.source, self.pair.destination):
            node.transfers = self.configured
        self.pair.add_server(self.size, **(self.containers.settings if self.containers else {}))
        self.fill(self.pair.source.files())
        await self.launch()
        self.before = seen(self.pair.source.files())
        if self.containers:
            await self.containers.run()

    def fill(self, home: Path) -> None:
        """Make more files of the server."""

    async def launch(self) -> None:
        """Start both nodes."""
        await self.pair.start(self._changes, self._changes)

    async def close(self) -> None:
        await self.pair.close()

    def plan(self, rng: random.Random) -> Kill:
        """Return the next kill; a third of them are at random moments."""
        victims = rng.choice(self.victims)
        if rng.random() < 1 / 3:
            return Kill(victims, rng.uniform(0, self.latest))
        return Kill(victims, random_step(rng, victims[0]))

    async def begin(self, variant: str = "") -> None:
        """Order the move to the other node; the server may run before."""
        if self.containers and "running" in variant:
            await self.containers.run()
        for node in self.nodes.values():
            shutil.rmtree(node.staging / ".quarantine", ignore_errors=True)
        self.destination = self.nodes["destination"]
        self.prepare(variant)
        await self.order()

    def prepare(self, variant: str) -> None:
        """Change what is to be changed before the transfer."""

    async def order(self) -> None:
        """Order the transfer by the Panel's call."""
        await self.pair.panel.transfer(UUID, self.destination.node, **self.request)

    async def restart(self, node: NodeProcess) -> None:
        await node.start_loaded(**self._changes)

    async def unsettled(self) -> str:
        """Return what has not ended yet; deletions and clean-ups run in the background."""
        if self.pair.panel.in_transfer(UUID):
            return "the Panel's transfer does not end"
        for node in self.nodes.values():
            is_deleting = any(".deleting" in path for path in node.paths_of_server()) or any(
                path.name.endswith(".discarded") for path in node.staging.iterdir()
            )
            if not is_finished(node) or is_deleting:
                found = ", ".join(steps_of(node))
                return f"{node.directory.name} does not finish what it has begun: {found}"
        return ""

    async def check(self) -> None:
        here, there = self.nodes.values()
        if not here.files().is_dir():
            raise Broken("the server is lost: it is not where the Panel says")
        if seen(here.files()) != self.before:
            raise Broken("the server is not whole where the Panel says that it is")
        paths = [path for path in here.paths_of_server() if path not in self.kept]
        left = [
            path
            for path in paths + there.paths_of_server()
            if not any(each in path for each in self.excused)
        ]
        if left:
            raise Broken(f"something is left over: {left}")
        if self.containers:
            await until_none(self.containers.fault)

    def check_success(self) -> None:
        """Check that the server is where it was to move."""
        if self.owner is not self.destination:
            raise Broken("the next transfer does not go well")


class Removals(Transfers):
    """Two backups move along, and are whole where the server is, and nowhere else.

    Calagopus' Panel wants them deleted at the source. Another backup of each node stays as it is.
    """

    BACKUPS: ClassVar[dict[str, bytes]] = {
        uuid: hashlib.shake_128(uuid.encode()).digest(50_000)
        for uuid in (f"5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c1{number}" for number in range(2))
    }
    #: The backup of each node that does not move, and its data.
    STAYING, DATA = "5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c19.tar.gz", b"another backup"
    request: ClassVar[dict[str, Any]] = {
        "archive_format": "tar_gz",
        "backups": [*BACKUPS],
        "delete_backups": True,
    }

    async def launch(self) -> None:
        source, other = (node.directory / "backups" for node in self.nodes.values())
        for place in (source, other):
            place.mkdir()
            (place / self.STAYING).write_bytes(self.DATA)
        for uuid, data in self.BACKUPS.items():
            (source / f"{uuid}.tar.gz").write_bytes(data)
        await super().launch()

    async def check(self) -> None:
        await super().check()
        here, there = (_backups_of(node) for node in self.nodes.values())
        if here.pop(self.STAYING, b"") != self.DATA or there.pop(self.STAYING, b"") != self.DATA:
            raise Broken("a backup that was not to be moved is not as it was")
        if here != {f"{uuid}.tar.gz": data for uuid, data in self.BACKUPS.items()}:
            raise Broken(f"where the server is, its backups are not, or not whole: {list(here)}")
        if there:
            raise Broken(f"where the server is not, backups are left: {list(there)}")


def _backups_of(node: NodeProcess) -> dict[str, bytes]:
    """Return the files in a node's directory of backups, without the catalogues of these."""
    top = node.directory / "backups"
    found = {}
    for path in top.iterdir() if top.is_dir() else ():
        with suppress(FileNotFoundError):  # one that has just followed its server
            if path.is_file():
                found[path.name] = path.read_bytes()
    return without_catalogues(found)


class Following(Transfers):
    """The server's local backups follow it, whole, to where it is, and are nowhere else."""

    BACKUPS: ClassVar[dict[str, bytes]] = {
        uuid: hashlib.shake_128(uuid.encode()).digest(size)
        for uuid, size in (
            ("5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11", 50_000),
            ("5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c12", 9_000_000),
            ("5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c13", 200_000),
        )
    }
    #: Lines of the log when one has come, and when one was removed.
    MOMENTS: ClassVar[Sequence[tuple[str, str]]] = (
        ("destination", "has followed the server to this node"),
        ("source", "removed, it is not needed here any more"),
        ("source", "files deleted"),
    )
    latest: ClassVar[float] = 1.5

    async def launch(self) -> None:
        top = self.pair.source.directory / "backups"
        top.mkdir()
        store = BackupStore(str(top), PTERODACTYL)
        for uuid, data in self.BACKUPS.items():
            name = f"{uuid}.tar.gz"
            (top / name).write_bytes(data)
            sha256 = hashlib.sha256(data).hexdigest()
            catalogue = Catalogue(VERSION, uuid, UUID, COMPLETE, name, len(data), sha256, 1.0)
            store.write_catalogue(name, catalogue)
            self.pair.panel.backups.add(uuid, UUID).told = {"successful": True}
        await super().launch()

    def plan(self, rng: random.Random) -> Kill:
        kill = super().plan(rng)
        if rng.random() < 1 / 2:
            return kill
        victim, line = rng.choice(self.MOMENTS)
        other = "source" if victim == "destination" else "destination"
        # The one whose line is waited for comes first.
        victims = rng.choice([(victim,), (victim, other)])
        return Kill(victims, line, (rng.choice([0.0, rng.uniform(0, 0.05)]), 0.0))

    async def unsettled(self) -> str:
        """Return what has not ended, or not followed."""
        found = await super().unsettled()
        here, there = (_backups_of(node) for node in self.nodes.values())
        if not found and (len(here) < len(self.BACKUPS) or there):
            found = f"backups have not followed: {list(here)} are here, {list(there)} there"
        return found

    async def check(self) -> None:
        await super().check()
        here, there = (_backups_of(node) for node in self.nodes.values())
        if here != {f"{uuid}.tar.gz": data for uuid, data in self.BACKUPS.items()}:
            raise Broken(f"where the server is, its backups are not, or not whole: {list(here)}")
        if there:
            raise Broken(f"where the server is not, backups are left: {list(there)}")


class FollowingHistories(Transfers):
    """The server's history follows it, with the points of all its stays, and is nowhere else.

    A half of the kills come while it follows, a half before.
    """

    #: Seconds at most from the beginning to a kill while it follows.
    FOLLOWS: ClassVar[float] = 1.2
    #: The points that are rebuilt after each kill; all are verified.
    REBUILT: ClassVar[int] = 8

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._scratch = directory / "scratch"
        self._trees: dict[int, Tree] = {}
        self.kept.append(f"histories/{UUID}")
        #: How often a kill came while a history followed.
        self.during = 0

    async def launch(self) -> None:
        """Start both nodes: points are made by an operator alone."""
        for node in (self.pair.source, self.pair.destination):
            (node.directory / "histories").mkdir(exist_ok=True)
            await node.start_loaded(**self.settings(node))

    async def restart(self, node: NodeProcess) -> None:
        await node.start_loaded(**self.settings(node))

    def settings(self, node: NodeProcess) -> dict[str, Any]:
        """Return the settings of a node."""
        return _with_histories(node)

    async def begin(self, variant: str = "") -> None:
        """Make points, of a server that changes, and order its move."""
        for _ in range(2):
            await self._point()
            self._change()
        self.before = seen(self.owner.files())
        await super().begin(variant)

    def _change(self) -> None:
        home = self.owner.files()
        with (home / "world" / "region.mca").open("r+b") as file:
            for _ in range(5):
                file.seek(self.rng.randrange(self.size))
                file.write(self.rng.randbytes(100))
        (home / f"log-{self.rng.randrange(9)}").write_bytes(self.rng.randbytes(9000))

    async def _point(self) -> None:
        here = self.owner
        while (await here.wingsctl("history", "make", UUID)).status != 0:
            await deferLater(reactor, 0.05)
        shown = (await here.wingsctl("history", UUID, "--json")).json
        self._trees.setdefault(shown["points"][0]["number"], seen(here.files()))

    async def _base(self) -> None:
        """Have the node that has the server make a point of its own."""
        await self._point()

    async def strike(self, kill: Kill) -> None:
        """Kill while the server moves, or when its history follows it."""
        if not isinstance(kill.moment, float) or kill.moment < self.latest:
            await super().strike(kill)
            return
        here, there = self.nodes.values()
        await self.begin()
        await until_none(super().unsettled)
        await self._point()
        await here.wingsctl("backups", "send", UUID)
        await deferLater(reactor, kill.moment - self.latest)
        self.during += _history_of(here).exists()
        for role in kill.victims:
            node = here if role == "source" else there
            node.signal("KILL")
            await node.ended()
            await self.restart(node)
        await self.settle()

    def plan(self, rng: random.Random) -> Kill:
        if rng.random() < 1 / 2:
            return super().plan(rng)
        moment = self.latest + rng.uniform(0, self.FOLLOWS)
        return Kill(rng.choice(self.victims), moment)

    async def unsettled(self) -> str:
        """Return what has not ended, or not followed: that is ordered once more."""
        found = await super().unsettled()
        there = self.nodes["destination"]
        if not found and _history_of(there).exists():
            await self._base()
            await there.wingsctl("backups", "send", UUID)
        if not found and [*_history_of(there).parent.iterdir()]:
            found = f"the history has not followed: {there.directory.name} still has it"
        return found

    async def check(self) -> None:
        await super().check()
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir()
        copy = self._scratch / "history"
        shutil.copytree(_history_of(self.owner), copy, symlinks=True)
        with closing(HistoryStore(str(copy))) as store:
            if damaged := store.verify():
                raise Broken(f"points are damaged: {damaged}")
            numbers = {point.number for point in store.points()}
            if lost := self._trees.keys() - numbers:
                raise Broken(f"points are lost: {sorted(lost)}")
            for number in sorted(self._trees)[-self.REBUILT :]:
                target = self._scratch / str(number)
                target.mkdir()
                with closing_descriptor(os.open(target, os.O_RDONLY)) as fd:
                    rebuild(store, number, fd)
                if seen(target) != self._trees[number]:
                    raise Broken(f"point {number} is not as it was")

    def evidence(self) -> list[str]:
        found = super().evidence()
        for node in self.nodes.values():
            with closing(sqlite3.connect(node.directory / "wingsd.db")) as database:
                for table in ("left_backups", "arriving_backups"):
                    rows = database.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608
                    found.append(f"{node.directory.name}, {table}: {rows}")
            found.append(str(sorted(path.name for path in _history_of(node).glob("*"))))
        return found

    def summary(self) -> str:
        points = f"{len(self._trees)} points, {self.during} kills while they followed"
        return f"{super().summary()}; {points}"


class FollowingPoints(FollowingHistories):
    """The points are backups: each is where the server is, by its name, and nowhere else."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        #: The numbers of the points, by the UUIDs of the backups.
        self._backups: dict[str, int] = {}

    def settings(self, node: NodeProcess) -> dict[str, Any]:
        found = _with_histories(node)
        found["system"]["history"]["every"] = 0
        return {"system": found["system"] | {"backups": {"wings": {"kind": "history"}}}}

    async def _point(self) -> None:
        here, panel = self.owner, self.pair.panel
        backup = str(uuid5(NAMESPACE_URL, f"{self.rng.random()}"))
        panel.backups.add(backup, UUID)
        order = {"adapter": "wings", "uuid": backup, "ignore": ""}
        path = f"/api/servers/{UUID}/backup"
        while (await panel.ask(here.node, "POST", path, order))[0] != HTTPStatus.ACCEPTED:
            await deferLater(reactor, 0.05)  # while the end of a transfer is recorded
        await until(lambda: panel.backups.known[backup].is_over)
        name = read_names(str(_history_of(here)))[backup]
        self._backups[backup] = name.number
        self._trees.setdefault(name.number, seen(here.files()))

    async def _base(self) -> None:
        """Make none: the node makes the one that the history needs."""

    async def check(self) -> None:
        await super().check()
        names = read_names(str(_history_of(self.owner)))
        if {name: found.number for name, found in names.items()} != self._backups:
            missing, more = self._backups.keys() - names, names.keys() - self._backups
            raise Broken(f"backups are missing: {missing}; or are there again: {more}")


def _with_histories(node: NodeProcess) -> dict[str, Any]:
    directory = str(node.directory / "histories")
    history = {"every": "12h", "keep": {"24h": 8_640_000}, "directory": directory}
    return {"system": {"history": history}}


def _history_of(node: NodeProcess) -> Path:
    return node.directory / "histories" / UUID


class Pooled(Transfers):
    """The nodes share a volume: each file of the server stays the very one that it was.

    Nothing else is on the volume, and neither node has anything of the server among its own.
    """

    def __init__(self, directory: Path) -> None:
        # The names of pools are compared without regard to case.
        super().__init__(directory, pools=("attic", "Attic"))
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
        if seen(files) != self.before or self._identities() != self._inodes:
            raise Broken("the server's files are not those that were there")
        on_volume = sorted(path.name for path in files.parent.iterdir())
        if on_volume != [UUID]:
            raise Broken(f"something else is on the volume: {on_volume}")
        for node in self.nodes.values():
            staged = [path.name for path in node.staging.iterdir() if path.name != ".lock"]
            if staged or node.paths_of_server():
                raise Broken(f"something is left over: {staged}, {node.paths_of_server()}")


class Containered(Transfers):
    """The nodes share a Docker engine, also while one of them dies and the other rolls back."""

    victims: ClassVar[Sequence[tuple[str, ...]]] = (*VICTIMS, ("destination", "source"))
    #: Seconds at most that an engine is given for its work: until the first dies, then the second.
    DELAY: ClassVar[float] = 0.15

    def plan(self, rng: random.Random) -> Kill:
        """Return the next kill: before the engine begins, in the middle, or without its answer."""
        delays = (rng.uniform(0, self.DELAY), rng.uniform(0, self.DELAY))
        variant = "running" if rng.random() < 1 / 3 else ""
        return attrs.evolve(super().plan(rng), delays=delays, variant=variant)


class Resumed(Transfers):
    """Moves that resume: whatever breaks, the server moves on, and nothing is sent again.

    Without a kill the server is moved, however often the line breaks. Of a transfer that fails
    what has arrived may be kept, for the next one. Of each node only the connections are broken by
    which it is reached. `mebibytes` are those of the server's large files, which do not compress.
    """

    #: MiB of a batch at most, and how many are under way at once.
    BATCH, STREAMS = 1, 2
    #: MiB that may be sent twice for each break: the batches that were under way; and the most
    #: that kills and breaks of the line may cost together.
    AGAIN, BOUND = 2 * BATCH * STREAMS, 128
    #: Files of the server: large ones, and small ones in directories.
    LARGE, SMALL, DIRECTORIES = 6, 600, 20
    #: Seconds at most that the line stalls; the share of the server that is sent before it breaks:
    #: the first requests need it; and changes of the server before each transfer.
    STALL, FIRST, CHANGES = 2.0, 0.03, 12
    #: The kinds of breaks, and MiB that may be sent beside the contents of files: names and
    #: digests, the pages of what is held, TLS, and requests.
    breaks: ClassVar[Sequence[str]] = ("cut", "stall", "lose")
    more: ClassVar[int] = 3
    excused: ClassVar[Sequence[str]] = (*Transfers.excused, KEPT)
    latest = 3.0
    size = 1000
    configured: ClassVar[dict[str, Any]] = {
        # Seconds for which a node that has died is waited for, after the commit.
        "answer_grace": 20,
        "disk_reserve": 0,
        "moves": {"batch": BATCH, "streams": STREAMS},
    }

    def __init__(self, directory: Path, engine: Engine | None = None, mebibytes: int = 48) -> None:
        super().__init__(directory, engine)
        self._mebibytes = mebibytes
        self._changing = random.Random(mebibytes)
        self._breaks = 0
        self._from = 0
        self._bytes = 0

    def fill(self, home: Path) -> None:
        size = (self._mebibytes << 20) // self.LARGE
        for number in range(self.LARGE):
            data = hashlib.shake_128(b"large %d" % number).digest(size)
            (home / "world" / f"r.{number}.mca").write_bytes(data)
        for number in range(self.SMALL):
            directory = home / f"players/{number % self.DIRECTORIES}"
            directory.mkdir(parents=True, exist_ok=True)
            (directory / f"{number}.dat").write_bytes(b"%d" % number * (number % 97))
        (home / "changing").mkdir()

    def plan(self, rng: random.Random) -> Kill:
        """Return the next kill: of nodes, or breaks of the line only, or both.

        With an engine a third of the servers run before.
        """
        victims = rng.choice((*self.victims, ()))
        variant = [
            f"{rng.choice(self.breaks)} at {rng.uniform(self.FIRST, 1):.2f}"
            for _ in range(rng.choice((1, 2, 3) if not victims else (0, 0, 1, 2)))
        ]
        moment: float | str = rng.uniform(0, self.latest)
        if victims and rng.random() < 1 / 3:
            moment = random_step(rng, victims[0])
        if self.containers and rng.random() < 1 / 3:
            variant.insert(0, "running")
        return Kill(victims, moment, variant=", ".join(variant))

    def prepare(self, variant: str) -> None:
        """Change the server, and have the line break as often as the variant says."""
        home = self.nodes["source"].files()
        changes = Changes(home / "changing")
        for _ in range(self.CHANGES):
            changes.run_one_of(CHANGED, self._changing)
        self._write(home)
        self.before = seen(home)
        self._bytes = sum({each[3]: len(each[2]) for each in self.before.values()}.values())
        line = self.line_to(self.destination)
        line.calm()
        self._from, self._breaks = line.sent, 0
        for kind, share in re.findall(r"(\w+) at (\d\.\d\d)", variant):
            event = partial(self._break, self.destination, kind)
            line.after(int(self._bytes * float(share)), event)

    def _write(self, home: Path) -> None:
        """Rename one of the large files, and write to another."""
        rng = self._changing
        renamed = rng.choice(sorted((home / "world").glob("r.*")))
        renamed.rename(renamed.with_name(f"r.{rng.randrange(10**6)}.mca"))
        with rng.choice(sorted((home / "world").glob("r.*"))).open("r+b") as file:
            file.seek(rng.randrange(os.fstat(file.fileno()).st_size))
            file.write(rng.randbytes(10_000))

    def line_to(self, node: NodeProcess) -> Line:
        """Return the line that sources reach a node by."""
        return node.line

    def _break(self, node: NodeProcess, kind: str) -> None:
        self._breaks += 1
        self.break_line(node, kind)

    def break_line(self, node: NodeProcess, kind: str) -> None:
        """Break the line to a node."""
        self.break_at(self.line_to(node), kind)

    def break_at(self, line: Line, kind: str) -> None:
        """Break a line."""
        match kind:
            case "cut":
                line.cut()
            case "lose":
                line.lose_answers()
            case _:
                line.stall(self._changing.uniform(0, self.STALL))

    async def restart(self, node: NodeProcess) -> None:
        self._breaks += 1
        await super().restart(node)

    async def check(self) -> None:
        await super().check()
        for node in self.nodes.values():
            self.line_to(node).calm()
        self._check_kept()
        if not self.kill.victims:
            self.check_success()
        sent = self.line_to(self.destination).sent - self._from
        again = (sent - self._bytes) / 2**20
        allowed = min(self.more + self._breaks * self.AGAIN, self.BOUND)
        if again > allowed:
            raise Broken(
                f"{again:.1f} MiB more than the server has were sent in {self._breaks} breaks, "
                f"which may be {allowed}"
            )

    def _check_kept(self) -> None:
        kept = [path for node in self.nodes.values() for path in (node.staging / KEPT).glob("*")]
        if len(kept) > (self.owner is not self.destination):
            raise Broken(f"partial copies are left over: {kept}")


class Live(Resumed):
    """The server runs before each move, and after it: at its new node, or where it stays.

    No two containers of it run at any time, as the engine that both nodes share knows.
    """

    _begun = 0

    def plan(self, rng: random.Random) -> Kill:
        """Return the next kill; the server always runs before."""
        kill = super().plan(rng)
        breaks = kill.variant.removeprefix("running").removeprefix(", ")
        return attrs.evolve(kill, variant=", ".join(filter(None, ("running", breaks))))

    async def begin(self, variant: str = "") -> None:
        self._begun = int(time.time())
        await super().begin(variant)

    async def unsettled(self) -> str:
        """Return what has not ended yet, also a start that is still to be tried."""
        assert self.containers
        left = await super().unsettled()
        if not left and not self.containers.running() and not self.containers.owes:
            where = "has moved" if self.owner is self.destination else "stays"
            left = f"the server {where}, and does not run"
        return left

    async def check(self) -> None:
        assert self.containers
        await super().check()
        await until_none(self._misplaced)
        if (most := await deferToThread(self.containers.most_at_once, self._begun)) > 1:
            raise Broken(f"{most} containers of the server ran at once")

    async def _misplaced(self) -> str:
        assert self.containers
        runs = self.containers.running()
        return "" if runs in ([], [str(self.owner.files())]) else f"it runs elsewhere: {runs}"


class Proxied(Resumed):
    """Each node is reached through a strict proxy between two lines.

    Any of them breaks, and the proxy is started again, or answers too late. Half of the proxies
    cut bodies and do not say so.
    """

    #: Bytes of a body that gets through: less than a batch has.
    LIMIT = 700 << 10
    #: Seconds that the proxy waits for an answer, and while it is late, and for how long it is.
    ANSWERED, LATE, LATE_FOR = 60.0, 0.02, 1.0
    CUTTING = "the proxy cuts bodies"
    breaks: ClassVar[Sequence[str]] = (
        *Resumed.breaks,
        *(f"{each}_behind" for each in Resumed.breaks),
        "restart",
        "late",
    )
    # Bodies that were too large: each stream sends a few until one gets through.
    more = Resumed.more + 8

    def __init__(self, directory: Path, mebibytes: int = 16) -> None:
        super().__init__(directory, mebibytes=mebibytes)
        self._proxies: dict[NodeProcess, HttpProxy] = {}
        self._lines: dict[NodeProcess, Line] = {}

    async def launch(self) -> None:
        """Start the nodes, and a proxy and another line before each of them."""
        await super().launch()
        for node in (self.pair.source, self.pair.destination):
            address, limit, within = node.node.address, self.LIMIT, self.ANSWERED
            proxy = HttpProxy(address, node.authority, body_limit=limit, answer_within=within)
            line = Line(reactor, int(proxy.url.rpartition(":")[2]), FAST)
            node.node.address = f"https://127.0.0.1:{line.listening_port}"
            self._proxies[node], self._lines[node] = proxy, line

    async def close(self) -> None:
        await super().close()
        for node, line in self._lines.items():
            await line.close()
            await self._proxies[node].close()

    def plan(self, rng: random.Random) -> Kill:
        kill = super().plan(rng)
        cutting = [self.CUTTING] if rng.random() < 1 / 2 else []
        return attrs.evolve(kill, variant=", ".join(filter(None, [kill.variant, *cutting])))

    def prepare(self, variant: str) -> None:
        for proxy in self._proxies.values():
            proxy.answer_within = self.ANSWERED  # by which the Panel asks as well
        self._proxies[self.destination].cuts_bodies = self.CUTTING in variant
        super().prepare(variant)

    def line_to(self, node: NodeProcess) -> Line:
        """Return the line before the proxy."""
        return self._lines[node]

    def break_line(self, node: NodeProcess, kind: str) -> None:
        """Break one of the lines, or have the proxy fail."""
        proxy, behind = self._proxies[node], node.line
        if kind.endswith("_behind"):
            self.break_at(behind, kind.removesuffix("_behind"))
        elif kind == "restart":
            self._lines[node].cut()
            behind.cut()
        elif kind == "late":
            proxy.answer_within = self.LATE
            reactor.callLater(self.LATE_FOR, setattr, proxy, "answer_within", self.ANSWERED)
        else:
            super().break_line(node, kind)


class ByHand(Resumed):
    """Operators move the server by direct transfers, with the same invariants and without a Panel.

    One node has the files; the source's are deleted when the server has moved.
    """

    @property
    def owner(self) -> NodeProcess:
        """The node that has the server's files; of two the one that sends them."""
        source, other = self.pair.source, self.pair.destination
        if self.destination is source:
            source, other = other, source
        return source if source.files().is_dir() else other

    async def launch(self) -> None:
        for node in (self.pair.source, self.pair.destination):
            await node.start_without_panel()

    async def restart(self, node: NodeProcess) -> None:
        """Start a node again that was killed; return when it listens."""
        self._breaks += 1
        await node.start_without_panel()

    async def order(self) -> None:
        source, destination = self.nodes.values()
        url = ("--url", destination.node.address)
        invited = await destination.wingsctl("receive", UUID, *url, "--json")
        if invited.status:
            raise Broken(f"the server is not expected: {invited.err}")
        _, *words = shlex.split(invited.json["send"])
        options = ("--delete", "--no-wait", "--settings", str(self._settings(source)))
        sent = await source.wingsctl(*words, *options)
        if sent.status:
            raise Broken(f"the server is not sent: {sent.err}")

    def _settings(self, source: NodeProcess) -> Path:
        """Return a file that describes the server, for a node that has only its files."""
        path = source.directory / "settings.json"
        process = process_configuration()
        description = {"settings": server_settings(UUID), "process_configuration": process}
        path.write_text(json.dumps(description))
        return path

    async def check(self) -> None:
        if all(node.files().is_dir() for node in self.nodes.values()):
            raise Broken("both nodes have the server")
        await super().check()
        known = await self.owner.wingsctl("show", UUID, "--json")
        server = known.json["server"]
        if server is None or server["hold"]:
            raise Broken(f"the node that has the server cannot start it: {server}")


class Seeded(Resumed):
    """Transfers that go on with a seed, of which nothing is sent again.

    The Panel's order comes while the copy may still be on its way. A copy that follows is ended by
    that; where a kill is in between, it goes on, and the next order ends it.

    A copy that is `due` moves the server itself, unless the order comes before. The Panel's
    administrator then says that the server is at the other node.
    """

    #: The share of copies that are due, seconds until then, and at most from then to the order.
    DUE, DUE_IN, ORDERED_WITHIN = 1 / 3, 4, 2.0
    #: Seconds until a node is asked again that has died, or has the server in a transfer.
    AGAIN_IN = 0.3
    _is_due = False
    _delay = 0.0
    #: Fires with whether the server has moved before the order.
    _ordering: Deferred[bool] | None = None

    def plan(self, rng: random.Random) -> Kill:
        """Return the next kill; a third of them are about the time at which a copy is due."""
        kill = super().plan(rng)
        is_due, self._delay = rng.random() < self.DUE, rng.uniform(0, self.ORDERED_WITHIN)
        variant = ", ".join(["due", *filter(None, [kill.variant])])
        return attrs.evolve(kill, variant=variant) if is_due else kill

    def prepare(self, variant: str) -> None:
        self._is_due = variant.startswith("due")
        super().prepare(variant)

    async def order(self) -> None:
        """Let a copy follow the server, and order the transfer then or, if it is due, later."""
        due = await self.copy()
        if not self._is_due:
            await super().order()
            return
        await deferLater(reactor, max((due - datetime.now()).total_seconds(), 0.0))
        self._ordering = Deferred.fromCoroutine(self._order_later())

    async def copy(self) -> datetime:
        """Start a seed of the server; return when its switch-over is due."""
        source, destination = self.nodes.values()
        url = ("--url", destination.node.address)
        invited = await destination.wingsctl("receive", UUID, "--follow", *url, "--json")
        if invited.status:
            raise Broken(f"the copy is not expected: {invited.err}")
        due = datetime.now() + timedelta(seconds=self.DUE_IN)
        options = ("--stop-at", f"{due:%Y-%m-%d %H:%M:%S}", "--delete") if self._is_due else ()
        seeded = await source.wingsctl(*shlex.split(invited.json["send"])[1:], *options)
        if seeded.status and "already in progress" not in seeded.err:
            raise Broken(f"no copy follows the server: {seeded.err}")
        return due

    async def _order_later(self) -> bool:
        """Order the transfer; return whether the server has moved before."""
        source, destination = self.nodes.values()
        await deferLater(reactor, self._delay)
        while True:
            with suppress(NodeError):  # it has died, or moves the server already
                await super().order()
                return False
            has_moved = destination.files().is_dir() and not source.files().is_dir()
            if has_moved and all(map(is_finished, (source, destination))):
                return True
            await deferLater(reactor, self.AGAIN_IN)

    async def unsettled(self) -> str:
        """Return what has not ended yet, but for a copy that follows: that is cancelled."""
        if self._ordering is not None:
            if not self._ordering.called:
                return "the Panel has not ordered it, and it has not moved"
            ordering, self._ordering = self._ordering, None
            if await ordering:
                await self._assign()
        if not self.pair.panel.in_transfer(UUID):
            for node in self.nodes.values():
                await node.wingsctl("cancel", UUID)
        return await super().unsettled()

    async def _assign(self) -> None:
        """Say in the Panel where the server is, and restart the nodes so that they ask it."""
        nodes = self.nodes.values()
        self.pair.panel.assign(UUID, self.destination.node)
        for node in nodes:
            await node.kill()
            await super().restart(node)
