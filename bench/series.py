"""A series: its section of the page, its picture, how it is measured, and what a run gives it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

from attrs import field, frozen
from twisted.internet.threads import deferToThread

from bench.datasets import Dataset, dataset
from bench.figures import Bound, Measured
from bench.meter import Cost

__all__ = ["FEW", "MEMORY", "Bars", "Lines", "Run", "Series", "Stacks", "ratio"]

#: MiB of a node at its peak, for any size.
MEMORY = Bound(120)
#: Rounds of what has no bound, or takes long.
FEW = 3


@frozen
class Bars:
    """A panel of a picture: a bar for each figure in these columns of a table, or in all of them.

    A thin line goes from the lowest to the highest, marks are the bound and Go Wings. Without a
    `label` the bars are shares of the bounds, of all figures that have one.
    """

    label: str = ""
    table: int = 0
    columns: tuple[str, ...] = ()


@frozen
class Lines:
    """A panel of lines: columns of a table by the number in a row's name, or of points.

    `points` is what the names of these begin with; each has lines of its own.
    """

    x: str
    y: str
    columns: tuple[str, ...]
    table: int = 0
    points: str = ""
    scale: str = "linear"


@frozen
class Stacks:
    """A panel of bars: the columns of points, one after the other, for each row."""

    points: str
    label: str


@frozen
class Run:
    """The settings of a series: its directory, the number of rounds, and the cases.

    `minutes` is how long a copy follows its server in the series `seed`.
    """

    directory: Path
    rounds: int
    cases: Collection[str]
    minutes: float

    @property
    def datasets(self) -> Path:
        """The directory of the datasets."""
        return self.directory / "datasets"

    async def dataset(self, name: str) -> Dataset:
        """Return a dataset that is in the page cache."""
        one = await deferToThread(dataset, name, self.datasets)
        await deferToThread(one.warm)
        return one

    def wants(self, case: str) -> bool:
        """Return whether `case` is to be measured."""
        return not self.cases or case in self.cases

    @staticmethod
    def say(line: str) -> None:
        """Print how far the series is."""
        print(line, flush=True)


@frozen
class Series:
    """A series by its name, which is also that of its files.

    The first sentence of `text` is what an operator learns from it, the others are how it is
    measured. The writer fills its lines.
    """

    name: str
    title: str
    text: str
    measure: Callable[[Run], Awaitable[Measured]]
    picture: tuple[Bars | Lines | Stacks, ...] = field(default=(Bars(),))


def ratio(cost: Cost, reference: float) -> str:
    """Return a line about a run beside its reference."""
    return f"{cost.seconds:.2f} s, {cost.seconds / reference:.2f} of the reference's"
