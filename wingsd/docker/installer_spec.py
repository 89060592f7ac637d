"""The container that installs a server, as Engine API JSON: what Wings gives an installer. Pure.

It runs as the image's user and may write to its own root, since scripts install packages. It is
not privileged, has no ports, and sees of the host the server's directory and the script only.
"""

from __future__ import annotations

from typing import Any

import attrs

from wingsd.config import Config
from wingsd.docker.container import (
    INSTALLED,
    ContainerSpec,
    check_variables,
    container_user,
    environment,
    home_directory,
    host_settings,
    image_named,
    mount_of,
    resources,
    service_label,
)
from wingsd.docker.network import network_mode
from wingsd.errors import SettingsInvalid
from wingsd.panel.schemas import Build, InstallScript, Mount, Settings

__all__ = [
    "INSTALLER_LABELS",
    "OWN_LABELS",
    "SCRIPT",
    "installer_environment",
    "installer_name",
    "installer_spec",
]

#: The name of the script in its directory, and where that is, seen from inside.
SCRIPT = "install.sh"
_SCRIPT_DIRECTORY = "/mnt/install"
INSTALLER_LABELS = {"ContainerType": "server_installer"}
#: Processes that an installer may have, unless `docker.container_pid_limit` is larger.
MIN_PROCESSES = 4096
#: Tells this daemon's installers from those of Wings.
OWN_LABELS = {"Daemon": "wingsd"}


def installer_name(uuid: str) -> str:
    """Return the name of a server's installer."""
    return f"{uuid}_installer"


def installer_spec(
    config: Config, server: Settings, script: InstallScript, directory: str
) -> ContainerSpec:
    """Return the container that runs `script`, which is in `directory`, for `server`.

    Raises `SettingsInvalid` when the egg names no image or no interpreter, and as
    `check_variables` does.
    """
    if not script.entrypoint.strip():
        raise SettingsInvalid(
            "the egg names no program that runs its installation script, such as bash; choose one "
            "for the egg on the Panel"
        )
    image = image_named(script.container_image)
    if not image.name:
        raise SettingsInvalid(
            "the egg has no Docker image for its installation script; choose one on the Panel"
        )
    variables = installer_environment(config, server, script)
    uid, gid = container_user(config)
    user = {"User": f"{uid}:{gid}"} if config.system.user.rootless.enabled else {}
    body = {
        "Image": image.name,
        **user,
        "Hostname": "installer",
        "Domainname": config.docker.domainname,
        "Cmd": [script.entrypoint, f"{_SCRIPT_DIRECTORY}/{SCRIPT}"],
        "Tty": True,
        "OpenStdin": True,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "Env": [f"{key}={value}" for key, value in variables.items()],
        "Labels": {"Service": service_label(config), **INSTALLER_LABELS, **OWN_LABELS},
        "HostConfig": {
            **_resources(config, server.build),
            "Mounts": [
                mount_of(Mount(home_directory(config, server.uuid), INSTALLED)),
                mount_of(Mount(directory, _SCRIPT_DIRECTORY)),
            ],
            "NetworkMode": network_mode(config, server),
            **host_settings(config),
        },
    }
    return ContainerSpec(installer_name(server.uuid), body)


def installer_environment(
    config: Config, server: Settings, script: InstallScript
) -> dict[str, str]:
    """Return the variables of the installer: the server's, and those of the script.

    Raises `SettingsInvalid` for one that no container can have.
    """
    given = attrs.evolve(server, environment={**server.environment, **script.environment})
    check_variables(given)
    return environment(config, given)


def _resources(config: Config, build: Build) -> dict[str, Any]:
    """Return the larger limits of the server's and the node's; no limit of either is none."""
    limits = config.docker.installer_limits
    larger = attrs.evolve(
        build,
        memory_limit=_larger(build.memory_limit, limits.memory),
        cpu_limit=_larger(build.cpu_limit, limits.cpu),
    )
    # Wings gives installers no limit of processes; but a script may run what users have written.
    processes = config.docker.container_pid_limit
    most = max(processes, MIN_PROCESSES) if processes > 0 else None
    return {**resources(config, larger), "PidsLimit": most}


def _larger(one: int, other: int) -> int:
    return max(one, other) if one > 0 and other > 0 else 0
