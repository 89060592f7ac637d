"""The command `python -m bench`. Needs root, since every round has its own filesystem."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cattrs

from bench.backups import backups_report
from bench.files import files_report
from bench.flood_kinds import KINDS
from bench.floods import flood_report
from bench.idle import idle_report
from bench.live import LIVE_CASES, live_report
from bench.move_growth import growth_report
from bench.moves import moves_report
from bench.plots import draw
from bench.quiet import quiet_report
from bench.report import report
from bench.seed import SEED_MINUTES, seed_report
from bench.series import Results, Series
from bench.sftp_report import sftp_report
from bench.slow_line import slow_line_report
from tests.support.running import run_command

_ALL = [
    *("receive", "send", "move", "at_once", "growth", "floods"),
    *("idle", "files", "backups", "sftp", "resume", "live", "quiet"),
    *("slow_line", "move_growth", "seed"),
]
#: Those with a page of their own.
_APART = {
    *("backups", "files", "floods", "idle", "live"),
    *("move_growth", "quiet", "resume", "seed", "sftp", "slow_line"),
}
_HOME = Path(__file__).parent.parent
_WORK = _HOME / ".cache/bench"


async def _run(arguments: argparse.Namespace) -> None:
    kept = _WORK / "results.json"
    if arguments.report:
        results = cattrs.structure(json.loads(kept.read_text()), Results)
    else:
        results = Results(_machine(), _version())
        series = Series(_WORK, arguments.rounds, results, arguments.cases, arguments.minutes)
        for name in arguments.series or _ALL:
            await getattr(series, name)()
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(cattrs.unstructure(results)))
    _write_pages(results, arguments.output.parent)
    if not arguments.series or set(arguments.series) - _APART:
        arguments.output.write_text(report(results))
        draw(results, arguments.output.with_suffix(""))
        print(f"see {arguments.output}")


def _write_pages(results: Results, place: Path) -> None:
    """Write the pages of those series that have one of their own, and were measured."""
    of = (results.machine, results.version)
    pages: dict[str, tuple[object, Callable[[], str]]] = {
        "floods.md": (results.floods, lambda: flood_report(results.floods, *of)),
        "idle.md": (results.idle.plain, lambda: idle_report(results.idle, *of)),
        "files.md": (results.files.downloads, lambda: files_report(results.files, *of)),
        "sftp-speed.md": (results.sftp.node, lambda: sftp_report(results.sftp, *of)),
        "backup-figures.md": (
            results.backups.rounds,
            lambda: backups_report(results.backups, *of),
        ),
        "move-figures.md": (results.moves.rounds, lambda: moves_report(results.moves, *of)),
        "slow-line.md": (
            results.slow_line.batches,
            lambda: slow_line_report(results.slow_line, *of),
        ),
        "move-growth.md": (
            results.move_growth.by_bytes,
            lambda: growth_report(results.move_growth, *of),
        ),
        "live-quietness.md": (
            results.quiet.plain,
            lambda: quiet_report(results.quiet, *of),
        ),
        "seed-figures.md": (results.seed.moves, lambda: seed_report(results.seed, *of)),
        "live-figures.md": (results.live.cases, lambda: live_report(results.live, *of)),
    }
    for name, (measured, text) in pages.items():
        if measured:
            (place / name).write_text(text())
            print(f"see {place / name}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench", description=__doc__)
    parser.add_argument("series", nargs="*", choices=_ALL, metavar="SERIES", help=", ".join(_ALL))
    rounds = "of each dataset (5), of receiving small three times as many"
    parser.add_argument("--rounds", type=int, default=5, help=rounds)
    cases = [*(case.name for case in LIVE_CASES), *KINDS]
    parser.add_argument(
        "--cases",
        nargs="+",
        choices=cases,
        default=[],
        metavar="CASE",
        help="those of the series live and floods (all)",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=SEED_MINUTES,
        help="for which a copy follows its server in the series seed (60)",
    )
    parser.add_argument("--report", action="store_true", help="only write the report anew")
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
