"""The files of points of histories, written into an empty directory."""

from __future__ import annotations

import os
from contextlib import closing

from wingsd.filesystem.attributes import write_attributes
from wingsd.filesystem.open_directories import OpenDirectories, closing_descriptor
from wingsd.history.format import PastDirectory, PastFile, PastHardLink, PastLink
from wingsd.history.rebuilding import contents_of, write_file
from wingsd.history.store import HistoryStore
from wingsd.history.wanted import Wanted
from wingsd.util.durable import storage_errors


def rebuild(store: HistoryStore, number: int, target: int) -> None:
    """Write the files of a point into the empty directory with the descriptor `target`.

    Raises NoSuchPoint, and HistoryDamaged where something is not as it was.
    """
    directories = list[PastDirectory]()
    with (
        storage_errors(f"point {number} cannot be rebuilt"),
        store.opened(number) as (chain, tree),
        closing(OpenDirectories(tree)) as newest,
        closing(OpenDirectories(target)) as opened,
    ):
        for each in Wanted(number).entries(chain):
            entry, path = each.entry, each.path
            if not each.is_there:
                continue
            parent, name = opened.place(path)
            match entry:
                case PastDirectory():
                    directories.append(entry)
                    if path:
                        os.mkdir(name, 0o700, dir_fd=parent)
                case PastLink(_, mtime, text):
                    os.symlink(text, name, dir_fd=parent)
                    os.utime(name, ns=(mtime, mtime), dir_fd=parent, follow_symlinks=False)
                case PastHardLink(_, first):
                    directory, head = opened.place(first)
                    with closing_descriptor(os.dup(directory)) as source:
                        parent, name = opened.place(path)
                        ends = {"src_dir_fd": source, "dst_dir_fd": parent}
                        os.link(head, name, **ends, follow_symlinks=False)
                case PastFile():
                    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
                    with closing_descriptor(os.open(name, flags, 0o600, dir_fd=parent)) as fd:
                        contents = contents_of(chain, each.found)
                        write_file(fd, entry, contents, newest, store.check)
                        _set(fd, entry)
        for each_directory in reversed(directories):
            parts = tuple(each_directory.path.split(b"/")) if each_directory.path else ()
            parent = opened.get(parts, make=False)
            with closing_descriptor(os.open(b".", os.O_RDONLY, dir_fd=parent)) as fd:
                _set(fd, each_directory)


def _set(fd: int, entry: PastFile | PastDirectory) -> None:
    if entry.attributes:
        write_attributes(fd, entry.attributes, entry.mode, (os.geteuid(), os.getegid()))
    else:
        os.fchmod(fd, entry.mode)
    os.utime(fd, ns=(entry.mtime, entry.mtime))
