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
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

from tests.crash.engine import REPOSITORY, Broken, Campaign, place, until_none
from tests.crash.two_nodes import VICTIMS, ByHand, Resumed, Seeded, Transfers
from tests.support.faults import Hang
from tests.support.node_process import FAST, NodeProcess
from tests.support.sample_server import UUID

__all__ = ["KINDS", "campaigns"]

#: MiB of the server, the share of them that is sent before a node dies, and bytes a second then.
SIZE, SHARE, RATE = 16, 0.4, 4 << 20
SUCCESS = "/transfer/success"


class Copied(Seeded):
    """A copy that follows the server; the Panel orders the transfer after the update."""

    async def order(self) -> None:
        await self.copy()

    async def order_after_update(self) -> None:
        await Transfers.order(self)


class Update(Campaign):
    """An update of the nodes of a scenario, which run by the interpreter `old` before."""

    def __init__(
        self,
        scenario: Resumed,
        old: str,
        middle: Callable[[Update], Awaitable[None]],
        victims: tuple[str, ...],
    ) -> None:
        self._scenario = scenario
        self._middle = middle
        self._victims = victims
        self._panel = scenario.pair.panel
        self._nodes = (scenario.pair.source, scenario.pair.destination)
        self._answer = Hang()
        for node in self._nodes:
            node.python = old

    async def start(self) -> None:
        await self._scenario.start()

    async def close(self) -> None:
        await self._scenario.close()

    def evidence(self) -> list[str]:
        return ["\n".join((f"--- {n.directory.name}", *n.past, *n.log)) for n in self._nodes]

    async def half_sent(self) -> None:
        """Begin; return when a part of the server has been sent."""
        line = self._nodes[1].line
        line.bytes_per_second = RATE
        enough = line.sent + SHARE * (SIZE << 20)
        await self._scenario.begin()
        await _until(lambda: line.sent > enough, "the source does not send")

    async def at_commit(self) -> None:
        """Begin; return when the Panel was sent a success, which it neither notes nor answers."""
        self._answer = self._panel.hold(SUCCESS)
        await self._scenario.begin()
        await self._panel.called(SUCCESS)

    async def trial(self, number: int) -> str:
        """Kill the victims in the middle, update both nodes, and check."""
        await self._middle(self)
        victims = [self._scenario.nodes[role] for role in self._victims]
        if self._is_over():
            raise Broken("the transfer was over before the update")
        for node in victims:
            await node.kill()
        self._answer.release()
        self._nodes[1].throttle(FAST)
        for node in victims:
            await self._start(node)
        if isinstance(self._scenario, Copied):
            await self._scenario.order_after_update()
        await _until(self._is_over, "the transfer does not end")
        for node in self._nodes:
            if node not in victims:
                node.signal("TERM")
                await node.ended()
                await self._start(node)
        await self._scenario.settle()
        self._scenario.check_success()
        self.done = self.count
        return f"{' and '.join(self._victims)} killed: the server has moved"

    async def _start(self, node: NodeProcess) -> None:
        node.python = ""
        await self._scenario.restart(node)

    def _is_over(self) -> bool:
        is_open = self._panel.in_transfer(UUID)
        return not is_open and all(node.has_ended_transfers() for node in self._nodes)


async def _until(holds: Callable[[], bool], fault: str) -> None:
    async def found() -> str:
        return "" if holds() else fault

    await until_none(found)


#: What is updated in the middle: the scenario, and how its middle is reached.
CASES: dict[str, tuple[type[Resumed], Callable[[Update], Awaitable[None]]]] = {
    "move": (Resumed, Update.half_sent),
    "direct transfer": (ByHand, Update.half_sent),
    "copy": (Copied, Update.half_sent),
    "commit": (Resumed, Update.at_commit),
}
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
            scenario, middle = CASES[case]
            for victims in VICTIMS:
                place_of_case = directory / f"{case} {len(victims)} {victims[0]}"
                made = scenario(place_of_case, mebibytes=SIZE)
                yield case, Update(made, old, middle, victims)
