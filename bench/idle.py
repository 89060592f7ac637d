"""What a node costs that does nothing: CPU time to its first answer, and memory at rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

import attrs
from attrs import frozen
from twisted.internet.threads import deferToThread

from bench.floods import ask
from bench.meter import Meter
from bench.node import BenchNode, Site
from bench.targets import IDLE, REST, START, Target

__all__ = ["AT_ONCE", "REST_SECONDS", "IdleResult", "Start", "idle_report", "measure_start"]

#: Servers of the node, none of which runs.
_SERVERS = 10
#: Servers received at once, and seconds from the last one's end to the look at the memory.
AT_ONCE, REST_SECONDS = 16, 60


@frozen
class Start:
    """One start: CPU seconds until the first answer, and MiB of resident memory then."""

    cpu: float
    resident: float


@frozen
class IdleResult:
    """Starts without Docker and with it, and MiB of memory after servers were received."""

    plain: list[Start] = attrs.field(factory=list)
    docker: list[Start] = attrs.field(factory=list)
    rest: list[float] = attrs.field(factory=list)


async def measure_start(directory: Path, *, docker: bool) -> Start:
    """Start a node in `directory` and ask it for `/api/system`.

    With `docker` it uses docker-py, though no engine answers: what an engine does is not measured.
    """
    site = Site(directory)
    await site.open()
    engine = f"unix://{directory / 'engine.sock'}" if docker else ""
    node = BenchNode(site, directory / "node", engine=engine)
    for number in range(1, _SERVERS + 1):
        site.add_server(number, node.node)
    await node.run()
    try:
        await deferToThread(ask, node.url, site.ca, f"{node.node.token}")
        meter = Meter(node.pid)
        return Start(meter.cpu(), meter.resident())
    finally:
        await node.close()
        await site.close()


def idle_report(result: IdleResult, machine: str, version: str) -> str:
    """Return the document."""
    rows = [
        ("CPU seconds to the first answer", START, [one.cpu for one in result.plain]),
        ("MiB then", IDLE, [one.resident for one in result.plain]),
        ("CPU seconds, with docker-py", START, [one.cpu for one in result.docker]),
        ("MiB, with docker-py", IDLE, [one.resident for one in result.docker]),
        (f"MiB, {REST_SECONDS} s after {AT_ONCE} servers at once", REST, result.rest),
    ]
    return "\n".join(
        [
            "# An idle node",
            "",
            "Written by `make bench SERIES=idle`, not to be edited.",
            "",
            f"A node with {_SERVERS} servers, none of which runs, is started and asked for",
            "`/api/system` over TLS. Resident memory counts libraries that other processes share.",
            "With docker-py: Docker is on in the configuration, but no engine answers. Medians,",
            "with the lowest and the highest in brackets.",
            "",
            f"Machine: {machine}. Version: {version}.",
            "",
            "| | Go Wings | required | wingsd | |",
            "| --- | --- | --- | --- | --- |",
            *(_row(name, target, values) for name, target, values in rows if values),
            "",
        ]
    )


def _row(name: str, target: Target, values: Sequence[float]) -> str:
    wings = "" if target.wings is None else f"{target.wings:g}"
    middle = median(values)
    measured = f"{middle:.3g} ({min(values):.3g} to {max(values):.3g})"
    is_held = "held" if middle <= target.required else "**missed**"
    return f"| {name} | {wings} | {target.required:g} | {measured} | {is_held} |"
