"""A sender that has to wait for its turn, since the node receives no more servers at a time."""

from __future__ import annotations

from typing import Any

import pytest_twisted

from tests.daemon.daemon import reactor
from tests.daemon.harness import UUID, House, archive
from tests.daemon.uploads import Sender
from tests.support import server_settings

OTHER = "1b0c7f6e-9a3d-4e52-8c41-5f2e7d90ab36"


def one_at_a_time(house: House) -> dict[str, Any]:
    system = house.configuration()["system"]
    return {"system": system | {"transfers": {"concurrent": 1}}}


@pytest_twisted.ensureDeferred
async def test_one_that_goes_meanwhile_is_noticed(house: House) -> None:
    house.panel.add_server(server_settings(OTHER), house.source)
    house.panel.open_transfer(OTHER, house.node)
    await house.start(**one_at_a_time(house))
    first = Sender(house, archive())
    await first.begin()
    await house.wait_for_line(f"{UUID}: state processing")
    second = Sender(house, archive(), token=house.panel.transfer_token(OTHER, house.node))
    await second.begin()
    await house.wait_for_line(f"{OTHER}: state processing")
    await second.vanish()
    await house.wait_for_line(f"{OTHER}: state failure").addTimeout(2, reactor)
    assert await first.finish() == (200, b"")
