"""Figures: what a series has measured, beside its bounds, and the file that keeps it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import cattrs
from attrs import evolve, field, frozen

__all__ = [
    "Bound",
    "Column",
    "Figure",
    "Measured",
    "Points",
    "Row",
    "Table",
    "grid",
    "listed",
]

_CONVERTER = cattrs.Converter(omit_if_default=True)
#: Characters of a line in the files.
_WIDTH = 110


@frozen
class Bound:
    """A release keeps `required`; `goal` is better, `wings` is the figure of Go Wings.

    With `is_least` more is better, as of speeds.
    """

    required: float
    goal: float | None = None
    wings: float | None = None
    is_least: bool = False

    def is_reached(self, figure: float, bound: float) -> bool:
        """Return whether a figure is at least, or at most, as large as one of these."""
        return figure >= bound if self.is_least else figure <= bound


@frozen
class Figure:
    """The median of all rounds, or what is said instead; of several the lowest and the highest."""

    median: float
    lowest: float | None = None
    highest: float | None = None
    bound: Bound | None = None

    @classmethod
    def of(cls, values: Sequence[float], bound: Bound | None = None) -> Figure:
        """Return the figure of these rounds, with as many digits as mean something."""
        middle = _rounded(median(values))
        if len(values) == 1:
            return cls(middle, bound=bound)
        return cls(middle, _rounded(min(values)), _rounded(max(values)), bound)

    @classmethod
    def middle(cls, values: Sequence[float], bound: Bound | None = None) -> Figure:
        """Return only the median of these rounds, where there are many figures."""
        return cls(_rounded(median(values)), bound=bound)

    @classmethod
    def peak(cls, values: Sequence[float], bound: Bound | None = None) -> Figure:
        """Return the highest in place of the median: memory is held in every round."""
        return evolve(cls.of(values, bound), median=_rounded(max(values)))

    @property
    def is_held(self) -> bool | None:
        """True if the bound is held; None without a bound."""
        bound = self.bound
        return bound.is_reached(self.median, bound.required) if bound else None

    @property
    def is_goal(self) -> bool:
        """True if there is a goal and it is reached."""
        bound = self.bound
        return bool(bound and bound.goal and bound.is_reached(self.median, bound.goal))


@frozen
class Row:
    """Figures of one thing, one for each column of its table; None where nothing is measured."""

    name: str
    figures: Sequence[Figure | None]

    @property
    def bounded(self) -> list[Figure]:
        """The figures that have a bound."""
        return [figure for figure in self.figures if figure and figure.bound]


@frozen
class Table:
    """Rows with these columns, under a line that says what they are."""

    rows: list[Row]
    columns: list[str] = field(factory=lambda: ["measured"])
    caption: str = ""


@frozen
class Points:
    """Rows that are only drawn; the first column is the abscissa, or a name. None is unknown."""

    columns: list[str]
    rows: list[list[Any]]


@frozen
class Measured:
    """All that one series has measured; `rounds` says how often, `version` with which commit."""

    version: str = ""
    machine: str = ""
    rounds: str = ""
    tables: list[Table] = field(factory=list)
    points: dict[str, Points] = field(factory=dict)

    @classmethod
    def load(cls, path: Path) -> Measured:
        """Return what a file keeps."""
        return _CONVERTER.structure(json.loads(path.read_text()), cls)

    def save(self, path: Path) -> None:
        """Keep it in a file."""
        path.write_text(_json(_CONVERTER.unstructure(self)) + "\n")


@frozen
class Column:
    """A figure of each round, with a bound, or one for each row by its name.

    `figure` is None of rounds in which it was not measured. `by` makes one of all rounds.
    """

    name: str
    figure: Callable[[Any], float | None]
    bound: Bound | Mapping[str, Bound] | None = None
    by: Callable[[Sequence[float], Bound | None], Figure] = Figure.of

    def of(self, name: str, rounds: Sequence[Any]) -> Figure | None:
        """Return the figure of the row with that name."""
        values = [value for one in rounds if (value := self.figure(one)) is not None]
        bound = self.bound.get(name) if isinstance(self.bound, Mapping) else self.bound
        return self.by(values, bound) if values else None


def grid(rows: Mapping[str, Sequence[Any]], *columns: Column, caption: str = "") -> Table:
    """Return a table of these rows, which are rounds by names."""
    return Table(
        [
            Row(name, [column.of(name, rounds) for column in columns])
            for name, rounds in rows.items()
        ],
        [column.name for column in columns],
        caption,
    )


def listed(rounds: Sequence[Any], *figures: Column) -> list[Row]:
    """Return rows of a table with a single column, for those figures that were measured."""
    rows = [(column.name, column.of(column.name, rounds)) for column in figures]
    return [Row(name, [figure]) for name, figure in rows if figure]


def _rounded(figure: float) -> float:
    return round(figure) if abs(figure) >= 1000 else float(f"{figure:.3g}")


def _json(value: Any, depth: int = 0) -> str:
    """Return JSON in which a list or an object that fits on a line is on one."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(flat) + depth <= _WIDTH or not isinstance(value, dict | list):
        return flat
    if isinstance(value, dict):
        parts = [f"{json.dumps(key)}: {_json(each, depth + 1)}" for key, each in value.items()]
    else:
        parts = [_json(each, depth + 1) for each in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    pad = "\n" + " " * (depth + 1)
    return f"{opening}{pad}{(',' + pad).join(parts)}\n{' ' * depth}{closing}"
