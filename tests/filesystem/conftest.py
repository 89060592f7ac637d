"""A server's directory, opened in each way, and a directory beside it that nothing may touch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fixtures import home, outside, usage
from tests.support.owner import OWNER
from wingsd.filesystem.openers import DirectoryOpener, Openat2Opener, OpenatOpener
from wingsd.filesystem.root import ServerRoot
from wingsd.filesystem.usage import UsageCounter

__all__ = ["home", "opener", "outside", "root", "usage"]


@pytest.fixture(params=["openat2", "openat"])
def opener(request: pytest.FixtureRequest) -> DirectoryOpener:
    return Openat2Opener() if request.param == "openat2" else OpenatOpener()


@pytest.fixture
def root(home: Path, usage: UsageCounter) -> Iterator[ServerRoot]:
    with ServerRoot(str(home), Openat2Opener(), OWNER, usage) as root:
        yield root
