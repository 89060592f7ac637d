"""A few kills at moments that a seed has chosen; the modules that plan them do hundreds."""

from __future__ import annotations

import random
from pathlib import Path

import pytest_twisted

from tests.daemon.backup_kills import Laden
from tests.daemon.backup_kills import plan as plan_with_backups
from tests.daemon.kills import Harness, Kill, plan, plan_with_engine
from tests.daemon.pool_kills import PoolHarness
from tests.daemon.removal_kills import RemovalHarness
from tests.engine import Engine

KILLS = 8
SEED = 20
SEED_WITH_BACKUPS = 3
SEED_OF_REMOVALS = 4
SEED_IN_POOL = 11
#: Each takes a few seconds more with an engine.
KILLS_WITH_ENGINE = 4
SEED_WITH_ENGINE = 50


@pytest_twisted.ensureDeferred
async def test_a_node_that_is_killed_has_all_that_comes_with_a_server_or_nothing(
    tmp_path: Path,
) -> None:
    rng = random.Random(SEED_WITH_BACKUPS)
    laden = Laden(tmp_path)
    try:
        await laden.start()
        for _ in range(KILLS):
            await laden.strike(plan_with_backups(rng), rng)
        for family in ("pelican", "calagopus"):
            await laden.arrive(family, rng)
    finally:
        await laden.close()


async def survive(harness: Harness, kills: list[Kill]) -> None:
    """See that all is well after each kill, and that the server can be moved once more."""
    await harness.start()
    try:
        for kill in kills:
            await harness.strike(kill)
        await harness.move()
    finally:
        await harness.close()


@pytest_twisted.ensureDeferred
async def test_whoever_is_killed_there_is_one_whole_copy_where_the_panel_says(
    tmp_path: Path,
) -> None:
    rng = random.Random(SEED)
    await survive(Harness(tmp_path), [plan(rng) for _ in range(KILLS)])


@pytest_twisted.ensureDeferred
async def test_whoever_is_killed_backups_that_move_are_where_the_server_is(
    tmp_path: Path,
) -> None:
    rng = random.Random(SEED_OF_REMOVALS)
    await survive(RemovalHarness(tmp_path), [plan(rng) for _ in range(KILLS)])


@pytest_twisted.ensureDeferred
async def test_whoever_is_killed_no_file_in_a_pool_is_touched(tmp_path: Path) -> None:
    rng = random.Random(SEED_IN_POOL)
    await survive(PoolHarness(tmp_path), [plan(rng) for _ in range(KILLS)])


@pytest_twisted.ensureDeferred
async def test_whoever_is_killed_there_is_one_container_where_the_panel_says(
    tmp_path: Path, engine: Engine
) -> None:
    rng = random.Random(SEED_WITH_ENGINE)
    kills = [plan_with_engine(rng) for _ in range(KILLS_WITH_ENGINE)]
    await survive(Harness(tmp_path, engine), kills)
