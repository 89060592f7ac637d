"""A virtual machine whose kernel has project quotas: user-mode Linux, a process of any user.

Its root is that of the host, read-only. It has file systems of its own in `/run`, runs pytest, and
ends; it is up in a second.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import attrs

__all__ = ["Checked", "missing_programs", "run_checks"]

REPOSITORY = Path(__file__).parents[2]
#: Seconds for all of it.
TIMEOUT = 300
_STATUS = "checks ended: "

#: Images by their names in the machine, below /run, in the order of its block devices: size, how
#: they are made, and how they are mounted. XFS wants at least 300 MiB.
_QUOTA = ("-O", "quota,project", "-E", "quotatype=prjquota")
IMAGES = {
    "ext4": ("96M", ("mkfs.ext4", "-q", *_QUOTA), ("-t", "ext4", "-o", "prjquota")),
    "xfs": ("320M", ("mkfs.xfs", "-q"), ("-t", "xfs", "-o", "prjquota")),
    "counting": ("32M", ("mkfs.ext4", "-q", *_QUOTA), ("-t", "ext4")),
}

_INIT = """#!/bin/sh
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
for module in quota_tree quota_v2; do
    busybox insmod "/usr/lib/uml/modules/$(uname -r)/kernel/fs/quota/$module.ko"
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
class Checked:
    """The exit status of pytest in the machine, None if it did not get so far, and all output."""

    status: int | None
    output: str


def missing_programs() -> str:
    """Return the programs that the machine needs and that are missing, with their packages."""
    needed = {
        "linux.uml": "user-mode-linux",
        "mkfs.xfs": "xfsprogs",
        "mkfs.ext4": "e2fsprogs",
        "busybox": "busybox-static",
    }
    missing = [f"{name} ({package})" for name, package in needed.items() if not _program(name)]
    return ", ".join(missing)


def run_checks(directory: Path, *arguments: str) -> Checked:
    """Run the checks in a machine; `directory` is for its files, `arguments` are for pytest."""
    disks = []
    mounts = []
    for index, (name, (size, make, mount)) in enumerate(IMAGES.items()):
        image = directory / f"{name}.img"
        subprocess.run(["truncate", "-s", size, image], check=True)
        subprocess.run([_program(make[0]), *make[1:], image], check=True, capture_output=True)
        disks.append(f"ubd{index}={image}")
        device = f"/dev/ubd{chr(ord('a') + index)}"
        mounts.append(f"mkdir /run/{name} && mount {shlex.join(mount)} {device} /run/{name}")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-n",
        "0",
        "-q",
    ]
    init = directory / "init"
    init.write_text(
        _INIT.format(
            mounts="\n".join(mounts),
            repository=shlex.quote(str(REPOSITORY)),
            command=shlex.join([*command, "--color=no", *arguments]),
            status=_STATUS,
        )
    )
    init.chmod(0o755)
    output = _run(directory, [*disks, f"init={init}"])
    _, _, status = output.rpartition(_STATUS)
    number = status.split(maxsplit=1)[0] if status != output else ""
    return Checked(int(number) if number.isdecimal() else None, output)


def _run(directory: Path, options: list[str]) -> str:
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
        output, _ = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
    return output.decode(errors="replace").replace("\r\n", "\n")


def _program(name: str) -> str:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or ""
