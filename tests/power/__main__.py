"""`python -m tests.power`: have the power fail in moves, and check what was told durable.

The same seed gives the same moves and moments. The exit status is 1 when a promise did not hold.
"""

from __future__ import annotations

import argparse
import time

from tests.power.disks import FILE_SYSTEMS
from tests.power.losses import lose_power

COUNT = 300


def main() -> None:
    """Run the file systems that the command line names."""
    parser = argparse.ArgumentParser(prog="tests.power", description="Lose power, check data.")
    parser.add_argument("file_system", nargs="?", choices=[*FILE_SYSTEMS])
    parser.add_argument("--count", type=int, default=COUNT, help="losses of each file system")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    for each in [arguments.file_system] if arguments.file_system else [*FILE_SYSTEMS]:
        begin = time.monotonic()
        found = lose_power(
            each, arguments.count, arguments.seed, lambda text: print(text, flush=True)
        )
        print(
            f"{each}, seed {arguments.seed}: {found}; all that was told durable was there, "
            f"{time.monotonic() - begin:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
