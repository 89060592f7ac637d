"""The recordings are what the nodes of each family write, byte for byte.

`data` has a whole request of each family: head, and body in chunks as its node writes them.
"""

from __future__ import annotations

from pathlib import Path

from tests.families.endpoint import chunks_of
from tests.families.recordings import RECORDINGS

DATA = Path(__file__).parent / "data"


def test_each_recording_is_the_request_that_its_family_writes(family: str) -> None:
    recording = RECORDINGS[family]
    request = b"".join([recording.head("a.b.c"), *chunks_of(recording.writes)])
    assert request == (DATA / f"{family}.http").read_bytes()
