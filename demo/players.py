"""A player of the game: asks it something every 100 ms, and notes when it answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall

from demo.output import Failed
from demo.watch import until

__all__ = ["ASK_EVERY", "Player"]

#: Seconds between two questions.
ASK_EVERY = 0.1
#: Questions to one address that are not answered yet, at most.
_OPEN = 50


class Player:
    """Asks at all `ports`, since a server has another one at each of its nodes.

    `ask` sends one question to a port, and raises `Failed` where no answer comes.
    """

    def __init__(
        self, reactor: Any, ask: Callable[[int], Awaitable[object]], ports: Sequence[int]
    ) -> None:
        self._reactor = reactor
        self._ask = ask
        self._ports = ports
        self._answers: list[float] = []
        self._open = dict.fromkeys(ports, 0)
        self._asking = LoopingCall(self._ask_all)
        self._asking.clock = reactor

    async def join(self) -> None:
        """Begin, and wait for the first answer. Raises `Failed`."""
        self._asking.start(ASK_EVERY)
        await until(self._reactor, lambda: self._answers, "an answer of the game to a player")

    async def heard_again(self) -> None:
        """Wait for one more answer. Raises `Failed`."""
        before = len(self._answers)
        await until(
            self._reactor, lambda: len(self._answers) > before, "another answer to a player"
        )

    def leave(self) -> None:
        """End it. What was asked is still waited for."""
        if self._asking.running:
            self._asking.stop()

    @property
    def answers(self) -> int:
        """The number of answers."""
        return len(self._answers)

    @property
    def silence(self) -> float:
        """The longest time between two answers, in seconds."""
        before, after = self.silent
        return after - before

    @property
    def silent(self) -> tuple[float, float]:
        """When it began and when it ended, in the reactor's seconds."""
        return max(pairwise(self._answers), key=lambda pair: pair[1] - pair[0], default=(0.0, 0.0))

    def _ask_all(self) -> None:
        for port in self._ports:
            if self._open[port] < _OPEN:
                Deferred.fromCoroutine(self._ask_one(port))

    async def _ask_one(self, port: int) -> None:
        self._open[port] += 1
        try:
            await self._ask(port)
        except Failed:
            return
        finally:
            self._open[port] -= 1
        self._answers.append(self._reactor.seconds())
