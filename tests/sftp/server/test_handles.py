"""The open files of one channel."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from threading import Semaphore

from wingsd.config import SftpConfig
from wingsd.filesystem.directory import Entry, OpenFile
from wingsd.filesystem.writable_file import OpenFiles
from wingsd.sftp.server.operations import Handles


def test_a_file_that_cannot_be_closed_keeps_no_other_one_open(tmp_path: Path) -> None:
    class Broken(OpenFile):
        def close(self) -> None:
            super().close()
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    budget = Semaphore(2)
    handles = Handles(SftpConfig(), budget, OpenFiles())
    entry = Entry.of(b"x", os.stat(tmp_path))
    files = [kind(os.open(tmp_path, os.O_PATH), entry) for kind in (Broken, OpenFile)]
    for file in files:
        handles.add(file)
    handles.close_all()
    assert [file.fileno() for file in files] == [-1, -1]
    assert all(budget.acquire(blocking=False) for _ in range(2)), "one is still counted"
