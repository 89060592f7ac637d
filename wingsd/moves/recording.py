"""The ledger of a directory that no move has brought: the files that a node keeps of a server.

With it a move goes on with the directory as with a partial copy, and only what differs is sent.
Blocking.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from wingsd.archive.pack import check_owner
from wingsd.archive.policy import member_mode
from wingsd.errors import StorageError
from wingsd.filesystem.attributes import EVERYTHING, AttributeReader
from wingsd.filesystem.new_file import Owner
from wingsd.filesystem.walk import opened, walk
from wingsd.moves.filling import ContentReader
from wingsd.moves.ledger import ID, NO_ROOT, LedgerFile, LedgerState, snapshot
from wingsd.moves.plan import plan
from wingsd.moves.scan import Scan
from wingsd.moves.seen_directories import SeenDirectories
from wingsd.moves.tree import MoveLimits, MoveTree
from wingsd.util.durable import storage_errors

#: A ledger has the ids of a move and of a boot: of neither, here.
_NONE = bytes(ID)
_UNLIMITED = MoveLimits(1 << 62, 1 << 62)


def record_directory(
    directory: Path, ledger: Path, owner: Owner, is_stopped: Callable[[], bool]
) -> tuple[int, int]:
    """Read a directory, and write its ledger; return its bytes and its names.

    Its files are as a move makes them then: they are `owner`'s, without set-id bits, and what no
    move sends is removed. Nothing else may use it meanwhile. Raises StorageError, also when
    `is_stopped`.
    """

    def count(size: int) -> None:
        if is_stopped():
            raise StorageError("this node stops")

    with opened(str(directory)) as root, storage_errors(f"{directory} cannot be prepared"):
        _make_plain(root, owner)
        attributes = AttributeReader(owner, EVERYTHING)
        scan = Scan(lambda line: None, attributes, str(ledger.parent), SeenDirectories(most=0))
        tree = scan.run(root)
        with closing(tree.store), closing(ContentReader(root, attributes, count)) as reader:
            for content in plan(MoveTree(), tree, read_mode=reader.read_mode).contents:
                for _ in reader.read(content):
                    pass
                tree.trim()
            _write(ledger, tree)
            return tree.bytes, tree.members


def _make_plain(root: int, owner: Owner) -> None:
    """Give all entries the owner, and modes that are sent; remove what no move sends."""
    with closing(walk(root, lambda name, reason: None)) as listings:
        for listing in listings:
            if listing.is_first:
                if _ids(listing.stat) != owner:
                    os.fchown(listing.fd, *owner)
                mode, is_stripped = member_mode(stat.S_IMODE(listing.stat.st_mode))
                if is_stripped:
                    os.fchmod(listing.fd, mode)
            for name in (*listing.files, *listing.symlinks):
                _make_own(listing.fd, name, owner)
            for name in listing.others:
                os.unlink(name, dir_fd=listing.fd)


def _make_own(parent: int, name: bytes, owner: Owner) -> None:
    found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    check_owner(found, name, owner[0])
    if _ids(found) != owner:
        os.chown(name, *owner, dir_fd=parent, follow_symlinks=False)
    mode, is_stripped = member_mode(stat.S_IMODE(found.st_mode))
    if is_stripped:
        os.chmod(name, mode, dir_fd=parent)


def _ids(found: os.stat_result) -> Owner:
    return found.st_uid, found.st_gid


def _write(path: Path, tree: MoveTree) -> None:
    ledger, _ = LedgerFile.open(str(path), _NONE, _NONE, _UNLIMITED)
    with closing(ledger):
        state = LedgerState(0, 0, tree.last_number, 0, NO_ROOT)
        ledger.replace(_NONE, snapshot(_NONE, state, tree))
