"""The open files of one channel."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from wingsd.filesystem.directory import Entry, OpenFile
from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.writable_file import OpenFiles
from wingsd.sftp.server.operations import HandleBudget, Handles


def test_a_file_that_cannot_be_closed_keeps_no_other_one_open(tmp_path: Path) -> None:
    class Broken(OpenFile):
        def close(self) -> None:
            super().close()
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    budget = HandleBudget(2)
    handles = Handles(2, budget, OpenFiles())
    entry = Entry.of(b"x", os.stat(tmp_path))
    files = [kind(os.open(tmp_path, os.O_PATH), entry) for kind in (Broken, OpenFile)]
    for file in files:
        handles.add(file, ServerPath(()))
    handles.close_all()
    assert [file.fileno() for file in files] == [-1, -1]
    budget.take()
    budget.take()  # raises where one is still counted
