"""Three families, both ways, and each thing that a server has with it: it is as documents say.

What has to happen is in `handbook.compatibility`, from which the documents are made, and how it is
proven in `receiving` and `sending` beside this file.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product

import pytest
import pytest_twisted

from handbook.compatibility import MATRIX, Thing, Way, cell
from tests.families import receiving, sending
from tests.families.departures import Departures
from tests.families.endpoint import Endpoint
from tests.families.proofs import PROOFS, Arrival, Departure
from tests.families.recordings import FAMILIES, RECORDINGS

__all__ = ["receiving", "sending"]

things = pytest.mark.parametrize("thing", Thing, ids=lambda thing: thing.name.lower())
families = pytest.mark.parametrize("family", FAMILIES)


def test_every_cell_is_there_and_every_proof_is_of_one() -> None:
    assert MATRIX.keys() == set(product(FAMILIES, Way))
    assert all(cells.keys() == set(Thing) for cells in MATRIX.values())
    wanted = {(way, t, its.fate) for (_, way), cells in MATRIX.items() for t, its in cells.items()}
    assert PROOFS.keys() == wanted


@things
@families
@pytest_twisted.ensureDeferred
async def test_what_is_received(
    family: str, thing: Thing, endpoint_of: Callable[[str], Endpoint]
) -> None:
    its = cell(family, Way.RECEIVE, thing)
    arrival = Arrival(its, endpoint_of(family), RECORDINGS[family])
    await PROOFS[Way.RECEIVE, thing, its.fate](arrival)


@things
@families
@pytest_twisted.ensureDeferred
async def test_what_is_sent(
    family: str,
    thing: Thing,
    depart: Callable[..., Departures],
    endpoint_of: Callable[[str], Endpoint],
) -> None:
    its = cell(family, Way.SEND, thing)
    departure = Departure(its, family, partial(depart, family), endpoint_of(family))
    await PROOFS[Way.SEND, thing, its.fate](departure)
