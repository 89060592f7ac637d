"""What a node costs that does nothing: CPU time to its first answer, and memory at rest."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median

import attrs
from attrs import frozen
from twisted.internet.threads import deferToThread

from bench.floods import ask
from bench.meter import Meter
from bench.node import BenchNode, Site
from bench.targets import IDLE, REST, START, Target

__all__ = [
    "AT_ONCE",
    "REST_SECONDS",
    "IdleResult",
    "Start",
    "idle_report",
    "measure_empty_site",
    "measure_libraries",
    "measure_start",
]

#: Servers of the node, none of which runs.
_SERVERS = 10
#: Servers received at once, and seconds from the last one's end to the look at the memory.
AT_ONCE, REST_SECONDS = 16, 60


#: A daemon of Twisted's alone: no library of others, no configuration, no state.
_EMPTY_SITE = """
from twisted.application.service import Application
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.web.resource import Resource
from twisted.web.server import Site

application = Application("empty")
endpoint = "ssl:0:interface=127.0.0.1:privateKey={pem}:certKey={pem}"
serverFromString(reactor, endpoint).listen(Site(Resource()))
"""

#: Libraries, and the modules that are imported of them, in the order of a start with Docker. What
#: one imports of those that follow counts for it.
_LIBRARIES = {
    "Twisted, with TLS and HTTP": "twisted.scripts.twistd twisted.internet.ssl twisted.web.server "
    "twisted.web.client",
    "SQLite, PyYAML, cattrs, PyJWT": "sqlite3 yaml cattrs jwt",
    "wingsd's own modules": "wingsd.tap",
    "urllib3": "urllib3",
    "requests": "requests",
    "docker-py": "docker",
    "wingsd's modules for it": "wingsd.docker.containers",
}
#: Prints the pages in memory at first, and after the modules of each argument.
_IMPORTS = """
import sys
from importlib import import_module
for modules in ["", *sys.argv[1:]]:
    for name in modules.split():
        import_module(name)
    with open("/proc/self/statm") as file:
        print(file.read().split()[1])
"""


@frozen
class Start:
    """One start: CPU seconds until the first answer, and MiB of resident memory then."""

    cpu: float
    resident: float


@frozen
class IdleResult:
    """Starts without Docker and with it, and MiB of memory after servers were received.

    `empty` are starts of a site of Twisted's without resources, `libraries` the MiB that each
    takes when it is imported.
    """

    empty: list[Start] = attrs.field(factory=list)
    plain: list[Start] = attrs.field(factory=list)
    docker: list[Start] = attrs.field(factory=list)
    rest: list[float] = attrs.field(factory=list)
    libraries: dict[str, list[float]] = attrs.field(factory=dict)


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


def measure_empty_site(directory: Path) -> Start:
    """Start a site without resources in `directory`, and ask it over TLS. Blocking."""
    pem = Site(directory).pem
    script = directory / "site.tac"
    script.write_text(_EMPTY_SITE.format(pem=pem))
    twistd = str(Path(sys.executable).with_name("twistd"))
    command = [twistd, "--nodaemon", "--pidfile=", "--rundir", str(directory), "-y", str(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = next(line for line in process.stdout if " starting on " in line)
            url = f"https://127.0.0.1:{line.rpartition(' ')[2].strip()}"
            ask(url, directory / "ca.pem", "")
            meter = Meter(process.pid)
            return Start(meter.cpu(), meter.resident())
        finally:
            process.terminate()


def measure_libraries() -> dict[str, float]:
    """Return the MiB of resident memory that the interpreter and each library take. Blocking."""
    command = [sys.executable, "-c", _IMPORTS, *_LIBRARIES.values()]
    printed = subprocess.run(command, capture_output=True, check=True).stdout
    pages = [0, *map(int, printed.split())]
    taken = [(now - before) * resource.getpagesize() / 2**20 for before, now in pairwise(pages)]
    return dict(zip(("the interpreter", *_LIBRARIES), taken, strict=True))


def idle_report(result: IdleResult, machine: str, version: str) -> str:
    """Return the document."""
    rows = [
        ("CPU seconds, Twisted alone", None, [one.cpu for one in result.empty]),
        ("MiB, Twisted alone", None, [one.resident for one in result.empty]),
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
            "With docker-py: Docker is on in the configuration, but no engine answers. Twisted",
            "alone: `twistd` with a site over TLS that has no resource. Medians, with the lowest",
            "and the highest in brackets.",
            "",
            f"Machine: {machine}. Version: {version}.",
            "",
            "| | Go Wings | required | measured | |",
            "| --- | --- | --- | --- | --- |",
            *(_row(name, target, values) for name, target, values in rows if values),
            "",
            "Resident memory by what is imported, in this order; the rest is taken by the start:",
            "",
            "| | MiB |",
            "| --- | --- |",
            *(f"| {name} | {median(each):.1f} |" for name, each in result.libraries.items()),
            "",
        ]
    )


def _row(name: str, target: Target | None, values: Sequence[float]) -> str:
    middle = median(values)
    measured = f"{middle:.3g} ({min(values):.3g} to {max(values):.3g})"
    if target is None:
        return f"| {name} | | | {measured} | |"
    wings = "" if target.wings is None else f"{target.wings:g}"
    is_held = "held" if middle <= target.required else "**missed**"
    return f"| {name} | {wings} | {target.required:g} | {measured} | {is_held} |"
