"""Connections by which nothing is asked for, and what the daemon does when no more can be had."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest_twisted

from tests.daemon.harness import UUID, House, archive
from tests.daemon.uploads import Sender
from tests.daemon.watching import MIB, at_rest, memory, open_files, until


@contextmanager
def silent_clients(house: House, number: int) -> Iterator[None]:
    """As many connections over which nothing is ever sent."""
    url = urlsplit(house.url)
    sockets = [
        socket.create_connection((url.hostname or "", url.port or 0)) for _ in range(number)
    ]
    try:
        yield
    finally:
        for each in sockets:
            each.close()


def start_with_files(house: House, limits: str, **changes: object) -> None:
    """Launch the daemon with other limits of open files, in the words of the shell's ulimit."""
    options = ("--endpoint", "tcp:0:interface=127.0.0.1")
    command = house.command(house.configuration(**changes), *options)
    house.spawn(["/bin/sh", "-c", f'{limits}; exec "$@"', "sh", *command])


@pytest_twisted.ensureDeferred
async def test_a_thousand_silent_connections_cost_little_and_keep_nobody_out(house: House) -> None:
    await house.start()
    sender = Sender(house, archive())
    await sender.begin()
    await house.wait_for_line("state processing")
    before, files = memory(house, "VmRSS"), open_files(house)
    with silent_clients(house, 1000):
        assert await sender.finish() == (200, b"")
        assert (await house.upload(archive()))[0] == 409
        assert memory(house, "VmRSS") - before < 32 * MIB
        assert open_files(house) - files <= 256


@pytest_twisted.ensureDeferred
async def test_it_allows_itself_as_many_files_as_it_may(house: House) -> None:
    await house.listen_panel()
    start_with_files(house, "ulimit -Sn 1000; ulimit -Hn 3000")
    await house.listening()
    assert [line for line in house.log if "at most 3000 files" in line]
    assert [line for line in house.log if "LimitNOFILE= in a systemd unit" in line]
    limits = Path(f"/proc/{house.pid}/limits").read_text()
    assert re.search(r"Max open files +3000 +3000", limits)


@pytest_twisted.ensureDeferred
async def test_without_files_to_open_it_refuses_waits_and_recovers(house: House) -> None:
    await house.listen_panel()
    api = house.configuration()["api"] | {"limits": {"connections": 1000}}
    start_with_files(house, "ulimit -n 80", api=api)
    await house.listening()
    await house.loaded()
    sender = Sender(house, archive())
    await sender.begin()
    await house.wait_for_line("state processing")
    files = open_files(house)
    with silent_clients(house, 200):
        await house.wait_for_line("EMFILE")
        await until(lambda: open_files(house) >= 79)
        await at_rest(house)
        status, answer = await sender.finish()
        assert status == 500
        assert b"too many open files; raise the limit of this process" in answer
    await until(lambda: open_files(house) < files)
    await house.told_of_failure()
    house.panel.open_transfer(UUID, house.node)
    assert await house.upload(archive()) == (200, None)
    assert house.panel.reports() == [(UUID, "failure"), (UUID, "success")]
    assert house.left() == [UUID]
