"""A short sample of `make kills KIND=history-killed`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.histories import KilledHistories


@pytest.mark.promise("history-survives-faults")
async def test_points_survive_kills_of_the_process_that_makes_them(tmp_path: Path) -> None:
    campaign = KilledHistories(tmp_path)
    campaign.kills = 4
    found = await campaign.run(8, seed=1)
    assert found.done == 8
