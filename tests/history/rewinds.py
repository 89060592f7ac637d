"""Rewinds of a server's directory that changes at random, which die or fail at any call."""

from __future__ import annotations

import errno
import shutil
from contextlib import suppress

from tests.crash.mortal import Death, Life, points_of_the_system
from tests.history.worlds import Faulty, Model
from tests.support.archives import seen
from wingsd.errors import StorageError
from wingsd.history.rewriting import Rewriting, difference
from wingsd.history.wanted import Wanted

#: The share of a server's files that cannot be read, where there are such.
_LOST = 1 / 4


class Rewinds:
    """Rewinds the directory of a model, with the place of a rewind beside it."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._place = model.directory / "place"
        #: How often it was interrupted before, and after, the plan was written.
        self.dropped = self.completed = 0

    def rewind(self, number: int) -> None:
        """Bring the directory to a point, and compare it."""
        model, wanted = self._model, Wanted(number)
        with self._opened() as rewriting:
            drafted = rewriting.prepare(model.store, wanted, self._lost())
            for _ in range(model.rng.randrange(3)):
                model.world.change(model.rng.randrange(1, 7))
                model.make()
            lost = self._lost()
            expected = difference(model.store, wanted, lost)
            assert rewriting.commit(model.store, wanted, lost, drafted) == expected
            rewriting.apply()
            assert rewriting.differing() == []
        self._end(number)

    def interrupted(self, number: int, at: int) -> None:
        """Bring it there, while the process dies or the disk fails at a call that changes files.

        The next process completes it, or drops what was prepared.
        """
        model, wanted = self._model, Wanted(number)
        model.make()
        lost, drafted = self._lost(), None
        if model.rng.randrange(2):
            with self._opened() as rewriting:
                drafted = rewriting.prepare(model.store, wanted, lost)
            model.world.change(model.rng.randrange(1, 7))
            model.make()
        before = seen(model.world.root)
        life: Life = (
            Faulty(at, errno.EIO, 1) if model.rng.randrange(3) == 0 else Life("", _nothing)
        )
        if not isinstance(life, Faulty):
            life.plan(Death("change", at + 1))

        def run() -> None:
            with self._opened() as rewriting:
                known = drafted or rewriting.prepare(model.store, wanted, lost)
                rewriting.commit(model.store, wanted, lost, known)
                rewriting.apply()

        with points_of_the_system(), suppress(StorageError):
            life.run(run)
        model.reopen()
        if Rewriting.undo_of(str(self._place)):
            with self._opened() as rewriting:
                for _ in range(model.rng.randrange(1, 3)):
                    rewriting.apply()
                assert rewriting.differing() == []
                self.completed += 1
                self._end(number)
                return
        self.dropped += 1
        assert seen(model.world.root) == before
        shutil.rmtree(self._place, ignore_errors=True)

    def _lost(self) -> frozenset[bytes]:
        """Return files of the server of which a rewind is to know no contents."""
        rng = self._model.rng
        if rng.randrange(2):
            return frozenset()
        return frozenset(path for path in self._model.world.files() if rng.random() < _LOST)

    def _opened(self) -> Rewriting:
        return Rewriting(str(self._model.world.root), str(self._place))

    def _end(self, number: int) -> None:
        model = self._model
        assert seen(model.world.root) == model.trees[number]
        shutil.rmtree(self._place)
        root = next(point.root for point in model.store.points() if point.number == number)
        model.make()
        assert model.store.points()[0].root == root


def _nothing() -> None:
    pass
