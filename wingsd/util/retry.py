"""How long somebody who answers asks to be left alone: HTTP's header `Retry-After`."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime

__all__ = ["seconds_asked_for"]

#: Whoever asks for more than that is asked again all the same, and so is one whose date is as far
#: away because a clock is wrong.
LONGEST = 3600.0


def seconds_asked_for(value: str) -> float:
    """Return the seconds that the header asks for, as a number or a date (RFC 9110, 10.2.3).

    0 when it does not say, or nothing that can be understood.
    """
    if value.isdecimal():
        seconds = float(value)
    else:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return 0.0
    return min(max(seconds, 0.0), LONGEST)
