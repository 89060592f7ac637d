"""A server that goes by hand: the word for it is its destination's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import ClassVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.byhand.description import Description
from wingsd.byhand.means import HandMeans
from wingsd.errors import (
    DestinationError,
    DestinationRefused,
    StorageError,
    WingsdError,
)
from wingsd.journal import Order
from wingsd.servers import Server
from wingsd.structure import structure
from wingsd.transfers.destination import Destination
from wingsd.transfers.interrupt import Interruptible
from wingsd.transfers.lifecycle import SendStep
from wingsd.transfers.verdict import FIRST_PAUSE, LONGEST_PAUSE

__all__ = ["HandSending"]

#: The least status of an answer that says nothing about what was asked.
_NO_WORD = 500


@attrs.frozen
class _Word:
    """What a destination answers when it is asked."""

    moved: bool


class HandSending:
    """The word for one server that goes as `order` says.

    Raises `BadRequest` for an address that is none, `DestinationUnreachable` when the certificates
    to trust cannot be read.
    """

    by_hand = True
    deletes = False
    #: To be asked calls off what a destination has not finished.
    grace = 0.0
    words: ClassVar[Mapping[SendStep, str]] = {
        SendStep.ASK: "telling the destination what the server is",
        SendStep.SETTLE: "asking the destination whether it has the server",
    }
    _log = Logger()

    def __init__(
        self, server: str, order: Order, means: HandMeans, description: Description | None = None
    ) -> None:
        self._server = server
        self._order = order
        self._means = means
        self._description = description
        self._peer = Destination(
            f"{order.url}/{server}/by-hand", order.token, means.reactor, means.trust, "after --to"
        )
        self._asking: Interruptible | None = None

    def begin(self) -> None:
        """Nothing is to be told of an earlier transfer."""

    async def write_down(self, entry: int) -> None:
        """Keep where it goes, to ask there after a restart."""
        await self._means.journal.order(entry, self._order)

    async def introduce(self) -> None:
        """Tell the destination what the server is; it refuses early what it cannot take.

        Raises what asking a `Destination` does.
        """
        await self._peer.ask("PUT", json.dumps(self._description).encode())

    async def tell_failure(self) -> None:
        """The destination has seen it, or does when it is asked next."""

    async def has_moved(self, *, lost: bool = False) -> bool:
        """Ask the destination until it answers, or `give_up` is called: then it has not.

        The question itself calls the transfer off: no server arrives after it was answered.
        """
        self._asking = asking = Interruptible()
        pause = FIRST_PAUSE
        while asking.reason is None:
            try:
                return await asking.wait(Deferred.fromCoroutine(self._ask()))
            except DestinationRefused as error:
                if error.code < _NO_WORD:
                    self._log.warn(
                        "{server}: its destination does not say that it has it: {error}",
                        server=self._server,
                        error=error,
                    )
                    return False
                self._say_unknown(error, pause)
            except DestinationError as error:
                self._say_unknown(error, pause)
            except WingsdError:
                break
            try:
                await asking.wait(deferLater(self._means.reactor, pause))
            except WingsdError:
                break
            pause = min(2 * pause, LONGEST_PAUSE)
        self._log.warn(
            "{server}: it stays here by the operator's word; see whether {url} has it too, and "
            "delete one of them",
            server=self._server,
            url=self._order.url,
        )
        return False

    def give_up(self, reason: WingsdError) -> None:
        """Ask no longer whether it has moved."""
        if self._asking is not None:
            self._asking.interrupt(reason)

    async def part(self, server: Server) -> None:
        """Delete it here, if that was asked for; else leave its files where they are."""
        try:
            await self._means.journal.undescribe(self._server)
            if self._order.remove:
                await self._means.servers.delete(self._server)
                return
        except StorageError as error:
            self._log.error("{server}: {error}", server=self._server, error=error)
        except WingsdError as error:
            self._log.error(
                "{server}: it has moved, and could not be deleted here: {error}",
                server=self._server,
                error=error,
            )
        self._log.info("{server}: its files here stay", server=self._server)

    async def _ask(self) -> bool:
        answer = await self._peer.ask("DELETE")
        try:
            return structure(json.loads(answer.body), _Word).moved
        except (ValueError, RecursionError) as error:
            raise DestinationRefused(
                "the destination node's answer makes no sense", str(error), answer.code
            ) from error

    def _say_unknown(self, error: WingsdError, pause: float) -> None:
        self._log.warn(
            "{server}: whether it has moved is not known yet, asking again in {pause:.0f} s: "
            "{error}",
            server=self._server,
            pause=pause,
            error=error,
        )
