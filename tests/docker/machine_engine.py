"""Runs a command beside a Docker engine of its own, in the virtual machine: `... COMMAND`.

The machine has control groups version 2, which the engine's containers are in. They have no
network: the engine is started without a bridge.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from docker import APIClient
from docker.errors import DockerException

from tests.support.virtual_machine import Image

IMAGES = {"ext4": Image("512M", ("mkfs.ext4", "-q"), ("-t", "ext4"))}
#: The beginning of the command line.
BESIDE_ENGINE = (sys.executable, "-m", "tests.docker.machine_engine")
#: Of the file system that the engine's files are on, in the machine.
HOME = Path("/run/ext4")
#: Where wingsd and docker-py look for an engine.
_SOCKET = "unix:///var/run/docker.sock"
_MOUNTS = """
mount -t sysfs sysfs /sys
mount -t cgroup2 none /sys/fs/cgroup
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/shm /dev/pts
mount -t devpts devpts /dev/pts
"""
_LOG = Path("/run/dockerd.log")
#: Seconds within which it answers.
_PATIENCE = 120


def _start() -> subprocess.Popen[bytes]:
    subprocess.run(["/bin/sh", "-ec", _MOUNTS], check=True)
    options = ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"]
    options += ["--storage-driver=vfs", "--exec-opt=native.cgroupdriver=cgroupfs"]
    options += [f"--data-root={HOME}/engine", "--exec-root=/run/engine", f"--host={_SOCKET}"]
    with _LOG.open("wb") as log:
        engine = subprocess.Popen(["dockerd", *options], stdout=log, stderr=log)
    end = time.monotonic() + _PATIENCE
    while not _answers():
        if engine.poll() is not None or time.monotonic() > end:
            sys.exit(f"the engine does not answer: {_LOG.read_text()[-4000:]}")
        time.sleep(0.1)
    return engine


def _answers() -> bool:
    try:
        APIClient(_SOCKET, version="auto").close()
    except DockerException:
        return False
    return True


if __name__ == "__main__":
    running = _start()
    try:
        # /tmp is the host's, and cannot be written to
        status = subprocess.run(["env", f"TMPDIR={HOME}", *sys.argv[1:]], check=False).returncode
    finally:
        running.terminate()
        running.wait()
    sys.exit(status)
