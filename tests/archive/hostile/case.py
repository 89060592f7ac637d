"""One hostile archive and what must become of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

from attrs import Factory, frozen

from tests.support.archives import END, member
from wingsd.archive.quota import DEFAULT, ArchiveLimits

#: By name: bytes are a file's, a text is a symlink's, None is a directory.
Tree = Mapping[bytes, bytes | str | None]
#: An archive, or what makes one that takes long to make: each process collects all cases.
Made = bytes | Callable[[], bytes]


@frozen
class Case:
    """`words` are in the error where it is refused; else `tree` is all that there is."""

    name: str
    _archive: Made
    words: str = ""
    tree: Tree = Factory(dict)
    notes: tuple[str, ...] = ()
    limits: ArchiveLimits = DEFAULT

    @property
    def archive(self) -> bytes:
        return self._archive if isinstance(self._archive, bytes) else self._archive()


def refused(name: str, archive: Made, words: str, limits: ArchiveLimits = DEFAULT) -> Case:
    """Return a case that must fail with an error that has `words` in it."""
    made = archive if isinstance(archive, bytes) else cache(archive)
    return Case(name, made, words=words, limits=limits)


def taken(
    name: str, archive: bytes, tree: Tree, *notes: str, limits: ArchiveLimits = DEFAULT
) -> Case:
    """Return a case that must leave exactly `tree`."""
    return Case(name, archive, tree=tree, notes=notes, limits=limits)


def file(name: bytes, data: bytes = b"evil") -> bytes:
    return member(name, data) + END


def symlink(name: bytes, text: bytes) -> bytes:
    return member(name, typeflag=b"2", link=text)


def hard_link(name: bytes, target: bytes) -> bytes:
    return member(name, typeflag=b"1", link=target)


def directory(name: bytes, mode: int = 0o755) -> bytes:
    return member(name, typeflag=b"5", mode=mode)
