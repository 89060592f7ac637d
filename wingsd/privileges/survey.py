"""Gathers what this process is and may do. Blocking, for a moment; changes nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import closing, suppress

from wingsd.config import Config
from wingsd.privileges.rules import CHOWN, DAC_OVERRIDE, FOWNER, Facts

__all__ = ["survey"]

# By their numbers in linux/capability.h.
_NUMBERS = {CHOWN: 0, DAC_OVERRIDE: 1, FOWNER: 3}
_PREFIX = "unix://"
#: Seconds for an engine that is there and busy.
_PATIENCE = 1.0


def survey(config: Config, owner: tuple[int, int], engine: str | None) -> Facts:
    """Return what this process may do; `engine` is the engine's address, None when none is used.

    Only a socket of this machine is tried.
    """
    uid = os.geteuid()
    effective = _capabilities("CapEff")
    return Facts(
        uid=uid,
        groups=frozenset({os.getegid(), *os.getgroups()}),
        owner=owner,
        effective=effective,
        # What root starts is root as well.
        inherited=effective if uid == 0 else _capabilities("CapAmb"),
        directories=dict(_directories(config)),
        engine=dict(_engine(engine)),
    )


def _capabilities(line: str) -> frozenset[str]:
    """Return those that a line of /proc/self/status tells of; without it, those that root has."""
    mask = -1 if os.geteuid() == 0 else 0
    with suppress(OSError), open("/proc/self/status", encoding="utf-8") as status:
        for key, _, value in (text.partition(":") for text in status):
            if key == line:
                mask = int(value, 16)
    return frozenset(name for name, number in _NUMBERS.items() if mask >> number & 1)


def _directories(config: Config) -> Mapping[str, str]:
    system = config.system
    root, data, backups = system.root_directory, system.data, system.backup_directory
    beside = os.path.dirname(data.rstrip("/"))
    places = {
        f"system.root_directory ({root})": root,
        f"system.data ({data})": data,
        f"{beside}, where servers being received lie beside system.data": beside,
        f"system.backup_directory ({backups})": backups,
    }
    found = {place: _obstacle(path) for place, path in places.items()}
    return {place: why for place, why in found.items() if why}


def _obstacle(directory: str) -> str:
    """Return why nothing can be made in a directory, which may have to be made itself."""
    while not os.path.exists(directory) and directory != "/":
        directory = os.path.dirname(directory.rstrip("/"))
    if not os.path.isdir(directory):
        return f"{directory} is no directory"
    if os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        return ""
    read_only = os.statvfs(directory).f_flag & os.ST_RDONLY
    return "its file system is read-only" if read_only else "permission denied"


def _engine(address: str | None) -> Mapping[str, str]:
    if address is None or not address.startswith(_PREFIX):
        return {}
    with closing(socket.socket(socket.AF_UNIX)) as client:
        client.settimeout(_PATIENCE)
        try:
            client.connect(address.removeprefix(_PREFIX))
        except OSError as error:
            return {address: error.strerror or str(error)}
    return {}
