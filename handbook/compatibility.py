"""The table of compatibility: one cell for each family of nodes, each direction, and each item.

It is the only source: `tests/families/test_matrix.py` tests every cell, and the documents show the
table. A new item is a member of `Thing`, its six cells, and their tests in
`tests/families/receiving.py` and `sending.py`, without which the suite fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum

import attrs

from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL

__all__ = ["MATRIX", "Cell", "Fate", "Thing", "Way", "cell", "details", "overview"]


class Way(Enum):
    """Whether wingsd receives a server from a node of the family, or sends it one."""

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
    """The result for an item, with details.

    `parts` are the names of the form's parts, where `UUID` stands for a backup's; `reason` is the
    message when the transfer fails.
    """

    fate: Fate
    words: str
    parts: tuple[str, ...] = ()
    reason: str = ""


Cells = Mapping[Thing, Cell]

_OF_ANY = "the archive's, or that of any backup"
_NO_MATCH = "checksums don't match"
_MISSING = "missing archive or checksum"
_HALF = "the upload ended before it was complete"
_GO_SAYS = "An unexpected error was encountered while processing this request"
_CALAGOPUS_SAYS = "failed to complete server transfer"
_BROKE = "the connection to it broke"


def _received(checksum: str, refusal: str) -> Cells:
    """Return the cells of faulty uploads that this node receives."""
    return {
        Thing.WRONG: Cell(Fate.FAILS, f"{_OF_ANY}. {refusal}", (checksum,), _NO_MATCH),
        Thing.MISSING: Cell(Fate.FAILS, f"{_OF_ANY}. {refusal}", (checksum,), _MISSING),
        Thing.CUT: Cell(Fate.FAILS, "wherever it is cut; nothing is kept", reason=_HALF),
    }


def _sent(checksum: str, says: str) -> Cells:
    """Return the cells of uploads that this node sends and that arrive with a fault."""
    return {
        Thing.WRONG: Cell(
            Fate.FAILS, "its node detects it, and the server stays here", (checksum,), says
        ),
        Thing.MISSING: Cell(
            Fate.FAILS,
            "checksums are always sent. If one is lost on the way, its node detects it, and the "
            "server stays here",
            (checksum,),
            says,
        ),
        Thing.CUT: Cell(Fate.FAILS, "the server stays here", reason=_BROKE),
    }


_ANSWERED = "The answer is 400, with the reason"
_UNANSWERED = "Its node takes every answer for success, so it gets none: the connection is closed"
_GO_SENDS = "a tar.gz of files: its nodes send no directories and no symlinks"
_GO_KEEPS = "a tar.gz. Links are sent as whole files, since its nodes would create empty files"
_LOG_KEPT = "kept in `system.log_directory` once the server is here. It never fails a transfer"
_LOG_SENT = "if this node has one. It never fails a transfer"
_PELICANS = ("backup_UUID.tar.gz", "checksum_backup_UUID.tar.gz")
_CALAGOPUS_PARTS = ("backup-UUID", "backup-checksum-UUID")

MATRIX: Mapping[tuple[str, Way], Cells] = {
    (PTERODACTYL, Way.RECEIVE): {
        Thing.ARCHIVE: Cell(Fate.ARRIVES, _GO_SENDS, ("archive", "checksum")),
        Thing.BACKUPS: Cell(Fate.NONE, "its nodes send none; they stay at the source"),
        Thing.LOG: Cell(Fate.NONE, "its nodes send none"),
        **_received("checksum", _ANSWERED),
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
        **_received("checksum_archive", _ANSWERED),
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
            "backups of one file each, kept in `system.backup_directory` itself, moved into place "
            "together with the server. The Panel is told which came",
            _CALAGOPUS_PARTS,
        ),
        Thing.LOG: Cell(Fate.ARRIVES, _LOG_KEPT, ("install-logs",)),
        **_received("checksum", _UNANSWERED),
    },
    (PTERODACTYL, Way.SEND): {
        Thing.ARCHIVE: Cell(Fate.ARRIVES, _GO_KEEPS, ("archive", "checksum")),
        Thing.BACKUPS: Cell(Fate.NONE, "its Panel asks for none; they stay at the source"),
        Thing.LOG: Cell(
            Fate.SKIPPED,
            "its nodes skip unknown parts. A node of wingsd in their place keeps it",
            ("install_logs",),
        ),
        **_sent("checksum", _GO_SAYS),
    },
    (PELICAN, Way.SEND): {
        Thing.ARCHIVE: Cell(Fate.ARRIVES, _GO_KEEPS, ("archive", "checksum_archive")),
        Thing.BACKUPS: Cell(
            Fate.ARRIVES,
            "those that the Panel asks for, from the places of all families. Its nodes keep only "
            "tar.gz: a backup in another format, or a missing one, fails the transfer before the "
            "server is stopped",
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
    """Return a table with all details for each pair of nodes."""
    return "\n\n".join(
        "\n".join([f"### From {' to '.join(_pair(family, way))}", "", *_lines(cells)])
        for (family, way), cells in MATRIX.items()
    )


def _lines(cells: Cells) -> Iterator[str]:
    yield _row(["item", "", "parts of the form", "details", "message"])
    yield _row(["---"] * 5)
    for thing in Thing:
        its = cells[thing]
        parts = ", ".join(map(_code, its.parts))
        yield _row([thing.value, its.fate.value, parts, its.words, _code(its.reason)])


def _pair(family: str, way: Way) -> list[str]:
    pair = [_NODES[family], "wingsd"]
    return pair if way is Way.RECEIVE else pair[::-1]


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _row(fields: list[str]) -> str:
    return f"| {' | '.join(fields)} |"
