"""A server as the Panel describes it: the values of `settings`, and nothing about how they come.

The classes name the Panel's own keys; null, PHP's `[]` for an empty map and unknown keys are
taken care of by `wingsd.structure`.
"""

from __future__ import annotations

from typing import Any

import attrs

from wingsd.structure import structure

__all__ = [
    "Allocations",
    "Build",
    "Default",
    "Image",
    "Meta",
    "Mount",
    "Server",
    "server_from_panel",
]


@attrs.frozen
class Meta:
    """`settings.meta`: what people call the server."""

    name: str = ""
    description: str = ""


@attrs.frozen
class Build:
    """`settings.build`: limits, 0 for none.

    Memory and swap in MB (swap -1: unlimited), disk in MiB, CPU in percent of one core.
    """

    memory_limit: int = 0
    swap: int = 0
    io_weight: int = 500
    cpu_limit: int = 0
    threads: str | None = None
    disk_space: int = 0
    oom_disabled: bool | None = None
    #: Pelican's word for the same thing, with the opposite meaning.
    oom_killer: bool | None = None

    @property
    def oom_kill_disabled(self) -> bool:
        """Whether the kernel must leave the container alone when memory runs out."""
        if self.oom_killer is not None:
            return not self.oom_killer
        return bool(self.oom_disabled)


@attrs.frozen
class Image:
    """`settings.container`: the image; a leading `~` means it is local and never pulled."""

    image: str = ""


@attrs.frozen
class Default:
    """`settings.allocations.default`: the address players use."""

    ip: str = ""
    port: int = 0


@attrs.frozen
class Allocations:
    """`settings.allocations`: which host addresses and ports belong to the server."""

    force_outgoing_ip: bool = False
    default: Default = Default()
    mappings: dict[str, tuple[int, ...]] = attrs.field(factory=dict)


@attrs.frozen
class Mount:
    """One of `settings.mounts`: a host directory shown to the server."""

    source: str
    target: str
    read_only: bool = False


@attrs.frozen
class Server:
    """`settings`: one server. `environment` and `labels` hold scalars of any type."""

    uuid: str
    meta: Meta = Meta()
    suspended: bool = False
    invocation: str = ""
    skip_egg_scripts: bool = False
    environment: dict[str, Any] = attrs.field(factory=dict)
    labels: dict[str, Any] = attrs.field(factory=dict)
    build: Build = Build()
    container: Image = Image()
    allocations: Allocations = Allocations()
    mounts: tuple[Mount, ...] = ()


@attrs.frozen
class _Answer:
    settings: Server


def server_from_panel(answer: object) -> Server:
    """Return the server of the Panel's answer to `GET /servers/{uuid}`.

    Raises `wingsd.errors.InvalidData` with the paths of what is wrong.
    """
    return structure(answer, _Answer).settings
