"""A move of the running game: a player plays on, and the page of the server is open."""

from __future__ import annotations

import attrs
from twisted.internet.threads import deferToThread

from demo import trees
from demo.breaking import BrokenLine
from demo.node import OWNER, RunningNode
from demo.output import Failed, check, line
from demo.pictures import MoveTimes
from demo.players import Player
from demo.testbed import Testbed
from demo.watch import Watch, until
from tests.support import Hang

__all__ = ["Departure", "Move"]

_ROUND = r"\bround \d+: "
_ACCEPTED = 202


@attrs.frozen
class Departure:
    """When a move was ordered, in the reactor's seconds, and what the world told at its stop.

    `compared` are seconds for which the copies were compared before the game started again.
    """

    began: float
    changes: int
    compared: float


@attrs.frozen
class Move:
    """The move of `server` to another node, with a `player` in the game.

    `watch` is its page, open at the source.
    """

    testbed: Testbed
    server: str
    source: RunningNode
    destination: RunningNode
    watch: Watch
    player: Player

    async def run(self) -> Departure:
        """Order the move in the Panel; return when the Panel has it at the destination."""
        began = await self._order()
        return await self._completed(began)

    async def run_broken(self, broken: BrokenLine) -> Departure:
        """Move it over a line that is cut, and compare both copies before the game starts again.

        It starts when the Panel has accepted the report of the success, which waits meanwhile.
        """
        report = f"{self.server}/transfer/success"
        success = Hang()
        self.testbed.panel.inject(report, success)
        before = sum(report in call.path for call in self.testbed.panel.calls)
        told = self.testbed.panel.called(report, before + 1, within=None)
        broken.cut_halfway()
        began = await self._order()
        await self.watch.until(
            lambda: told.called or self._has_failed(), "the report of the success"
        )
        stopped = self.testbed.reactor.seconds()
        await self._compare()
        compared = self.testbed.reactor.seconds() - stopped
        success.release()
        departure = await self._completed(began, compared)
        broken.verify()
        return departure

    async def cancel(self) -> None:
        """Order it, and cancel it when half of it has been sent; the game runs on."""
        container = await self._container()
        files = self.source.files(self.server)
        half = (await deferToThread(trees.summarize, files)).size // 2
        wire = self.destination.line
        before = wire.sent
        await self._order()
        await self.watch.until(
            lambda: wire.sent - before > half or self._has_failed(), "the first half to be sent"
        )
        path = f"/api/servers/{self.server}/transfer"
        status, _ = await self.testbed.panel.ask(self.source.node, "DELETE", path)
        check("cancel", status == _ACCEPTED, f"DELETE {path}: {status}")
        await self.watch.saw("transfer status", "failed")
        await until(
            self.testbed.reactor,
            lambda: not self.testbed.panel.in_transfer(self.server),
            "the report to the Panel",
        )
        await self.player.heard_again()
        self.player.leave()
        same = await self._container() == container
        check("container", same, "the same as before: it was not stopped")
        self._tell_silence()

    def tell(self, departure: Departure) -> None:
        """Print how it went for a player, once the game runs at the destination."""
        self.player.leave()
        seconds = self.testbed.reactor.seconds() - departure.began
        rounds = self.watch.transfer_lines(_ROUND)
        check(
            "rounds", rounds, f"{len(rounds)} while it ran, and the last one when it had stopped"
        )
        line("move", f"{seconds:.0f} s, from the Panel's order to the game at its new node")
        self._tell_silence(departure.compared)

    def times(self, departure: Departure) -> MoveTimes:
        """Return when its steps were, for a picture."""

        def last(text: str) -> float:
            return self.watch.transfer_lines(text)[-1]

        return MoveTimes(
            ordered=departure.began,
            rounds=tuple(self.watch.transfer_lines(_ROUND)),
            stopping=last("stopping the server"),
            stopped=last("removing its container"),
            sent=last("waiting for the destination to finish"),
            silent=self.player.silent,
        )

    def _tell_silence(self, compared: float = 0.0) -> None:
        player = self.player
        text = f"{player.silence:.1f} s without an answer at most, in {player.answers} answers"
        if compared:
            text += f"\n{compared:.1f} s of it went into the comparison of the copies"
        line("player", text)

    async def _order(self) -> float:
        began: float = self.testbed.reactor.seconds()
        await self.testbed.panel.transfer(self.server, self.destination.node)
        return began

    async def _completed(self, began: float, compared: float = 0.0) -> Departure:
        await self.watch.until(
            lambda: self.watch.has_seen("transfer status", "completed") or self._has_failed(),
            "the end of the transfer",
        )
        changes = self.testbed.game.changes_at_stop(self.watch.console())
        if changes is None:
            raise Failed("the game did not tell its changes when it was stopped")
        return Departure(began, changes, compared)

    def _has_failed(self) -> bool:
        """Return False. Raises `Failed` when the page has an event of a failed transfer."""
        if self.watch.has_seen("transfer status", "failed"):
            raise Failed("the transfer failed")
        return False

    async def _compare(self) -> None:
        copies = self.source.files(self.server), self.destination.files(self.server)
        found = await deferToThread(lambda: list(trees.differences(*copies, OWNER)))
        summary = await deferToThread(trees.summarize, copies[1])
        equal = (
            f"{summary.files} files, {summary.directories} directories, {summary.symlinks} "
            "symlinks: equal in\ncontent, mode, time and links, when node "
            f"{self.destination.name} reported its success"
        )
        check("files", not found, "\n".join(found[:10]) if found else equal)

    async def _container(self) -> tuple[str, str]:
        found = await deferToThread(self.testbed.engine.inspect, self.server)
        return (found["Id"], found["State"]["StartedAt"]) if found else ("", "")
