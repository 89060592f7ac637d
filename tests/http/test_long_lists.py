"""Long lists of files as bodies."""

from __future__ import annotations

import json

import msgpack
import pytest

from wingsd.api.files import encoded
from wingsd.util.media import MediaType

ENTRIES = [{"name": f'{number} \U0010feff "\n', "size": number} for number in range(1001)]


@pytest.mark.parametrize("around", [None, {}, {"total": 1, "uploads": []}])
def test_a_list_is_encoded_in_pieces_as_it_would_be_at_once(
    around: dict[str, object] | None,
) -> None:
    expected = ENTRIES if around is None else {**around, "entries": ENTRIES}
    assert json.loads(encoded(ENTRIES, MediaType.JSON, around, "entries").body) == expected
    packed = encoded(ENTRIES, MediaType.MESSAGE_PACK, around, "entries").body
    assert msgpack.unpackb(packed) == expected


def test_a_byte_that_is_not_utf_8_takes_four() -> None:
    body = encoded([{"name": "\U0010feff" * 255}], MediaType.JSON).body
    assert len(body) < 4 * 255 + 20
