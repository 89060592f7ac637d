"""The bodies of the Panel's answers: JSON within bounds, pages of servers, and errors."""

from __future__ import annotations

import json
from typing import Any

import attrs

from wingsd.errors import InvalidData
from wingsd.util.serialization import structure

__all__ = [
    "MAX_VALUES",
    "NO_REASON",
    "ServerPage",
    "error_text",
    "json_of",
    "server_page",
    "uuid_of",
]

#: Lists, maps and values in an answer's JSON: three bytes of JSON may take over sixty in memory.
MAX_VALUES = 2_000_000
NO_REASON = "no reason given"


@attrs.frozen(eq=False, repr=False)
class _Meta:
    last_page: int = 1


@attrs.frozen(eq=False, repr=False)
class ServerPage:
    """A page of the node's servers, in the Panel's form."""

    data: tuple[Any, ...]
    meta: _Meta = _Meta()


def json_of(body: bytes) -> object:
    """Return the content of a body. Raises `InvalidData`."""
    if sum(map(body.count, b",[{")) > MAX_VALUES:
        raise InvalidData(f"its answer has more than {MAX_VALUES:,} values")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidData(f"its answer is not JSON but {body[:60]!r}") from error


def server_page(answer: object) -> ServerPage:
    """Return a page, each of whose servers has a UUID. Raises `InvalidData`."""
    page = structure(answer, ServerPage)
    if any(uuid_of(entry) is None for entry in page.data):
        raise InvalidData("its list of servers has an entry without a uuid")
    return page


def uuid_of(entry: object) -> str | None:
    """Return the UUID of a server in a page."""
    uuid = entry.get("uuid") if isinstance(entry, dict) else None
    return uuid if isinstance(uuid, str) else None


def error_text(body: bytes) -> str:
    """Return the messages of a Panel's error answer; `NO_REASON` where it has another form."""
    try:
        answer: Any = json_of(body)
        # Calagopus' Panel has texts there, the others have maps.
        details = [
            fault if isinstance(fault, str) else str(fault["detail"]) for fault in answer["errors"]
        ]
    except (ValueError, LookupError, TypeError):
        return NO_REASON
    return "; ".join(details) or NO_REASON
