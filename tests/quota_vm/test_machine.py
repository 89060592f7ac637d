"""Project quotas of real file systems, in a virtual machine; `make quotas` runs all checks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.machine import QUOTAS, run_checks
from tests.support.virtual_machine import missing_programs


def test_quotas_of_ext4_and_xfs_limit_servers(tmp_path: Path) -> None:
    missing = missing_programs(QUOTAS)
    if missing:
        pytest.skip(f"the virtual machine needs {missing}")
    checked = run_checks(tmp_path, "tests/quota_vm/checks.py")
    assert checked.status == 0, checked.output
