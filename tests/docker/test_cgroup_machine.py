"""Control groups of a real kernel, version 2, in a virtual machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.virtual_machine import Image, missing_programs, run_in_machine

IMAGES = {"ext4": Image("64M", ("mkfs.ext4", "-q"), ("-t", "ext4"))}


def test_figures_and_causes_are_those_of_a_real_kernel(tmp_path: Path) -> None:
    missing = missing_programs(IMAGES)
    if missing:
        pytest.skip(f"the virtual machine needs {missing}")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "0", "-q"]
    checks = [*command, "--color=no", "tests/docker/cgroup_checks.py"]
    ran = run_in_machine(tmp_path, IMAGES, checks)
    assert ran.status == 0, ran.output
