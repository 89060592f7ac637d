"""The ledger of a directory that no move has brought."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.support.archives import seen
from wingsd.archive.quota import ArchiveLimits
from wingsd.errors import StorageError
from wingsd.moves.recording import record_directory
from wingsd.moves.tree import MoveLimits
from wingsd.transfers.incoming.moves.partial_copy import PartialCopy
from wingsd.transfers.storage.staging import PartialCopies, Staging

UUID = "8d5f1c8e-6e2b-4c43-9d57-0c4c5e1c7f10"
OWN = (os.getuid(), os.getgid())


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Files of each kind, as a server's program has left them."""
    made = tmp_path / "moved"
    (made / "world" / "empty").mkdir(parents=True)
    (made / "world" / "level.dat").write_bytes(os.urandom(1000))
    (made / "world" / "region.mca").write_bytes(os.urandom(300_000))
    (made / "again").hardlink_to(made / "world" / "region.mca")
    with (made / "sparse").open("wb") as file:
        file.truncate(1 << 20)
    (made / "latest").symlink_to("world/level.dat")
    os.setxattr(made / "world" / "level.dat", "user.colour", b"green")
    (made / "world").chmod(0o2750)
    (made / "run").write_bytes(b"#!/bin/sh")
    (made / "run").chmod(0o4755)
    os.mkfifo(made / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(made / "socket"))
    return made


def test_a_move_goes_on_with_it(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "volumes").mkdir()
    staging = Staging(str(tmp_path / "volumes"), OWN, durable=False)
    staging.prepare()
    copies = PartialCopies(staging, 0, ArchiveLimits(None, 0, 0, 0, 0))
    before = {
        path: each for path, each in seen(directory).items() if path not in (b"/pipe", b"/socket")
    }
    copies.keep_directory(UUID, directory, 10.0, lambda: False, pair="pair")
    assert not directory.exists()
    [kept] = copies.kept()
    assert (kept.server, kept.pair) == (UUID, "pair")
    assert kept.bytes == 1000 + 300_000 + (1 << 20) + 9 + 8 * 4096
    limits = MoveLimits(1000, 1 << 30)
    copy = PartialCopy(UUID, b"m" * 16, copies, limits, OWN, pair="pair")
    assert copy.begin() == 1000 + 300_000 + (1 << 20) + 9
    held = copy.resume()
    assert held.bytes == 1000 + 300_000 + (1 << 20) + 9
    assert copy.finish() == held.bytes
    copy.close()
    after = seen(Path(staging.path) / UUID)
    assert after.keys() == before.keys()
    changed = {path for path, each in before.items() if after[path] != each}
    # Without their set-id bits.
    assert changed <= {b"", b"/run", b"/world"}
    assert (Path(staging.path) / UUID / "run").stat().st_mode & 0o7777 == 0o755
    staging.close()


@pytest.mark.root
def test_a_link_to_a_file_of_another_user_is_not_given_away(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = (OWN[0] + 1, OWN[1])
    with pytest.raises(StorageError, match="it may be a file from outside the server"):
        record_directory(directory / "world", tmp_path / "ledger", other, lambda: False)
    assert (directory / "again").stat().st_uid == OWN[0]


def test_it_ends_with_the_node(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="this node stops"):
        record_directory(directory, tmp_path / "ledger", OWN, lambda: True)
    assert (directory / "world" / "level.dat").exists()
