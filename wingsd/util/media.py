"""Bodies of HTTP messages in JSON and MessagePack: chosen, decoded strictly, and encoded.

Both carry the same plain data: maps with texts as names, lists, texts, finite numbers, booleans
and nulls. A name occurs once in a map. What is decoded is bounded by the length of the body.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from enum import Enum
from itertools import accumulate
from typing import Any, NoReturn

import msgpack

from wingsd.errors import InvalidData
from wingsd.util.serialization import unstructure

#: Levels of lists and maps in each other.
MAX_DEPTH = 100
#: Items of one list or map in MessagePack. Memory for as many as it claims to have is allocated
#: before the first of them is read, at each level, 8 bytes for each.
MAX_ITEMS = 4096

_TOO_DEEP = f"lists and maps are nested deeper than {MAX_DEPTH}"
_TEXTS = re.compile(rb'"(?:[^"\\]|\\.)*"')
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class MediaType(Enum):
    """The formats of bodies; the values are their names in headers."""

    JSON = "application/json"
    MESSAGE_PACK = "application/msgpack"


def content_type(header: str) -> MediaType:
    """Return the format that a `Content-Type` names; JSON for any other, as Panels mean it."""
    name, _, _ = header.partition(";")
    is_packed = name.strip().lower() == MediaType.MESSAGE_PACK.value
    return MediaType.MESSAGE_PACK if is_packed else MediaType.JSON


def accepted(header: str) -> MediaType:
    """Return the format to answer in by an `Accept`: MessagePack where it is asked for by name.

    JSON is preferred where it has a higher quality (RFC 9110, section 12.5.1).
    """
    qualities = dict(map(_quality, header.split(",")))
    packed = qualities.get(MediaType.MESSAGE_PACK.value, 0.0)
    is_packed = packed > 0 and packed >= qualities.get(MediaType.JSON.value, 0.0)
    return MediaType.MESSAGE_PACK if is_packed else MediaType.JSON


def _quality(entry: str) -> tuple[str, float]:
    """Return a media type and its quality, 0 for an invalid one."""
    name, *parameters = (part.strip().lower() for part in entry.split(";"))
    given = [part.removeprefix("q=") for part in parameters if part.startswith("q=")]
    try:
        return name, float(given[0]) if given else 1.0
    except ValueError:
        return name, 0.0


def decode(body: bytes, media: MediaType) -> Any:
    """Return the plain data of a body. Raises `InvalidData` with the reason."""
    try:
        if media is MediaType.MESSAGE_PACK:
            data = _unpack(body)
        else:
            data = json.loads(body, parse_float=_number, object_pairs_hook=_map)
        # Refuses what JSON cannot have, such as numbers that are not finite and half of a
        # surrogate pair.
        text = json.dumps(data, ensure_ascii=False, allow_nan=False, default=_refuse).encode()
    except RecursionError as error:
        raise InvalidData(_TOO_DEEP) from error
    except (TypeError, ValueError) as error:
        raise InvalidData(str(error)) from error
    # How many lists and maps are in each other in the text.
    brackets = _TEXTS.sub(b"", text).translate(None, _NO_BRACKETS)
    depths = accumulate(1 if each in b"[{" else -1 for each in brackets)
    if max(depths, default=0) > MAX_DEPTH:
        raise InvalidData(_TOO_DEEP)
    return data


def encode(content: object, media: MediaType) -> bytes:
    """Return `content`, plain data or instances of attrs classes, as a body."""
    data = unstructure(content)
    if media is MediaType.JSON:
        return json.dumps(data).encode()
    # An integer of more than 64 bits becomes a text, half of a surrogate pair a question mark.
    packed: bytes = msgpack.packb(data, default=str, unicode_errors="replace")
    return packed


def _unpack(body: bytes) -> Any:
    try:
        # Lengths of texts and bytes are bounded by that of the body.
        return msgpack.unpackb(
            body,
            object_pairs_hook=_map,
            ext_hook=_refuse_extension,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
        )
    except msgpack.StackError as error:
        raise ValueError(_TOO_DEEP) from error
    except msgpack.FormatError as error:
        raise ValueError("it has a byte that MessagePack does not have") from error


def _number(text: str) -> float:
    """Parse a JSON number. In JSON 3.0 is an integer."""
    number = float(text)
    return int(number) if number.is_integer() else number


def _map(pairs: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
    """Return a map. Raises an error for a name that is no text, or is there twice."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if not isinstance(name, str):
            raise TypeError("a name in a map is not a text")
        if name in found:
            raise ValueError("a map has the same name twice")
        found[name] = value
    return found


def _refuse_extension(code: int, data: bytes) -> NoReturn:
    raise ValueError(f"extension types such as {code} are not accepted")


def _refuse(value: object) -> NoReturn:
    raise ValueError(f"a value is of the type {type(value).__name__}, which JSON does not have")
