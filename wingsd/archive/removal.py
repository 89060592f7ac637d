"""Deletes whole trees, however deep their users have made them. Blocking."""

from __future__ import annotations

import subprocess

__all__ = ["remove_tree"]

_LONGEST = 300


def remove_tree(path: str) -> None:
    """Delete a directory and all below it; symlinks are not followed. A missing one is fine.

    What is mounted in it stays, and fails the rest. Raises OSError with rm's first complaint.
    """
    # Not by shutil.rmtree: its depth is bounded by the stack and the open files of this process,
    # and a server can make directories in directories without end.
    command = ["/bin/rm", "-rf", "--one-file-system", "--", path]
    done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603
    if done.returncode:
        complaint = done.stderr.decode(errors="replace").partition("\n")[0]
        raise OSError(complaint.removeprefix("/bin/rm: ")[:_LONGEST] or "it was not deleted")
