"""A container image out of nothing but busybox, for an engine that can reach no registry."""

from __future__ import annotations

import io
import tarfile

#: Statically linked: Debian's package busybox-static.
BUSYBOX = "/bin/busybox"
#: What `docker import` is told: a container runs its invocation in a shell.
CHANGES = ['CMD ["/bin/sh", "-c", "eval \\"$STARTUP\\""]']

# Readable by all: a plain user could not even find /bin/sh otherwise.
_MODE = 0o755


def _directory(name: str) -> tarfile.TarInfo:
    directory = tarfile.TarInfo(name)
    directory.type, directory.mode = tarfile.DIRTYPE, _MODE
    return directory


def image_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in (".", "./bin", "./etc", "./tmp", "./home", "./home/container"):
            tar.addfile(_directory(name))
        tar.add(BUSYBOX, "./bin/busybox")
        shell = tarfile.TarInfo("./bin/sh")
        shell.type, shell.linkname = tarfile.SYMTYPE, "busybox"
        tar.addfile(shell)
    return buffer.getvalue()
