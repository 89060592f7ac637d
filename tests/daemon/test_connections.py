"""Connections by which nothing is asked for, and what the daemon does when no more can be had."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.daemon.resources import MIB, at_rest, memory, open_files
from tests.support.reactor import until
from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import UUID, archive
from tests.support.upload_client import begun


@contextmanager
def silent_clients(daemon: ReceivingNode, number: int) -> Iterator[None]:
    """As many connections over which nothing is ever sent."""
    url = urlsplit(daemon.url)
    sockets = [
        socket.create_connection((url.hostname or "", url.port or 0)) for _ in range(number)
    ]
    try:
        yield
    finally:
        for each in sockets:
            each.close()


async def start_with_files(daemon: ReceivingNode, limits: str, **changes: object) -> None:
    """Start the daemon with other limits of open files, in the words of the shell's ulimit."""
    await daemon.start("/bin/sh", "-c", f'{limits}; exec "$@"', "sh", **changes)


@pytest.mark.promise("floods-delay-others-a-second")
async def test_1000_silent_connections_cost_little_and_block_none(daemon: ReceivingNode) -> None:
    await daemon.start()
    sender = await begun(daemon, archive(), until="state processing")
    before, files = memory(daemon, "VmRSS"), open_files(daemon)
    with silent_clients(daemon, 1000):
        assert await sender.finish() == (200, b"")
        assert (await daemon.upload(archive()))[0] == 409
        assert memory(daemon, "VmRSS") - before < 32 * MIB
        assert open_files(daemon) - files <= 256


@pytest.mark.promise("exhausted-descriptors-recover")
async def test_the_limit_of_open_files_is_raised_to_the_hard_limit(daemon: ReceivingNode) -> None:
    await start_with_files(daemon, "ulimit -Sn 1000; ulimit -Hn 3000")
    assert daemon.lines_with("at most 3000 files")
    assert daemon.lines_with("LimitNOFILE= in a systemd unit")
    limits = Path(f"/proc/{daemon.pid}/limits").read_text()
    assert re.search(r"Max open files +3000 +3000", limits)


@pytest.mark.promise("exhausted-descriptors-recover")
async def test_uploads_are_refused_while_no_descriptor_is_free(daemon: ReceivingNode) -> None:
    await start_with_files(daemon, "ulimit -n 80", api={"limits": {"connections": 1000}})
    await daemon.loaded()
    sender = await begun(daemon, archive(), until="state processing")
    files = open_files(daemon)
    with silent_clients(daemon, 200):
        await daemon.wait_for_line("EMFILE")
        await until(lambda: open_files(daemon) >= 79)
        await at_rest(daemon)
        status, answer = await sender.finish()
        assert status == 500
        assert b"too many open files; raise the limit of this process" in answer
    await until(lambda: open_files(daemon) < files)
    await daemon.failure_reported()
    daemon.panel.open_transfer(UUID, daemon.node)
    assert await daemon.upload(archive()) == (200, None)
    assert daemon.panel.reports() == [(UUID, "failure"), (UUID, "success")]
    assert daemon.stored() == [UUID]
