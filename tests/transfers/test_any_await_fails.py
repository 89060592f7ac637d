"""Anything that a transfer awaits may fail: it ends, says so, and the daemon can stop."""

from __future__ import annotations

import gc
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial, wraps
from inspect import isclass, iscoroutine, iscoroutinefunction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from tests.direct_transfers.seeding import quick as quick_seeds
from tests.support.harness import Harness
from tests.support.logged_errors import Logged
from tests.support.move_node import MoveNode, refused
from tests.support.reactor import reactor, until
from tests.support.receiver import Receiver
from tests.support.sample_server import UUID
from tests.support.sender import Sender
from tests.support.workers import CutOffWorkers
from tests.transfers.incoming.nodes import MovingNode, source
from tests.transfers.outgoing.moving import quick
from wingsd.config import LiveMovesConfig, MovesConfig
from wingsd.errors import EnvironmentFailed, TransferNotActive
from wingsd.servers.operations import Operation
from wingsd.servers.power_states import PowerState
from wingsd.statedb import Outcome
from wingsd.threadio import Workers
from wingsd.transfers.manager import ArrivedServers, IncomingMoves, TransferTable
from wingsd.transfers.outgoing import rounds
from wingsd.transfers.storage.staging import Staging

__all__ = ["quick", "quick_seeds", "source"]

#: The packages whose coroutines are awaited, and the fakes beside them.
_PACKAGES = (
    "wingsd.transfers",
    "wingsd.direct_transfers",
    "tests.support.receiver",
    "tests.support.sender",
)
#: Of all transfers of a node, and of tests.
_NOT_OF_ONE = (Harness, TransferTable, IncomingMoves, ArrivedServers)


class InjectedError(RuntimeError):
    """The error that a coroutine raises for the test."""


class InjectedOSError(OSError):
    """The error of work in a thread."""


class AwaitFaults:
    """Notes in `seen` what is awaited, by its name; raises the first time that it is `at`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ends: tuple[str, ...]) -> None:
        """The coroutines in `ends` are the ends themselves: nothing catches their errors."""
        self.seen: dict[str, None] = {}
        self.at = ""
        self._ends = ends
        for name, module in tuple(sys.modules.items()):
            if name.startswith(_PACKAGES):
                for each in vars(module).values():
                    is_own = isclass(each) and each.__module__ == name
                    if is_own and not issubclass(each, _NOT_OF_ONE):
                        self._wrap(each, monkeypatch)
        run: Callable[..., Deferred[Any]] = CutOffWorkers.run

        def run_or_fail(workers: CutOffWorkers, work: Any, *args: Any, **kwargs: Any) -> Any:
            inner = work.func if isinstance(work, partial) else work
            name = inner.__qualname__
            if not self._fails(f"run {name}"):
                return run(workers, work, *args, **kwargs)
            closing = run(workers, work, *args, **kwargs) if name.endswith("close") else succeed(0)
            return closing.addCallback(lambda _: fail(InjectedOSError("injected")))

        monkeypatch.setattr(CutOffWorkers, "run", run_or_fail)

    def _wrap(self, kind: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
        for name, function in tuple(vars(kind).items()):
            if iscoroutinefunction(function) and function.__qualname__ not in self._ends:
                monkeypatch.setattr(kind, name, self._wrapped(function))

    def _wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        name = function.__name__

        @wraps(function)
        async def call(*args: Any, **kwargs: Any) -> Any:
            fails = self._fails(function.__qualname__)
            if fails and name != "close":
                for each in filter(iscoroutine, args):
                    each.close()  # it would have been awaited by the function
                raise InjectedError
            result = await function(*args, **kwargs)
            if fails:  # it is closed: no test leaves an open file
                raise InjectedError
            return result

        return call

    def _fails(self, name: str) -> bool:
        self.seen[name] = None
        if name != self.at:
            return False
        self.at = ""
        return True


MEMORY = Path("/dev/shm")
#: What begins and ends a transfer: no error comes from there.
ENDS = (
    "UploadTransfer.run",
    "IncomingTransfer._carry_out",
    "IncomingTransfer._complete",
    "IncomingTransfer._fail",
    "IncomingTransfer.resume",
    "MoveTransfer._fail",
    "MoveTransfer.begin",
    "OutgoingTransfer.run",
    "OutgoingTransfer._run",
    "OutgoingTransfer._fail",
    "RollbackList.run",
)
#: With one of these gone nothing could be reported, undone or recorded; the log has the error, and
#: the next start of the daemon does the rest.
REPORT = ("report_failure", "transfer_failed", "close_report")
UNDO = ("IncomingTransfer._forget",)
ADMISSION = ("CancelScope.wait", "PanelReceiving.admit", "_Panel.describe")
RUNS = ("_restore", "start_again", "_start", ".power")
RECORD = (
    "run Store.end",
    "enter_if_open",
    "_clean_up",
    "_restore",
    "_finish",
    "remove_attachments",
    "put_away",
    "keep_moved",
)


@pytest.fixture(autouse=True)
def _live(logged: Logged, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(rounds, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(rounds, "REHEARSE_EVERY", 0.01)
    monkeypatch.setattr(rounds, "ROUND_EVERY", 0.01)
    yield
    gc.collect()  # what the attempts of an earlier test have left goes only now
    for kind in (InjectedError, InjectedOSError):
        logged.take(kind)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Where each node writes: to memory, as what it syncs is not kept."""
    if not MEMORY.is_dir():
        yield tmp_path
        return
    with TemporaryDirectory(dir=MEMORY) as path:
        yield Path(path)


