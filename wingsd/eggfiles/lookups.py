"""`{{config.docker.interface}}` and the like: what an egg may know of the node it runs on.

Eggs come from strangers, and what they write is read by the server's users. So not the whole
configuration is open to them, which holds the node's token: only what a server must know.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from wingsd.eggfiles.refused import Refused
from wingsd.eggfiles.scalars import text_of

__all__ = ["filled"]

_PLACEHOLDER = re.compile(r"\{\{\s*config\.([\w.-]+)\s*\}\}", re.ASCII)
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|-")
_OLD_NAMES = {"docker.interface": "docker.network.interface"}
_OPEN = ("api.host", "api.port", "docker.domainname", "docker.network", "system.timezone")


def filled(text: str, node: Mapping[str, Any]) -> str:
    """Return `text` with every `{{config.*}}` replaced from the node's configuration.

    Names may be written in camel case or with dashes. Raises Refused for what the configuration
    does not have, what is no single value, and what is nobody's business.
    """
    return _PLACEHOLDER.sub(lambda match: _found(match.group(1), node), text)


def _found(name: str, node: Mapping[str, Any]) -> str:
    path = _WORD.sub("_", name).lower()
    path = _OLD_NAMES.get(path, path)
    if not any(path == known or path.startswith(f"{known}.") for known in _OPEN):
        raise Refused(f"config.{name} is not open to eggs; these are: {', '.join(_OPEN)}")
    value: Any = node
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    text = text_of(value)
    if text is None:
        raise Refused(f"this node's configuration has no value at {path}")
    return text
