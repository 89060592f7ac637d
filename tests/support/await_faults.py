"""Fault injection: one coroutine, or one piece of work in a thread, of a transfer raises."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial, wraps
from inspect import isclass, iscoroutine, iscoroutinefunction
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from tests.support.harness import Harness
from tests.support.workers import CutOffWorkers
from wingsd.transfers.manager import ArrivedServers, IncomingMoves, TransferTable

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
