"""What a service manager hears of the daemon, and what it gives it."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from tests.daemon.house import UUID, House, archive
from tests.daemon.uploads import Sender
from tests.systemd.manager import Manager
from wingsd.testing import Hang

Messages = list[dict[str, str]]


@pytest.fixture
def manager(house: House) -> Iterator[Manager]:
    """A manager that the daemon of `house` will speak to, with a watchdog of a second."""
    with Manager(house.directory) as made:
        house.variables |= {"NOTIFY_SOCKET": made.address, "WATCHDOG_USEC": "1000000"}
        yield made


async def heard(manager: Manager, assignment: str) -> Messages:
    messages: Messages = await deferToThread(manager.wait_for, assignment)
    return messages


@pytest_twisted.ensureDeferred
async def test_it_tells_from_its_start_to_its_end_how_it_is(
    house: House, manager: Manager
) -> None:
    await house.listen_panel()
    hang = Hang()
    house.panel.inject("/servers?", hang)
    house.launch("--endpoint", "tcp:0:interface=127.0.0.1")
    # It listens, and does not know its servers yet.
    await house.listening()
    before = await heard(manager, "WATCHDOG=1")
    assert before[0]["STATUS"].startswith("starting")
    assert not [message for message in before if "READY" in message]
    hang.release()
    ready = (await heard(manager, "READY=1"))[-1]
    assert ready["STATUS"] == "0 servers; no transfer under way"

    sender = Sender(house, archive())
    await sender.begin()
    await heard(manager, f"STATUS=1 server; receiving {UUID}")
    assert await sender.finish() == (200, b"")
    for _ in range(2):
        await heard(manager, "WATCHDOG=1")

    house.signal("TERM")
    stopping = (await heard(manager, "STOPPING=1"))[-1]
    assert stopping["STATUS"].startswith("ending")
    assert await house.ended() == -signal.SIGTERM