@pytest.fixture
def workers() -> Iterator[Workers]:
    pool = Workers(reactor, "test", 8)
    pool.start()
    yield pool
    pool.stop()


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> AwaitFaults:
    return AwaitFaults(monkeypatch, ENDS)


async def everywhere(
    faults: AwaitFaults,
    logged: Logged,
    directory: Path,
    attempt: Callable[[Path, str, bool], Awaitable[None]],
    fails: bool,
) -> None:
    """Run an attempt without a fault, then once for each thing it awaited, which raises.

    Of an attempt that `fails` these are the things that one without a failure does not await: each
    of the others has raised there already.
    """
    wrong = {}
    names = [""]
    gc.collect()
    gc.freeze()  # what was there before is not looked through each time
    usual: tuple[str, ...] = ()
    if fails:
        (directory / "usual").mkdir()
        await attempt(directory / "usual", "", False)
        usual = (*faults.seen,)
    for number, name in enumerate(names):
        faults.seen.clear()
        faults.at = name
        place = directory / str(number)
        place.mkdir()
        try:
            await attempt(place, name, fails)
        except AssertionError as error:
            wrong[name] = str(error)
        if number == 0:
            assert wrong == {}
            names += (each for each in faults.seen if each not in usual)
        _collect(logged)
        gc.freeze()  # nor is what this attempt has left
    gc.unfreeze()
    _collect(logged)
    assert wrong == {}, "\n".join(f"{n}: {w}" for n, w in wrong.items())
    assert len(names) > (3 if fails else 30)


def _collect(logged: Logged) -> None:
    """A Deferred tells of an error that was not handled when it goes."""
    gc.collect()
    logged.take(Exception)


async def check_received(node: Receiver, fault: str) -> None:
    """See that a transfer to this node has ended, and how."""
    await until(lambda: not node.transfers.servers)
    await node.transfers.stop()
    rows, hold = node.store.transfers(), node.servers.holds.get(UUID)
    outcome = rows[-1].outcome if rows else None
    if outcome is Outcome.SUCCESS:
        assert hold == ""
    elif "success" in node.calls:
        # The Panel has it here: nothing is undone, and the next daemon goes on from there.
        assert (outcome, rows[-1].step) == (None, "REPORT")
    else:
        assert hold is None or fault in UNDO
        # Before that nothing has begun that could fail.
        was_admitted = "describe" in node.calls and fault not in ADMISSION
        assert "failure" in node.calls or not was_admitted or fault.endswith(REPORT)
        # One whose request has failed was cancelled.
        ended = outcome in (Outcome.FAILURE, Outcome.CANCELLED)
        assert ended or not rows or fault.endswith(RECORD)


