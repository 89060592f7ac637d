"""Runs promtool, the checker of Prometheus, on metrics and rules."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable

import pytest


@pytest.fixture(scope="session")
def promtool() -> Callable[..., str]:
    """Return a function that runs promtool with arguments and input, and returns its output.

    It fails when promtool fails or writes a warning.
    """
    found = shutil.which("promtool")
    if found is None:
        why = "there is no promtool (Debian's package of that name)"
        if os.environ.get("CI") == "true":
            raise FileNotFoundError(why)
        pytest.skip(why)

    def run(*arguments: str, text: str = "") -> str:
        done = subprocess.run(
            [found, *arguments], input=text, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        return done.stdout

    return run
