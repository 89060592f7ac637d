"""Commands of the tests and benchmarks that are stopped by a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

# A shell has what it runs in the background ignore SIGINT, and so would this.
COMMAND = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from twisted.internet import reactor
from twisted.internet.task import deferLater
from tests.support.running import run_command

async def command():
    try:
        print("begun", flush=True)
        await deferLater(reactor, 3600)
    finally:
        await deferLater(reactor, 0)
        print("cleaned up", flush=True)

run_command(command)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_stopped_by_a_signal_cleans_up(number: int) -> None:
    command = [sys.executable, "-c", COMMAND]
    home = Path(__file__).parents[2]
    with subprocess.Popen(
        command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "begun\n"
        os.kill(running.pid, number)
        out, err = running.communicate()
    assert (out, err, running.returncode) == ("cleaned up\n", "stopped by a signal\n", 1)
