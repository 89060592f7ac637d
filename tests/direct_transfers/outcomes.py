"""How a move by hand can have ended, as a test sees it at both ends."""

from __future__ import annotations

import pytest

from tests.direct_transfers.harness import UUID, Station, until
from tests.direct_transfers.scenarios import Ends

__all__ = ["hold", "moved", "moved_and_gone", "reason", "stays"]


def hold(station: Station) -> str:
    """Return why the server may not be started there."""
    return station.servers.get(UUID).hold


def reason(station: Station) -> str:
    """Return why the last transfer there failed."""
    return station.store.ended(1)[0].reason


async def stays(ends: Ends) -> None:
    """See that nothing of it is at the destination, and that it may be started at its source."""
    await ends.over()
    assert (ends.source.entries()[-1], hold(ends.source)) == (("out", "failure"), "")
    assert ends.destination.left() == []
    assert ends.destination.environment.containers == {}
    with pytest.raises(Exception, match=r"servers yet|not found"):
        ends.destination.servers.get(UUID)
    assert (ends.source.data / UUID / "world" / "level.dat").exists()


async def moved(ends: Ends) -> None:
    """See that it is at the destination, whole, and may be started only there."""
    await ends.over()
    assert ends.arrived()
    assert ends.source.entries()[-1] == ("out", "success")
    assert ends.destination.entries()[-1] == ("in", "success")
    assert hold(ends.destination) == ""
    assert ends.destination.servers.get(UUID).by_hand


async def moved_and_gone(ends: Ends) -> None:
    """See that it has moved, and that nothing of it is left at its source."""
    await ends.over()
    assert ends.arrived()
    await until(lambda: ends.source.left() == [])
    with pytest.raises(Exception, match=r"servers yet|not found"):
        ends.source.servers.get(UUID)
