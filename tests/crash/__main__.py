"""`python -m tests.crash TARGET`: run the campaigns of a target, all or those of some kinds.

The same seed gives the same plan. The exit status is 1 when an invariant did not hold.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from contextlib import closing
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from tests.crash.engine import in_processes
from tests.support.running import run_command

#: The module of each target, and how much is done of each kind.
TARGETS = {
    "kills": ("tests.crash.kills", 100),
    "races": ("tests.crash.races", 10_000),
    "power": ("tests.crash.power", 300),
    "unchanged": ("tests.crash.unchanged", 20_000),
    "unchanged-vm": ("tests.crash.machine", 10_000),
    "quotas": ("tests.crash.machine", 1),
    "bad-disks": ("tests.crash.machine", 10),
    "lines": ("tests.crash.lines", 1),
    "updates": ("tests.crash.updates", 1),
}
#: The targets that do not use the reactor: a signal ends them at once.
BLOCKING = ("races", "power", "unchanged", "unchanged-vm", "quotas", "bad-disks")


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(prog="tests.crash", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument(
        "kind", nargs="*", help="in place of all; arguments of pytest for quotas, after --"
    )
    parser.add_argument("--count", type=int, help="how much is done of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=1, help="processes, with the next seeds")
    parser.add_argument("--server", default="", help="the server's UUID, else one by the seed")
    parser.add_argument("--from", dest="commit", default="HEAD", help="the commit to update")
    parser.add_argument("--size", type=int, default=256, help="MiB of a server on bad lines")
    parser.add_argument("--seconds", type=float, default=600, help="for which a line is dead")
    parser.add_argument("--files", type=int, help="of a server whose files change")
    parser.add_argument("--directory", type=Path, help="an empty one, in place of new disks")
    parser.add_argument("--quick", action="store_true", help="two rounds in place of three")
    parser.add_argument("--naive", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args()


def end_by_signal() -> None:
    """Let SIGTERM end this process as an error does: processes are killed, disks unmounted."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


async def _run(module: Any, kinds: list[str], options: argparse.Namespace) -> None:
    if options.target in BLOCKING:
        end_by_signal()
    failed = []
    with closing(module.campaigns(kinds, options)) as campaigns:
        for name, campaign in campaigns:
            try:
                await campaign.run(options.count, options.seed, partial(_report, name))
            except AssertionError:
                traceback.print_exc()
                failed.append(name)
    if failed:
        raise SystemExit(f"invariants are broken: {', '.join(failed)}")


def _report(name: str, text: object) -> None:
    print(f"{name}: {text}", flush=True)


def main() -> None:
    """Run what the command line names."""
    options = arguments()
    options.more = options.kind if options.target == "quotas" else []
    options.kind = [] if options.more else options.kind
    name, count = TARGETS[options.target]
    options.count = options.count or count
    own = uuid5(NAMESPACE_URL, f"kills of {' '.join(options.kind)}, seed {options.seed}")
    # Containers are named after the server, and the engine has other campaigns' and tests' ones.
    os.environ["WINGSD_TEST_SERVER"] = options.server or str(own)
    # Imported here, since the module of the sample server reads the variable.
    module = import_module(name)
    if unknown := set(options.kind) - set(module.KINDS):
        raise SystemExit(f"there is no {unknown}, but {', '.join(module.KINDS)}")
    kinds = options.kind or [*module.KINDS]
    parts = module.parts(kinds, options) if hasattr(module, "parts") else []
    if parts:
        end_by_signal()
        in_processes(", ".join(kinds), parts, options.seed, options.at_once)
        return
    run_command(partial(_run, module, kinds, options))


if __name__ == "__main__":
    main()
