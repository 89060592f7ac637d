"""Which rights the daemon needs for its configuration, and which it lacks.

A node that is not root needs three capabilities, or to be the servers' own user:

- `CAP_CHOWN`, to give what it writes to `system.user`;
- `CAP_FOWNER`, to set modes and times of what it has given away, and to make hard links to it;
- `CAP_DAC_OVERRIDE`, to write below directories that it has given away, and to read what a server
  has closed to all but itself. It opens the engine's socket as well.

`rm`, which deletes what servers leave behind, must get the last two from it: as ambient
capabilities. The source of all this is capabilities(7), and trying it with each of them missing.

`rules` decides, from plain facts; `survey` gathers these from the system.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress

import attrs

from wingsd.config import Config

__all__ = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "Facts", "shortcomings", "survey"]

CHOWN = "CAP_CHOWN"
DAC_OVERRIDE = "CAP_DAC_OVERRIDE"
FOWNER = "CAP_FOWNER"


@attrs.frozen
class Facts:
    """What a process is and may do.

    `owner` is the user and group id of the servers' files. `effective` are the capabilities of
    the process itself, `inherited` those of the programs that it starts. `obstacles` are the
    system's words on what cannot be used: by the configuration's key and path or address.
    """

    uid: int
    groups: frozenset[int]
    owner: tuple[int, int]
    effective: frozenset[str]
    inherited: frozenset[str]
    directories: dict[str, str] = attrs.field(factory=dict)
    engine: dict[str, str] = attrs.field(factory=dict)

    @property
    def is_owner(self) -> bool:
        """Whether the process is the servers' own user."""
        uid, gid = self.owner
        return self.uid == uid and gid in self.groups


def shortcomings(facts: Facts) -> list[str]:
    """Return a line for each thing that the node cannot do, and what to do about it."""
    return [*_owning(facts), *_deleting(facts), *_places(facts)]


def _owning(facts: Facts) -> Iterator[str]:
    uid, gid = facts.owner
    user = f"system.user ({uid}:{gid})"
    if not facts.is_owner:
        run_as = f"run it with {{}}, or as {user} itself"
        if CHOWN not in facts.effective:
            yield (
                f"cannot give files to {user}, so servers cannot be created or received: "
                f"{run_as.format(CHOWN)}"
            )
        if FOWNER not in facts.effective:
            yield (
                f"cannot set modes and times of files of {user}, so servers cannot be received: "
                f"{run_as.format(FOWNER)}"
            )
    if DAC_OVERRIDE in facts.effective:
        return
    if facts.is_owner:
        yield (
            "cannot read or delete files of mode 0: "
            f"run it with {DAC_OVERRIDE} if servers have such files"
        )
    else:
        yield (
            f"cannot write below directories of {user}, nor read all of its files, so servers "
            f"cannot be received, sent or deleted: run it with {DAC_OVERRIDE}, or as {user} "
            "itself"
        )


def _deleting(facts: Facts) -> Iterator[str]:
    lost = {FOWNER, DAC_OVERRIDE} & facts.effective - facts.inherited
    if lost and not facts.is_owner:
        names = " and ".join(sorted(lost))
        yield (
            "cannot delete servers: rm, which deletes them, does not inherit the daemon's "
            "capabilities; give it "
            f"{names} as ambient capabilities (AmbientCapabilities= in a systemd unit)"
        )


def _places(facts: Facts) -> Iterator[str]:
    for place, why in facts.directories.items():
        yield f"cannot write to {place}: {why}; its user must own that directory"
    for address, why in facts.engine.items():
        yield (
            f"cannot reach the Docker engine at {address}: {why}; see that it runs, and that "
            "this node's user is in the group of its socket (docker)"
        )


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
