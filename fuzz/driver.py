"""One target under the fuzzer: `python -m fuzz.driver TARGET OPTIONS...`, libFuzzer's options.

A module of its own, since the code under test must be imported by way of atheris.
"""

from __future__ import annotations

import shlex
import sys
from importlib import import_module

import atheris

__all__ = ["main"]

#: What coverage is measured of: our own code, and the parsers in Python that it hands bytes to.
MEASURED = ["wingsd", "multipart", "yaml", "ruamel", "tomlkit", "javaproperties", "h11", "jwt"]


def main() -> None:
    """Fuzz until libFuzzer ends the process."""
    name, *options = sys.argv[1:]
    with atheris.instrument_imports(include=MEASURED):
        target = import_module(f"fuzz.{name}")
    # By this, through a shell, libFuzzer starts itself anew where it must (-merge).
    command = shlex.join([sys.executable, "-m", "fuzz.driver", name])
    atheris.Setup([command, *options], target.one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
