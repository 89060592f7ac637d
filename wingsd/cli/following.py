"""Copies that follow their servers: until when, until they do, and how far they are."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Any

import click

from wingsd.cli import progress
from wingsd.cli.client import ControlClient
from wingsd.cli.output import duration, plain, size, when

__all__ = ["MOMENT", "doing", "followed"]

Json = dict[str, Any]
_DATES = ("%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S")
_TIME = "%H:%M"
#: As soon as there is a whole copy.
_NOW = "now"


class _Moment(click.ParamType):  # type: ignore[type-arg]  # not generic in older versions
    """A time by the clock of this machine: of a day, the next one of a time alone, or now."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return it in seconds since the epoch. Fails when it is invalid, or over."""
        if isinstance(value, float):
            return value
        now = datetime.now().astimezone()
        if value == _NOW:
            return now.timestamp()
        for form in _DATES:
            try:
                found = datetime.strptime(value, form).astimezone()
            except (ValueError, OverflowError):
                continue
            if found <= now:
                self.fail(f"{value} is over", param, ctx)
            return found.timestamp()
        try:
            time_ = datetime.strptime(value, _TIME).time()
        except ValueError:
            self.fail(
                f"{value!r} is no time such as 04:30 or '2026-12-24 04:30', and not now",
                param,
                ctx,
            )
        found = datetime.combine(now.date(), time_).astimezone()
        if found <= now:
            found = datetime.combine(now.date() + timedelta(days=1), time_).astimezone()
        return found.timestamp()


MOMENT = _Moment()


def followed(client: ControlClient, server: str, after: int) -> Json | None:
    """Return when a copy follows a server; else the result of the transfer that has failed.

    Its number is above `after`. Raises `CtlError` when there is no such transfer.
    """
    while True:
        found = progress.transfer_of(client, server)
        ended = [each for each in found["past"] if each["transfer"] > after]
        if found["running"] is None and ended:
            latest: Json = ended[0]
            return latest
        if found["running"] is not None and found["running"].get("follow") is not None:
            return None
        time.sleep(progress.POLL_INTERVAL)


def doing(transfer: Json) -> str:
    """Return what is done for a transfer in progress, and how far a copy is that follows."""
    follow = transfer.get("follow")  # older daemons do not send it
    return str(transfer["doing"]) if follow is None else f"{transfer['doing']}: {_told(follow)}"


def _told(follow: Json) -> str:
    whole = follow["whole_at"]
    if whole is None and follow["missing_bytes"] is None:
        parts = ["no whole copy seen, what is missing is not known"]
    elif whole is None:
        parts = [f"no whole copy seen, {size(follow['missing_bytes'])} are missing"]
    else:
        changed, missing = size(follow["changed_bytes"]), size(follow["missing_bytes"])
        age = duration(time.time() - whole)
        parts = [f"the copy is {age} old", f"{changed} had changed", f"{missing} are missing"]
    if follow["predicted_downtime"] is not None:
        parts.append(f"about {follow['predicted_downtime']:.1f} s of downtime")
    if follow["stop_at"] is not None:
        parts.append(f"moved at {when(follow['stop_at'])}")
    if follow["trouble"]:
        parts.append(f"the last round has failed: {plain(follow['trouble'])}")
    return ", ".join(parts)
