"""Starts a process that will be confined, with nothing of the daemon but its input and output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Sequence
from typing import IO

#: The process has the daemon's module path; environment variables and other directories are
#: ignored.
_CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from {module} import main; main(*map(int, sys.argv[2:]))"
)


def command(module: str, *numbers: int) -> list[str]:
    """Return the command that calls `main` of a module with these numbers."""
    path = json.dumps([entry for entry in sys.path if os.path.isabs(entry)])
    code = _CODE.format(module=module)
    return [sys.executable, "-I", "-B", "-W", "ignore", "-c", code, path, *map(str, numbers)]


def start(
    program: Sequence[str], stdin: int | IO[bytes], descriptors: Collection[int] = ()
) -> subprocess.Popen[bytes]:
    """Start a process whose stdout is a pipe. Raises OSError.

    It inherits no other descriptor but `descriptors`, no variable and no working directory.
    """
    return subprocess.Popen(  # noqa: S603
        program,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={},
        pass_fds=descriptors,
    )


def ending(status: int) -> str:
    """Return an exit status as text; a negative one is a signal."""
    if status < 0:
        return f"signal {-status} ({signal.strsignal(-status)})"
    return f"its exit with status {status}"
