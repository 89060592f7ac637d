"""The virtual machine whose kernel has project quotas, and what is mounted in it."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.virtual_machine import Image, Ran, run_in_machine

__all__ = ["IMAGES", "run_checks"]

#: XFS wants at least 300 MiB.
_QUOTA = ("-O", "quota,project", "-E", "quotatype=prjquota")
IMAGES = {
    "ext4": Image("96M", ("mkfs.ext4", "-q", *_QUOTA), ("-t", "ext4", "-o", "prjquota")),
    "xfs": Image("320M", ("mkfs.xfs", "-q"), ("-t", "xfs", "-o", "prjquota")),
    "counting": Image("32M", ("mkfs.ext4", "-q", *_QUOTA), ("-t", "ext4")),
}


def run_checks(directory: Path, *arguments: str) -> Ran:
    """Run the checks in a machine; `directory` is for its files, `arguments` are for pytest."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "0", "-q"]
    modules = ("quota/quota_tree", "quota/quota_v2")
    return run_in_machine(directory, IMAGES, [*command, "--color=no", *arguments], modules=modules)
