"""The files of an installation on the node: its script, which the container sees, and its log.

Blocking: run it in a thread. Nothing here follows a symlink.
"""

from __future__ import annotations

import os
import platform
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import attrs

from wingsd.config import CALAGOPUS, Config
from wingsd.docker.container import SCRIPT
from wingsd.errors import StorageError
from wingsd.filesystem import remove_tree
from wingsd.util.text import disk_advice

__all__ = ["InstallDetails", "InstallLog", "ScriptDirectories"]

#: The heading in the log above what the script has written; Pelican's Panel shows what follows it.
OUTPUT = "Script Output"
_RULE = "| ------------------------------\n"
#: Bytes of a log that are returned at most.
MOST = 4 << 20


class ScriptDirectories:
    """The directories below `system.tmp_directory` that containers get their scripts from.

    Each is made for one installation. The engine must see it under the same path. It is open to
    others, since an image's user need not be root. Methods raise `StorageError`.
    """

    def __init__(self, top: str) -> None:
        self._top = Path(top)

    def write(self, uuid: str, script: bytes) -> str:
        """Make the directory of a server with this script, in place of an older one."""
        place = self._top / uuid
        try:
            self._top.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._check_top()
            self._remove(place)
            place.mkdir()
            place.chmod(0o755)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(place / SCRIPT, flags, 0o644), "wb") as file:
                os.fchmod(file.fileno(), 0o644)
                file.write(script)
        except OSError as error:
            raise StorageError(
                f"the installation script cannot be written to {place}: {disk_advice(error)}; "
                "see system.tmp_directory"
            ) from error
        return str(place)

    def remove(self, uuid: str) -> None:
        """Remove the directory of a server; a missing one is ignored."""
        place = self._top / uuid
        try:
            self._remove(place)
        except OSError as error:
            raise StorageError(
                f"{place} cannot be removed: {disk_advice(error)}; delete it"
            ) from error

    def _remove(self, place: Path) -> None:
        if place.is_symlink():
            place.unlink()
        elif os.path.lexists(place):
            remove_tree(str(place))

    def _check_top(self) -> None:
        # The usual place is in /tmp, where anybody may have made it first.
        status = self._top.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (0, os.geteuid()):
            raise StorageError(
                f"{self._top} is not a directory of this node's: remove it, or name another one "
                "in system.tmp_directory"
            )


@attrs.frozen(eq=False, repr=False)
class InstallDetails:
    """What the beginning of an installation's log says."""

    uuid: str
    image: str
    entrypoint: str
    environment: Mapping[str, str]


class InstallLog:
    """The log of a server's last installation, `install/UUID.log` of `system.log_directory`.

    `heading` is the name in its first line, `kernel` the version in Pelican's. It holds secrets of
    the egg, so only its owner may read it. Methods raise `StorageError`.
    """

    def __init__(self, log_directory: str, uuid: str, heading: str, kernel: str = "") -> None:
        self._directory = Path(log_directory) / "install"
        self._path = self._directory / f"{uuid}.log"
        self._heading = heading
        self._kernel = kernel

    @classmethod
    def configured(cls, config: Config, uuid: str) -> InstallLog:
        """Return the log of a server, in the form of the family's nodes."""
        if config.family == CALAGOPUS:
            return cls(config.system.log_directory, uuid, "Server Installation Log")
        if config.is_pelican:
            heading = "Pelican Server Installation Log"
            return cls(config.system.log_directory, uuid, heading, platform.release())
        return cls(config.system.log_directory, uuid, "Pterodactyl Server Installation Log")

    def begin(self, details: InstallDetails) -> None:
        """Replace the log by one that has these details, and no output yet."""
        with self._errors():
            self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._path.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(self._path, flags, 0o600), "wb") as file:
                os.fchmod(file.fileno(), 0o600)
                # Texts of the Panel may have halves of surrogate pairs.
                file.write(self._details(details).encode(errors="replace"))

    def write(self, output: bytes) -> None:
        """Append output."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._errors():
            self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            with open(os.open(self._path, flags, 0o600), "ab") as file:
                file.write(output)

    def note(self, text: str) -> None:
        """Append a line of the node."""
        self.write(f"[wingsd] {text}\n".encode(errors="replace"))

    def read(self) -> str | None:
        """Return the last `MOST` bytes of the log, None where there is none."""
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(self._path, flags)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failure(error) from error
        with self._errors(), open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return None
            file.seek(max(0, status.st_size - MOST))
            return file.read(MOST).decode("utf-8", "replace")

    def exists(self) -> bool:
        """Return whether there is one."""
        return os.path.lexists(self._path)

    def remove(self) -> None:
        """Remove the log, if there is one."""
        with self._errors():
            self._path.unlink(missing_ok=True)

    def output(self) -> str | None:
        """Return what follows the heading "Script Output", None where there is no log."""
        text = self.read()
        if text is None:
            return None
        _, found, output = text.partition(f"| {OUTPUT}\n{_RULE}")
        return output if found else text

    def _details(self, details: InstallDetails) -> str:
        kernel = f"  Kernel Version:       {self._kernel}\n" if self._kernel else ""
        variables = "".join(f"  {key}={value}\n" for key, value in details.environment.items())
        return (
            f"{self._heading}\n\n"
            f"|\n| Details\n{_RULE}"
            f"  Server UUID:          {details.uuid}\n"
            f"  Container Image:      {details.image}\n"
            f"  Container Entrypoint: {details.entrypoint}\n"
            f"{kernel}\n"
            f"|\n| Environment Variables\n{_RULE}"
            f"{variables}\n"
            f"|\n| {OUTPUT}\n{_RULE}"
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> StorageError:
        return StorageError(
            f"the installation log {self._path} cannot be used: {disk_advice(error)}"
        )
