"""`python -m tests.ways`: count the files of wingsd that ten things pass through. Needs Docker.

Each is done by two real daemons under a profile hook. A file counts when one of its functions ran
in any process of the node meanwhile, and none while the nodes were idle.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import attrs
from docker import APIClient
from twisted.internet.task import deferLater

from tests.support.docker_engine import Engine, cleaned_engine, connected, imported_busybox
from tests.support.node_process import SLOW, NodeProcess, reactor
from tests.support.reactor import until
from tests.support.running import run_command
from tests.support.sample_server import UUID
from tests.support.settings import process_configuration
from tests.support.two_nodes import TwoNodes

HOOK = Path(__file__).with_name("hook.py")
PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"
_PART = re.compile(r"(<!-- measured: ways -->\n).*?(<!-- measured -->)", re.DOTALL)
#: Seconds of idling: longer than the interval of whatever is repeated more than once a minute.
IDLE = 65
#: Phases of the hook.
BEFORE, IDLING, ACTING = range(3)
#: A game that is up at once, and runs until a line comes.
GAME = "echo listening on; read -r line"
MIB = 1 << 20
#: An engine, and the name of an image on it.
Image: TypeAlias = tuple[APIClient, str]


@attrs.frozen
class Way:
    """The files that one thing passed through at one node."""

    thing: str
    files: frozenset[str]


class Observed:
    """Two nodes under the hook, with a server at the source that writes nothing by itself."""

    def __init__(self, directory: Path, engine: Engine) -> None:
        self.nodes = TwoNodes(directory)
        self._engine = engine
        self._both = (self.nodes.source, self.nodes.destination)

    async def start(self) -> None:
        stop = process_configuration(stop={"type": "command", "value": "stop"})
        self.nodes.add_server(MIB, image=self._engine.image, invocation=GAME, process=stop)
        self.nodes.source.files().chmod(0o777)
        changes = self._engine.for_node(UUID)
        for node in self._both:
            directory = self._directory(node)
            directory.mkdir()
            (directory / "phase").write_bytes(bytes([BEFORE]))
            await node.start(sys.executable, str(HOOK), str(directory), **changes)
            await node.loaded()

    def enter(self, phase: int) -> None:
        """Count for another phase from now on."""
        for node in self._both:
            with (self._directory(node) / "phase").open("r+b") as file:
                file.write(bytes([phase]))

    def files(self, node: NodeProcess, phase: int) -> frozenset[str]:
        """Return the files that the node has passed through in a phase."""
        lines = [
            line.split(" ", 1)
            for path in self._directory(node).glob("*.calls")
            for line in path.read_text().splitlines()
        ]
        return frozenset(path for number, path in lines if int(number) == phase)

    async def run_server(self) -> None:
        await self.nodes.panel.power(UUID, "start")
        await self.nodes.source.wait_for_line(f"{UUID}: running")

    async def ended(self, outcome: str) -> None:
        """Return when the Panel knows the transfer's outcome, and both nodes know that."""
        await self.nodes.panel.called(f"/transfer/{outcome}")
        await until(lambda: all(node.has_ended_transfers() for node in self._both))

    @staticmethod
    def _directory(node: NodeProcess) -> Path:
        return node.directory / "ways"


@asynccontextmanager
async def _observed(image: Image, **transfers: Any) -> AsyncIterator[Observed]:
    """Give two nodes that have started; `transfers` are keys of `system.transfers` of both."""
    with (
        tempfile.TemporaryDirectory(prefix="wingsd-ways-") as name,
        cleaned_engine(*image, Path(name)) as engine,
    ):
        pair = Observed(Path(name), engine)
        for node in (pair.nodes.source, pair.nodes.destination):
            node.transfers = dict(transfers)
        try:
            await pair.start()
            yield pair
        finally:
            await pair.nodes.close()


