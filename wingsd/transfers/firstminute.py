"""The first minute of a transfer, in which a Panel may deny a transfer that it has begun.

A Panel commits the row of a transfer only after it has the source's 202. What it is told of the
transfer before that meets 409 or 404, the same answers as after the transfer's end. So in the
first minute neither proves anything, and the Panel is asked again.
"""

from __future__ import annotations

from typing import Any

from twisted.application.internet import backoffPolicy

__all__ = ["MINUTE", "FirstMinute"]

#: Seconds after its beginning in which a transfer that the Panel denies may still be there.
MINUTE = 60.0

# Seconds: 0.5, 1, 2 and so on up to 15, each up to a second longer so that nodes do not ask in
# step.
_pause = backoffPolicy(initialDelay=0.5, maxDelay=15.0, factor=2.0)


class FirstMinute:
    """What is left of the first minute of a transfer that began `age` seconds ago.

    A negative age is one by a clock that was set back: nothing is left.
    """

    def __init__(self, reactor: Any, age: float = 0.0) -> None:
        left = MINUTE - age if age >= 0 else 0.0
        self._reactor = reactor
        self._end = reactor.seconds() + left
        self._attempt = 0

    def next_pause(self) -> float:
        """Return in how many seconds to ask again, growing; 0 when the minute is over.

        The last one ends with the minute.
        """
        left = self._end - self._reactor.seconds()
        if left <= 0:
            return 0.0
        pause: float = min(_pause(self._attempt), left)
        self._attempt += 1
        return pause
