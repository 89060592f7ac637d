"""Tests for `tests.support.forked_process`."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ProcessExitedAlready

from tests.support.forked_process import ForkedProcess
from tests.support.node_process import TIMEOUT, TWISTD, reactor

#: A service of Twisted's that runs until it is killed.
COMMAND = [TWISTD, "-n", "--pidfile", "", "portforward", "--port", "tcp:0:interface=127.0.0.1"]


async def test_daemons_that_die_at_the_same_time_are_all_noticed(tmp_path: Path) -> None:
    ends: list[Deferred[int]] = []
    daemons = []
    for _ in range(12):
        ended: Deferred[int] = Deferred()
        ends.append(ended)
        daemons.append(
            ForkedProcess(COMMAND, os.environ, tmp_path, lambda _: None, ended.callback)
        )
    for daemon in daemons:
        daemon.signalProcess("KILL")
    assert set(await gatherResults(ends).addTimeout(TIMEOUT, reactor)) == {-9}


async def test_a_signal_to_a_daemon_whose_end_is_not_noticed_yet_is_refused(
    tmp_path: Path,
) -> None:
    ended: Deferred[int] = Deferred()
    daemon = ForkedProcess(COMMAND, os.environ, tmp_path, lambda _: None, ended.callback)
    daemon.signalProcess("KILL")
    while Path(f"/proc/{daemon.pid}").exists():  # until the template has reaped it
        time.sleep(0.001)
    with pytest.raises(ProcessExitedAlready):
        daemon.signalProcess("KILL")
    assert await ended.addTimeout(TIMEOUT, reactor) == -9
