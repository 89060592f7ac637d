"""A short sample of `make kills`: a few kills of each kind, at points that a seed gives."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from twisted.internet.utils import getProcessOutputAndValue

from tests.crash.evacuations import Evacuations, RunningEvacuations
from tests.crash.one_node import Arrivals, Installations, Makings, Restores, Uploads
from tests.crash.point_backups import PointBackupKills
from tests.crash.rewinds import Rewinds
from tests.crash.two_nodes import (
    Following,
    FollowingPoints,
    Live,
    Pooled,
    Removals,
    Resumed,
    Transfers,
)
from tests.support.docker_engine import Engine

#: Of each kind; their seeds are such that each node dies, at different steps.
KILLS = 3
#: Each takes a few seconds more with an engine.
KILLS_WITH_ENGINE = 2
#: System calls at which a daemon dies, all in one process.
FAULTS = 8
#: MiB of a server that is moved in batches of one.
SIZE = 8


@pytest.mark.promise("attached-backups-arrive-whole")
async def test_after_kills_an_arriving_server_is_here_whole_or_not_at_all(tmp_path: Path) -> None:
    await Arrivals(tmp_path).run(KILLS, seed=6)


@pytest.mark.promise("one-whole-copy-after-a-kill")
async def test_after_kills_there_is_one_whole_copy_where_the_panel_says(tmp_path: Path) -> None:
    await Transfers(tmp_path).run(KILLS, seed=129)


@pytest.mark.promise("sent-backups-go-with-the-server")
async def test_after_kills_moved_backups_are_where_the_server_is(tmp_path: Path) -> None:
    await Removals(tmp_path).run(KILLS, seed=185)


@pytest.mark.promise("backups-follow-their-server")
async def test_after_kills_backups_have_followed_their_server(tmp_path: Path) -> None:
    await Following(tmp_path).run(2, seed=8)


@pytest.mark.promise("point-backups-follow")
async def test_after_kills_backups_that_are_points_have_followed(tmp_path: Path) -> None:
    await FollowingPoints(tmp_path).run(2, seed=5)


@pytest.mark.promise("restore-is-old-or-new")
async def test_after_kills_a_server_has_its_old_or_its_restored_files(tmp_path: Path) -> None:
    await Restores(tmp_path).run(KILLS, seed=3)


@pytest.mark.promise("rewind-survives-death")
async def test_a_rewind_survives_kills(tmp_path: Path) -> None:
    await Rewinds(tmp_path).run(2, seed=3)


@pytest.mark.promise("backup-is-a-point")
async def test_after_kills_backups_that_are_points_are_whole(tmp_path: Path) -> None:
    await PointBackupKills(tmp_path).run(2, seed=2)


@pytest.mark.promise("backup-is-whole-or-failed")
async def test_after_kills_a_backup_is_whole_or_reported_as_failed(tmp_path: Path) -> None:
    await Makings(tmp_path).run(2, seed=6)


@pytest.mark.promise("pool-files-are-untouched")
async def test_after_kills_no_file_in_a_pool_is_changed(tmp_path: Path) -> None:
    await Pooled(tmp_path).run(KILLS, seed=129)


@pytest.mark.promise("move-continues-after-a-kill", "move-continues-after-breaks")
async def test_after_kills_and_cuts_a_move_goes_on_where_it_was(tmp_path: Path) -> None:
    await Resumed(tmp_path, mebibytes=SIZE).run(KILLS, seed=1)


@pytest.mark.promise("running-server-runs-once")
async def test_after_kills_a_running_server_runs_where_it_has_moved(
    tmp_path: Path, engine: Engine
) -> None:
    await Live(tmp_path, engine, SIZE).run(KILLS_WITH_ENGINE, seed=7)


@pytest.mark.promise("running-server-runs-once")
async def test_wherever_a_daemon_dies_a_running_server_is_whole_and_runs_once() -> None:
    # In a process of its own: what daemons had open that died in it stays so.
    words = ["-m", "tests.crash", "kills", "live-faults", "--count", str(FAULTS), "--seed", "28"]
    out, err, status = await getProcessOutputAndValue(sys.executable, words, os.environ)
    assert status == 0, (out + err).decode()
    assert f"{FAULTS}, seed 28: the invariants held each time" in out.decode()


@pytest.mark.promise("installation-is-whole-after-a-kill")
async def test_after_kills_a_server_is_installed_whole_and_nothing_is_left(engine: Engine) -> None:
    await Installations(engine).run(2, seed=2)


@pytest.mark.promise("s3-upload-continues")
async def test_after_kills_a_backup_is_in_the_store_whole_or_has_failed(tmp_path: Path) -> None:
    await Uploads(tmp_path, "pterodactyl").run(KILLS, seed=8)


@pytest.mark.promise("evacuation-goes-on")
async def test_after_kills_an_evacuation_goes_on(tmp_path: Path) -> None:
    await Evacuations(tmp_path, servers=4).run(2, seed=1)


@pytest.mark.promise("evacuation-goes-on")
async def test_after_a_kill_servers_that_are_evacuated_run_once(
    tmp_path: Path, engine: Engine
) -> None:
    await RunningEvacuations(tmp_path, engine, servers=2).run(1, seed=5)
