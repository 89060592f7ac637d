"""A short sample of `make kills` of the kinds history-killed and history-damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.histories import DamagedHistories, KilledHistories


@pytest.mark.promise("history-survives-faults")
async def test_points_survive_kills_of_the_process_that_makes_them(tmp_path: Path) -> None:
    campaign = KilledHistories(tmp_path)
    campaign.kills = 4
    found = await campaign.run(4, seed=1)
    assert found.done == 4


@pytest.mark.promise("history-outlives-its-disk")
async def test_points_are_made_and_damage_is_listed_whatever_is_lost(tmp_path: Path) -> None:
    found = await DamagedHistories(tmp_path).run(4, seed=1)
    assert found.done == 4
