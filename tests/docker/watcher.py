"""A watcher that writes down what it is told, and can be waited for."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.internet.defer import Deferred

from wingsd.docker.runtime import ContainerUsage


@attrs.define(eq=False)
class Notes:
    """All that was told, in order: output as bytes, a usage, and the end as a pair."""

    told: list[object] = attrs.field(factory=list)
    #: Whether the memory of the node ran out at the end.
    of_node: bool = False
    _waiting: list[tuple[Callable[[], bool], Deferred[None]]] = attrs.field(factory=list)

    @property
    def console(self) -> bytes:
        return b"".join(piece for piece in self.told if isinstance(piece, bytes))

    @property
    def usages(self) -> list[ContainerUsage]:
        return [usage for usage in self.told if isinstance(usage, ContainerUsage)]

    @property
    def ends(self) -> list[tuple[int | None, bool]]:
        """The ends that were told, as exit status and want of memory."""
        return [end for end in self.told if isinstance(end, tuple)]

    def seen(self, text: bytes) -> Deferred[None]:
        """Return a Deferred that fires when the console has shown `text`."""
        return self._when(lambda: text in self.console)

    def measured(self, times: int = 1) -> Deferred[None]:
        """Return a Deferred that fires when there were so many usages."""
        return self._when(lambda: len(self.usages) >= times)

    def over(self) -> Deferred[None]:
        return self._when(lambda: bool(self.ends))

    def output(self, data: bytes) -> None:
        self._note(data)

    def usage(self, usage: ContainerUsage) -> None:
        self._note(usage)

    def ended(self, status: int | None, *, out_of_memory: bool, of_node: bool = False) -> None:
        self.of_node = of_node
        self._note((status, out_of_memory))

    def _note(self, what: object) -> None:
        self.told.append(what)
        waiting, self._waiting = self._waiting, []
        for ready, waiter in waiting:
            self._wait(ready, waiter)

    def _when(self, ready: Callable[[], bool]) -> Deferred[None]:
        waiter: Deferred[None] = Deferred()
        self._wait(ready, waiter)
        return waiter

    def _wait(self, ready: Callable[[], bool], waiter: Deferred[None]) -> None:
        if ready():
            waiter.callback(None)
        else:
            self._waiting.append((ready, waiter))
