"""A server's directory for the tests of the file manager, and one beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fixtures import home, outside, usage
from tests.support.owner import OWNER
from wingsd.files.denylist import Denylist
from wingsd.files.guard import Guard, Progress
from wingsd.filesystem.openers import Openat2Opener
from wingsd.filesystem.root import ServerRoot
from wingsd.filesystem.usage import UsageCounter

__all__ = [
    "free",
    "guard",
    "home",
    "outside",
    "plant",
    "progress",
    "root",
    "tree",
    "usage",
]


@pytest.fixture
def root(home: Path, usage: UsageCounter) -> Iterator[ServerRoot]:
    with ServerRoot(str(home), Openat2Opener(), OWNER, usage) as root:
        yield root


@pytest.fixture
def progress() -> Progress:
    return Progress()


@pytest.fixture
def free(root: ServerRoot, progress: Progress) -> Guard:
    """What denies nothing."""
    return Guard(root, progress=progress)


def guard(root: ServerRoot, *lines: str, progress: Progress | None = None) -> Guard:
    return Guard(root, Denylist(lines), progress=progress)


def plant(home: Path, *names: str) -> None:
    """Make files that hold their own names; a name that ends with a slash is a directory."""
    for name in names:
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        else:
            path.write_text(name)


def tree(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in home.rglob("*"))
