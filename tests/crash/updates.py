"""Updates in the middle of transfers, from the code of a commit to the present code.

Daemons of the commit are killed in the middle of a move, a direct transfer and a copy that follows
its server, and at a commit. Those of the present code go on with what they find; where one node
died, the other is updated when the transfer is over.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.crash.engine import REPOSITORY, Broken, Campaign, place, until_none
from tests.crash.two_nodes import VICTIMS, ByHand, Resumed, Seeded, Transfers
from tests.support.node_process import FAST, NodeProcess
from tests.support.sample_server import UUID

#: MiB of the server, the share of them that is sent before a node dies, and bytes a second then.
SIZE, SHARE, RATE = 16, 0.4, 4 << 20


class Updated(Resumed):
    """A move whose nodes run by the interpreter `old` until `victims` die and both are updated."""

    def __init__(self, directory: Path, old: str, victims: tuple[str, ...]) -> None:
        super().__init__(directory, mebibytes=SIZE)
        self._victims = victims
        self._every = (self.pair.source, self.pair.destination)
        for node in self._every:
            node.python = old

    def evidence(self) -> list[str]:
        return ["\n".join((f"--- {n.directory.name}", *n.past, *n.log)) for n in self._every]

    async def reach_middle(self) -> None:
        """Begin; return when a part of the server has been sent."""
        line = self.pair.destination.line
        line.bytes_per_second = RATE
        enough = line.sent + SHARE * (SIZE << 20)
        await self.begin()
        await _until(lambda: line.sent > enough, "the source does not send")

    async def go_on(self) -> None:
        """Do what has to be done when the victims were updated."""

    async def trial(self, number: int) -> str:
        """Kill the victims in the middle, update both nodes, and check."""
        await self.reach_middle()
        victims = [self.nodes[role] for role in self._victims]
        if self._is_over():
            raise Broken("the transfer was over before the update")
        for node in victims:
            await node.kill()
        self.pair.destination.throttle(FAST)
        await self._update(victims)
        await self.go_on()
        await _until(self._is_over, "the transfer does not end")
        others = [node for node in self._every if node not in victims]
        for node in others:
            node.signal("TERM")
            await node.ended()
        await self._update(others)
        await self.settle()
        self.check_success()
        self.done = self.count
        return f"{' and '.join(self._victims)} killed: the server has moved"

    async def _update(self, nodes: list[NodeProcess]) -> None:
        for node in nodes:
            node.python = ""
            await self.restart(node)

    def _is_over(self) -> bool:
        is_open = self.pair.panel.in_transfer(UUID)
        return not is_open and all(node.has_ended_transfers() for node in self._every)


class Direct(Updated, ByHand):
    """A direct transfer."""


class Copied(Updated, Seeded):
    """A copy that follows the server; the Panel orders the transfer after the update."""

    async def order(self) -> None:
        await self.copy()

    async def go_on(self) -> None:
        await Transfers.order(self)


class AtCommit(Updated):
    """A move at its commit: the Panel was sent a success, which it neither notes nor answers."""

    SUCCESS = "/transfer/success"

    async def reach_middle(self) -> None:
        self._answer = self.pair.panel.hold(self.SUCCESS)
        await self.begin()
        await self.pair.panel.called(self.SUCCESS)

    async def _update(self, nodes: list[NodeProcess]) -> None:
        self._answer.release()
        await super()._update(nodes)


async def _until(holds: Callable[[], bool], fault: str) -> None:
    async def found() -> str:
        return "" if holds() else fault

    await until_none(found)


CASES = {"move": Updated, "direct transfer": Direct, "copy": Copied, "commit": AtCommit}
KINDS = tuple(CASES)


def installed(commit: str, directory: Path) -> str:
    """Put the code of a commit into a directory; return an interpreter that imports it.

    Processes that a daemon starts have it as well. Other packages are those of this process.
    """
    code, environment = directory / "code", directory / "venv"
    code.mkdir()
    archive = ["git", "-C", str(REPOSITORY), "archive", commit, "wingsd", "twisted"]
    content = subprocess.run(archive, check=True, stdout=subprocess.PIPE).stdout
    subprocess.run(["tar", "-x", "-C", str(code)], input=content, check=True)
    venv.create(environment, symlinks=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    others = [path for path in sys.path if path.endswith("-packages")]
    (packages / "code.pth").write_text("\n".join([str(code), *others]))
    return str(environment / "bin" / "python")


def campaigns(kinds: Sequence[str], options: Namespace) -> Iterator[tuple[str, Campaign]]:
    """Yield updates in the middle of each of these cases, with each of the nodes killed."""
    with place("updates", in_memory=False) as directory:
        old = installed(options.commit, directory)
        for case in kinds:
            for victims in VICTIMS:
                name = f"{case} {len(victims)} {victims[0]}"
                yield case, CASES[case](directory / name, old, victims)
