"""What the families' daemons make of a node at their start, by the rules of their sources.

- The configuration is decoded by yaml.v2 into typed fields; unknown keys are ignored, a value of
  another kind keeps the daemon from starting (`config/config.go`).
- `states.json` maps servers to states (`server/manager.go`; in Calagopus' `server/manager.rs` a
  key that is no UUID, or a value that is no state, voids the whole file).
- A server's container is the one that has its UUID as its name (Calagopus: as a part of it). One
  that runs is attached to; a server that is `running` or `starting` in `states.json` and has no
  container that runs is started; each other is offline (`cmd/root.go`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from docker import APIClient
from docker.errors import NotFound

__all__ = ["Fate", "configuration_faults", "fates", "read_states"]

_STATES = ("offline", "starting", "stopping", "running")

#: The fields by section, and after the colon those of another kind than text: whole numbers,
#: fractions, switches, lists and maps of texts.
_FIELDS: Mapping[str, str] = {
    "": (
        "app_name uuid token_id token remote debug:switch allowed_mounts:list "
        "allowed_origins:list allow_cors_private_network:switch "
        "ignore_panel_config_updates:switch"
    ),
    "api": (
        "host port:number disable_remote_download:switch upload_limit:number trusted_proxies:list"
    ),
    "api.ssl": "enabled:switch cert key",
    "system": (
        "root_directory log_directory data archive_directory backup_directory tmp_directory "
        "username timezone disk_check_interval:number activity_send_interval:number "
        "activity_send_count:number check_permissions_on_boot:switch enable_log_rotate:switch "
        "websocket_log_count:number openat_mode"
    ),
    "system.user": "uid:number gid:number",
    "system.user.rootless": "enabled:switch container_uid:number container_gid:number",
    "system.user.passwd": "enable:switch directory",
    "system.machine_id": "enable:switch directory",
    "system.sftp": "bind_address bind_port:number read_only:switch",
    "system.crash_detection": ("enabled:switch detect_clean_exit_as_crash:switch timeout:number"),
    "system.backups": "write_limit:number compression_level",
    "system.transfers": "download_limit:number",
    "system.transfers.storage_pool": "enabled:switch pool_name",
    "docker": (
        "domainname tmpfs_size:number container_pid_limit:number use_performant_inspect:switch "
        "userns_mode"
    ),
    "docker.network": (
        "interface dns:list name ispn:switch driver network_mode is_internal:switch "
        "enable_icc:switch network_mtu:number"
    ),
    "docker.network.interfaces.v4": "subnet gateway",
    "docker.network.interfaces.v6": "subnet gateway",
    "docker.installer_limits": "memory:number cpu:number",
    "docker.overhead": "override:switch default_multiplier:number",
    "docker.log_config": "type config:map",
    "throttles": "enabled:switch lines:number line_reset_interval:number",
    "remote_query": "timeout:number boot_servers_per_page:number",
}


class Fate(Enum):
    """What becomes of a server at the start."""

    ATTACHED = "it runs, and is attached to"
    STARTED = "it is started"
    OFFLINE = "it is offline"


def configuration_faults(text: str) -> list[str]:
    """Return the keys of a configuration whose values Wings cannot decode."""
    config = yaml.safe_load(text)
    if not isinstance(config, dict):
        return ["the whole file"]
    return list(_faults(config))


def _faults(config: Mapping[str, Any]) -> Iterator[str]:
    for section, fields in _FIELDS.items():
        values: Any = config
        for name in filter(None, section.split(".")):
            values = values.get(name) if isinstance(values, dict) else None
        if values is None:
            continue
        if not isinstance(values, dict):
            yield section
            continue
        for field in fields.split():
            name, _, kind = field.partition(":")
            if not _fits(values.get(name), kind):
                yield f"{section}.{name}".lstrip(".")


def _fits(value: object, kind: str) -> bool:
    # A null is the zero value. Into a text goes each scalar, into a whole number also a fraction.
    match kind:
        case _ if value is None:
            return True
        case "switch":
            return isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "list":
            return isinstance(value, list) and all(_fits(each, "") for each in value)
        case "map":
            return isinstance(value, dict) and all(_fits(each, "") for each in value.values())
    return not isinstance(value, list | dict)


def read_states(root: Path) -> dict[str, str]:
    """Return the states in `states.json`. Raises `ValueError` where a daemon would drop it."""
    text = (root / "states.json").read_text()
    states = json.loads(text) if text else {}
    for server, state in states.items():
        if str(UUID(server)) != server or state not in _STATES:
            raise ValueError(f"{server}: {state}")
    return dict(states)


def fates(client: APIClient, config: Mapping[str, Any], servers: list[str]) -> dict[str, Fate]:
    """Return what becomes of the servers that the Panel lists."""
    states = read_states(Path(config["system"]["root_directory"]))
    return {server: _fate(client, config, server, states.get(server)) for server in servers}


def _fate(client: APIClient, config: Mapping[str, Any], server: str, state: str | None) -> Fate:
    try:
        found = client.inspect_container(server)
    except NotFound:
        runs = False
    else:
        runs = found["State"]["Running"]
        # It reads its console through a terminal, and asks for the files by this path.
        assert found["Config"]["Tty"], server
        assert found["Config"]["OpenStdin"], server
        assert found["Config"]["Labels"]["ContainerType"] == "server_process"
        home = f"{config['system']['data']}/{server}"
        sources = {mount["Destination"]: mount["Source"] for mount in found["Mounts"]}
        assert sources["/home/container"] == home
    if runs:
        return Fate.ATTACHED
    return Fate.STARTED if state in ("running", "starting") else Fate.OFFLINE
