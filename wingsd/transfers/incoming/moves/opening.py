"""Makes what receives one move: its partial copy, its attachments, and their limits."""

from __future__ import annotations

from functools import partial

from wingsd.moves.tree import MoveLimits
from wingsd.transfers.incoming.moves.attachments import Attachments
from wingsd.transfers.incoming.moves.beginning import MoveTerms
from wingsd.transfers.incoming.moves.copy_settings import CopySettings
from wingsd.transfers.incoming.moves.partial_copy import PartialCopy
from wingsd.transfers.incoming.moves.reading_behind import ReadingBehind
from wingsd.transfers.incoming.moves.reception import Reception
from wingsd.transfers.incoming.uploads import Extraction
from wingsd.transfers.storage.incoming import IncomingStorage
from wingsd.util.deferreds import Changes

__all__ = ["make_reception"]

_MIB = 1 << 20
_UNLIMITED = 1 << 62


def make_reception(
    server: str,
    terms: MoveTerms,
    disk_space: int,
    storage: IncomingStorage,
    extraction: Extraction,
    changes: Changes,
) -> Reception:
    """Return what receives a move; its copy is still to be begun, or opened again.

    `disk_space` is the server's limit in MiB, as the Panel has it.
    """
    limits = extraction.limits.for_server(disk_space)
    size = limits.disk if limits.disk is not None else _UNLIMITED
    staging, copies = storage.staging, storage.copies
    copy = PartialCopy(
        server,
        bytes.fromhex(terms.identity.move),
        copies,
        CopySettings(
            MoveLimits(limits.members, size),
            extraction.owner,
            limits.reserve,
            limits.inode_reserve,
            attributes=terms.beginning.version > 1,
        ),
        partial(staging.sync, server),
    )
    attachments = Attachments(
        server,
        terms.beginning.backups,
        terms.beginning.log,
        storage.backups,
        (copies.log_part(server), staging.log(server)),
        limits.reserve,
    )
    settings = terms.settings
    behind = ReadingBehind(server, copy, extraction.rereaders) if settings.reread else None
    return Reception(
        server, copy, attachments, extraction, storage.long, settings, behind, changes
    )
