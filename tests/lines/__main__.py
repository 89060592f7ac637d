"""`python -m tests.lines`: move a server over bad lines. Root only.

The exit status is 1 when a server does not move, or is not the same afterwards.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

from tests.lines.bad_line import BadLine, move_over
from tests.support.namespace_line import namespace_line
from tests.support.running import run_command

#: The share of lost packets, and seconds of delay one way.
LOSS, DELAY = 0.01, 0.05


async def _run(kinds: list[str], size: int, seconds: float) -> None:
    bad = {"lossy": BadLine(LOSS, DELAY), "dead": BadLine(LOSS, DELAY, seconds)}
    for kind in kinds:
        with tempfile.TemporaryDirectory(prefix="wingsd-lines-") as name, namespace_line() as line:
            say = partial(_say, kind)
            say(f"{bad[kind].loss:.0%} of all packets are lost, {2 * DELAY:g} s to and fro")
            await move_over(bad[kind], line, Path(name), size, say)


def _say(kind: str, text: str) -> None:
    print(f"{kind}: {text}", flush=True)


def main() -> None:
    """Run the kinds that the command line names."""
    parser = argparse.ArgumentParser(prog="tests.lines", description="Move over bad lines.")
    parser.add_argument("kind", nargs="?", choices=["lossy", "dead"], help="in place of both")
    parser.add_argument("--size", type=int, default=256, help="MiB of the server")
    parser.add_argument("--seconds", type=float, default=600, help="for which the line is dead")
    arguments = parser.parse_args()
    kinds = [arguments.kind] if arguments.kind else ["lossy", "dead"]
    run_command(partial(_run, kinds, arguments.size, arguments.seconds))


if __name__ == "__main__":
    main()
