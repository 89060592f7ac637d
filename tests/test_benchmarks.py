"""The page of figures is what `make bench` writes from the figures that are kept."""

from __future__ import annotations

import pytest

from bench.all_series import ALL
from bench.figures import Figure, Measured
from bench.page import page
from tests.support.documents import HOME

KEPT = HOME / "docs/benchmarks"
#: A new series has no section until it was measured on a quiet machine.
MEASURED = {path.stem for path in KEPT.glob("*.json")}


def test_the_page_is_written_from_what_is_kept() -> None:
    measured = {name: Measured.load(KEPT / f"{name}.json") for name in MEASURED}
    assert (HOME / "docs/benchmarks.md").read_text() == page(ALL.values(), measured)


def test_every_measured_series_has_a_picture_and_nothing_else_is_kept() -> None:
    assert set(ALL) >= MEASURED
    files = {f"{name}.{kind}" for name in MEASURED for kind in ("json", "svg")}
    assert {path.name for path in KEPT.iterdir()} == files


def test_a_file_keeps_all_of_a_series() -> None:
    for name in MEASURED:
        kept = Measured.load(KEPT / f"{name}.json")
        assert kept.version, name
        assert kept.machine, name
        for table in kept.tables:
            for row in table.rows:
                assert len(row.figures) == len(table.columns), f"{name}: {row.name}"


@pytest.mark.parametrize(
    ("values", "kept"),
    [([3, 1.23456, 2], Figure(2, 1.23, 3)), ([1234.5], Figure(1234)), ([0], Figure(0))],
)
def test_figures_have_as_many_digits_as_mean_something(values: list[float], kept: Figure) -> None:
    assert Figure.of(values) == kept
