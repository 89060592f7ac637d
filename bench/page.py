"""The writer of the page of figures: a section for each series that was measured."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping

from bench.figures import Bound, Figure, Measured, Row, Table
from bench.series import Series

__all__ = ["page"]

_WIDTH = 100
_HEAD = """
`make bench` writes this page: it measures the node beside programs that do the same work, and
keeps the figures in `docs/benchmarks`. `make bench SERIES=sftp` measures one series again.

Figures are medians of all rounds, with the lowest and the highest in brackets. Seconds mean little
on another machine, so ratios count: each is of one round, in which the programs take turns. A
release keeps what is required: **held**, **goal** where also the goal is reached, or **missed**.
In pictures, bars without a unit are shares of what is required; up to the black line it is held.
A thin line goes from the lowest to the highest round, a diamond is Go Wings.

Go Wings is Pterodactyl's version of March 2024, built with Go 1.24, measured once by HTTP/1.1,
without engine and database.

`big` is 16 incompressible files of 128 MiB; `mixed` is a game server of 1.7 GiB with region files,
jars, logs and 3,000 small files; `small` is 50,000 files of 0.2 to 8 KiB.

All programs run on one machine. Servers move between two nodes over TLS. For those that run both
nodes share a Docker engine; their programs write at a given rate, at random places of 16 files of
8 MiB. They are *down* from the end of the program at the source to the start of its container at
the destination, by the engine's clock.
"""


def page(series: Iterable[Series], measured: Mapping[str, Measured]) -> str:
    """Return the document, with the sections of those series that were measured."""
    sections = [_section(one, measured[one.name]) for one in series if one.name in measured]
    return "\n".join(["# Benchmarks\n", _filled(_HEAD), *sections])


def _section(series: Series, measured: Measured) -> str:
    rounds = f" Rounds: {measured.rounds}." if measured.rounds else ""
    return "\n".join(
        [
            f"## {series.title}\n",
            _filled(series.text),
            *(_table(table) for table in measured.tables if table.rows),
            f"![{series.title}](benchmarks/{series.name}.svg)\n",
            _filled(f"Version {measured.version}, {measured.machine}.{rounds}"),
        ]
    )


def _filled(text: str) -> str:
    paragraphs = textwrap.dedent(text).strip().split("\n\n")
    fill = textwrap.TextWrapper(_WIDTH, break_long_words=False, break_on_hyphens=False).fill
    return "\n\n".join(fill(one) for one in paragraphs) + "\n"


def _table(table: Table) -> str:
    head, rows = _bounded(table) if len(table.columns) == 1 else _grid(table)
    # Columns in which nothing is are left out.
    shown = [index for index in range(len(head)) if any(row[index] for row in rows)]
    lines = [head, ["-"] * len(head), *rows]
    text = "".join(f"|{'|'.join(line[index] for index in shown)}|\n" for line in lines)
    return f"{table.caption}\n\n{text}" if table.caption else text


def _bounded(table: Table) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of a table with a single column."""
    rows = []
    for row in table.rows:
        (figure,) = row.figures
        bound = figure.bound if figure else None
        limits = ["", "", ""]
        if bound:
            limits = [_number(bound.wings), _required(bound), _number(bound.goal)]
        rows.append([row.name, *limits, _spread(figure), _verdict(row)])
    return ["", "Go Wings", "required", "goal", *table.columns, ""], rows


def _grid(table: Table) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of a table with several columns.

    Where all figures of a column have bounds, the most common one is in its head; any other one is
    beside its figure.
    """
    head, rows = [""], [[row.name] for row in table.rows]
    for index, column in enumerate(table.columns):
        figures = [row.figures[index] for row in table.rows]
        bounds = Counter(figure.bound for figure in figures if figure)
        common = None if None in bounds else bounds.most_common(1)[0][0]
        head.append(f"{column} ({_limits(common)})" if common else column)
        for row, figure in zip(rows, figures, strict=True):
            own = figure.bound if figure and figure.bound != common else None
            row.append(_spread(figure) + (f", {_limits(own)}" if own else ""))
    verdicts = [_verdict(row) for row in table.rows]
    return [*head, ""], [[*row, verdict] for row, verdict in zip(rows, verdicts, strict=True)]


def _limits(bound: Bound) -> str:
    goal = f", goal {_number(bound.goal)}" if bound.goal else ""
    return f"{_required(bound)}{goal}"


def _required(bound: Bound) -> str:
    return f"{'≥' if bound.is_least else '≤'} {_number(bound.required)}"


def _verdict(row: Row) -> str:
    if not all(figure.is_held for figure in row.bounded):
        return "**missed**"
    if row.bounded and all(figure.is_goal for figure in row.bounded):
        return "**goal**"
    return "held" if row.bounded else ""


def _spread(figure: Figure | None) -> str:
    """Return the median, and the lowest and the highest where they differ."""
    if figure is None:
        return ""
    middle = _number(figure.median)
    if figure.lowest == figure.highest:
        return middle
    return f"{middle} ({_number(figure.lowest)} to {_number(figure.highest)})"


def _number(figure: float | None) -> str:
    """Return a figure with all digits that are kept of it."""
    if figure is None:
        return ""
    return f"{figure:,.0f}" if abs(figure) >= 1000 else f"{figure:g}"
