"""How far the pull of an image has come, from the lines the engine tells it in.

Pure: the lines and the clock are handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

__all__ = ["PullProgress", "follow"]

#: Seconds between two reports about a pull.
PULL_REPORT = 10

_MB = 1_000_000


@attrs.define
class PullProgress:
    """How far a pull has come, from the lines the engine tells it in."""

    #: Layer by id: whether it is complete.
    _layers: dict[str, bool] = attrs.field(factory=dict)
    #: Layer by id: bytes downloaded and, as far as known, to download.
    _bytes: dict[str, tuple[int, int]] = attrs.field(factory=dict)
    error: str = ""

    def note(self, line: Mapping[str, Any]) -> None:
        """Take one line of the engine's answer to `POST /images/create` into account."""
        self.error = self.error or str(line.get("error") or "")
        layer, status = line.get("id"), line.get("status", "")
        if layer is None or status.startswith("Pulling from"):
            return
        self._layers[layer] = status in ("Pull complete", "Already exists")
        detail = line.get("progressDetail") or {}
        if status == "Downloading":
            self._bytes[layer] = (detail.get("current", 0), detail.get("total", 0))
        elif layer in self._bytes:
            _, total = self._bytes[layer]
            self._bytes[layer] = (total, total)

    def __str__(self) -> str:
        """Return the progress in words, with sizes in MB."""
        done = sum(size for size, _ in self._bytes.values()) / _MB
        total = sum(size for _, size in self._bytes.values()) / _MB
        complete = sum(self._layers.values())
        return f"{complete} of {len(self._layers)} layers, {done:.1f} of {total:.1f} MB"


def follow(
    progress: PullProgress, lines: Iterator[Mapping[str, Any]], clock: Callable[[], float]
) -> bool:
    """Take the lines of a pull for `PULL_REPORT` seconds; return whether more may come."""
    until = clock() + PULL_REPORT
    for line in lines:
        progress.note(line)
        if clock() >= until:
            return True
    return False
