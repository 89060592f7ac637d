"""What an operator does: `wingsctl` as a process of its own, speaking to a real daemon."""

from __future__ import annotations

import json
import os
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.utils import getProcessOutputAndValue

from tests.command import WINGSCTL
from tests.daemon.daemon import Daemon

__all__ = ["Ran", "wingsctl"]


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
    command, *words = [*WINGSCTL, "--socket", str(daemon.control), *arguments]
    running = getProcessOutputAndValue(command, words, os.environ | environment)
    ran: Deferred[Ran] = running.addCallback(
        lambda ended: Ran(ended[2], ended[0].decode(), ended[1].decode())
    )
    return ran
