"""A server as the Panel describes it: values, and nothing about how they come.

`Settings` is what the server is, `Process` how the program in it is started, watched and stopped.

The classes name the Panel's own keys; null, PHP's `[]` for an empty map and unknown keys are
taken care of by `wingsd.util.serialization`.
"""

from __future__ import annotations

from typing import Any

import attrs

from wingsd.util.serialization import structure

__all__ = [
    "Allocations",
    "Build",
    "Configuration",
    "ConfigurationFile",
    "Default",
    "Image",
    "Meta",
    "Mount",
    "Process",
    "Replacement",
    "Settings",
    "Startup",
    "Stop",
    "configuration_from_panel",
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
class Settings:
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
class Startup:
    """`process_configuration.startup`: the console lines that say that the server is up.

    An entry of `done` may start with `regex:`; `strip_ansi` takes colours away before comparing.
    """

    done: tuple[str, ...] = ()
    strip_ansi: bool = False


@attrs.frozen
class Stop:
    """`process_configuration.stop`: by a console `command`, a `signal`, or the engine's `stop`."""

    type: str = "stop"
    value: str = ""


@attrs.frozen
class Replacement:
    """One change to a configuration file; `replace_with` is a scalar of any type."""

    match: str
    if_value: str = ""
    replace_with: Any = ""


@attrs.frozen
class ConfigurationFile:
    """One of `process_configuration.configs`: a file that is rewritten before every start."""

    file: str
    parser: str
    replace: tuple[Replacement, ...] = ()


@attrs.frozen
class Process:
    """`process_configuration`."""

    startup: Startup = Startup()
    stop: Stop = Stop()
    configs: tuple[ConfigurationFile, ...] = ()


@attrs.frozen
class Configuration:
    """All that the Panel says of one server; `raw` is its `settings` as they came."""

    settings: Settings
    process: Process = Process()
    raw: dict[str, Any] = attrs.field(factory=dict, eq=False, repr=False)


@attrs.frozen
class _Answer:
    settings: Settings
    process_configuration: Process = Process()


def configuration_from_panel(answer: object) -> Configuration:
    """Return the server of the Panel's answer to `GET /servers/{uuid}`, or of its list's entry.

    Raises `wingsd.errors.InvalidData` with the paths of what is wrong.
    """
    found = structure(answer, _Answer)
    raw = answer["settings"] if isinstance(answer, dict) else {}
    return Configuration(found.settings, found.process_configuration, raw)
