"""The families of Panels and nodes: how one is recognized, and its keys that are not used here.

The keys are those that Panels print, and that the families' node daemons write back into the file
with their defaults. A key that is used becomes a field of the configuration's classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from wingsd import __release__, __version__

__all__ = [
    "CALAGOPUS",
    "FAMILIES",
    "PELICAN",
    "PTERODACTYL",
    "UNUSED",
    "UNUSED_BY_DEFAULT",
    "defaults_of",
    "family_of",
    "family_of_panel",
    "is_unused",
    "leads_to_unused",
    "node_agent_of",
    "user_agent_of",
    "version_for",
]

PTERODACTYL = "pterodactyl"
PELICAN = "pelican"
CALAGOPUS = "calagopus"
FAMILIES = (PTERODACTYL, PELICAN, CALAGOPUS)

#: The family's node daemon, as it names itself to its Panel. Sources: remote/http.go of
#: Pterodactyl's and Pelican's Wings, remote/client.rs of Calagopus' node.
_DAEMONS: Mapping[str, str] = MappingProxyType(
    {
        PTERODACTYL: "Pterodactyl Wings",
        PELICAN: "Pelican Wings",
        CALAGOPUS: "calagopus wings",
    }
)

#: The User-Agent of downloads that users request from servers on the Internet.
_USER_AGENTS: Mapping[str, str] = MappingProxyType(
    {
        PTERODACTYL: "Pterodactyl Panel (https://pterodactyl.io)",
        PELICAN: "Pelican Panel (https://pelican.dev)",
    }
)

#: Defaults that differ from Pterodactyl's, for keys that a Panel does not print; those of a
#: section as a map. Sources: config/ of Pelican's Wings, config.rs of Calagopus' node.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        PELICAN: {
            "app_name": "Pelican",
            "system": {
                "log_directory": "/var/log/pelican",
                "backup_directory": "/var/lib/pelican/backups",
                "machine_id": {"directory": "/etc/pelican/machine-id"},
                "tmp_directory": "/tmp/pelican",  # noqa: S108 - Pelican's default
            },
            "docker": {
                "network": {
                    "name": "pelican_nw",
                    "network_mode": "pelican_nw",
                    "bridge_name": "pelican0",
                }
            },
        },
        CALAGOPUS: {
            "system": {
                "sftp": {
                    "limits": {
                        "authentication_password_attempts": 3,
                        "max_handles_per_channel": 32,
                    }
                }
            }
        },
    }
)


def family_of(named: str, traces: Iterable[str]) -> str:
    """Return the family `named` or, if that is empty, the first that is named in `traces`.

    Traces are the place of the configuration, its directories, and the name of the Panel. The
    default is Pterodactyl.
    """
    text = " ".join(traces).lower()
    found = (family for family in (PELICAN, CALAGOPUS) if family in text)
    return named or next(found, PTERODACTYL)


def family_of_panel(settings: Mapping[str, Any]) -> str:
    """Return the family of the Panel that describes a server so; empty if it is not known.

    Sources: ServerConfigurationStructureService of Pterodactyl's and Pelican's Panels,
    `ServerConfiguration` of Calagopus' (api-clients/wings-api).
    """
    build = settings.get("build") or {}
    if "oom_killer" in build:
        return PELICAN
    if "schedules" in settings:
        return CALAGOPUS
    return PTERODACTYL if "oom_disabled" in build else ""


def user_agent_of(family: str) -> str:
    """Return what a family's node names itself as to servers that users download from."""
    return _USER_AGENTS.get(family, f"wingsd/{__version__}")


def node_agent_of(family: str, token_id: str) -> str:
    """Return the User-Agent of a family's node towards its Panel, with the version of wingsd.

    Pelican's Panel accepts no answer without one, and of a release none with another node's
    `token_id` (DaemonRepository::enforceValidNodeToken).
    """
    return f"{_DAEMONS.get(family, _DAEMONS[PTERODACTYL])}/v{__version__} (id:{token_id})"


def version_for(family: str) -> str:
    """Return the version of the node that a family's Panel is sent.

    - Pelican's compares it with the last of its own Wings, and takes `develop` for that
      (SoftwareVersionService::isLatestWings).
    - Calagopus' reads only versions of semver (shared/src/updates.rs): a development version
      would count as a node that does not answer.
    - Pterodactyl's shows it.
    """
    return {PELICAN: "develop", CALAGOPUS: __release__}.get(family, __version__)


def defaults_of(family: str) -> Mapping[str, Any]:
    """Return the family's own defaults: by key, those of a section as a map."""
    return _DEFAULTS.get(family, {})


#: The names of keys by the dotted path of the section that they are in.
_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "": "quiet BlockBaseDirMount",
        "remote_query": "retry_limit",
        "api": (
            "disable_openapi_docs "
            "disable_directory_size send_offline_server_logs "
            "file_search_threads file_decompression_threads "
            "file_compression_threads"
        ),
        "system": (
            "archive_directory enable_log_rotate "
            "check_permissions_on_boot_threads disk_check_threads disk_limiter_mode"
        ),
        "system.websocket": (
            "max_message_size max_frame_size read_buffer_size authentication_timeout "
            "unauthenticated_connections_per_ip max_connections_total"
        ),
        "system.sftp": "key_algorithm",
        "system.sftp.shell": "enabled",
        "system.sftp.shell.cli": "name",
        "system.backups": "read_limit",
        "system.backups.mounting": "enabled path",
        "system.backups.wings": "create_threads restore_threads",
        "system.backups.s3": "create_threads",
        "system.backups.ddup_bak": "create_threads compression_format",
        "system.backups.restic": "repository password_file retry_lock_seconds environment",
        "system.backups.btrfs": "restore_threads create_read_only",
        "system.backups.zfs": "restore_threads",
        "docker": "use_performant_inspect delete_container_on_stop",
        "docker.network": "disable_interface_binding",
    }
)
UNUSED = frozenset(
    f"{section}.{name}".lstrip(".") for section, names in _NAMES.items() for name in names.split()
)
#: Keys that may be left unused as long as they have the value that the families write by default.
#: With another, this node does not do what the key asks for.
UNUSED_BY_DEFAULT: Mapping[str, object] = MappingProxyType(
    {
        "remote_headers": {},
        "remote_query.custom_headers": {},
        "docker.network.IPv6": True,
        "docker.network.mode": "pterodactyl_nw",
    }
)


def is_unused(path: str, value: object) -> bool:
    """Return whether the key at the dotted `path` is one of these, with a `value` it may have."""
    if path in UNUSED_BY_DEFAULT:
        # An empty map is a list in what PHP writes.
        return value in (None, [], UNUSED_BY_DEFAULT[path])
    return path in UNUSED


def leads_to_unused(path: str) -> bool:
    """Return whether one of these keys is below `path`."""
    return any(key.startswith(f"{path}.") for key in (*UNUSED, *UNUSED_BY_DEFAULT))
