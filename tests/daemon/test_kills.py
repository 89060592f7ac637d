"""A short sample of `make kills`: a few kills of each kind, at points that a seed gives."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from twisted.internet.utils import getProcessOutputAndValue

from tests.kills.arrivals import Arrivals
from tests.kills.engine import inject
from tests.kills.installations import Installations
from tests.kills.live import Live
from tests.kills.making import Makings
from tests.kills.moves import Containered, Pooled, Removals, Transfers
from tests.kills.proxied import Proxied
from tests.kills.restores import Restores
from tests.kills.resumed import ContaineredResumed, Resumed
from tests.kills.uploads import Uploads
from tests.support.docker_engine import Engine

#: Of each kind; their seeds are such that each node dies, at different steps.
KILLS = 4
#: Each takes a few seconds more with an engine.
KILLS_WITH_ENGINE = 2
#: System calls at which a daemon dies, all in one process.
FAULTS = 8
#: MiB of a server that is moved in batches of one.
SIZE = 8


@pytest.mark.promise("attached-backups-arrive-whole")
async def test_after_kills_an_arriving_server_is_here_whole_or_not_at_all(tmp_path: Path) -> None:
    await inject(Arrivals(tmp_path), KILLS, seed=6)


@pytest.mark.promise("one-whole-copy-after-a-kill")
async def test_after_kills_there_is_one_whole_copy_where_the_panel_says(tmp_path: Path) -> None:
    await inject(Transfers(tmp_path), KILLS, seed=129)


@pytest.mark.promise("sent-backups-go-with-the-server")
async def test_after_kills_moved_backups_are_where_the_server_is(tmp_path: Path) -> None:
    await inject(Removals(tmp_path), KILLS, seed=185)


@pytest.mark.promise("restore-is-old-or-new")
async def test_after_kills_a_server_has_its_old_or_its_restored_files(tmp_path: Path) -> None:
    await inject(Restores(tmp_path), KILLS, seed=3)


@pytest.mark.promise("backup-is-whole-or-failed")
async def test_after_kills_a_backup_is_whole_or_reported_as_failed(tmp_path: Path) -> None:
    await inject(Makings(tmp_path), KILLS // 2, seed=6)


@pytest.mark.promise("pool-files-are-untouched")
async def test_after_kills_no_file_in_a_pool_is_changed(tmp_path: Path) -> None:
    await inject(Pooled(tmp_path), KILLS, seed=129)


@pytest.mark.promise("one-whole-copy-after-a-kill")
async def test_after_kills_one_node_has_the_container(tmp_path: Path, engine: Engine) -> None:
    await inject(Containered(tmp_path, engine), KILLS_WITH_ENGINE, seed=962)


@pytest.mark.promise("move-continues-after-a-kill", "move-continues-after-breaks")
async def test_after_kills_and_cuts_a_move_goes_on_where_it_was(tmp_path: Path) -> None:
    await inject(Resumed(tmp_path, SIZE), KILLS, seed=1)


@pytest.mark.promise("move-passes-strict-proxies")
async def test_after_kills_and_breaks_of_a_proxy_a_move_goes_on(tmp_path: Path) -> None:
    await inject(Proxied(tmp_path, SIZE), 2, seed=5)


@pytest.mark.promise("one-whole-copy-after-a-kill")
async def test_after_kills_a_move_on_one_engine_goes_on(tmp_path: Path, engine: Engine) -> None:
    await inject(ContaineredResumed(tmp_path, engine, SIZE), KILLS_WITH_ENGINE, seed=31)


@pytest.mark.promise("running-server-runs-once")
async def test_after_kills_a_running_server_runs_where_it_has_moved(
    tmp_path: Path, engine: Engine
) -> None:
    await inject(Live(tmp_path, engine, SIZE), KILLS_WITH_ENGINE, seed=7)


@pytest.mark.promise("running-server-runs-once")
async def test_wherever_a_daemon_dies_a_running_server_is_whole_and_runs_once() -> None:
    # In a process of its own: what daemons had open that died in it stays so.
    words = ["-m", "tests.kills", "live-faults", "--count", str(FAULTS), "--seed", "28"]
    out, err, status = await getProcessOutputAndValue(sys.executable, words, os.environ)
    assert status == 0, (out + err).decode()
    assert b"kills, seed 28: the invariants held each time" in out


@pytest.mark.promise("installation-is-whole-after-a-kill")
async def test_after_kills_a_server_is_installed_whole_and_nothing_is_left(engine: Engine) -> None:
    await inject(Installations(engine), 2, seed=2)


@pytest.mark.promise("s3-upload-continues")
@pytest.mark.parametrize("family", ["pterodactyl", "calagopus"])
async def test_after_kills_a_backup_is_in_the_store_whole_or_has_failed(
    tmp_path: Path, family: str
) -> None:
    await inject(Uploads(tmp_path, family), KILLS, seed=8)
