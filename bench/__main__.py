"""The command `python -m bench`. Needs root, since every round has its own filesystem."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import cattrs
from twisted.internet.defer import Deferred
from twisted.internet.task import react

from bench.backups import backups_report
from bench.files import files_report
from bench.floods import flood_report
from bench.idle import idle_report
from bench.moves import moves_report
from bench.plots import draw
from bench.report import report
from bench.series import Results, Series
from bench.sftp_report import sftp_report

_ALL = [
    *("receive", "send", "move", "at_once", "growth", "floods"),
    *("idle", "files", "backups", "sftp", "resume"),
]
#: Those with a page of their own.
_APART = {"backups", "files", "floods", "idle", "resume", "sftp"}
_HOME = Path(__file__).parent.parent
_WORK = _HOME / ".cache/bench"


def main(_: Any, arguments: argparse.Namespace) -> Deferred[None]:
    """Run the command line."""
    return Deferred.fromCoroutine(_run(arguments))


async def _run(arguments: argparse.Namespace) -> None:
    kept = _WORK / "results.json"
    if arguments.report:
        results = cattrs.structure(json.loads(kept.read_text()), Results)
    else:
        results = Results(_machine(), _version())
        series = Series(_WORK, arguments.rounds, results)
        for name in arguments.series or _ALL:
            await getattr(series, name)()
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(cattrs.unstructure(results)))
    if results.floods:
        floods = arguments.output.with_name("floods.md")
        floods.write_text(flood_report(results.floods, results.machine, results.version))
        print(f"see {floods}")
    if results.idle.plain:
        idle = arguments.output.with_name("idle.md")
        idle.write_text(idle_report(results.idle, results.machine, results.version))
        print(f"see {idle}")
    if results.files.downloads:
        files = arguments.output.with_name("files.md")
        files.write_text(files_report(results.files, results.machine, results.version))
        print(f"see {files}")
    if results.sftp.node:
        sftp = arguments.output.with_name("sftp-speed.md")
        sftp.write_text(sftp_report(results.sftp, results.machine, results.version))
        print(f"see {sftp}")
    if results.backups.rounds:
        backups = arguments.output.with_name("backup-figures.md")
        backups.write_text(backups_report(results.backups, results.machine, results.version))
        print(f"see {backups}")
    if results.moves.rounds:
        moves = arguments.output.with_name("move-figures.md")
        moves.write_text(moves_report(results.moves, results.machine, results.version))
        print(f"see {moves}")
    if not arguments.series or set(arguments.series) - _APART:
        arguments.output.write_text(report(results))
        draw(results, arguments.output.with_suffix(""))
        print(f"see {arguments.output}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench", description=__doc__)
    parser.add_argument("series", nargs="*", choices=_ALL, metavar="SERIES", help=", ".join(_ALL))
    rounds = "of each dataset (5), of receiving small three times as many"
    parser.add_argument("--rounds", type=int, default=5, help=rounds)
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
    react(main, [_arguments()])
