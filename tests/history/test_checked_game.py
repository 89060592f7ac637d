"""Points of a game that checks its own files: stopped ones as a whole, others file by file."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.history import checked_game
from tests.support.points import rebuild
from wingsd.history.capture import HistorySource
from wingsd.history.format import PointLabel
from wingsd.history.store import HistoryStore
from wingsd.moves.unchanged import MeasuredFileSystems

ROUNDS, RUNNING = int(os.environ.get("ROUNDS", "2")), 2


@pytest.mark.promise("history-files-are-whole")
def test_each_point_passes_the_games_own_check(tmp_path: Path) -> None:
    server, target, printed = (tmp_path / name for name in ("server", "rebuilt", "printed"))
    server.mkdir()
    systems = MeasuredFileSystems()
    systems.measure_in(str(tmp_path))
    #: The counts that were reported before a stop, by the numbers of points.
    counts: dict[int, int] = {}
    with (
        closing(HistoryStore(str(tmp_path / "history"))) as store,
        closing(HistorySource(str(server), systems, lambda line: None)) as source,
    ):
        for number in range(ROUNDS):
            command = [
                sys.executable,
                "-m",
                "tests.history.checked_game",
                str(server),
                str(number),
            ]
            # Not a pipe: the game would stand still when it is full.
            with printed.open("w+") as file, subprocess.Popen(command, stdout=file) as game:
                try:
                    for _ in range(RUNNING):
                        reported(printed, game)
                        store.make(source, PointLabel.RUNNING)
                    reported(printed, game)
                finally:
                    game.send_signal(signal.SIGKILL)
            made = store.make(source, PointLabel.STOPPED)
            assert made is not None
            assert (made.label, made.unsettled) == (PointLabel.STOPPED, ())
            counts[made.number] = int(printed.read_text().split("\n")[-2])  # the last may be cut
        regions = 0
        for point in store.points():
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            fd = os.open(target, os.O_RDONLY)
            rebuild(store, point.number, fd)
            os.close(fd)
            assert [*checked_game.faults(target)] == []
            regions += len([*target.glob("*.mca")])
            assert (point.label is PointLabel.STOPPED) == (point.number in counts)
            if point.number in counts:
                # the last one may have been written and not been reported
                assert checked_game.counted(target) - counts[point.number] in (0, 1)
        assert regions > ROUNDS * checked_game.REGIONS
        assert store.verify() == {}


def reported(printed: Path, game: subprocess.Popen[bytes]) -> None:
    """Return when the game has changed its files again, and has reported that."""
    before = printed.stat().st_size
    while printed.read_bytes().count(b"\n", before) < 2:
        assert game.poll() is None
        time.sleep(0.005)