async def _idle(image: Image, seconds: float) -> frozenset[str]:
    async with _observed(image) as pair:
        pair.enter(IDLING)
        await deferLater(reactor, seconds)
        nodes = pair.nodes
        return pair.files(nodes.source, IDLING) | pair.files(nodes.destination, IDLING)


async def _upload(image: Image) -> list[Way]:
    async with _observed(image, moves={"enabled": False}) as pair:
        pair.enter(ACTING)
        await pair.nodes.transfer()
        await pair.ended("success")
        return [Way("an upload, received", pair.files(pair.nodes.destination, ACTING))]


async def _stopped_move(image: Image) -> list[Way]:
    async with _observed(image) as pair:
        pair.enter(ACTING)
        await pair.nodes.transfer()
        await pair.ended("success")
        return _two_ways("a stopped server's move", pair)


async def _running_move(image: Image) -> list[Way]:
    async with _observed(image) as pair:
        await pair.run_server()
        pair.enter(ACTING)
        await pair.nodes.transfer()
        await pair.nodes.destination.wait_for_line(f"{UUID}: running")
        await pair.ended("success")
        return _two_ways("a running server's move", pair)


async def _cancel(image: Image) -> list[Way]:
    async with _observed(image, moves={"batch": 1}) as pair:
        pair.nodes.destination.throttle(SLOW)
        await pair.nodes.transfer()
        await pair.nodes.destination.wait_for_line("receiving")
        pair.enter(ACTING)
        await pair.nodes.cancel(pair.nodes.source)
        await pair.ended("failure")
        return _two_ways("a cancel of a move", pair)


async def _calls(image: Image) -> list[Way]:
    async with _observed(image) as pair:
        source, ask = pair.nodes.source, pair.nodes.panel.ask
        server = f"/api/servers/{UUID}"
        ways = []
        for phase, thing, method, path, body in (
            (ACTING, "files listed", "GET", "/files/list-directory?directory=%2Fworld", None),
            (ACTING + 1, "a file written", "POST", "/files/write?file=%2Fmotd", {"a": 1}),
        ):
            pair.enter(phase)
            status, answer = await ask(source.node, method, server + path, body)
            assert status < 300, answer
            ways.append(Way(thing, pair.files(source, phase)))
        pair.enter(ACTING + 2)
        await pair.run_server()
        pair.enter(BEFORE)
        return [*ways, Way("a server started", pair.files(source, ACTING + 2))]


def _two_ways(thing: str, pair: Observed) -> list[Way]:
    nodes = pair.nodes
    return [
        Way(f"{thing}: source", pair.files(nodes.source, ACTING)),
        Way(f"{thing}: destination", pair.files(nodes.destination, ACTING)),
    ]


def table(ways: Sequence[Way], idle: frozenset[str]) -> str:
    rows = [f"| {way.thing} | {len(way.files - idle)} |" for way in ways]
    return "\n".join(["| | files |", "|---|---|", *rows])


async def _run(seconds: float, with_files: bool) -> None:
    with connected() as client, imported_busybox(client) as name:
        image = client, name
        idle = await _idle(image, seconds)
        ways = [
            way
            for act in (_upload, _stopped_move, _running_move, _cancel, _calls)
            for way in await act(image)
        ]
    if with_files:
        for name, files in [("idle", idle), *((way.thing, way.files - idle) for way in ways)]:
            print(f"{name}:", *sorted(files), sep="\n  ")
    measured = table(ways, idle)
    print(measured)
    page = PAGE.read_text()
    PAGE.write_text(_PART.sub(lambda part: f"{part[1]}\n{measured}\n\n{part[2]}", page))


def main() -> None:
    """Measure, print the table and write it to docs/architecture.md."""
    parser = argparse.ArgumentParser(prog="tests.ways", description="Count files passed through.")
    parser.add_argument("--files", action="store_true", help="print the files, too")
    parser.add_argument("--idle", type=float, default=IDLE, help="seconds of idling")
    arguments = parser.parse_args()
    run_command(partial(_run, arguments.idle, arguments.files))


if __name__ == "__main__":
    main()
