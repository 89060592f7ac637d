"""Orders of each family while something else has the server: taken, kept and carried out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from handbook.compatibility import Thing, Way, cell
from tests.families.case import general
from tests.families.departures import Departure
from tests.families.recordings import BACKUPS
from tests.support.reactor import until
from tests.support.sample_server import UUID
from wingsd.servers.operations import AWAITED, Operation
from wingsd.statedb import Outcome
from wingsd.transfers.outgoing.move import request_of

pytestmark = pytest.mark.promise("order-waits")
OPERATIONS = pytest.mark.parametrize("operation", AWAITED, ids=lambda each: each.value)


@contextmanager
def under_way(departure: Departure, operation: Operation) -> Iterator[None]:
    operations = departure.sender.server.operations
    if operation is Operation.BACKUP:
        with operations.during(operation):
            yield
        return
    operations.place_hold(operation, "under way")
    yield
    operations.release(operation)


def waits(departure: Departure) -> bool:
    return [each.step.name for each in departure.sender.transfers.progress] == ["WAIT"]


@OPERATIONS
async def test_all_that_an_order_asks_for_is_sent_after_the_wait(
    family: str, depart: Callable[..., Departure], operation: Operation
) -> None:
    departure = depart()
    with under_way(departure, operation):
        assert await departure.order() == (202, "")
        assert waits(departure)
        # The Panel shows the server as locked; an order once more changes nothing.
        assert (await departure.order())[0] == 409
        assert departure.destination.sent == []
        assert departure.sender.panel.calls == []
        # What a daemon after a restart goes on with.
        (record,) = departure.sender.store.open_moves()
        transfer = departure.sender.transfers.find(UUID)
        assert transfer is not None
        assert request_of(record) == transfer._request
    await until(lambda: not departure.sender.transfers.servers)
    assert departure.has_moved
    sent = [general(part.name) for part in departure.destination.sent]
    for thing, count in ((Thing.ARCHIVE, 1), (Thing.BACKUPS, len(BACKUPS))):
        for name in cell(family, Way.SEND, thing).parts:
            assert sent.count(name) == count


@OPERATIONS
@pytest.mark.usefixtures("family")
async def test_a_cancel_of_the_panel_ends_the_wait(
    depart: Callable[..., Departure], operation: Operation
) -> None:
    departure = depart()
    operations = departure.sender.server.operations
    with under_way(departure, operation):
        assert await departure.order() == (202, "")
        status, _ = await departure.cancel()
        assert status in (202, 204)
        await until(lambda: not departure.sender.transfers.servers)
        assert operations.runs(operation)
        assert departure.sender.panel.calls.count("failure") == 1
    assert departure.destination.sent == []
    assert not any(operations.runs(each) for each in Operation)
    (entry,) = departure.sender.store.transfers()
    assert entry.outcome is Outcome.CANCELLED
