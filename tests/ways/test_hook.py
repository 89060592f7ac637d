"""The hook notes functions, in each phase, and in the processes that a daemon starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.ways.__main__ import HOOK

#: Imports a module whose functions do not run, runs one of another, and starts a process.
PROGRAM = """
import os
from pathlib import Path
from wingsd.util import addresses
from wingsd.util.text import readable_size
readable_size(1)
Path({phase!r}).write_bytes(bytes([2]))
readable_size(1)
from wingsd.sandbox import launch
with launch.start(launch.command("wingsd.egg_files.child", 5, 1 << 30), 0) as process:
    process.stdout.read()
"""


def test_files_are_noted_whose_functions_run(tmp_path: Path) -> None:
    phase = tmp_path / "phase"
    phase.write_bytes(bytes([1]))
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(phase=str(phase)))
    subprocess.run(
        [sys.executable, str(HOOK), str(tmp_path), str(program)],
        env=os.environ | {"PYTHONPATH": str(HOOK.parents[2])},
        stdin=subprocess.DEVNULL,
        check=True,
        timeout=60,
    )
    noted = [set(path.read_text().splitlines()) for path in tmp_path.glob("*.calls")]
    (daemon,) = (lines for lines in noted if "1 util/text.py" in lines)
    (child,) = (lines for lines in noted if lines is not daemon)
    assert daemon == {"1 util/text.py", "2 util/text.py", "2 sandbox/launch.py"}
    assert "2 egg_files/child.py" in child
