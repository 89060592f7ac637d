"""`python -m tests.quota_vm`: run all checks of project quotas in a virtual machine.

Arguments are for pytest. The exit status is 1 when a check fails.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.quota_vm.machine import IMAGES, run_checks
from tests.support.virtual_machine import missing_programs

CHECKS = ("tests/quota_vm/checks.py", "tests/quota_vm/checks_daemon.py")


def main() -> None:
    """Run them, and print what pytest prints in the machine."""
    missing = missing_programs(IMAGES)
    if missing:
        raise SystemExit(f"the virtual machine needs {missing}")
    with tempfile.TemporaryDirectory() as directory:
        checked = run_checks(Path(directory), *CHECKS, *sys.argv[1:])
    print(checked.output)
    if checked.status != 0:
        raise SystemExit("project quotas do not do what they should: see above")


if __name__ == "__main__":
    main()
