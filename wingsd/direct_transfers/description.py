"""What a server is, as one node tells another: the JSON that a Panel answers for it.

Mounts are left out: which directories of a host a server sees is for that node's Panel to say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any

import attrs

from wingsd.errors import BadRequest, InvalidData
from wingsd.panel.schemas import Configuration, configuration_from_panel
from wingsd.util.text import canonical_uuid

__all__ = ["Description", "describe", "mounts_in", "read", "read_text", "with_addresses"]

#: `{"settings": ..., "process_configuration": ...}`, as from a Panel's `GET /servers/{uuid}`.
Description = Mapping[str, Any]

_MAX_PORT = 65535


def describe(configuration: Configuration) -> Description:
    """Return the description of a server."""
    return {
        # As they came, where that is known: they may hold more than this node has a use for.
        "settings": configuration.raw or attrs.asdict(configuration.settings),
        "process_configuration": attrs.asdict(configuration.process),
    }


def read(description: object, server: str) -> Configuration:
    """Return what a description says of the server with the UUID `server`, without its mounts.

    Raises `BadRequest` with what is wrong, by the paths of the keys.
    """
    try:
        configuration = configuration_from_panel(description)
    except InvalidData as error:
        raise BadRequest(
            "the server's settings make no sense", "; ".join(str(error).split("\n"))
        ) from error
    named = configuration.settings.uuid
    if canonical_uuid(named) != server:
        raise BadRequest("the settings are another server's", f"settings.uuid is {named}")
    return attrs.evolve(
        configuration,
        settings=attrs.evolve(configuration.settings, mounts=()),
        raw={key: value for key, value in configuration.raw.items() if key != "mounts"},
    )


def mounts_in(description: Description) -> int:
    """Return how many mounts a description has that `read` has accepted."""
    return len(configuration_from_panel(description).settings.mounts)


def read_text(text: str, server: str) -> Configuration:
    """Return the same of the JSON in which it was kept."""
    return read(json.loads(text), server)


def with_addresses(description: Description, addresses: Sequence[str]) -> Description:
    """Return the description with other addresses, `IP:PORT`; the first is the server's own.

    Without any it stays as it is. Raises `BadRequest` for one that is none.
    """
    if not addresses:
        return description
    pairs = [_address(each) for each in addresses]
    mappings: dict[str, list[int]] = {}
    for ip, port in pairs:
        mappings.setdefault(ip, []).append(port)
    (ip, port), *_ = pairs
    allocations = {"default": {"ip": ip, "port": port}, "mappings": mappings}
    settings = dict(description["settings"])
    kept = settings.get("allocations")
    settings["allocations"] = (dict(kept) if isinstance(kept, Mapping) else {}) | allocations
    return {**description, "settings": settings}


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    try:
        ip = str(ip_address(host.removeprefix("[").removesuffix("]")))
        number = int(port)
    except ValueError:
        ip, number = "", 0
    if not ip or not 0 < number <= _MAX_PORT:
        raise BadRequest(
            "that is no address of a server",
            f"{text!r}: expected IP:PORT, such as 203.0.113.5:25565 or [2001:db8::5]:25565",
        )
    return ip, number
