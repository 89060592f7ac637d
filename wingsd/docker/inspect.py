"""What the engine tells of a container: whose it is, whether it runs, how it ended.

Pure: from the Engine API's JSON (`GET /containers/{id}/json`, and the console as it is logged) to
values. Several nodes may share one engine, so a name alone does not say whose a container is; the
directory that it shows at `/home/container` does.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs

from wingsd.docker.container import HOME

__all__ = ["ContainerState", "console_lines", "container_state", "in_the_way", "moment"]


@attrs.frozen
class ContainerState:
    """A container as it is at one moment."""

    id: str
    #: The host's directory at `/home/container`; empty when there is none.
    home: str = ""
    running: bool = False
    #: Of the last run; the engine says 0 for a container that never ran.
    exit_status: int | None = None
    #: Whether the kernel ended something in it for want of memory.
    out_of_memory: bool = False
    #: By the engine's clock.
    started: datetime | None = None
    #: What the engine itself stops it with.
    stop_signal: str = "SIGTERM"


def container_state(inspected: Mapping[str, Any]) -> ContainerState:
    """Return what matters of the engine's answer to an inspection."""
    state = inspected.get("State") or {}
    mounts = inspected.get("Mounts") or ()
    homes = [mount.get("Source") for mount in mounts if mount.get("Destination") == HOME]
    return ContainerState(
        id=inspected["Id"],
        home=(homes and homes[0]) or "",
        running=bool(state.get("Running")),
        exit_status=state.get("ExitCode"),
        out_of_memory=bool(state.get("OOMKilled")),
        started=moment(state.get("StartedAt")),
        stop_signal=(inspected.get("Config") or {}).get("StopSignal") or "SIGTERM",
    )


def in_the_way(state: ContainerState, name: str, home: str) -> str:
    """Return why this is not the container of the server whose files are at `home`, or nothing."""
    if state.home and posixpath.normpath(state.home) == posixpath.normpath(home):
        return ""
    shows = f"the files at {state.home}" if state.home else "no server's files"
    return (
        f"a container named {name} is on this Docker engine already, and it is not this node's: "
        f"it shows {shows}, and not those at {home}"
    )


def moment(text: object) -> datetime | None:
    """Return a time of the engine's; None for none, which it writes as the year 1."""
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return found if found.year > 1 and found.tzinfo is not None else None


def console_lines(written: bytes) -> list[str]:
    """Return the lines of what was written to a console, without their ends."""
    lines = written.decode(errors="replace").replace("\r", "").split("\n")
    return lines if lines[-1] else lines[:-1]
