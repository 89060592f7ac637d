"""A profile hook: notes in which files of wingsd functions run, in a daemon and its processes.

`python hook.py DIRECTORY PROGRAM ARGUMENT...` runs a Python program with it. DIRECTORY has a file
`phase` of one byte, by which the observer says what is being done; each process writes to a file
of its own there a line `PHASE PATH` for each file at its first call in a phase.
"""

from __future__ import annotations

import mmap
import os
import runpy
import stat
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

CODE = str(Path(__file__).parents[2] / "wingsd") + os.sep
#: Functions have it; the bodies of modules and classes do not.
_CO_OPTIMIZED = 1
#: Starts another interpreter with the hook. Their command is `python -I -B -W ignore -c CODE ...`.
_WRAPPER = """\
#!/bin/sh
code=$6
shift 6
exec {python} -I -B -W ignore -c "import sys
sys.path.insert(0, {home!r})
import hook
hook.install({directory!r})
$code" "$@"
"""


def install(directory: str) -> None:
    """Note the calls of this process from now on, and of the processes that it starts."""
    with open(f"{directory}/phase", "rb") as file:
        phase = mmap.mmap(file.fileno(), 1, prot=mmap.PROT_READ)
    output = os.open(f"{directory}/{os.getpid()}.calls", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    noted: set[tuple[int, str]] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_flags & _CO_OPTIMIZED:
            return
        key = (phase[0], code.co_filename)
        if key in noted:
            return
        noted.add(key)
        if key[1].startswith(CODE):
            os.write(output, f"{key[0]} {key[1].removeprefix(CODE)}\n".encode())

    wrapper = Path(directory, "python")
    if not wrapper.exists():
        home = str(Path(__file__).parent)
        wrapper.write_text(_WRAPPER.format(python=sys.executable, home=home, directory=directory))
        wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
    sys.executable = str(wrapper)
    threading.setprofile(note)
    sys.setprofile(note)


if __name__ == "__main__":
    install(sys.argv[1])
    del sys.argv[:2]
    runpy.run_path(sys.argv[0], run_name="__main__")
