"""A server that is larger than its Panel allows, and a bomb, sent to a real daemon."""

from __future__ import annotations

import pytest
import pytest_twisted

from tests.archive.hostile.streams import bomb
from tests.daemon.harness import UUID, House, archive
from tests.support import server_settings

MIB = 1 << 20


def allow(house: House, disk_space: int) -> None:
    """Have the Panel say that the server may have so many MiB."""
    build = server_settings(UUID)["build"] | {"disk_space": disk_space}
    house.panel.add_server(server_settings(UUID, build=build), house.source)
    house.panel.open_transfer(UUID, house.node)


@pytest.mark.parametrize("data", [archive(3 * MIB), bomb(8)], ids=["a large server", "a bomb"])
@pytest_twisted.ensureDeferred
async def test_a_server_gets_no_more_disk_than_the_panel_gives_it(
    house: House, data: bytes
) -> None:
    allow(house, 2)
    await house.start()
    status, answer = await house.upload(data)
    assert (status, answer["code"]) == (400, "disk-limit-exceeded")
    assert "MiB, its disk limit is 2 MiB" in answer["detail"]
    await house.told_of_failure()
    assert house.left() == []
    assert house.panel.reports() == [(UUID, "failure")]
    # with more, it arrives
    allow(house, 4)
    assert await house.upload(archive(3 * MIB)) == (200, None)
