"""Tests for pulls and their progress in `wingsd.docker.containers`."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wingsd.docker.containers import PULL_REPORT, PullProgress, follow
from wingsd.docker.runtime import LayerProgress

LINES: list[dict[str, Any]] = [
    {"status": "Pulling from group/java", "id": "21"},
    {"status": "Pulling fs layer", "progressDetail": {}, "id": "one"},
    {"status": "Already exists", "progressDetail": {}, "id": "two"},
    {"status": "Downloading", "progressDetail": {"current": 0, "total": 5e6}, "id": "one"},
    {"status": "Downloading", "progressDetail": {"current": 2.5e6, "total": 5e6}, "id": "one"},
    {"status": "Download complete", "progressDetail": {}, "id": "one"},
    {"status": "Extracting", "progressDetail": {"current": 1, "total": 9}, "id": "one"},
    {"status": "Pull complete", "progressDetail": {}, "id": "one"},
    {"status": "Digest: sha256:0123"},
]


def progress_after(lines: int) -> PullProgress:
    progress = PullProgress()
    for line in LINES[:lines]:
        progress.update(line)
    return progress


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (0, "0 of 0 layers, 0.0 of 0.0 MB"),
        (1, "0 of 0 layers, 0.0 of 0.0 MB"),
        (3, "1 of 2 layers, 0.0 of 0.0 MB"),
        (5, "1 of 2 layers, 2.5 of 5.0 MB"),
        (7, "1 of 2 layers, 5.0 of 5.0 MB"),
        (9, "2 of 2 layers, 5.0 of 5.0 MB"),
    ],
)
def test_progress_is_in_layers_and_megabytes(lines: int, words: str) -> None:
    assert str(progress_after(lines)) == words
    assert progress_after(lines).error == ""


def layers_shown(progress: PullProgress, *, at_end: bool = False) -> list[LayerProgress]:
    shown: list[str | LayerProgress | None] = []
    (progress.end if at_end else progress.show)(shown.append)
    return [news for news in shown if isinstance(news, LayerProgress)]


def test_the_latest_progress_of_each_layer_is_shown_once() -> None:
    progress = progress_after(5)
    assert layers_shown(progress) == [LayerProgress("one", "pulling", 2_500_000, 5_000_000)]
    assert layers_shown(progress) == []
    for line in LINES[5:7]:
        progress.update(line)
    assert layers_shown(progress) == [LayerProgress("one", "extracting", 1, 9)]
    progress.update(LINES[7])
    assert layers_shown(progress) == [LayerProgress("one", "")]
    # The other layer was there, and needs no end.
    assert layers_shown(progress, at_end=True) == []


def test_no_layer_is_left_under_way_by_a_pull_that_fails() -> None:
    progress = progress_after(5)
    layers_shown(progress)
    progress.update({"error": "no space left"})
    assert layers_shown(progress, at_end=True) == [LayerProgress("one", "")]


def test_the_first_error_of_a_pull_is_kept() -> None:
    progress = progress_after(5)
    progress.update({"errorDetail": {"message": "no space left"}, "error": "no space left"})
    progress.update({"error": "and another"})
    assert progress.error == "no space left"


def test_a_pull_is_followed_some_seconds_at_a_time() -> None:
    clock = count()
    progress = PullProgress()
    lines = iter([{"status": "Pulling fs layer", "id": str(n)} for n in range(PULL_REPORT + 3)])
    assert follow(progress, lines, lambda: float(next(clock)))
    assert str(progress).startswith(f"0 of {PULL_REPORT} layers")
    assert not follow(progress, lines, lambda: float(next(clock)))
    assert str(progress).startswith(f"0 of {PULL_REPORT + 3} layers")


@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "id": st.sampled_from("ab"),
                "status": st.sampled_from(["Downloading", "Extracting", "Pull complete", ""]),
                "progressDetail": st.none()
                | st.fixed_dictionaries({}, optional={"current": st.integers(0)}),
            },
        )
    )
)
def test_no_line_of_the_engine_upsets_the_progress(lines: list[dict[str, Any]]) -> None:
    progress = PullProgress()
    assert not follow(progress, iter(lines), lambda: 0.0)
    assert "layers" in str(progress)
