"""A short sample of `make bad-disks`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.machine import BAD_DISKS, run_bad_disks
from tests.support.virtual_machine import missing_programs

MISSING = missing_programs(BAD_DISKS, "dmsetup")


@pytest.mark.skipif(bool(MISSING), reason=f"needs {MISSING}")
@pytest.mark.promise("history-outlives-its-disk")
@pytest.mark.promise("rewind-survives-death")
def test_points_and_servers_survive_a_disk_that_fails(tmp_path: Path) -> None:
    ran = run_bad_disks(tmp_path, "ext4", 2, 3, acts=6)
    assert ran.status == 0, ran.output
    assert "'points'" in ran.output
    assert "'rewound'" in ran.output
