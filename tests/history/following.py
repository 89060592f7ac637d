"""A history follows a model's server to another directory, as between two nodes."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from tests.history.worlds import Model
from wingsd.history.adopting import block_digests, bridge, write_catalogue
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


def write_bridge(here: HistoryStore, there: HistoryStore, number: int, path: Path) -> list[bytes]:
    """Write the bridge to a point at the destination; return what could not be read for it."""
    newest = here.points()[0].number
    base = base_of(there, number, path.parent)
    with (
        base.open("rb") as opened,
        path.open("wb") as file,
        TemporaryFile(buffering=0) as scratch,
        here.opened(newest) as (chain, tree),
    ):
        reader = FormReader.of(opened.fileno(), "base")
        writing = bridge(chain[0], tree, reader, file.fileno(), lambda: None)
        wanted = next(writing)
        while True:
            with there.opened(number) as (upper, copy):
                digests = block_digests(upper, copy, scratch.fileno(), wanted, lambda: None)
            try:
                wanted = writing.send(digests)
            except StopIteration as ended:
                return list(ended.value)


def delta_before(history: Path, newer: int) -> Path | None:
    """Return the file of the delta of a point, by the number of the next newer one."""
    for path in history.glob("*.delta"):
        with path.open("rb") as file:
            if FormReader.of(file.fileno(), path.name).newer == newer:
                return path
    return None


def followed(model: Model, there: Model) -> bool:
    """Have the next point of a history follow; return whether it was the last."""
    source, target = model.directory / "history", there.directory / "history"
    oldest = there.store.points()[-1].number
    newest = model.store.points()[0].number
    arrived = target / os.fsdecode(ARRIVED)
    is_bridge = oldest > newest
    if is_bridge:
        write_bridge(model.store, there.store, oldest, arrived)
    else:
        delta = delta_before(source, oldest)
        if delta is None:
            return True
        shutil.copyfile(delta, arrived)
    number = there.store.adopt(ARRIVED, is_bridge=is_bridge).number
    there.trees[number] = model.trees[number]
    return False
