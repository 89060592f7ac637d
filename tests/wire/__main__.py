"""`python -m tests.wire NEW [--against OLD ...]`: record what goes over the wire, and compare.

The scenarios of transfers are run, and each one's transcript is written below NEW. A test is as
before when its transcript is that of one of the OLD recordings, of which there are several, since
some tests have more than one course. Those that are not are run again, three times in all. The
exit status is 1 when a test fails, or is not as before.
"""

from __future__ import annotations

import argparse
import difflib
import os
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

SCENARIOS = ("tests/transfers", "tests/direct_transfers")
TRIES = 3
#: Tests that are not compared, and why.
OMITTED = {
    "tests/transfers/peer/test_silence.py::test_a_peer_with_a_full_window_is_waited_for": (
        "it sends until the buffers of the kernel are full"
    ),
}


def record(directory: Path, tests: Sequence[str] = SCENARIOS) -> bool:
    """Run tests and record them; return whether they pass."""
    options = ("-p", "tests.wire.recorder", "--wire", str(directory), "--quiet")
    workers = () if len(tests) == 1 else ("--numprocesses", str(os.cpu_count()))
    command = [sys.executable, "-m", "pytest", *options, *workers, *tests]
    return subprocess.run(command, check=False).returncode == 0


def transcripts(directory: Path, tests: Sequence[str] = SCENARIOS) -> dict[str, str]:
    """Return the transcripts of tests in a recording."""
    found = [path.read_text().partition("\n") for path in sorted(directory.rglob("*.txt"))]
    return {test: text for test, _, text in found if test.startswith(tuple(tests))}


def differing(new: dict[str, str], old: Sequence[dict[str, str]]) -> list[str]:
    """Return the tests of which no old transcript is the new one; both may lack one."""
    tests = sorted({test for each in (new, *old) for test in each})
    return [
        test
        for test in tests
        if test not in OMITTED and new.get(test) not in [each.get(test) for each in old]
    ]


def show(tests: Collection[str], new: dict[str, str], old: dict[str, str]) -> None:
    """Print how the new transcripts of tests differ from those of an old recording."""
    for test in tests:
        before, after = (each.get(test, "").splitlines() for each in (old, new))
        print(
            *difflib.unified_diff(before, after, f"old {test}", f"new {test}", "", "", 5, ""),
            sep="\n",
        )


def main() -> None:
    """Record and compare. Raises `SystemExit`."""
    parser = argparse.ArgumentParser(prog="tests.wire", description="Record the wire, compare.")
    parser.add_argument("new", type=Path, help="directory of the new recording")
    parser.add_argument("--against", type=Path, nargs="*", default=[], help="old recordings")
    parser.add_argument("--tests", nargs="*", default=SCENARIOS, help="in place of all of them")
    arguments = parser.parse_args()
    passed = record(arguments.new, arguments.tests)
    old = [transcripts(each, arguments.tests) for each in arguments.against]
    different = differing(transcripts(arguments.new), old) if old else []
    for number in range(2, TRIES + 1):
        if different:
            again = arguments.new.with_name(f"{arguments.new.name}-{number}")
            record(again, different)
            different = [*set(different) & {*differing(transcripts(again), old)}]
    new = transcripts(arguments.new)
    show(sorted(different), new, old[0] if old else {})
    print(f"{len(new)} transcripts" + f", {len(different)} not as before" * bool(old))
    raise SystemExit(not passed or bool(different))


if __name__ == "__main__":
    main()
