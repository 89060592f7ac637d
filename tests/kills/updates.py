"""`python -m tests.kills.updates COMMIT`: an update from that commit in the middle of transfers.

Daemons of its code are killed in the middle of a move, a direct transfer and a copy that follows
its server, and at a commit. Those of the present code go on with what they find; where one node
died, the other is updated when the transfer is over. The exit status is 1 where a server did not
move, or an invariant of the kills did not hold.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import venv
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from tests.kills.by_hand import ByHand
from tests.kills.engine import Broken, Injector, until_none
from tests.kills.moves import VICTIMS, Transfers
from tests.kills.resumed import Resumed
from tests.kills.seeded import Seeded
from tests.support.faults import Hang
from tests.support.node_process import FAST, NodeProcess
from tests.support.running import run_command
from tests.support.sample_server import UUID

ROOT = Path(__file__).parents[2]
#: MiB of the server, the share of them that is sent before a node dies, and bytes a second then.
SIZE, SHARE, RATE = 16, 0.4, 4 << 20
SUCCESS = "/transfer/success"


class Copied(Seeded):
    """A copy that follows the server; the Panel orders the transfer after the update."""

    async def _order(self) -> None:
        await self.copy()

    async def order(self) -> None:
        """Order the transfer by the Panel's call."""
        await Transfers._order(self)


class Update:
    """An update of the nodes of a scenario, which run by the interpreter `old` before."""

    def __init__(self, scenario: Resumed, old: str) -> None:
        self._scenario = scenario
        self._panel = scenario.pair.panel
        self._nodes = (scenario.pair.source, scenario.pair.destination)
        self._answer = Hang()
        for node in self._nodes:
            node.python = old

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

    async def run(
        self, middle: Callable[[Update], Awaitable[None]], victims: tuple[str, ...]
    ) -> None:
        """Kill the victims in the `middle`, update both nodes, and check. Raises `Broken`."""
        try:
            await self._scenario.start()
            await middle(self)
            await self._update([self._scenario.nodes[name] for name in victims])
            await Injector(self._scenario).settle()
            self._scenario.check_success()
        except BaseException:
            for node in self._nodes:
                print(f"--- {node.directory.name}", *node.past, *node.log, sep="\n")
            raise
        finally:
            await self._scenario.close()

    async def _update(self, victims: list[NodeProcess]) -> None:
        if self._is_over():
            raise Broken("the transfer was over before the update")
        for node in victims:
            await node.kill()
        self._answer.release()
        self._nodes[1].throttle(FAST)
        for node in victims:
            await self._start(node)
        if isinstance(self._scenario, Copied):
            await self._scenario.order()
        await _until(self._is_over, "the transfer does not end")
        for node in self._nodes:
            if node not in victims:
                node.signal("TERM")
                await node.ended()
                await self._start(node)

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


def installed(commit: str, directory: Path) -> str:
    """Put the code of a commit into a directory; return an interpreter that imports it.

    Processes that a daemon starts have it as well. Other packages are those of this process.
    """
    code, environment = directory / "code", directory / "venv"
    code.mkdir()
    archive = ["git", "-C", str(ROOT), "archive", commit, "wingsd", "twisted"]
    content = subprocess.run(archive, check=True, stdout=subprocess.PIPE).stdout
    subprocess.run(["tar", "-x", "-C", str(code)], input=content, check=True)
    venv.create(environment, symlinks=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    others = [path for path in sys.path if path.endswith("-packages")]
    (packages / "code.pth").write_text("\n".join([str(code), *others]))
    return str(environment / "bin" / "python")


async def run(commit: str, only: str) -> None:
    """Update in the middle of each of the cases. Raises `Broken`."""
    with tempfile.TemporaryDirectory(prefix="wingsd-updates-") as name:
        old = installed(commit, Path(name))
        for case, (scenario, middle) in CASES.items():
            for victims in VICTIMS if only in ("", case) else ():
                place = Path(name, f"{case} {len(victims)} {victims[0]}")
                await Update(scenario(place, SIZE), old).run(middle, victims)
                print(f"{case}, {' and '.join(victims)} killed: the server has moved", flush=True)


def main() -> None:
    """Run the cases that the command line names."""
    parser = argparse.ArgumentParser(
        prog="tests.kills.updates", description="Update in transfers."
    )
    parser.add_argument("commit", help="of the code that is updated")
    parser.add_argument("--case", choices=CASES, default="", help="in place of all of them")
    arguments = parser.parse_args()
    run_command(partial(run, arguments.commit, arguments.case))


if __name__ == "__main__":
    main()
