"""The command `python -m bench`. Needs root, since every round has its own filesystem."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
from functools import partial
from pathlib import Path

import attrs

from bench.all_series import ALL
from bench.backups import BACKUP_CASES
from bench.evacuate import EVACUATE_CASES
from bench.figures import Measured
from bench.flood_kinds import KINDS
from bench.live import LIVE_CASES
from bench.page import page
from bench.plots import draw
from bench.seed import SEED_MINUTES
from bench.series import Run
from tests.support.running import run_command

_HOME = Path(__file__).parent.parent
_WORK = _HOME / ".cache/bench"


async def _run(arguments: argparse.Namespace) -> None:
    place: Path = arguments.output.with_suffix("")
    place.mkdir(parents=True, exist_ok=True)
    run = Run(_WORK, arguments.rounds, arguments.cases, arguments.minutes)
    for name in [] if arguments.report else arguments.series or ALL:
        measured = await ALL[name].measure(run)
        measured = attrs.evolve(measured, machine=_machine(), version=_version())
        measured.save(place / f"{name}.json")
        _write(arguments.output)
    _write(arguments.output)
    print(f"see {arguments.output}")


def _write(output: Path) -> None:
    """Write the page and its pictures from what is kept."""
    place = output.with_suffix("")
    measured = {path.stem: Measured.load(path) for path in place.glob("*.json")}
    for name, one in measured.items():
        draw(ALL[name], one, place / f"{name}.svg")
    output.write_text(page(ALL.values(), measured))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench", description=__doc__)
    parser.add_argument("series", nargs="*", choices=ALL, metavar="SERIES", help=", ".join(ALL))
    rounds = "of each dataset (5), of receiving small three times as many"
    parser.add_argument("--rounds", type=int, default=5, help=rounds)
    parser.add_argument(
        "--cases",
        nargs="+",
        choices=[*(case.name for case in LIVE_CASES), *KINDS, *EVACUATE_CASES, *BACKUP_CASES],
        default=[],
        metavar="CASE",
        help="those of the series live, floods, evacuate and backups (all)",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=SEED_MINUTES,
        help="for which a copy follows its server in the series seed (60)",
    )
    report = "only write the page and the pictures again, from the figures beside them"
    parser.add_argument("--report", action="store_true", help=report)
    parser.add_argument("--output", type=Path, default=_HOME / "docs/benchmarks.md")
    return parser.parse_args()


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if "model name" in line), "?")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores of {model}, {memory:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}"
    )


def _version() -> str:
    command = ["git", "-C", str(_HOME), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    run_command(partial(_run, _arguments()))
