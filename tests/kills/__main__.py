"""`python -m tests.kills`: kill nodes at named and at random points, and check the invariants.

The same seed gives the same kills. The exit status is 1 when an invariant did not hold.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from functools import partial
from uuid import NAMESPACE_URL, uuid5


def main() -> None:
    """Run the kinds that the command line names."""
    parser = argparse.ArgumentParser(prog="tests.kills", description="Kill nodes, check data.")
    parser.add_argument("kind", nargs="?", default="", help="in place of all kinds")
    parser.add_argument("--count", type=int, default=100, help="kills of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--server", default="", help="the server's UUID, else one by the seed")
    arguments = parser.parse_args()
    own = uuid5(NAMESPACE_URL, f"kills of {arguments.kind}, seed {arguments.seed}")
    # Containers are named after the server, and the engine has other campaigns' and tests' ones.
    os.environ["WINGSD_TEST_SERVER"] = arguments.server or str(own)
    # Here, since what is imported knows the server from then on.
    from tests.kills.kinds import FAULTS, KINDS, MOST_IN_A_PROCESS, run  # noqa: PLC0415
    from tests.support.running import run_command  # noqa: PLC0415

    every = [*KINDS, FAULTS]
    if arguments.kind not in ("", *every):
        parser.error(f"there is no kind {arguments.kind}, but {', '.join(every)}")
    if arguments.kind == FAULTS and arguments.count > MOST_IN_A_PROCESS:
        _in_parts(arguments.count, MOST_IN_A_PROCESS, arguments.seed)
        return
    kinds = [arguments.kind] if arguments.kind else every
    run_command(partial(run, kinds, arguments.count, arguments.seed))


def _in_parts(count: int, most: int, seed: int) -> None:
    """Run parts of a campaign in processes, each with the next seed. Raises `SystemExit`."""
    for part, first in enumerate(range(0, count, most)):
        number = min(most, count - first)
        options = ["--count", str(number), "--seed", str(seed + part)]
        command = [sys.executable, "-m", "tests.kills", "live-faults", *options]
        status = subprocess.run(command, check=False).returncode
        done, rest = first + number * (not status), seed + part + (not status)
        goes_on = f"; go on with COUNT={count - done} SEED={rest}" if done < count else ""
        print(f"live-faults: held {done} of {count} kills{goes_on}", flush=True)
        if status:
            raise SystemExit(status)


if __name__ == "__main__":
    main()
