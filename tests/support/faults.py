"""What can be made to go wrong with a call to the fake Panel."""

from __future__ import annotations

import attrs
from twisted.internet.defer import Deferred


@attrs.frozen
class Answer:
    """The call is not looked at; this is the answer.

    An empty `body` is the Panel's error form for `status`; any other is sent as it is, so that
    `Answer(200, b"<html>")` is a Panel talking nonsense.
    """

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    #: The header Retry-After, empty for none.
    retry_after: str = ""


@attrs.frozen
class Drop:
    """The connection is cut instead of an answer: before, or after, the call was carried out."""

    carried_out: bool = False


@attrs.define(eq=False)
class Hang:
    """Nothing happens until `release`; then the call is carried out and answered."""

    _released: bool = attrs.field(default=False, init=False)
    _waiting: list[Deferred[None]] = attrs.field(factory=list, init=False)

    def wait(self) -> Deferred[None]:
        waiting: Deferred[None] = Deferred()
        if self._released:
            waiting.callback(None)
        else:
            self._waiting.append(waiting)
        return waiting

    def release(self) -> None:
        """Let every call held here go on, and hold none any more."""
        self._released = True
        while self._waiting:
            self._waiting.pop(0).callback(None)


Fault = Answer | Drop | Hang


async def meet(fault: object) -> object:
    """Raise an error, wait for a `Deferred`, or return anything else, as the answer of a fake."""
    if isinstance(fault, Deferred):
        fault = await fault
    if isinstance(fault, Exception):
        raise fault
    return fault
