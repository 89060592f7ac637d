"""The entries of the activity log: checked, merged, and in the form that Panels read.

A Panel wants metadata that is an object, and an address without a port; it refuses the whole call
for one entry that has something else. The form is that of Wings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import attrs

from wingsd.statedb import ActivityEntry

__all__ = ["METADATA_MAX", "MetadataTooLarge", "merge", "metadata_text"]

#: Bytes of the metadata of one entry, as JSON.
METADATA_MAX = 64 * 1024
#: Bytes of the metadata in one call; a proxy in front of a Panel often takes no more than 1 MiB.
CALL_MAX = 512 * 1024
_MINUTE = 60


class MetadataTooLarge(ValueError):
    """The metadata of an entry has more than `METADATA_MAX` bytes."""


def metadata_text(metadata: Mapping[str, object]) -> str:
    """Return metadata as JSON. Raises `MetadataTooLarge`.

    What is no Unicode, as single surrogates, is replaced: Panels cannot read it.
    """
    text = json.dumps(metadata, ensure_ascii=False, separators=(",", ":"))
    encoded = text.encode("utf-8", "replace")
    if len(encoded) > METADATA_MAX:
        raise MetadataTooLarge(
            f"its metadata has {len(encoded):,} bytes, more than {METADATA_MAX:,}"
        )
    return encoded.decode()


@attrs.define(eq=False, repr=False)
class _Merged:
    """An entry whose files are those of several rows."""

    files: list[Any]
    size: int


def merge(rows: Sequence[ActivityEntry], most: int) -> tuple[list[dict[str, Any]], int]:
    """Return at most `most` entries for one call, and how many of the rows are in them.

    Rows of one user, server, address, event and minute are one entry, with the time of the first,
    where they differ only in the list `files` of their metadata.
    """
    entries: list[dict[str, Any]] = []
    merged: dict[tuple[object, ...], _Merged] = {}
    size = 0
    for taken, row in enumerate(rows):
        if taken and size + len(row.metadata) > CALL_MAX:
            return entries, taken
        metadata = json.loads(row.metadata)
        key, files = _mergeable(row, metadata)
        known = merged.get(key)
        if known is not None and known.size + len(row.metadata) <= METADATA_MAX:
            known.files += files
            known.size += len(row.metadata)
        elif len(entries) == most:
            return entries, taken
        else:
            entries.append(_sent(row, metadata))
            if key:
                merged[key] = _Merged(files, len(row.metadata))
        size += len(row.metadata)
    return entries, len(rows)


def _mergeable(
    row: ActivityEntry, metadata: dict[str, Any]
) -> tuple[tuple[object, ...], list[Any]]:
    """Return what rows that become one entry have in common, and the files of this one.

    It is empty for a row that stays an entry of its own.
    """
    files = metadata.get("files")
    if not isinstance(files, list):
        return (), []
    rest = json.dumps({key: value for key, value in metadata.items() if key != "files"})
    return (row.user, row.server, row.ip, row.event, row.at // _MINUTE, rest), files


def _sent(row: ActivityEntry, metadata: dict[str, Any]) -> dict[str, Any]:
    return {
        "user": row.user,
        "server": row.server,
        "event": row.event,
        "metadata": metadata,
        "ip": row.ip,
        "timestamp": datetime.fromtimestamp(row.at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
