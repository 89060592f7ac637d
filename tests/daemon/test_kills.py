"""A few kills at moments that a seed has chosen; `tests.daemon.kills` does hundreds."""

from __future__ import annotations

import random
from pathlib import Path

import pytest_twisted

from tests.daemon.kills import Harness, plan

KILLS = 8
SEED = 20


@pytest_twisted.ensureDeferred
async def test_whoever_is_killed_there_is_one_whole_copy_where_the_panel_says(
    tmp_path: Path,
) -> None:
    rng = random.Random(SEED)
    harness = Harness(tmp_path)
    await harness.start()
    try:
        for _ in range(KILLS):
            await harness.strike(plan(rng))
        await harness.move()
    finally:
        await harness.close()
