"""Nothing outside is touched while another process swaps links: a sample of `make races`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.crash.races import ACTIONS, NAIVE, TREES, Actor, race
from tests.crash.scene import Touched
from wingsd.filesystem.openers import DirectoryOpener, OpenatOpener

pytestmark = [pytest.mark.root, pytest.mark.promise("files-stay-inside-the-server")]

COUNT = 100
#: Of naive actions, which end as soon as one is caught.
MOST = 50_000


@pytest.fixture
def top() -> Iterator[Path]:
    """A directory in memory, where names are swapped faster than on a disk."""
    with TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


def test_no_action_leaves_the_directory_while_links_are_swapped(
    top: Path, opener: DirectoryOpener
) -> None:
    counted = race(top, opener, ACTIONS, COUNT, seed=1, step=20)
    assert [kind for kind, each in counted.items() if not each.done] == []
    assert sum(each.refused for each in counted.values()) > COUNT


def test_no_work_on_whole_trees_leaves_the_directory(top: Path) -> None:
    counted = race(top, OpenatOpener(), TREES, COUNT // 4, seed=1, step=5)
    assert [kind for kind, each in counted.items() if not each.done] == []


@pytest.mark.parametrize("kind", ["read", "write", "remove", "chmod"])
def test_an_action_that_checks_a_path_and_then_uses_it_is_caught(top: Path, kind: str) -> None:
    def attempt(actor: Actor) -> None:
        with suppress(OSError):
            NAIVE[kind](actor)

    with pytest.raises(Touched):
        race(top, OpenatOpener(), {kind: attempt}, MOST, seed=1, step=20)
