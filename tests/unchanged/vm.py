"""`python -m tests.unchanged.vm`: the same under Debian's kernel, in a virtual machine.

Before Linux 6.13 ctime moves in steps of a timer tick, here 10 ms.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.virtual_machine import Image, Ran, missing_programs, run_in_machine

__all__ = ["IMAGES", "run_trials_in_machine"]

IMAGES = {
    name: Image(size, (f"mkfs.{name}", "-q"), ("-t", name))
    for name, size in (("ext4", "640M"), ("xfs", "640M"), ("btrfs", "16G"))
}
#: Seconds for a thousand decisions and for each naive rule, at most.
_THOUSAND, _RULE = 60, 200


def run_trials_in_machine(directory: Path, name: str, count: int, seed: int, *options: str) -> Ran:
    """Run the trials on one of `IMAGES`; `options` are more of `tests.unchanged`."""
    command = [sys.executable, "-m", "tests.unchanged", name, "--directory", f"/run/{name}"]
    command += ["--count", str(count), "--seed", str(seed), *options]
    return run_in_machine(
        directory,
        {name: IMAGES[name]},
        command,
        timeout=300 + _THOUSAND * count / 1000 + 3 * _RULE,
    )


def main() -> int:
    """Run what the command line names; return the exit status."""
    parser = argparse.ArgumentParser(prog="tests.unchanged.vm", description=__doc__)
    parser.add_argument("name", nargs="*", choices=[*IMAGES, []], help="in place of all")
    parser.add_argument("--count", type=int, default=10_000, help="decisions on each")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    missing = missing_programs(IMAGES)
    if missing:
        print(f"the virtual machine needs {missing}")
        return 1
    good = True
    for name in arguments.name or IMAGES:
        with TemporaryDirectory(prefix="wingsd-unchanged-") as directory:
            ran = run_trials_in_machine(Path(directory), name, arguments.count, arguments.seed)
        print(ran.output, flush=True)
        good = good and ran.status == 0
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