@pytest.mark.promise("transfer-ends-after-any-failure")
@pytest.mark.parametrize("fails", [False, True])
async def test_a_stream_to_this_node(
    faults: AwaitFaults, logged: Logged, directory: Path, workers: Workers, fails: bool
) -> None:
    async def attempt(place: Path, fault: str, fails: bool) -> None:
        node = Receiver(place, workers)
        if fails:
            node.faults["create"] = EnvironmentFailed("no engine")
        try:
            with suppress(Exception):
                await node.receive()
            await check_received(node, fault)
        finally:
            node.close()

    await everywhere(faults, logged, directory, attempt, fails)


@pytest.mark.promise("transfer-ends-after-any-failure")
@pytest.mark.parametrize("fails", [False, True])
async def test_a_move_to_this_node(
    faults: AwaitFaults,
    logged: Logged,
    directory: Path,
    workers: Workers,
    source: Path,
    fails: bool,
) -> None:
    async def attempt(place: Path, fault: str, fails: bool) -> None:
        node = MovingNode(place, workers)
        if fails:
            node.faults["create"] = EnvironmentFailed("no engine")
        client = node.client(source)
        try:
            moving = Deferred.fromCoroutine(client.move()).addErrback(lambda _: None)
            # One that waits for the next daemon has no answer.
            await until(lambda: moving.called or "success" in node.calls)
            await until(lambda: moving.called or not node.receiver.servers)
            moving.cancel()
            with suppress(TransferNotActive):  # one whose request has failed goes on
                node.receiver.cancel(UUID)
            await check_received(node, fault)
        finally:
            await node.end()

    await everywhere(faults, logged, directory, attempt, fails)


@pytest.mark.promise("transfer-ends-after-any-failure")
async def test_a_descriptor_that_cannot_be_closed(
    logged: Logged, tmp_path: Path, workers: Workers, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = MovingNode(tmp_path / "node", workers)
    client = node.client(source)
    await client.begin()
    finish = Staging.finish

    def failing(staging: Staging, server: str) -> None:
        finish(staging, server)
        raise OSError("close")

    monkeypatch.setattr(Staging, "finish", failing)
    await node.receiver.stop()
    assert node.receiver.servers == ()
    monkeypatch.undo()
    await node.end()
    assert logged.take(OSError)


async def check_sent(node: Sender, fault: str) -> None:
    """See that a transfer from this node has ended, and how."""
    await node.transfers.stop()
    hold = node.server.operations.hold
    if node.states[-1:] == ["completed"]:
        assert hold is not None
        assert hold.operation is Operation.MOVED
        with suppress(RuntimeError):  # of the deletion, which has its own answer
            await node.delete()
    elif node.states[-1:] == ["failure"]:
        assert hold is None
        # One that was followed runs again.
        runs = node.server.state is PowerState.RUNNING
        assert runs or not node.sender.parts.may_follow or fault.endswith(RUNS)
        assert "failure" in node.panel.calls or fault.endswith(REPORT)
    else:
        # All was sent, and the Panel could not be asked: the next daemon does that.
        (entry,) = node.store.unfinished()
        assert entry.step in ("AWAIT", "SETTLE")
        assert hold is not None
        return
    if not fault.endswith(RECORD):
        await until(lambda: not node.store.unfinished())


@pytest.mark.promise("transfer-ends-after-any-failure")
@pytest.mark.parametrize("kind", ["stream", "live", "refused"])
async def test_from_this_node(
    faults: AwaitFaults, logged: Logged, directory: Path, workers: Workers, kind: str
) -> None:
    async def attempt(place: Path, fault: str, fails: bool) -> None:
        there = MoveNode(place / "there")
        moves = MovesConfig(patience=1, enabled=kind != "stream")
        node = Sender(place, workers, destination=there, moves=moves)
        if kind != "stream":
            node.follow(LiveMovesConfig(final_patience=1))
        if fails:
            there.fault = lambda asked, _: refused(410) if asked == "commit" else None
        try:
            await node.start()
            await check_sent(node, fault)
        finally:
            await node.close()
            there.close()

    await everywhere(faults, logged, directory, attempt, kind == "refused")
