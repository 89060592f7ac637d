"""Points of a game that checks its own files: stopped ones as a whole, others file by file."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.history import checked_game
from wingsd.history.capture import HistorySource
from wingsd.history.format import PointLabel
from wingsd.history.store import HistoryStore
from wingsd.moves.unchanged import MeasuredFileSystems

ROUNDS, RUNNING = int(os.environ.get("ROUNDS", "2")), 2


@pytest.mark.promise("history-files-are-whole")
def test_each_point_passes_the_games_own_check(tmp_path: Path) -> None:
    server, target = tmp_path / "server", tmp_path / "rebuilt"
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
            with subprocess.Popen(command, stdout=subprocess.PIPE) as game:
                assert game.stdout is not None
                lines = [game.stdout.readline()]
                for _ in range(RUNNING):
                    store.make(source, PointLabel.RUNNING)
                game.send_signal(signal.SIGKILL)
                lines += game.stdout.read().split()
            made = store.make(source, PointLabel.STOPPED)
            assert made is not None
            assert (made.label, made.unsettled) == (PointLabel.STOPPED, ())
            counts[made.number] = int(lines[max(len(lines) - 2, 0)])  # the last one may be cut
        regions = 0
        for point in store.points():
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            fd = os.open(target, os.O_RDONLY)
            store.rebuild(point.number, fd)
            os.close(fd)
            assert [*checked_game.faults(target)] == []
            regions += len([*target.glob("*.mca")])
            assert (point.label is PointLabel.STOPPED) == (point.number in counts)
            if point.number in counts:
                # the last one may have been written and not been reported
                assert checked_game.counted(target) - counts[point.number] in (0, 1, 2)
        assert regions > ROUNDS * checked_game.REGIONS
        assert store.verify() == {}
