"""Files that tell a container who it is: the account of its user, and a machine's id.

They are on the host, one machine id for each server, and mounted read-only. Some programs do not
run without an account for their user, or without `/etc/machine-id` (Hytale).

Nodes on one machine share the directory of machine ids by default, and a server that moves from
one to the other has the same id at both. Beside the file each of them keeps an empty one, its
mark.
"""

from __future__ import annotations

import fcntl
import os
import posixpath
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

import attrs

from wingsd.config import Config
from wingsd.docker.container import HOME, MACHINE_ID, container_user
from wingsd.panel.schemas import Mount
from wingsd.util.text import disk_advice

__all__ = ["IdentityFile", "WrittenFiles", "identity_files", "remove_machine_id", "write_files"]


@attrs.frozen
class IdentityFile:
    """A file on the host, its content, and where a container sees it.

    A file that is there is left as it is if one of its lines begins with `entry`: Wings writes
    other shells and more accounts into it. `mark` is the path of this node's mark, empty for none.
    """

    path: str
    content: str
    target: str
    entry: str
    mark: str = ""

    @property
    def mount(self) -> Mount:
        """The mount that shows it."""
        return Mount(self.path, self.target, read_only=True)


def identity_files(config: Config, uuid: str) -> list[IdentityFile]:
    """Return the files of the server's container on the node of `config`."""
    system, files = config.system, []
    pelican = system.user.passwd
    account = (
        (pelican.enable, pelican.directory)
        if config.is_pelican
        else (system.passwd.enabled, system.passwd.directory)
    )
    enabled, directory = account
    if enabled:
        uid, gid = container_user(config)
        user, group = f"container:x:{uid}:{gid}:", f"container:x:{gid}:"
        files += [
            IdentityFile(
                posixpath.join(directory, "passwd"),
                f"{user}:{HOME}:/usr/sbin/nologin\n",
                "/etc/passwd",
                user,
            ),
            IdentityFile(
                posixpath.join(directory, "group"), f"{group}container\n", "/etc/group", group
            ),
        ]
    if system.machine_id.enable and system.machine_id.enabled:
        path = posixpath.join(system.machine_id.directory, uuid)
        machine_id = uuid.replace("-", "")
        mark = _mark(config, uuid)
        files.append(IdentityFile(path, f"{machine_id}\n", MACHINE_ID, machine_id, mark))
    return files


def _mark(config: Config, uuid: str) -> str:
    node = sha256(config.system.data.encode()).hexdigest()[:12]
    return posixpath.join(config.system.machine_id.directory, f".{uuid}.{node}")


@attrs.frozen
class WrittenFiles:
    """The mounts of the files that are there, and an explanation for each that is not."""

    mounts: tuple[Mount, ...]
    failures: tuple[str, ...]


def write_files(files: Sequence[IdentityFile]) -> WrittenFiles:
    """Write the files, unless they are there. Blocking."""
    mounts, failures = [], []
    for file in files:
        try:
            os.makedirs(os.path.dirname(file.path), 0o755, exist_ok=True)
            with _locked(os.path.dirname(file.path)):
                if file.mark:
                    Path(file.mark).touch()
                _write(file)
        except OSError as error:
            failures.append(f"{file.path} cannot be written: {disk_advice(error)}")
        else:
            mounts.append(file.mount)
    return WrittenFiles(tuple(mounts), tuple(failures))


def _write(file: IdentityFile) -> None:
    path = Path(file.path)
    with suppress(FileNotFoundError, UnicodeDecodeError):
        if any(line.startswith(file.entry) for line in path.read_text().splitlines()):
            return
    # Replaced, and not written in place: containers that run show the file.
    fd, name = tempfile.mkstemp(prefix=".", dir=path.parent)
    try:
        with open(fd, "w", encoding="utf-8") as out:
            out.write(file.content)
            os.fchmod(fd, 0o644)  # The container's user reads it.
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def remove_machine_id(config: Config, uuid: str, shown: str = "") -> None:
    """Remove the server's machine id, if there is one, unless another node uses it. Blocking.

    One does if its mark is there, or its container shows the file `shown`.
    """
    directory = config.system.machine_id.directory
    path = posixpath.join(directory, uuid)
    with suppress(OSError), _locked(directory):
        with suppress(FileNotFoundError):
            os.unlink(_mark(config, uuid))
        is_marked = any(name.startswith(f".{uuid}.") for name in os.listdir(directory))
        if not is_marked and posixpath.normpath(path) != posixpath.normpath(shown):
            os.unlink(path)


@contextmanager
def _locked(directory: str) -> Iterator[None]:
    """Keep other nodes from writing or removing files in a directory meanwhile."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
