"""A row of a report: a figure beside what is required of it."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from attrs import frozen

from bench.targets import Target

__all__ = ["TABLE", "Row"]

#: The heading of a table of rows.
TABLE = ("| | required | measured | |", "| --- | --- | --- | --- |")


@frozen
class Row:
    """A figure; `is_speed` where more is better. Without a target it only informs."""

    name: str
    values: Sequence[float]
    target: Target | None = None
    is_speed: bool = False

    def text(self) -> str:
        """Return it as Markdown: the median, with the lowest and the highest in brackets."""
        middle = median(self.values)
        measured = f"{middle:.3g} ({min(self.values):.3g} to {max(self.values):.3g})"
        if self.target is None:
            return f"| {self.name} | | {measured} | |"
        required = self.target.required
        is_held = middle >= required if self.is_speed else middle <= required
        sign, held = "≥" if self.is_speed else "≤", "held" if is_held else "**missed**"
        return f"| {self.name} | {sign} {required:g} | {measured} | {held} |"
