"""What nodes tell each other of a storage pool, and what follows from that."""

from __future__ import annotations

import pytest

from wingsd.errors import Conflict
from wingsd.transfers.storage.shared_volume import (
    MARK,
    POOL,
    Sharing,
    is_same_pool,
    pool_headers,
    sharing_of,
)


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        ("Attic", "attic", True),
        ("attic", "attic", True),
        ("attic", "cellar", False),
        ("attic", "", False),
        ("", "attic", False),
        ("", "", False),
        ("attic", "attic ", False),
    ],
)
def test_pool_names_are_compared_without_case(ours: str, theirs: str, same: bool) -> None:
    assert is_same_pool(ours, theirs) is same


def test_headers_are_sent_only_for_what_exists() -> None:
    assert pool_headers("attic", "m") == [(POOL, "attic"), (MARK, "m")]
    assert pool_headers("attic") == [(POOL, "attic")]
    assert pool_headers("") == []


@pytest.mark.parametrize(
    ("features", "sharing"),
    [
        ({"symlinks", "storage-pool", "shared-volume"}, Sharing.POOLED),
        ({"symlinks"}, Sharing.COPIED),
        (set[str](), Sharing.UNSURE),
    ],
)
def test_the_answer_says_how_files_are_shared(features: set[str], sharing: Sharing) -> None:
    assert sharing_of(features, "attic") is sharing


def test_one_volume_in_two_pools_is_refused() -> None:
    with pytest.raises(Conflict, match="pool_name to 'attic' and enabled to true"):
        sharing_of({"symlinks", "shared-volume"}, "attic")
