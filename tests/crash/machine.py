"""Campaigns in a virtual machine: quotas, bad disks, and files under Debian's kernel.

Before Linux 6.13 ctime moves in steps of a timer tick, there 10 ms.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from tests.crash.bad_disks import ACTS
from tests.crash.engine import Broken, Campaign, place
from tests.support.virtual_machine import Image, Ran, missing_programs, run_in_machine

_QUOTA = ("-O", "quota,project", "-E", "quotatype=prjquota")
#: XFS wants at least 300 MiB.
QUOTAS = {
    "ext4": Image("96M", ("mkfs.ext4", "-q", *_QUOTA), ("-t", "ext4", "-o", "prjquota")),
    "xfs": Image("320M", ("mkfs.xfs", "-q"), ("-t", "xfs", "-o", "prjquota")),
    "counting": Image("32M", ("mkfs.ext4", "-q", *_QUOTA), ("-t", "ext4")),
}
UNCHANGED = {
    name: Image(size, (f"mkfs.{name}", "-q"), ("-t", name))
    for name, size in (("ext4", "640M"), ("xfs", "640M"), ("btrfs", "16G"))
}
#: Sectors of files are found by FIBMAP, which btrfs has not.
BAD_DISKS = {
    "ext4": Image("96M", ("mkfs.ext4", "-q", "-b", "4096"), ("-t", "ext4")),
    "xfs": Image("320M", ("mkfs.xfs", "-q"), ("-t", "xfs")),
}
KINDS = tuple(UNCHANGED)
CHECKS = ("tests/quota_vm/checks.py", "tests/quota_vm/checks_daemon.py")
#: Seconds for a thousand decisions and for each naive rule, at most.
_THOUSAND, _RULE = 60, 200
#: Seconds for a history on a disk that fails, at most.
_HISTORY = 300


def run_checks(directory: Path, *arguments: str) -> Ran:
    """Run the checks of quotas in a machine; `directory` is for its files."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "0", "-q"]
    modules = ("quota/quota_tree", "quota/quota_v2")
    return run_in_machine(directory, QUOTAS, [*command, "--color=no", *arguments], modules=modules)


def run_trials(directory: Path, name: str, count: int, seed: int, *options: str) -> Ran:
    """Run the trials of unchanged files on one of `UNCHANGED`, with more options of theirs."""
    command = [sys.executable, "-m", "tests.crash", "unchanged", name]
    command += ["--directory", f"/run/{name}", "--count", str(count), "--seed", str(seed)]
    timeout = 300 + _THOUSAND * count / 1000 + 3 * _RULE
    images = {name: UNCHANGED[name]}
    return run_in_machine(directory, images, [*command, *options], timeout=timeout)


def run_bad_disks(directory: Path, name: str, count: int, seed: int, acts: int = ACTS) -> Ran:
    """Run histories on a disk that fails, with one of the file systems of `BAD_DISKS`."""
    command = [sys.executable, "-m", "tests.crash.bad_disks", name, *map(str, (count, seed, acts))]
    modules = [f"../drivers/md/{module}" for module in ("dm-mod", "dm-dust", "dm-flakey")]
    images = {name: BAD_DISKS[name]}
    timeout = 300 + _HISTORY * count
    return run_in_machine(directory, images, command, modules=modules, timeout=timeout)


class InMachine(Campaign):
    """One run of a command in a machine, which must succeed."""

    def __init__(self, run: Callable[[Path], Ran]) -> None:
        self._run = run
        self._output: list[str] = []

    async def trial(self, number: int) -> str:
        with place("machine", in_memory=False) as directory:
            ran = self._run(directory)
        self.done = self.count
        self._output.append(ran.output)
        if ran.status != 0:
            raise Broken(f"it ended with {ran.status}")
        return ran.output

    def evidence(self) -> list[str]:
        return self._output


def campaigns(kinds: Sequence[str], options: Namespace) -> Iterator[tuple[str, Campaign]]:
    """Yield the checks of quotas, or what is tried on these file systems."""
    is_quotas, is_bad = options.target == "quotas", options.target == "bad-disks"
    images = QUOTAS if is_quotas else BAD_DISKS if is_bad else UNCHANGED
    programs = ["dmsetup"] if is_bad else []
    if missing := missing_programs(images, *programs):
        raise SystemExit(f"the virtual machine needs {missing}")
    if is_quotas:
        yield "quotas", InMachine(lambda place: run_checks(place, *CHECKS, *options.more))
        return
    tried = run_bad_disks if is_bad else run_trials
    for kind in kinds:
        if kind in images:
            count, seed = options.count, options.seed
            yield kind, InMachine(partial(tried, name=kind, count=count, seed=seed))
