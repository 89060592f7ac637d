"""`python -m demo [--fast | --evacuate] [--keep]`: runs the scenario, and cleans up."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

from docker.errors import DockerException
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import react

from demo.counter import Counter
from demo.evacuating import Evacuating
from demo.luanti import Luanti
from demo.output import Failed, heading
from demo.pictures import MoveTimes, Recording, write_pictures
from demo.scenario import Scenario
from tests.support import NodeError


def _cancel_on_signal(reactor: Any, running: Deferred[None]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        # Once the reactor runs, it has put its own handlers there.
        reactor.callWhenRunning(
            signal.signal, number, lambda *_: reactor.callFromThread(running.cancel)
        )


async def _until_stopped(running: Deferred[None], keep: bool) -> None:
    try:
        await running
    except CancelledError:
        if not keep:
            raise Failed("stopped by a signal") from None


async def _show(scenario: Scenario | Evacuating, reactor: Any, keep: bool) -> None:
    running = Deferred.fromCoroutine(scenario.run(keep))
    _cancel_on_signal(reactor, running)
    try:
        await _until_stopped(running, keep)
    except Exception:
        print(f"\n{scenario.testbed.log_tails()}", file=sys.stderr)
        # The first error is the one to report.
        with suppress(Failed):
            await scenario.clean_up()
        raise
    await scenario.clean_up()


async def _main(
    reactor: Any, given: argparse.Namespace, moved: Callable[[MoveTimes], None]
) -> None:
    scenario: Scenario | Evacuating
    if given.evacuate:
        scenario = Evacuating(reactor, Counter())
    else:
        scenario = Scenario(reactor, Counter() if given.fast else Luanti(), moved)
    try:
        await _show(scenario, reactor, given.keep)
    except (DockerException, Failed, NodeError, OSError) as error:
        print(f'\nThe demo failed at "{scenario.step}": {error}', file=sys.stderr)
        raise SystemExit(1) from error
    heading("Everything is as expected, and has been removed again.")


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(prog="make demo")
    parser.add_argument("--fast", action="store_true", help="use a small game")
    parser.add_argument("--evacuate", action="store_true", help="empty a node with eight games")
    parser.add_argument("--keep", action="store_true", help="keep everything running until Ctrl-C")
    parser.add_argument(
        "--record", metavar="DIRECTORY", type=Path, help="write demo.svg and live-move.svg there"
    )
    given = parser.parse_args()
    recording = Recording(sys.stdout)

    def moved(times: MoveTimes) -> None:
        if given.record is not None:
            command = "make demo FAST=1" if given.fast else "make demo"
            write_pictures(given.record, command, recording.lines, times)

    with redirect_stdout(recording):
        react(lambda reactor: Deferred.fromCoroutine(_main(reactor, given, moved)))


main()
