"""Schemas of the Panel's descriptions of servers.

`Settings` describes the server, `Process` how its program is started, watched and stopped. The
fields have the names of the Panel's keys; `wingsd.util.serialization` handles null, PHP's `[]` for
an empty map, and unknown keys.
"""

from __future__ import annotations

from typing import Any

import attrs

from wingsd.util.serialization import structure


@attrs.frozen(repr=False)
class Meta:
    """`settings.meta`: the server's name and description."""

    name: str = ""
    description: str = ""


@attrs.frozen(repr=False)
class Build:
    """`settings.build`: limits, 0 for none.

    Memory and swap in MB (swap -1: unlimited), disk in MiB, CPU in percent of one core.
    `overhead_memory` is added to the limit of the container, if it has one (Calagopus).
    """

    memory_limit: int = 0
    swap: int = 0
    io_weight: int = 500
    cpu_limit: int = 0
    threads: str | None = None
    disk_space: int = 0
    oom_disabled: bool | None = None
    #: Pelican's key for the opposite.
    oom_killer: bool | None = None
    overhead_memory: int = 0

    @property
    def oom_kill_disabled(self) -> bool:
        """True if the kernel's OOM killer must not kill the container's processes."""
        if self.oom_killer is not None:
            return not self.oom_killer
        return bool(self.oom_disabled)


@attrs.frozen(repr=False)
class Image:
    """`settings.container`: the image; a leading `~` means it is local and never pulled."""

    image: str = ""


@attrs.frozen(repr=False)
class Default:
    """`settings.allocations.default`: the address for players."""

    ip: str = ""
    port: int = 0


@attrs.frozen(repr=False)
class Allocations:
    """`settings.allocations`: the host addresses and ports of the server."""

    force_outgoing_ip: bool = False
    default: Default = Default()
    mappings: dict[str, tuple[int, ...]] = attrs.field(factory=dict)


@attrs.frozen(repr=False)
class Mount:
    """One of `settings.mounts`: a host directory shown to the server."""

    source: str
    target: str
    read_only: bool = False


@attrs.frozen(repr=False)
class Egg:
    """`settings.egg`: `features` are texts of the console by the key of a dialogue (Pelican).

    `file_denylist` are lines as in gitignore. Both come from the egg's author, so they may have
    any form.
    """

    features: Any = None
    file_denylist: Any = None


@attrs.frozen(repr=False)
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
    egg: Egg = Egg()
    #: Whether it is started again after a crash; None where the node's configuration says that.
    crash_detection_enabled: bool | None = None


@attrs.frozen(repr=False)
class Startup:
    """`process_configuration.startup`: the console lines that show that the server has started.

    An entry of `done` may start with `regex:`; `strip_ansi` removes colours before comparing.
    """

    done: tuple[str, ...] = ()
    strip_ansi: bool = False


@attrs.frozen(repr=False)
class Stop:
    """`process_configuration.stop`: by a console `command`, a `signal`, or the engine's `stop`."""

    type: str = "stop"
    value: str = ""


@attrs.frozen(repr=False)
class Replacement:
    """One change to a configuration file; `replace_with` is a scalar of any type."""

    match: str
    if_value: str = ""
    replace_with: Any = ""


@attrs.frozen(repr=False)
class ConfigurationFile:
    """One of `process_configuration.configs`: a file that is rewritten before every start."""

    file: str
    parser: str
    replace: tuple[Replacement, ...] = ()


@attrs.frozen(repr=False)
class Process:
    """`process_configuration`."""

    startup: Startup = Startup()
    stop: Stop = Stop()
    configs: tuple[ConfigurationFile, ...] = ()


@attrs.frozen(repr=False)
class InstallScript:
    """An egg's installation script, and how it is run.

    `entrypoint` is a program in the image that gets the script as its argument, `environment` what
    the script gets beside the server's variables (Calagopus').
    """

    container_image: str
    entrypoint: str
    script: str = ""
    environment: dict[str, Any] = attrs.field(factory=dict)


@attrs.frozen(eq=False, repr=False)
class SftpAccess:
    """The answer to `POST /sftp/auth`: who logs in to which server, by their UUIDs.

    `ignored_files` are lines as in gitignore that the user may not see (Calagopus).
    """

    user: str
    server: str
    permissions: tuple[str, ...] = ()
    ignored_files: tuple[str, ...] = ()


@attrs.frozen(repr=False)
class Configuration:
    """The Panel's description of one server; `raw` is its `settings` as received."""

    settings: Settings
    process: Process = Process()
    raw: dict[str, Any] = attrs.field(factory=dict, eq=False, repr=False)


@attrs.frozen(eq=False, repr=False)
class _Answer:
    settings: Settings
    process_configuration: Process = Process()


def configuration_from_panel(answer: object) -> Configuration:
    """Parse the Panel's answer to `GET /servers/{uuid}`, or an entry of its list of servers.

    Raises `wingsd.errors.InvalidData` with the paths of invalid keys.
    """
    found = structure(answer, _Answer)
    raw = answer["settings"] if isinstance(answer, dict) else {}
    return Configuration(found.settings, found.process_configuration, raw)
