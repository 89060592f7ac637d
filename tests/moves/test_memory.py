"""The memory that trees take does not grow with them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_trees_of_many_files_and_blocks_take_little_memory() -> None:
    script = [sys.executable, "-m", "tests.moves.tree_memory", "20000", "1"]
    root = Path(__file__).parents[2]
    run = subprocess.run(script, check=True, capture_output=True, cwd=root)
    grown = json.loads(run.stdout)
    # 20,000 nodes alone took 14 MiB, in each of three trees, and 262,144 digests 4 MiB
    assert {step: anonymous for step, (_, anonymous) in grown.items() if anonymous > 28} == {}
