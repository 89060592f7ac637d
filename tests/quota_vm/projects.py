"""Looks at projects, and writes as a server does."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.sample_server import UUID
from wingsd.servers.quotas import (
    Project,
    ProjectUsage,
    project_number,
    project_of,
    project_usage,
    set_project,
)

MIB = 1 << 20
#: The servers' user and group; root is not limited on ext4.
OWNER = (988, 988)
NUMBER = project_number(UUID)
#: What writing beyond the limit fails with.
BEYOND = {"ext4": errno.EDQUOT, "xfs": errno.ENOSPC}


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield fd
    finally:
        os.close(fd)


def project(path: Path) -> Project:
    with opened(path) as fd:
        return project_of(fd)


def give(path: Path, project: Project) -> None:
    """Give a directory a project."""
    with opened(path) as fd:
        set_project(fd, project)


def usage(path: Path, number: int = NUMBER) -> ProjectUsage:
    """Return the usage of a project on the file system of `path`."""
    with opened(path) as fd:
        return project_usage(fd, number)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Be the servers' user, without capabilities."""
    os.setegid(OWNER[1])
    os.seteuid(OWNER[0])
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def write(path: Path, mib: int) -> int:
    """Write a file as the servers' user; return the error's number, 0 for none."""
    try:
        with unprivileged(), path.open("wb", buffering=0) as file:
            for _ in range(mib):
                file.write(bytes(MIB))
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno or -1
    return 0
