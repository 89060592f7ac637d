"""A history follows a model's server to another directory, as between two nodes."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryFile

from tests.history.worlds import Model
from wingsd.history.adopting import BlockDigests, wanted_blocks, write_bridge, write_catalogue
from wingsd.history.format import FormReader
from wingsd.history.store import HistoryStore

ARRIVED = b"arrived"


@contextmanager
def moved(model: Model, directory: Path, rng: random.Random) -> Iterator[Model]:
    """Yield a model whose server has the files of another one's, and no points."""
    directory.mkdir()
    root = directory / "server"
    subprocess.run(["cp", "-a", model.world.root, root], check=True)
    made = Model(directory, rng, model.is_trusted)
    try:
        yield made
    finally:
        made.close()


def base_of(there: HistoryStore, number: int, directory: Path) -> Path:
    """Return a new file with the catalogue of a point at the destination."""
    path = directory / "base"
    with path.open("wb") as file, there.opened(number) as (chain, _):
        write_catalogue(chain, file.fileno())
    return path


def bridged(here: HistoryStore, there: HistoryStore, number: int, path: Path) -> list[bytes]:
    """Write the bridge to a point at the destination; return what could not be read for it."""
    newest = here.points()[0].number
    base = base_of(there, number, path.parent)
    with (
        base.open("rb") as opened,
        path.open("wb") as file,
        TemporaryFile() as digests,
        ExitStack() as stack,
        here.opened(newest) as (chain, tree),
    ):
        reader, own = FormReader.of(opened.fileno(), "base"), chain[0]
        for wanted in wanted_blocks(reader, own):
            with there.opened(number) as (upper, copy):
                scratch, place = there.new_scratch(stack), partial(_place, path.parent, number)
                digests.write(BlockDigests(upper, copy, scratch, place, nothing).of(wanted))
        digests.seek(0)
        return write_bridge(reader, own, tree, digests.read, file.fileno(), nothing)


def _place(directory: Path, number: int, path: bytes) -> str:
    return str(directory / f"digests-{number}-{sha256(path).hexdigest()}")


def nothing() -> None:
    """Do nothing."""


def delta_before(history: Path, newer: int) -> Path | None:
    """Return the file of the delta of a point, by the number of the next newer one."""
    for path in history.glob("*.delta"):
        with path.open("rb") as file:
            if FormReader.of(file.fileno(), path.name).newer == newer:
                return path
    return None


def followed(model: Model, there: Model, floor: int = 0, *, may_fail: bool = False) -> bool:
    """Have the next point of a history follow; return whether there was none.

    Those up to `floor` are there already. Where it `may_fail`, it may have to come again.
    """
    source, target = model.directory / "history", there.directory / "history"
    base = min(point.number for point in there.store.points() if point.number > floor)
    newest = model.store.points()[0].number
    arrived = target / os.fsdecode(ARRIVED)
    is_bridge = base > newest
    if is_bridge:
        bridged(model.store, there.store, base, arrived)
    else:
        delta = delta_before(source, base)
        if delta is None or int(delta.name[:20]) <= floor:
            return True
        shutil.copyfile(delta, arrived)
    if may_fail:
        there.may_fail(lambda: there.store.adopt(ARRIVED, is_bridge=is_bridge))
    else:
        there.store.adopt(ARRIVED, is_bridge=is_bridge)
    for number in there.numbers():
        there.trees.setdefault(number, model.trees.get(number, {}))
    return False
