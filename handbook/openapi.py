"""Prints the interface's description as YAML: `python -m handbook.openapi`."""

from __future__ import annotations

import json

import yaml

from wingsd.api.routes import interface

__all__ = ["text"]

_HEAD = "# Made by `make openapi` of what the paths in wingsd/api/ declare.\n"


def text() -> str:
    """Return the description as YAML, in the order of the code."""
    # Through JSON: what is in it more than once is then written out each time.
    plain = json.loads(json.dumps(interface()))
    return _HEAD + yaml.safe_dump(plain, sort_keys=False, width=99)


if __name__ == "__main__":
    print(text(), end="")
