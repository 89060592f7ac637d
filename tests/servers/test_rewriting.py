"""The egg's files of servers are rewritten before a start, in threads and processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted._threads import AlreadyQuit
from twisted.internet.defer import CancelledError, Deferred, succeed

from tests.egg_files.helpers import DOTTED_KEYS
from tests.servers.harness import UUID, FakeNode, configuration
from tests.support.parsers import processes_of
from tests.support.reactor import reactor, until
from tests.support.workers import HeldWorkers
from wingsd.app.process import REWRITERS, SLOW_NICE, SLOW_REWRITERS
from wingsd.egg_files.process import BOUNDS, RewriteBounds, RewriteJob
from wingsd.egg_files.rewriters import Rewriters, ServerEggFiles
from wingsd.errors import Conflict
from wingsd.filesystem.openers import OpenatOpener
from wingsd.filesystem.root import ServerRoot
from wingsd.panel.schemas import Configuration, ConfigurationFile, Replacement
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.servers.registry import Servers
from wingsd.threadio import Workers

OWNER = (os.getuid(), os.getgid())


def with_file(name: str) -> Configuration:
    file = ConfigurationFile(name, "file", (Replacement("a", replace_with="b"),))
    plain = configuration()
    return attrs.evolve(plain, process=attrs.evolve(plain.process, configs=(file,)))


@pytest.fixture
def threads() -> HeldWorkers:
    return HeldWorkers()


@pytest.fixture
def grown() -> list[int]:
    return []


def rewriting(
    node: FakeNode, rewriters: Any, place: Path, grew: Callable[[int], object] = lambda _: None
) -> ServerEggFiles:
    return ServerEggFiles(
        rewriters, lambda: ServerRoot(str(place), OpenatOpener(), OWNER), node.config, grew
    )


@pytest.fixture
def egg_files(
    node: FakeNode, threads: HeldWorkers, tmp_path: Path, grown: list[int]
) -> ServerEggFiles:
    rewriters = Rewriters(threads, threads)  # type: ignore[arg-type]
    return rewriting(node, rewriters, tmp_path, grown.append)


def test_a_server_has_one_thread_although_starts_are_cancelled(
    egg_files: ServerEggFiles, threads: HeldWorkers, tmp_path: Path
) -> None:
    given_up = Deferred.fromCoroutine(egg_files.rewrite(with_file("first")))
    given_up.cancel()
    given_up.addErrback(lambda failure: failure.trap(CancelledError))
    never_begun = Deferred.fromCoroutine(egg_files.rewrite(with_file("never")))
    never_begun.cancel()
    never_begun.addErrback(lambda failure: failure.trap(CancelledError))
    second = Deferred.fromCoroutine(egg_files.rewrite(with_file("second")))
    assert (given_up.called, never_begun.called, second.called) == (True, True, False)
    assert len(threads.held) == 1
    threads.held[0].do()
    assert len(threads.held) == 2
    threads.held[1].do()
    assert second.result == []
    # A cancelled start has no process any more, and writes nothing.
    assert (tmp_path / "second").exists()
    assert not any((tmp_path / name).exists() for name in ("first", "never"))


def test_no_egg_files_need_no_thread(egg_files: ServerEggFiles, threads: HeldWorkers) -> None:
    assert Deferred.fromCoroutine(egg_files.rewrite(configuration())).result == []
    assert threads.held == []


def test_the_growth_of_all_files_is_reported(
    egg_files: ServerEggFiles, threads: HeldWorkers, tmp_path: Path, grown: list[int]
) -> None:
    path = tmp_path / "server.properties"
    path.write_bytes(b"a long line\nx\n")
    Deferred.fromCoroutine(egg_files.rewrite(with_file(path.name)))
    threads.held[0].do()
    assert grown == [path.stat().st_size - len(b"a long line\nx\n")] != [0]


class Rewritten:
    """Rewriters whose jobs are at once over. They were `slow` one after the other as given."""

    def __init__(self, *slow: bool, unfinished: int = -1) -> None:
        self._slow = list(slow)
        self._unfinished = unfinished
        self.asked: list[bool] = []

    def begin(self, *_: object, slow: bool) -> tuple[RewriteJob, Deferred[list[str]]]:
        self.asked.append(slow)
        job = RewriteJob(BOUNDS)
        job.slow = self._slow.pop(0)
        job.unfinished = len(self.asked) - 1 == self._unfinished
        return job, succeed([f"of the job {len(self.asked)}"])


@pytest.mark.promise("egg-files-are-parsed-apart")
def test_a_slow_server_is_rewritten_apart_for_now(node: FakeNode, tmp_path: Path) -> None:
    rewriters = Rewritten(True, True, False, False)
    egg_files = rewriting(node, rewriters, tmp_path)
    for _ in range(4):
        Deferred.fromCoroutine(egg_files.rewrite(with_file("a")))
    assert rewriters.asked == [False, True, True, False]


def test_a_start_that_turns_out_to_be_slow_goes_on_apart(node: FakeNode, tmp_path: Path) -> None:
    rewriters = Rewritten(False, True, True, unfinished=1)
    egg_files = rewriting(node, rewriters, tmp_path)
    for lines in (["of the job 1"], ["of the job 3"]):
        assert Deferred.fromCoroutine(egg_files.rewrite(with_file("a"))).result == lines
    assert rewriters.asked == [False, False, True]


def test_a_start_cancelled_before_its_turn_leaves_a_server_slow(
    node: FakeNode, threads: HeldWorkers, tmp_path: Path
) -> None:
    slow = HeldWorkers()
    rewriters = Rewriters(threads, slow, attrs.evolve(BOUNDS, slow_seconds=0))  # type: ignore[arg-type]
    egg_files = rewriting(node, rewriters, tmp_path)

    def start() -> Deferred[list[str]]:
        return Deferred.fromCoroutine(egg_files.rewrite(with_file("a")))

    first = start()
    threads.held[0].do()
    assert first.result == []
    second = start()
    second.cancel()
    second.addErrback(lambda failure: failure.trap(CancelledError))
    slow.held[0].do()
    start()
    assert (len(threads.held), len(slow.held)) == (1, 2)


@attrs.frozen
class RewritingNode:
    """Servers whose egg files are rewritten in real threads and processes."""

    fakes: FakeNode
    rewriters: Rewriters
    servers: Servers

    def add(self, uuid: str, data: bytes) -> Path:
        """Have the Panel know a server with a TOML file in which its egg changes a value."""
        file = ConfigurationFile("a.toml", "toml", (Replacement("port", replace_with="1"),))
        self.fakes.panel.known[uuid] = configuration(uuid, configs=(file,))
        path = self.fakes.data / uuid / "a.toml"
        path.parent.mkdir()
        path.write_bytes(data)
        return path


@pytest.fixture
def bounds() -> RewriteBounds:
    return attrs.evolve(BOUNDS, cpu_seconds=600, seconds=600, slow_seconds=1, quick_seconds=600)


@pytest.fixture
def real(node: FakeNode, bounds: RewriteBounds) -> Iterator[RewritingNode]:
    rewriters = Rewriters(
        Workers(reactor, "rewrite", REWRITERS),
        Workers(reactor, "slow", SLOW_REWRITERS, nice=SLOW_NICE),
        bounds,
    )
    rewriters.start()
    node.restart(rewriters)
    yield RewritingNode(node, rewriters, node.servers)
    with suppress(AlreadyQuit):
        rewriters.stop()


@pytest.mark.promise("egg-files-are-parsed-apart")
async def test_four_hostile_files_keep_no_server_from_starting(real: RewritingNode) -> None:
    hostile = [f"{number}1111111-6e2b-4c43-9d57-0c4c5e1c7f10" for number in range(REWRITERS)]
    for uuid in hostile:
        real.add(uuid, DOTTED_KEYS)
    file = real.add(UUID, b"port = 2\n")
    await real.servers.boot()
    starts = [
        Deferred.fromCoroutine(real.servers.get(uuid).power(PowerAction.START)) for uuid in hostile
    ]
    # None of them ends here: they go on one after the other, apart from the quick ones.
    await real.servers.get(UUID).power(PowerAction.START)
    assert file.read_text() == "port = 1\n"
    assert not any(start.called for start in starts)
    await until(lambda: len(processes_of(os.getpid())) == SLOW_REWRITERS)
    (process,) = processes_of(os.getpid())
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getpriority(os.PRIO_PROCESS, process) == max(own, SLOW_NICE) > 0
    real.rewriters.stop()
    await until(lambda: processes_of(os.getpid()) == [])


@pytest.mark.parametrize(
    "bounds", [attrs.evolve(BOUNDS, cpu_seconds=1, seconds=600, slow_seconds=1)]
)
async def test_a_server_with_a_hostile_file_starts_and_says_why(real: RewritingNode) -> None:
    file = real.add(UUID, DOTTED_KEYS)
    lines: list[tuple[str, ...]] = []
    real.fakes.bus.subscribe(UUID, lambda event: lines.append((event.name, *event.args)))
    await real.servers.boot()
    await real.servers.get(UUID).power(PowerAction.START)
    why = '"a.toml" is left as it was: its parser needs more than 1 s of CPU time'
    assert lines.count(("daemon message", why)) == 1
    assert real.servers.get(UUID).state is PowerState.STARTING
    assert file.read_bytes() == DOTTED_KEYS


@pytest.mark.promise("egg-files-are-parsed-apart")
async def test_a_kill_and_the_nodes_end_leave_no_process(real: RewritingNode) -> None:
    real.add(UUID, DOTTED_KEYS)
    await real.servers.boot()
    server = real.servers.get(UUID)
    first = Deferred.fromCoroutine(server.power(PowerAction.START))
    await until(lambda: len(processes_of(os.getpid())) == 1)
    (old,) = processes_of(os.getpid())
    await server.power(PowerAction.KILL)
    with pytest.raises(Conflict, match="cancelled"):
        await first
    second = Deferred.fromCoroutine(server.power(PowerAction.START))
    await until(lambda: processes_of(os.getpid()) not in ([], [old]))
    assert len(processes_of(os.getpid())) == 1
    real.rewriters.stop()
    await until(lambda: processes_of(os.getpid()) == [])
    await second
    assert len(real.fakes.called("start")) == 1
