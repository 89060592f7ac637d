"""Bodies in JSON and MessagePack: which is chosen, and what is refused."""

from __future__ import annotations

import tracemalloc
from time import perf_counter
from typing import Any

import msgpack
import pytest

from wingsd.errors import InvalidData
from wingsd.util.media import MAX_DEPTH, MAX_ITEMS, MediaType, accepted, content_type, decode
from wingsd.util.media import encode as encoded

pytestmark = pytest.mark.promise("request-bodies-are-bounded")

PACKED, JSON = MediaType.MESSAGE_PACK, MediaType.JSON
#: A length of 2**32 - 1.
MOST = b"\xff\xff\xff\xff"


@pytest.mark.parametrize(
    ("header", "media"),
    [
        ("", JSON),
        ("application/json", JSON),
        ("application/msgpack", PACKED),
        ("Application/MsgPack; charset=binary", PACKED),
        ("multipart/form-data; boundary=application/msgpack", JSON),
    ],
)
def test_the_content_type_is_json_unless_it_is_messagepack(header: str, media: MediaType) -> None:
    assert content_type(header) is media


@pytest.mark.parametrize(
    ("header", "media"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("application/json", JSON),
        ("application/vnd.pterodactyl.v1+json", JSON),
        ("application/msgpack", PACKED),
        ("text/html, APPLICATION/MSGPACK;q=0.9, */*;q=0.1", PACKED),
        ("application/json, application/msgpack", PACKED),
        ("application/json, application/msgpack;q=0.5", JSON),
        ("application/msgpack;q=0", JSON),
        ("application/msgpack;q=much", JSON),
    ],
)
def test_messagepack_is_accepted_where_it_is_named_and_not_second_to_json(
    header: str, media: MediaType
) -> None:
    assert accepted(header) is media


VALUES = [
    {"a": [1, -1, 0.5, True, False, None, "ü"], "": {}},
    [],
    2**63,
    "x" * 70_000,
    {str(number): number for number in range(MAX_ITEMS)},
]


@pytest.mark.parametrize("media", list(MediaType))
@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_plain_data_comes_back_as_it_was(media: MediaType, value: Any) -> None:
    assert decode(encoded(value, media), media) == value


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "incomplete"),
        (b"\x93\x01", "incomplete"),
        (b"\xdd" + MOST, "max_array_len"),
        (b"\xdf" + MOST, "max_map_len"),
        (b"\xdb" + MOST + b"ab", "incomplete|max_str_len"),
        (b"\xc6" + MOST + b"ab", "incomplete|max_bin_len"),
        (b"\xc9" + MOST + b"\x01ab", "max_ext_len"),
        (b"\xdc\x10\x01" + b"\xc0" * (MAX_ITEMS + 1), "max_array_len"),
        (b"\x91" * 100_000, "nested deeper"),
        (b"\x91" * (MAX_DEPTH + 1) + b"\xc0", "nested deeper"),
        (b"\xc0\xc0", "extra data"),
        (b"\xa1\xff", "can't decode"),
        (b"\x82\xa1a\x01\xa1a\x02", "same name twice"),
        (b"\x81\x01\x02", "not allowed for map key|not a text"),
        (b"\x81\xc4\x01a\x02", "not a text"),
        (b"\x81\x91\x01\x02", "not allowed for map key|not a text"),
        (b"\xcb\x7f\xf8" + bytes(6), "not JSON compliant"),
        (b"\xcb\x7f\xf0" + bytes(6), "not JSON compliant"),
        (b"\xc4\x01a", "of the type bytes"),
        (b"\xd4\x05\x00", "extension types"),
        (b"\xd6\xff" + bytes(4), "of the type Timestamp"),
        (b"\xc1", "does not have"),
        (b'{"user": "x"}', "extra data"),
    ],
)
def test_invalid_messagepack_is_refused_with_its_reason(body: bytes, reason: str) -> None:
    with pytest.raises(InvalidData, match=reason):
        decode(body, PACKED)


def test_lists_that_claim_to_be_long_cost_little_memory_and_time() -> None:
    level = b"\xdc" + MAX_ITEMS.to_bytes(2, "big")
    tracemalloc.start()
    try:
        began = perf_counter()
        with pytest.raises(InvalidData, match="nested deeper"):
            decode(level * (1024 * 1024 // len(level)), PACKED)
        assert perf_counter() - began < 10
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_half_of_a_surrogate_pair_is_replaced_in_messagepack() -> None:
    assert msgpack.unpackb(encoded({"a": "x\ud800"}, MediaType.MESSAGE_PACK)) == {"a": "x?"}
