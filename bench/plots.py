"""The pictures of the page: one for each series, of the panels that it names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

from bench.figures import Bound, Figure, Measured, Points
from bench.series import Bars, Lines, Series, Stacks

__all__ = ["draw"]

mpl.use("svg")
# The same drawing for the same figures.
mpl.rcParams["svg.hashsalt"] = "wingsd"
mpl.rcParams["svg.fonttype"] = "none"
mpl.rcParams["font.sans-serif"] = ["DejaVu Sans"]
mpl.rcParams["font.size"] = 8

#: Inches of a panel's width, of its height at least, and of each of its bars.
_WIDTH, _HEIGHT, _BAR = 5.0, 2.4, 0.2
#: Inches that a panel of bars needs for all but these.
_EDGES = 0.6


def draw(series: Series, measured: Measured, path: Path) -> None:
    """Write the picture of a series, its panels one below the other."""
    heights = [_height(panel, measured) for panel in series.picture]
    figure, columns = plt.subplots(
        len(heights),
        1,
        figsize=(_WIDTH * 1.3, sum(heights)),
        height_ratios=heights,
        layout="constrained",
        squeeze=False,
    )
    for panel, axes in zip(series.picture, columns[:, 0], strict=True):
        if isinstance(panel, Bars):
            _bars(axes, panel, measured)
        elif isinstance(panel, Lines):
            _lines(axes, panel, measured)
        else:
            _stacks(axes, panel, measured.points[panel.points])
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _height(panel: Bars | Lines | Stacks, measured: Measured) -> float:
    if isinstance(panel, Bars):
        return _EDGES + _BAR * sum(1 for _ in _drawn(panel, measured))
    if isinstance(panel, Stacks):
        return _EDGES + _BAR * len(measured.points[panel.points].rows)
    return _HEIGHT


def _drawn(panel: Bars, measured: Measured) -> Iterator[tuple[str, int, Figure]]:
    """Yield the names of rows that have bars, and the column and figure of each bar."""
    table = measured.tables[panel.table]
    for row in table.rows:
        for column in panel.columns or table.columns:
            figure = row.figures[table.columns.index(column)]
            if figure and (panel.label or figure.bound):
                yield row.name, table.columns.index(column), figure


def _bars(axes: Any, panel: Bars, measured: Measured) -> None:
    columns = measured.tables[panel.table].columns
    drawn = list(_drawn(panel, measured))
    indexes = sorted({index for _, index, _ in drawn})
    for place, (_, index, figure) in enumerate(drawn):
        bound = figure.bound
        scale = None if panel.label else bound
        values = [figure.median, figure.lowest, figure.highest]
        middle, *ends = [_share(each, scale) for each in values if each is not None]
        color = "C3" if figure.is_held is False else f"C{indexes.index(index)}"
        axes.barh(place, middle, color=color)
        axes.plot(ends, [place] * len(ends), color="k", linewidth=0.8)
        if bound:
            axes.vlines(_share(bound.required, scale), place - 0.5, place + 0.5, color="k")
        if bound and bound.wings:
            axes.plot(_share(bound.wings, scale), place, color="k", marker="D", markersize=3)
    names = [
        _plain(f"{row}, {columns[index]}" if len(indexes) > 1 else row) for row, index, _ in drawn
    ]
    axes.set_yticks(range(len(drawn)), names)
    axes.set(ylim=(len(drawn) - 0.4, -0.6), xlabel=panel.label or "share of what is required")


def _share(value: float, bound: Bound | None) -> float:
    """Return the share of a bound, of a speed the bound's share of it; the value without one."""
    if bound is None:
        return value
    return bound.required / value if bound.is_least else value / bound.required


def _lines(axes: Any, panel: Lines, measured: Measured) -> None:
    for label, points in _curves(panel, measured):
        x, y = zip(*points, strict=True)
        axes.plot(x, y, label=label, marker="o" if len(points) < 20 else None, markersize=3)
        if panel.scale == "log":  # what is in proportion to the largest
            axes.plot([x[0], x[-1]], [x[0] * y[-1] / x[-1], y[-1]], "k:", linewidth=0.8)
    if panel.scale != "linear":
        axes.set_xscale("log")
    if panel.scale == "log":
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, 1.1 * axes.dataLim.y1)
    axes.set(xlabel=panel.x, ylabel=panel.y)
    if panel.points or len(panel.columns) > 1:
        axes.legend()


def _curves(panel: Lines, measured: Measured) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """Yield each line by its label; what is not known is left out."""
    if not panel.points:
        table = measured.tables[panel.table]
        amounts = [float(re.sub(r"[^\d.].*", "", row.name.replace(",", ""))) for row in table.rows]
        for column in panel.columns:
            index = table.columns.index(column)
            figures = [row.figures[index] for row in table.rows]
            yield column, [(x, y.median) for x, y in zip(amounts, figures, strict=True) if y]
    for name, points in measured.points.items():
        for column in panel.columns if panel.points and name.startswith(panel.points) else ():
            index = points.columns.index(column)
            rows = [(row[0], row[index]) for row in points.rows if row[index] is not None]
            yield name.removeprefix(panel.points) or column, rows


def _stacks(axes: Any, panel: Stacks, points: Points) -> None:
    """Draw the rows as bars. That without a name is a line over all of them."""
    names = [row[0] for row in points.rows if row[0]]
    left = [0.0] * len(names)
    for index, label in enumerate(points.columns[1:], 1):
        values = [row[index] for row in points.rows if row[0]]
        axes.barh(names, values, left=left, label=label)
        left = [before + more for before, more in zip(left, values, strict=True)]
    for row in points.rows:
        if not row[0]:
            axes.axvline(row[1], color="k", linestyle=":")
    axes.invert_yaxis()
    axes.set(xlabel=panel.label)
    axes.legend(fontsize="small")


def _plain(text: str) -> str:
    """Return Markdown without its marks."""
    return re.sub(r"`|\\(?=\|)", "", text)
