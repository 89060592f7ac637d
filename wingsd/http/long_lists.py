"""Long lists as bodies of answers, encoded in the thread that has made them.

A list is encoded in pieces: the JSON encoder lets no other thread run, and 100,000 entries take it
half a second. Its entries are used once, in order, and each piece is added to the body at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

from wingsd.http.operations import Encoded
from wingsd.util.media import MediaType

__all__ = ["encoded"]

#: Entries encoded at a time.
_PIECE = 500


def encoded(
    entries: Sequence[Mapping[str, Any]],
    media: MediaType,
    around: Mapping[str, Any] | None = None,
    name: str = "",
) -> Encoded[Any]:
    """Return a list of plain data, or a map `around` with the list in it as the last value `name`.

    Blocking.
    """
    encode = _packed if media is MediaType.MESSAGE_PACK else _json
    return Encoded(encode(entries, around, name), media)


def _json(
    entries: Sequence[Mapping[str, Any]], around: Mapping[str, Any] | None, name: str
) -> bytes:
    # Not in ASCII, in which a byte of a name may take twelve.
    encoder = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)

    def dumps(value: object) -> bytes:
        return encoder.encode(value).encode("utf-8", "replace")

    body = BytesIO()
    if around is not None:
        fields = (b"%b:%b," % (dumps(key), dumps(value)) for key, value in around.items())
        body.write(b"{%b%b:" % (b"".join(fields), dumps(name)))
    body.write(b"[")
    for at in range(0, len(entries), _PIECE):
        body.write(b"," * (at > 0) + dumps(entries[at : at + _PIECE])[1:-1])
    body.write(b"]" if around is None else b"]}")
    return body.getvalue()


def _packed(
    entries: Sequence[Mapping[str, Any]], around: Mapping[str, Any] | None, name: str
) -> bytes:
    import msgpack  # noqa: PLC0415 (only nodes of Calagopus' Panel need it)

    packer = msgpack.Packer(unicode_errors="replace")
    body = BytesIO()
    if around is not None:
        body.write(packer.pack_map_header(len(around) + 1))
        for key, value in around.items():
            body.write(packer.pack(key) + packer.pack(value))
        body.write(packer.pack(name))
    body.write(packer.pack_array_header(len(entries)))
    body.writelines(map(packer.pack, entries))
    return body.getvalue()
