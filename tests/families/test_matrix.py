"""Each family, in each direction, with each attachment and fault: results are as documented.

The results are in `handbook.compatibility`, from which the documents are made; `receiving` and
`sending` have a check for each kind of result.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest

from handbook.compatibility import MATRIX, Fate, Thing, Way, cell
from tests.families import receiving, sending
from tests.families.case import Case
from tests.families.departures import Departure
from tests.families.endpoint import Endpoint
from tests.families.recordings import FAMILIES, RECORDINGS

CHECKS = {
    (Way.RECEIVE, Thing.ARCHIVE, Fate.ARRIVES): receiving.files_arrive,
    (Way.RECEIVE, Thing.BACKUPS, Fate.ARRIVES): receiving.backups_arrive,
    (Way.RECEIVE, Thing.BACKUPS, Fate.NONE): receiving.no_backups_arrive,
    (Way.RECEIVE, Thing.LOG, Fate.ARRIVES): receiving.log_arrives,
    (Way.RECEIVE, Thing.LOG, Fate.NONE): receiving.no_log_arrives,
    (Way.RECEIVE, Thing.WRONG, Fate.FAILS): receiving.wrong_checksum_fails,
    (Way.RECEIVE, Thing.MISSING, Fate.FAILS): receiving.missing_checksum_fails,
    (Way.RECEIVE, Thing.CUT, Fate.FAILS): receiving.truncated_upload_fails,
    (Way.SEND, Thing.ARCHIVE, Fate.ARRIVES): sending.files_are_sent,
    (Way.SEND, Thing.BACKUPS, Fate.ARRIVES): sending.backups_are_sent,
    (Way.SEND, Thing.BACKUPS, Fate.NONE): sending.no_backups_are_sent,
    (Way.SEND, Thing.LOG, Fate.ARRIVES): sending.log_is_sent,
    (Way.SEND, Thing.LOG, Fate.SKIPPED): sending.log_is_sent_and_skipped,
    (Way.SEND, Thing.WRONG, Fate.FAILS): sending.changed_part_fails,
    (Way.SEND, Thing.MISSING, Fate.FAILS): sending.lost_checksum_fails,
    (Way.SEND, Thing.CUT, Fate.FAILS): sending.broken_connection_fails,
}


def test_each_cell_has_a_check_and_each_check_a_cell() -> None:
    assert MATRIX.keys() == set(product(FAMILIES, Way))
    assert all(cells.keys() == set(Thing) for cells in MATRIX.values())
    cells = {(way, t, each.fate) for (_, way), row in MATRIX.items() for t, each in row.items()}
    assert CHECKS.keys() == cells


@pytest.mark.promise("attached-backups-arrive-whole", "corrupt-upload-fails")
@pytest.mark.parametrize("thing", Thing, ids=lambda thing: thing.name.lower())
@pytest.mark.parametrize("way", Way, ids=lambda way: way.value)
async def test_a_transfer_has_the_documented_result(
    family: str, way: Way, thing: Thing, endpoint: Endpoint, depart: Callable[..., Departure]
) -> None:
    expected = cell(family, way, thing)
    case = Case(expected, RECORDINGS[family], endpoint, depart)
    await CHECKS[way, thing, expected.fate](case)
