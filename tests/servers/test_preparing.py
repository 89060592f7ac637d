"""What is done to a server's files before it starts, by threads that cannot be called back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.defer import CancelledError, Deferred, execute

from tests.servers.house import House, configuration
from wingsd.model import Configuration, ConfigurationFile, Replacement
from wingsd.servers.preparing import Rewriting


class SlowWorkers:
    """Threads that have been given work, and have not ended it."""

    def __init__(self) -> None:
        self.work: list[Callable[[], object]] = []

    def run(self, work: Callable[..., Any], *args: Any) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.work.append(lambda: execute(work, *args).chainDeferred(done))
        return done


def with_file(name: str) -> Configuration:
    file = ConfigurationFile(name, "file", (Replacement("a", replace_with="b"),))
    plain = configuration()
    return attrs.evolve(plain, process=attrs.evolve(plain.process, configs=(file,)))


@pytest.fixture
def threads() -> SlowWorkers:
    return SlowWorkers()


@pytest.fixture
def rewriting(house: House, threads: SlowWorkers, tmp_path: Path) -> Rewriting:
    return Rewriting(
        attrs.evolve(house.means, rewriters=threads),  # type: ignore[arg-type]
        str(tmp_path),
    )


def test_one_server_has_one_thread_whoever_gives_up(
    rewriting: Rewriting, threads: SlowWorkers, tmp_path: Path
) -> None:
    given_up = Deferred.fromCoroutine(rewriting.run(with_file("first")))
    given_up.cancel()
    given_up.addErrback(lambda failure: failure.trap(CancelledError))
    never_begun = Deferred.fromCoroutine(rewriting.run(with_file("never")))
    never_begun.cancel()
    never_begun.addErrback(lambda failure: failure.trap(CancelledError))
    second = Deferred.fromCoroutine(rewriting.run(with_file("second")))
    assert (given_up.called, never_begun.called, second.called) == (True, True, False)
    assert len(threads.work) == 1
    threads.work[0]()
    assert len(threads.work) == 2
    threads.work[1]()
    assert second.result == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second", "volumes"]


def test_a_server_without_such_files_waits_for_nothing(
    rewriting: Rewriting, threads: SlowWorkers
) -> None:
    assert Deferred.fromCoroutine(rewriting.run(configuration())).result == []
    assert threads.work == []
