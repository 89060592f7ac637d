"""A server's description as a Panel sends it, with everything PHP does to it on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]


def server_settings(
    uuid: str,
    *,
    image: str = "~busybox",
    invocation: str = "sleep 3600",
    name: str = "a server",
    environment: Mapping[str, Any] | None = None,
    ip: str = "127.0.0.1",
    port: int = 25565,
    **overrides: Any,
) -> Json:
    """Return the whole `settings` of one server.

    An empty map is `[]` and what has no value is null, as PHP sends them. `overrides` replace
    whole keys, for example `build={...}`.
    """
    settings: Json = {
        "uuid": uuid,
        "meta": {"name": name, "description": None},
        "suspended": False,
        "environment": dict(environment) if environment else [],
        "invocation": invocation,
        "skip_egg_scripts": False,
        "labels": [],
        "build": {
            "memory_limit": 512,
            "swap": 0,
            "io_weight": 500,
            "cpu_limit": 0,
            "threads": None,
            "disk_space": 0,
            "oom_disabled": True,
        },
        "container": {"image": image, "oom_disabled": True, "requires_rebuild": False},
        "allocations": {
            "force_outgoing_ip": False,
            "default": {"ip": ip, "port": port},
            "mappings": {ip: [port]},
        },
        "mounts": [],
        "egg": {"id": "6a5d4c1f-0b9e-4b4f-8a51-2f6f8d7e9c10", "file_denylist": []},
    }
    return settings | overrides


def process_configuration(**overrides: Any) -> Json:
    """Return a `process_configuration`: how the server's process is watched and stopped."""
    configuration: Json = {
        "startup": {"done": ["listening on"], "user_interaction": [], "strip_ansi": False},
        "stop": {"type": "signal", "value": "SIGTERM"},
        "configs": [],
    }
    return configuration | overrides
