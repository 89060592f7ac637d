"""The node's credentials where the file does not contain them, as Wings looks for them.

`token_id` and `token` come from the variables `WINGS_TOKEN_ID` and `WINGS_TOKEN`, if these are not
empty. In either place `$NAME` and `${NAME}` stand for variables, and then `file:///path` for the
content of a file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from wingsd.errors import InvalidData

__all__ = ["VARIABLES", "is_reference", "resolve"]

#: The variables that replace keys of the file.
VARIABLES: Mapping[str, str] = {"token_id": "WINGS_TOKEN_ID", "token": "WINGS_TOKEN"}
_FILE = "file://"
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))", re.ASCII)


def is_reference(text: str) -> bool:
    """Return whether a credential is written elsewhere."""
    return text.startswith(_FILE) or "$" in text


def resolve(key: str, text: str, environ: Mapping[str, str]) -> str:
    """Return the credential that `text`, the value of `key`, stands for.

    Raises `InvalidData` when a variable or a file is missing, or the credential empty.
    """
    if not is_reference(text):
        return text

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if name not in environ:
            raise InvalidData(f"{key}: the variable {name}, which it names, is not set")
        return environ[name]

    found = _VARIABLE.sub(value, text)
    if found.startswith(_FILE):
        path = found.removeprefix(_FILE)
        try:
            found = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, ValueError) as error:
            raise InvalidData(f"{key}: {path}, which it names, cannot be read: {error}") from error
    if not found:
        raise InvalidData(f"{key}: what it names is empty")
    return found
