"""Control groups of a real kernel, version 2, in a virtual machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.docker.machine_engine import BESIDE_ENGINE, HOME, IMAGES
from tests.support.virtual_machine import missing_programs, run_in_machine

CHECK = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "0", "-q", "--color=no")


@pytest.mark.parametrize(
    "command",
    [
        (*CHECK, "tests/docker/cgroup_checks.py"),
        (*BESIDE_ENGINE, *CHECK, f"--basetemp={HOME}/tests", "tests/docker/engine_checks.py"),
    ],
    ids=["alone", "engine"],
)
def test_figures_and_causes_are_those_of_a_real_kernel(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    missing = missing_programs(IMAGES)
    if missing:
        pytest.skip(f"the virtual machine needs {missing}")
    ran = run_in_machine(tmp_path, IMAGES, command)
    assert ran.status == 0, ran.output
