"""Which file systems of this node the rule holds on: measured, and not of a kind that is excluded.

For all threads: each method does one thing with a dict.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from wingsd.errors import StorageError
from wingsd.filesystem.walk import opened
from wingsd.moves.unchanged.kernel import KERNEL, KernelCalls
from wingsd.moves.unchanged.measurement import measure

__all__ = ["MeasuredFileSystems", "file_system_type"]

#: On these others than this kernel change files, or a file is one of another file system.
_EXCLUDED = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "ceph", "fuse", "fuseblk", "virtiofs", "overlay"),
        *("9p", "afs", "coda", "gfs2", "gpfs", "lustre", "ocfs2", "orangefs", "vboxsf"),
        *("aufs", "ecryptfs", "hostfs"),
    )
)


def file_system_type(fd: int) -> str:
    """Return the name of the type of an open file's file system, empty if nothing tells it."""
    mount = ""
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="ascii").splitlines():
        if line.startswith("mnt_id:"):
            mount = line.split()[1]
    for row in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields, _, after = row.partition(b" - ")
        if fields.split(maxsplit=1)[0] == mount.encode():
            return os.fsdecode(after.split(maxsplit=1)[0])
    return ""


class MeasuredFileSystems:
    """File systems, by device number, and why the rule does not hold there.

    Without `is_allowed` (`system.transfers.live.trust`) nothing is measured and nothing trusted.
    `on_distrust` is called from the thread that finds that the rule does not hold.
    """

    def __init__(
        self,
        *,
        is_allowed: bool = True,
        kernel: KernelCalls = KERNEL,
        type_of: Callable[[int], str] = file_system_type,
        on_distrust: Callable[[], object] = lambda: None,
    ) -> None:
        self._is_allowed = is_allowed
        self._kernel = kernel
        self._type_of = type_of
        self._on_distrust = on_distrust
        self._objections: dict[int, str] = {}

    def measure(self, directory: int) -> str:
        """Measure the file system of a directory, in it; return the objection. Blocking.

        What was distrusted stays so.
        """
        if not self._is_allowed:
            return self.objection(directory)
        device = os.fstat(directory).st_dev
        if not self._objections.get(device):
            found = self._excluded(directory) or measure(directory, self._kernel)
            self._objections[device] = found
        return self.objection(directory)

    def measure_in(self, path: str) -> str:
        """Measure the file system of a directory by its path; without it, nothing is trusted."""
        try:
            with opened(path) as directory:
                return self.measure(directory)
        except StorageError as error:
            return str(error)

    def objection(self, root: int) -> str:
        """Return why nothing is trusted in the directory `root`, empty if the rule holds."""
        if not self._is_allowed:
            return "system.transfers.live.trust is never"
        found = self._objections.get(os.fstat(root).st_dev)
        if found is None:
            return self._excluded(root) or "its file system has not been measured"
        return found or self._excluded(root)

    def distrust(self, root: int, reason: str) -> None:
        """Trust nothing on the file system of `root` from now on."""
        self._objections[os.fstat(root).st_dev] = reason
        self._on_distrust()

    def _excluded(self, fd: int) -> str:
        try:
            name = self._type_of(fd)
        except OSError as error:
            return f"the type of its file system cannot be read: {error}"
        if not name:
            return "the type of its file system is not known"
        if name in _EXCLUDED or name.startswith("fuse."):
            return f"its file system is of the type {name}"
        return ""
