"""Scenarios of moves that resume: nodes die and the line between them breaks, at any moment.

Nothing that has arrived is sent again: what goes over the line stays within a bound.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from tests.kills.containers import Containers
from tests.kills.engine import Broken, Kill, random_step, until_none
from tests.kills.moves import Transfers
from tests.moves.changing import NAMES, Changes
from tests.support.archives import seen
from tests.support.docker_engine import Engine
from tests.support.line import Line
from tests.support.node_process import NodeProcess
from tests.support.sample_server import UUID
from wingsd.transfers.storage.staging import KEPT

__all__ = ["ContaineredResumed", "Resumed"]

#: MiB of a batch at most, and how many are under way at once.
BATCH, STREAMS = 1, 2
#: MiB that may be sent twice for each break: the batches that were under way. And those beside the
#: contents of files: names and digests, the pages of what is held, TLS, and requests.
AGAIN, MORE = 2 * BATCH * STREAMS, 3
#: What kills and breaks of the line may cost together, in MiB.
BOUND = 128
#: Files of the server: large ones, and small ones in directories.
LARGE, SMALL, DIRECTORIES = 6, 600, 20
#: Seconds at most from a transfer's beginning to a kill at random, and that the line stalls.
LATEST, STALL = 3.0, 2.0
#: Seconds for which a node that has died is waited for, after the commit.
GRACE = 20
#: The share of the server that is sent before the line breaks: the first requests need it.
FIRST = 0.03
#: Breaks of the line.
LINES = ("cut", "stall", "lose")
#: Changes of the server before each transfer.
CHANGES = 12
KINDS = (
    *("file", "big", "directory", "symlink", "hard link", "touch", "mode", "write", "rewrite"),
    *("truncate", "grow", "rename", "rename", "swap", "delete"),
)
_BREAK = re.compile(r"(\w+) at (\d\.\d\d)")


class Resumed(Transfers):
    """Whatever breaks, the server moves on; and what holds after any transfer holds after these.

    Without a kill the server is moved, however often the line breaks. Of a transfer that fails
    what has arrived may be kept, for the next one. Of each node only the connections are broken by
    which it is reached. `size` is that of the server's large files, in MiB; they do not compress.
    """

    excused: ClassVar[Sequence[str]] = (*Transfers.excused, KEPT)
    #: The kinds of breaks, and MiB that may be sent beside the server's files.
    breaks: ClassVar[Sequence[str]] = LINES
    more: ClassVar[int] = MORE

    def __init__(self, directory: Path, size: int = 48) -> None:
        super().__init__(directory)
        self._size = size
        self._rng = random.Random(size)
        self._breaks = 0
        self._from = 0
        self._planned = Kill((), 0.0)
        self._bytes = 0
        #: Most MiB that were sent twice, of all transfers.
        self.worst = 0.0

    async def start(self) -> None:
        for node in (self.pair.source, self.pair.destination):
            node.transfers = {
                "answer_grace": GRACE,
                "disk_reserve": 0,
                "moves": {"batch": BATCH, "streams": STREAMS},
            }
        self.pair.add_server(1000, **self.settings)
        self._fill(self.pair.source.files())
        await self._launch()
        self._before = seen(self.pair.source.files())

    async def _launch(self) -> None:
        await self.pair.start(self.changes, self.changes)

    def _fill(self, home: Path) -> None:
        size = (self._size << 20) // LARGE
        for number in range(LARGE):
            data = hashlib.shake_128(b"large %d" % number).digest(size)
            (home / "world" / f"r.{number}.mca").write_bytes(data)
        for number in range(SMALL):
            directory = home / f"players/{number % DIRECTORIES}"
            directory.mkdir(parents=True, exist_ok=True)
            (directory / f"{number}.dat").write_bytes(b"%d" % number * (number % 97))
        (home / "changing").mkdir()

    def plan(self, rng: random.Random) -> Kill:
        """Return the next kill: of nodes, or breaks of the line only, or both."""
        victims = rng.choice((*self.victims, ()))
        breaks = [
            f"{rng.choice(self.breaks)} at {rng.uniform(FIRST, 1):.2f}"
            for _ in range(rng.choice((1, 2, 3) if not victims else (0, 0, 1, 2)))
        ]
        moment: float | str = rng.uniform(0, LATEST)
        if victims and rng.random() < 1 / 3:
            moment = random_step(rng, victims[0])
        self._planned = Kill(victims, moment, variant=", ".join(breaks))
        return self._planned

    async def begin(self, variant: str = "") -> None:
        """Change the server, and have the Panel move it to the other node."""
        changes = Changes(self.nodes["source"].files() / "changing")
        for _ in range(CHANGES):
            where = self._rng.randrange(10**6), self._rng.randrange(10**6)
            changes.run((self._rng.choice(KINDS), *where, self._rng.choice(NAMES)))
        self._write(self.nodes["source"].files())
        self._before = seen(self.nodes["source"].files())
        self._bytes = sum({each[3]: len(each[2]) for each in self._before.values()}.values())
        destination = self.nodes["destination"]
        line = self.line_to(destination)
        line.calm()
        self._from, self._breaks = line.sent, 0
        for kind, share in _BREAK.findall(variant):
            line.after(int(self._bytes * float(share)), partial(self._break, destination, kind))
        await super().begin(variant)

    def _write(self, home: Path) -> None:
        """Rename one of the large files, and write to another."""
        large = sorted((home / "world").glob("r.*"))
        renamed = self._rng.choice(large)
        renamed.rename(renamed.with_name(f"r.{self._rng.randrange(10**6)}.mca"))
        with self._rng.choice(sorted((home / "world").glob("r.*"))).open("r+b") as file:
            file.seek(self._rng.randrange(os.fstat(file.fileno()).st_size))
            file.write(self._rng.randbytes(10_000))

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
                line.stall(self._rng.uniform(0, STALL))

    async def restart(self, node: NodeProcess) -> None:
        self._breaks += 1
        await super().restart(node)

    async def check(self) -> None:
        await super().check()
        for node in self.nodes.values():
            self.line_to(node).calm()
        assert self._destination is not None
        self._check_kept(self._destination)
        if not self._planned.victims:
            self.check_success()
        sent = self.line_to(self._destination).sent - self._from
        again = (sent - self._bytes) / 2**20
        self.worst = max(self.worst, again)
        allowed = min(self.more + self._breaks * AGAIN, BOUND)
        if again > allowed:
            raise Broken(
                f"{again:.1f} MiB more than the server has were sent in {self._breaks} breaks, "
                f"which may be {allowed}"
            )

    def _check_kept(self, destination: NodeProcess) -> None:
        nodes = self.nodes.values()
        kept = [path for node in nodes for path in (node.staging / KEPT).glob("*")]
        most = 0 if self.owner is destination else 1
        if len(kept) > most:
            raise Broken(f"partial copies are left over: {kept}")


class ContaineredResumed(Resumed):
    """The nodes share a Docker engine: the server has one container, that of the right node."""

    # The container shows the second one.
    kept: ClassVar[Sequence[str]] = (*Transfers.kept, f"machine-id/{UUID}")

    def __init__(self, directory: Path, engine: Engine, size: int = 48) -> None:
        super().__init__(directory, size)
        self._containers = Containers(engine, self.pair)
        self.changes = self._containers.configuration
        self.settings = self._containers.settings

    async def start(self) -> None:
        """Start the Panel and both nodes, and the server: its container is made by that."""
        await super().start()
        await self._containers.run()

    def plan(self, rng: random.Random) -> Kill:
        """Return the next kill; a third of the servers run before."""
        kill = super().plan(rng)
        running = ["running"] if rng.random() < 1 / 3 else []
        variant = ", ".join([*running, *filter(None, [kill.variant])])
        return Kill(kill.victims, kill.moment, variant=variant)

    async def begin(self, variant: str = "") -> None:
        """Have the Panel move the server, which may run before."""
        if variant.startswith("running"):
            await self._containers.run()
        await super().begin(variant)

    async def check(self) -> None:
        await super().check()
        await until_none(self._containers.fault)
