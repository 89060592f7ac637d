"""Control groups of a real kernel, version 2, in a virtual machine."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from tests.docker.machine_engine import BESIDE_ENGINE, HOME, IMAGES
from tests.support.virtual_machine import missing_programs, run_in_machine

CHECK = f"{sys.executable} -m pytest -p no:cacheprovider -n 0 -q --color=no tests/docker"
#: The second check has an engine, which the first one would kill when it takes all memory.
CHECKS = (
    f"{CHECK}/cgroup_checks.py && exec {shlex.join(BESIDE_ENGINE)} "
    f"{CHECK}/engine_checks.py --basetemp={HOME}/tests"
)


def test_figures_and_causes_are_those_of_a_real_kernel(tmp_path: Path) -> None:
    missing = missing_programs(IMAGES)
    if missing:
        pytest.skip(f"the virtual machine needs {missing}")
    ran = run_in_machine(tmp_path, IMAGES, ("/bin/sh", "-c", CHECKS))
    assert ran.status == 0, ran.output
