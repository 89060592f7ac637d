"""How many files and connections this process may have open at a time."""

from __future__ import annotations

import resource

__all__ = ["ENOUGH", "raise_limit"]

#: What a node wants that is asked for much at once: connections, and files of transfers.
ENOUGH = 4096


def raise_limit() -> int:
    """Allow this process as many open files as it may allow itself; return how many these are.

    The usual limit (1,024) is that of programs that hand descriptors to select(2), which this
    one does not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
