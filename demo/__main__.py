"""`python -m demo [--fast] [--keep]`: the course, and an orderly end whatever happens in it."""

from __future__ import annotations

import argparse
import signal
import sys
from contextlib import suppress
from typing import Any

from docker.errors import DockerException
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import react

from demo.counter import Counter
from demo.course import Course
from demo.luanti import Luanti
from demo.show import Failed, heading
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
            raise Failed("it was stopped") from None


async def _show(course: Course, reactor: Any, keep: bool) -> None:
    running = Deferred.fromCoroutine(course.run(keep))
    _cancel_on_signal(reactor, running)
    try:
        await _until_stopped(running, keep)
    except Exception:
        print(f"\n{course.stage.log_tails()}", file=sys.stderr)
        # What went wrong first is what counts.
        with suppress(Failed):
            await course.clean_up()
        raise
    await course.clean_up()


async def _main(reactor: Any, fast: bool, keep: bool) -> None:
    course = Course(reactor, Counter() if fast else Luanti())
    try:
        await _show(course, reactor, keep)
    except (DockerException, Failed, NodeError, OSError) as error:
        print(f'\nThe demo failed at "{course.step}": {error}', file=sys.stderr)
        raise SystemExit(1) from error
    heading("All as it should be, and everything is removed again.")


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(prog="make demo")
    parser.add_argument("--fast", action="store_true", help="a small game, made in a moment")
    parser.add_argument("--keep", action="store_true", help="leave it running until Ctrl-C")
    given = parser.parse_args()
    react(lambda reactor: Deferred.fromCoroutine(_main(reactor, given.fast, given.keep)))


main()
