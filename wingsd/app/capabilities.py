"""The privileges that the daemon needs, and those that it lacks.

Unless it runs as root or as `system.user`, the daemon needs three capabilities:

- `CAP_CHOWN` to give files to `system.user`;
- `CAP_FOWNER` to set modes and times of these files, and to make hard links to them;
- `CAP_DAC_OVERRIDE` to write below directories of `system.user`, to read files that only a server
  may read, and to open the engine's socket.

`rm`, which deletes servers, must inherit the last two, as ambient capabilities. Source:
capabilities(7), and tests with each of them missing.

`survey` collects facts from the system, `shortcomings` draws the conclusions from them.
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


@attrs.frozen(repr=False)
class Facts:
    """The identity and the privileges of a process.

    `owner` is the user and group id of the servers' files. `effective` are the capabilities of
    the process itself, `inherited` those of the programs that it starts. `directories` and
    `engine` have the reason why something cannot be used, by key and path, or by address.
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
    """Return a line for each thing that the node cannot do, with advice."""
    return [*_owning(facts), *_deleting(facts), *_unusable(facts)]


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


def _unusable(facts: Facts) -> Iterator[str]:
    for directory, why in facts.directories.items():
        yield (
            f"cannot write to {directory}: {why}; the daemon's user must own that directory, and "
            "a systemd service needs it in ReadWritePaths="
        )
    for address, why in facts.engine.items():
        yield (
            f"cannot reach the Docker engine at {address}: {why}; check that it runs, and "
            "that the daemon's user is in the group of its socket (docker)"
        )


# By their numbers in linux/capability.h.
_NUMBERS = {CHOWN: 0, DAC_OVERRIDE: 1, FOWNER: 3}
_PREFIX = "unix://"
#: Seconds to wait for a busy engine.
_TIMEOUT = 1.0


def survey(config: Config, owner: tuple[int, int], engine: str | None) -> Facts:
    """Return the facts of this process; `engine` is the engine's address, None if unused.

    Only a Unix socket is tried.
    """
    uid = os.geteuid()
    effective = _capabilities("CapEff")
    return Facts(
        uid=uid,
        groups=frozenset({os.getegid(), *os.getgroups()}),
        owner=owner,
        effective=effective,
        # Programs that root starts run as root.
        inherited=effective if uid == 0 else _capabilities("CapAmb"),
        directories=dict(_directories(config)),
        engine=dict(_engine(engine)),
    )


def _capabilities(line: str) -> frozenset[str]:
    """Return the capabilities in a line of /proc/self/status; without it, root has all."""
    mask = -1 if os.geteuid() == 0 else 0
    with suppress(OSError), open("/proc/self/status", encoding="utf-8") as status:
        for key, _, value in (text.partition(":") for text in status):
            if key == line:
                mask = int(value, 16)
    return frozenset(name for name, number in _NUMBERS.items() if mask >> number & 1)


def _directories(config: Config) -> Mapping[str, str]:
    system = config.system
    root, data, backups = system.root_directory, system.data, system.backup_directory
    paths = {
        f"system.root_directory ({root})": root,
        f"system.data ({data})": data,
        f"system.backup_directory ({backups})": backups,
    }
    found = {name: _obstacle(path) for name, path in paths.items()}
    return {name: why for name, why in found.items() if why}


def _obstacle(directory: str) -> str:
    """Return why nothing can be created in a directory, which need not exist yet."""
    while not os.path.exists(directory) and directory != "/":
        directory = os.path.dirname(directory.rstrip("/"))
    if not os.path.isdir(directory):
        return f"{directory} is not a directory"
    if os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        return ""
    read_only = os.statvfs(directory).f_flag & os.ST_RDONLY
    return "its file system is read-only" if read_only else "permission denied"


def _engine(address: str | None) -> Mapping[str, str]:
    if address is None or not address.startswith(_PREFIX):
        return {}
    with closing(socket.socket(socket.AF_UNIX)) as client:
        client.settimeout(_TIMEOUT)
        try:
            client.connect(address.removeprefix(_PREFIX))
        except OSError as error:
            return {address: error.strerror or str(error)}
    return {}
