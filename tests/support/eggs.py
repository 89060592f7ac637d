"""What a Panel does to an egg's `process_configuration` before a node gets it."""

from __future__ import annotations

import re
from typing import Any

from tests.support.settings import Json

_PLACEHOLDER = re.compile(r"\{\{([\w.-]*)\}\}")


def _values(settings: Json) -> dict[str, Any]:
    default = settings["allocations"]["default"]
    build = settings["build"]
    own = {
        "server.build.default.ip": default["ip"],
        "server.build.default.port": default["port"],
        "server.build.memory": build["memory_limit"],
    }
    # PHP's empty map is a list.
    for name, value in dict(settings["environment"]).items():
        own[f"server.build.env.{name}"] = own[f"env.{name}"] = value
    # Eggs of old name these three as if they were variables.
    for prefix in ("server.build.env.", "env."):
        own[f"{prefix}SERVER_IP"] = default["ip"]
        own[f"{prefix}SERVER_PORT"] = default["port"]
        own[f"{prefix}SERVER_MEMORY"] = build["memory_limit"]
    return own


def _filled(text: str, values: dict[str, Any]) -> str:
    def value(found: re.Match[str]) -> str:
        key = found[1]
        # What begins with "config." is the node's to know.
        if not key.startswith(("server.", "env.")):
            return found[0]
        return str(values.get(key, ""))

    return _PLACEHOLDER.sub(value, text)


def resolved(process: Json, settings: Json) -> Json:
    """Return `process_configuration` with what `settings` say in place of `{{server.…}}`.

    So a server's files learn its new address after a move. The names are Pterodactyl's
    (its `EggConfigurationService`); one that means nothing becomes an empty text.
    """
    values = _values(settings)
    configs = [
        file | {"replace": [_replacement(entry, values) for entry in file["replace"]]}
        for file in process["configs"]
    ]
    return process | {"configs": configs}


def _replacement(entry: Json, values: dict[str, Any]) -> Json:
    wanted = entry["replace_with"]
    return entry | {"replace_with": _filled(wanted, values) if isinstance(wanted, str) else wanted}
