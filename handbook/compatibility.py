"""The tables of compatibility: of transfers, and of the calls of Panels.

Of transfers there is one cell for each family of nodes, each direction, and each item. It is the
only source: `tests/families/test_matrix.py` tests every cell, and the documents show the
table. A new item is a member of `Thing`, its six cells, and their tests in
`tests/families/receiving.py` and `sending.py`, without which the suite fails. The calls are those
of Panels in the table of routes, with remarks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum

import attrs

from wingsd.api.routes import ROUTES
from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL

__all__ = [
    "MATRIX",
    "Cell",
    "Fate",
    "Thing",
    "Way",
    "calls",
    "cell",
    "details",
    "nodes",
    "overview",
]


class Way(Enum):
    """The direction of a transfer: wingsd receives from a node of the family, or sends to it."""

    RECEIVE = "receive"
    SEND = "send"


class Thing(Enum):
    """Parts of a transfer, and faults of one; each has a column."""

    ARCHIVE = "files"
    BACKUPS = "local backups"
    LOG = "installation log"
    WRONG = "wrong checksum"
    MISSING = "no checksum"
    CUT = "truncated"


class Fate(Enum):
    """The result, and its text in the small table."""

    ARRIVES = "yes"
    NONE = "–"  # noqa: RUF001 - for people
    SKIPPED = "skipped"
    FAILS = "fails"


@attrs.frozen
class Cell:
    """The result for an item.

    `words` are details of what is sent; `parts` the names of the form's parts, where `UUID` stands
    for a backup's; `reason` is the message when the transfer fails.
    """

    fate: Fate
    words: str = ""
    parts: tuple[str, ...] = ()
    reason: str = ""


Cells = Mapping[Thing, Cell]

_NO_MATCH = "checksums don't match"
_MISSING = "missing archive or checksum"
_HALF = "the upload ended before it was complete"
_GO_SAYS = "An unexpected error was encountered while processing this request"
_CALAGOPUS_SAYS = "failed to complete server transfer"
_BROKE = "the connection to it broke"


def _received(checksum: str) -> Cells:
    """Return the cells of faulty uploads that this node receives."""
    return {
        Thing.WRONG: Cell(Fate.FAILS, parts=(checksum,), reason=_NO_MATCH),
        Thing.MISSING: Cell(Fate.FAILS, parts=(checksum,), reason=_MISSING),
        Thing.CUT: Cell(Fate.FAILS, reason=_HALF),
    }


def _sent(checksum: str, says: str) -> Cells:
    """Return the cells of uploads that this node sends and that arrive with a fault."""
    return {
        Thing.WRONG: Cell(Fate.FAILS, parts=(checksum,), reason=says),
        Thing.MISSING: Cell(Fate.FAILS, parts=(checksum,), reason=says),
        Thing.CUT: Cell(Fate.FAILS, reason=_BROKE),
    }


_GO_SENDS = "a tar.gz of files: these nodes send no directories and no symlinks"
_GO_KEEPS = "a tar.gz. Links are sent as whole files, since these nodes would create empty files"
_LOG_KEPT = "kept in `system.log_directory` once the server is here. It never fails a transfer"
_LOG_SENT = "if this node has one. It never fails a transfer"
_PELICANS = ("backup_UUID.tar.gz", "checksum_backup_UUID.tar.gz")
_CALAGOPUS_PARTS = ("backup-UUID", "backup-checksum-UUID")

MATRIX: Mapping[tuple[str, Way], Cells] = {
    (PTERODACTYL, Way.RECEIVE): {
        Thing.ARCHIVE: Cell(Fate.ARRIVES, _GO_SENDS, ("archive", "checksum")),
        Thing.BACKUPS: Cell(Fate.NONE),
        Thing.LOG: Cell(Fate.NONE),
        **_received("checksum"),
    },
    (PELICAN, Way.RECEIVE): {
        Thing.ARCHIVE: Cell(Fate.ARRIVES, _GO_SENDS, ("archive", "checksum_archive")),
        Thing.BACKUPS: Cell(
            Fate.ARRIVES,
            "kept in the server's directory in `system.backup_directory`, moved into place "
            "together with the server",
            _PELICANS,
        ),
        Thing.LOG: Cell(Fate.ARRIVES, _LOG_KEPT, ("install_logs",)),
        **_received("checksum_archive"),
    },
    (CALAGOPUS, Way.RECEIVE): {
        Thing.ARCHIVE: Cell(
            Fate.ARRIVES,
            "a tar, plain or compressed by gzip, xz, bzip2, lz4 or zstd, with directories and "
            "symlinks",
            ("archive", "checksum"),
        ),
        Thing.BACKUPS: Cell(
            Fate.ARRIVES,
            "one file each, kept in `system.backup_directory` itself, moved into place "
            "together with the server. The Panel gets a list of those that came",
            _CALAGOPUS_PARTS,
        ),
        Thing.LOG: Cell(Fate.ARRIVES, _LOG_KEPT, ("install-logs",)),
        **_received("checksum"),
    },
    (PTERODACTYL, Way.SEND): {
        Thing.ARCHIVE: Cell(Fate.ARRIVES, _GO_KEEPS, ("archive", "checksum")),
        Thing.BACKUPS: Cell(Fate.NONE),
        Thing.LOG: Cell(
            Fate.SKIPPED,
            "these nodes skip unknown parts. A node of wingsd in their place keeps it",
            ("install_logs",),
        ),
        **_sent("checksum", _GO_SAYS),
    },
    (PELICAN, Way.SEND): {
        Thing.ARCHIVE: Cell(Fate.ARRIVES, _GO_KEEPS, ("archive", "checksum_archive")),
        Thing.BACKUPS: Cell(
            Fate.ARRIVES,
            "those that the Panel asks for, from the places of all families. These nodes keep "
            "only tar.gz: a backup in another format, or a missing one, fails the transfer before "
            "the server is stopped",
            _PELICANS,
        ),
        Thing.LOG: Cell(Fate.ARRIVES, _LOG_SENT, ("install_logs",)),
        **_sent("checksum_archive", _GO_SAYS),
    },
    (CALAGOPUS, Way.SEND): {
        Thing.ARCHIVE: Cell(
            Fate.ARRIVES,
            "in the format and at the level that its Panel asks for. Links are sent as whole "
            "files",
            ("archive", "checksum"),
        ),
        Thing.BACKUPS: Cell(
            Fate.ARRIVES,
            "those that the Panel asks for, from the places of all families. A missing one fails "
            "the transfer before the server is stopped",
            _CALAGOPUS_PARTS,
        ),
        Thing.LOG: Cell(Fate.ARRIVES, _LOG_SENT, ("install-logs",)),
        **_sent("checksum", _CALAGOPUS_SAYS),
    },
}

#: The families in tables, where there is no room for their names.
_LETTERS = {PTERODACTYL: "P", PELICAN: "PE", CALAGOPUS: "C"}
_NODES = {
    PTERODACTYL: "Pterodactyl's nodes",
    PELICAN: "Pelican's nodes",
    CALAGOPUS: "Calagopus' nodes",
}


def cell(family: str, way: Way, thing: Thing) -> Cell:
    """Return one cell."""
    return MATRIX[family, way][thing]


def overview() -> str:
    """Return the small table, a row for each pair of nodes."""
    head = ["from", "to", *(thing.value for thing in Thing)]
    rows = [
        [*_pair(family, way), *(cells[thing].fate.value for thing in Thing)]
        for (family, way), cells in MATRIX.items()
    ]
    return "\n".join(map(_row, [head, ["---"] * len(head), *rows]))


def details() -> str:
    """Return a table with the details of what is sent; equal ones are in one row."""
    lines = [_row(["item", "nodes", "details"]), _row(["---"] * 3)]
    for thing in Thing:
        groups: dict[str, list[tuple[str, Way]]] = {}
        for pair, cells in MATRIX.items():
            if cells[thing].words:
                groups.setdefault(cells[thing].words, []).append(pair)
        lines += [_row([thing.value, nodes(pairs), words]) for words, pairs in groups.items()]
    return "\n".join(lines)


def nodes(pairs: Iterable[tuple[str, Way]]) -> str:
    """Return by which nodes something is sent to wingsd, or to which: `from P, PE; to C`."""
    found: dict[str, list[str]] = {}
    for family, way in pairs:
        preposition = "from" if way is Way.RECEIVE else "to"
        found.setdefault(preposition, []).append(_LETTERS[family])
    return "; ".join(f"{each} {', '.join(letters)}" for each, letters in found.items())


def _pair(family: str, way: Way) -> list[str]:
    pair = [_NODES[family], "wingsd"]
    return pair if way is Way.RECEIVE else pair[::-1]


def _row(fields: list[str]) -> str:
    return f"| {' | '.join(fields)} |"


_USUAL = "as its node"
_PULLS = "[as its node](http.md#downloads-from-a-url)"
_SIGNED = "[as its node](http.md#signed-urls)"
_TRANSFER = "as its node: [protocol](protocol.md#one-stream)"
_BACKUPS = "see [backups](#backups)"
_DETAILS = "[as its node, with differences](#calls)"
_PACKED = f"{_SIGNED}, but for `tar_lzip` and `seven_zip`; symlinks are stored as such"
#: What is to be said of a Panel's call; of others `_USUAL`.
_REMARKS: Mapping[str, str] = {
    "GET /api/diagnostics": "text with the same parts, without secrets, and without "
    "`include_endpoints` also without hosts and addresses, in the log as well",
    "GET /api/ports/used": "for each `ip` the ports of this node's servers, with their UUIDs, and "
    "those at which other programs of the machine receive, by TCP or UDP; one that receives at "
    "all addresses counts for each. `127.0.0.1` is the interface of Docker's network. 503 until "
    "the servers are known",
    "GET /api/system": "as its node; with `v=2` (P, PE) without `docker` where Docker is disabled "
    "or silent for 5 s",
    "POST /api/update": _DETAILS,
    "GET /api/system/docker/disk": "as its node; an answer is kept for 5 s",
    "DELETE /api/system/docker/image/prune": "as its node; after 12 s 409 `prune-in-progress`: it "
    "goes on, and the next call after its end gets the result",
    "GET /api/system/ips": "as its node: `ip_addresses` for PE, `ips` for C; with "
    "`docker.system_ips` in both",
    "GET /api/system/config": "the configuration in force with the unused keys of its file; "
    "secrets are empty. The Panel's page for settings fails unless the file has every key of "
    "its own nodes, as those write it",
    "GET /api/system/logs": "as its node: regular files of `system.log_directory`, and "
    "`wingsd.log`, the node's own log, wherever that is written",
    "GET /api/system/logs/{file}": "as its node, without the node's secrets",
    "GET /api/system/overview": "as its node; `container_type` is `none` or `unknown`",
    "GET /api/system/stats": "as its node, in bytes, without traffic within the machine; rates "
    "are since the last call",
    "POST /api/system/upgrade": "409: packages upgrade a node",
    "GET /api/system/utilization": "as its node, within a second. `memory_used` is memory that is "
    "not available to programs. Each device is shown once; network shares only if the node keeps "
    "files on them; disks that the service's sandbox hides (`/home`, `/boot`, Docker's own) are "
    "not shown. A disk that hangs is shown with its last figures",
    "POST /api/deauthorize-user": _DETAILS,
    "POST /api/servers": "as its node, with `skip_scripts`; 409 where the server is here, or the "
    "node is in maintenance",
    "POST /api/servers/power": "as its node, by `all`, `uuids` or a list; `affected` counts "
    "what can be begun now",
    "GET /api/servers/{uuid}/logs": "as its node; 100 lines at most",
    "POST /api/servers/{uuid}/power": _DETAILS,
    "DELETE /api/servers/{uuid}": "as its node; [backups](#backups) of a server that has moved "
    "stay",
    "POST /api/servers/{uuid}/backup": _BACKUPS,
    "DELETE /api/backups/{backup}": _BACKUPS,
    "DELETE /api/servers/{uuid}/backup/{backup}": _BACKUPS,
    "DELETE /api/servers/{uuid}/deleteAllBackups": _BACKUPS,
    "POST /api/servers/{uuid}/backup/{backup}/restore": _BACKUPS,
    "GET /api/servers/{uuid}/files/pull": _PULLS,
    "POST /api/servers/{uuid}/files/pull": _PULLS,
    "POST /api/servers/{uuid}/files/pull/query": _PULLS,
    "DELETE /api/servers/{uuid}/files/pull/{identifier}": _PULLS,
    "POST /api/servers/{uuid}/transfer": _TRANSFER,
    "DELETE /api/servers/{uuid}/transfer": _TRANSFER,
    "DELETE /api/transfer": "204, also when the transfer has ended; its own node has no such path",
    "POST /api/transfers": _TRANSFER,
    "DELETE /api/transfers/{uuid}": _TRANSFER,
    "GET /download/backup": f"{_SIGNED}, with `Range` for all; a backup in the directory of "
    "another server is not found. `archive_format` is ignored: an archive is sent as it was made",
    "GET /download/directory": _PACKED,
    "GET /download/file": f"{_SIGNED}, with `Range`, `If-Range` and HEAD for all",
    "GET /download/files": _PACKED,
    "POST /upload/file": f"{_SIGNED}; a file that is too large is refused at the beginning. "
    "Statuses and texts are those of Go's nodes",
    "HEAD /upload/file": _SIGNED,
    "PATCH /upload/file": _SIGNED,
    "DELETE /upload/file": _SIGNED,
}


def calls() -> str:
    """Return a table of all calls of Panels; those with the same remark are in one row.

    Raises `LookupError` where a remark is on none of them.
    """
    remarks = dict(_REMARKS)
    rows: dict[tuple[str, str], list[str]] = {}
    for route in ROUTES:
        if route.families:
            call = f"{route.method} {route.path}"
            panels = ", ".join(_LETTERS[family] for family in route.families)
            rows.setdefault((panels, remarks.pop(call, _USUAL)), []).append(f"`{call}`")
    if remarks:
        raise LookupError(f"no such calls: {', '.join(remarks)}")
    lines = [
        _row(["<br>".join(calls), panels, remark]) for (panels, remark), calls in rows.items()
    ]
    return "\n".join([_row(["call", "Panel", "wingsd"]), _row(["---"] * 3), *lines])
