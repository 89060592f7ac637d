"""A virtual machine with Debian's kernel: user-mode Linux, a process of any user.

Its root is that of the host, read-only. It has file systems of its own in `/run`, runs one
command, and ends; it is up in a second.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs

__all__ = ["REPOSITORY", "Image", "Ran", "missing_programs", "run_in_machine"]

REPOSITORY = Path(__file__).parents[2]
_STATUS = "command ended: "
_PACKAGES = {
    "linux.uml": "user-mode-linux",
    "mkfs.xfs": "xfsprogs",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.btrfs": "btrfs-progs",
    "busybox": "busybox-static",
    "dmsetup": "dmsetup",
}

_INIT = """#!/bin/sh
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
for module in {modules}; do
    busybox insmod "/usr/lib/uml/modules/$(uname -r)/kernel/fs/$module.ko"
done
{mounts}
busybox ip link set lo up
mkdir /run/tmp
cd {repository} || exit
env --ignore-environment PATH="$PATH" HOME=/run TMPDIR=/run/tmp PYTHONDONTWRITEBYTECODE=1 \
  {command} </dev/null 2>&1
echo "{status}$?"
busybox poweroff -f
"""


@attrs.frozen
class Image:
    """A file system: its size, the command that makes it, and options of mount(8)."""

    size: str
    make: tuple[str, ...]
    mount: tuple[str, ...]


@attrs.frozen
class Ran:
    """The exit status of the command in the machine, None if it did not end, and all output."""

    status: int | None
    output: str


def missing_programs(images: Mapping[str, Image], *more: str) -> str:
    """Return the programs that the machine needs and that are missing, with their packages."""
    needed = ["linux.uml", "busybox", *more, *{image.make[0]: "" for image in images.values()}]
    missing = [f"{name} ({_PACKAGES[name]})" for name in needed if not _program(name)]
    return ", ".join(missing)


def run_in_machine(
    directory: Path,
    images: Mapping[str, Image],
    command: Sequence[str],
    *,
    modules: Sequence[str] = (),
    timeout: float = 300,
) -> Ran:
    """Run a command in a machine, in the repository; `directory` is for the machine's files.

    The images are mounted below /run, by their names. `modules` are files of the kernel's
    directory fs, without `.ko`.
    """
    disks = []
    mounts = []
    for index, (name, image) in enumerate(images.items()):
        file = directory / f"{name}.img"
        program, *options = image.make
        subprocess.run(["truncate", "-s", image.size, file], check=True)
        subprocess.run([_program(program), *options, file], check=True, capture_output=True)
        disks.append(f"ubd{index}={file}")
        device = f"/dev/ubd{chr(ord('a') + index)}"
        mounts.append(f"mkdir /run/{name} && mount {shlex.join(image.mount)} {device} /run/{name}")
    # The machine has a /dev of its own, and `directory` may be in memory, which is below it.
    with TemporaryDirectory(prefix="wingsd-machine-", dir="/var/tmp") as seen:
        init = Path(seen, "init")
        init.write_text(
            _INIT.format(
                modules=" ".join(modules),
                mounts="\n".join(mounts),
                repository=shlex.quote(str(REPOSITORY)),
                command=shlex.join(command),
                status=_STATUS,
            )
        )
        init.chmod(0o755)
        output = _run(directory, [*disks, f"init={init}"], timeout)
    _, _, status = output.rpartition(_STATUS)
    number = status.split(maxsplit=1)[0] if status != output else ""
    return Ran(int(number) if number.isdecimal() else None, output)


def _run(directory: Path, options: list[str], timeout: float) -> str:
    command = [_program("linux.uml"), "mem=512M", "root=/dev/root", "rootfstype=hostfs"]
    command += ["rootflags=/", "ro", "quiet", f"uml_dir={directory}", "con=null"]
    command += ["con0=fd:0,fd:1", *options]
    # Its memory is a file, which should not be on a disk.
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else str(directory)
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"TMPDIR": memory, "HOME": str(directory)},
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
    return output.decode(errors="replace").replace("\r\n", "\n")


def _program(name: str) -> str:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or ""
