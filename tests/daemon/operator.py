"""What an operator does: `wingsctl` as a process of its own, speaking to a real daemon."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.utils import getProcessOutputAndValue

from tests.daemon.daemon import Daemon

__all__ = ["Ran", "wingsctl"]

COMMAND = str(Path(sys.executable).with_name("wingsctl"))


@attrs.frozen
class Ran:
    """How the command ended, and what it printed."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def wingsctl(daemon: Daemon, *arguments: str, **environment: str) -> Deferred[Ran]:
    """Run the command against a daemon; the Deferred gives how that went."""
    words = ["--socket", str(daemon.control), *arguments]
    running = getProcessOutputAndValue(COMMAND, words, os.environ | environment)
    ran: Deferred[Ran] = running.addCallback(
        lambda ended: Ran(ended[2], ended[0].decode(), ended[1].decode())
    )
    return ran
