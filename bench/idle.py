"""The costs of an idle node: CPU time to its first answer, and memory at rest."""

from __future__ import annotations

import resource
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from attrs import frozen
from twisted.internet.threads import deferToThread

from bench.datasets import MIB, of_bytes
from bench.disk import fresh_disk
from bench.figures import Bound, Column, Figure, Measured, Row, Table, listed
from bench.floods import ask
from bench.meter import Meter
from bench.node import BenchNode, Site
from bench.runs import memory_after
from bench.series import FEW, Bars, Run, Series

__all__ = ["IDLE"]

#: MiB of a node that does nothing, and CPU seconds from its start to its first answer.
_MEMORY = Bound(80, wings=34)
_CPU = Bound(0.8, wings=0.03)
#: MiB, a minute after sixteen servers were received at once.
_REST = Bound(110)

#: Servers of the node, none of which runs.
_SERVERS = 10
#: Servers received at once, and seconds from the last one's end to the look at the memory.
_AT_ONCE, _REST_SECONDS = 16, 60
#: Bytes of each of them.
_RECEIVED = 200 * MIB
#: Starts a round: one takes a second.
_STARTS = 2


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
    "Twisted, with TLS and HTTP": "twisted.scripts.twistd twisted.internet.ssl twisted.web.http "
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
class _Start:
    """One start: CPU seconds until the first answer, and MiB of resident memory then."""

    cpu: float
    resident: float


async def _measure_start(directory: Path, *, docker: bool) -> _Start:
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
        return _Start(meter.cpu(), meter.resident())
    finally:
        await node.close()
        await site.close()


def _measure_empty_site(directory: Path) -> _Start:
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
            return _Start(meter.cpu(), meter.resident())
        finally:
            process.terminate()


def _measure_libraries() -> dict[str, float]:
    """Return the MiB of resident memory that the interpreter and each library take. Blocking."""
    command = [sys.executable, "-c", _IMPORTS, *_LIBRARIES.values()]
    printed = subprocess.run(command, capture_output=True, check=True).stdout
    pages = [0, *map(int, printed.split())]
    taken = [(now - before) * resource.getpagesize() / 2**20 for before, now in pairwise(pages)]
    return dict(zip(("the interpreter", *_LIBRARIES), taken, strict=True))


async def _measure(run: Run) -> Measured:
    """Measure starts of Twisted alone, without Docker and with it, in turns; and memory later."""
    empty, plain, docker = list[_Start](), list[_Start](), list[_Start]()
    libraries: dict[str, list[float]] = {}
    for _ in range(run.rounds * _STARTS):
        with TemporaryDirectory() as directory:
            empty.append(await deferToThread(_measure_empty_site, Path(directory)))
        for starts in (plain, docker):
            with TemporaryDirectory() as directory:
                starts.append(await _measure_start(Path(directory), docker=starts is docker))
            run.say(f"started: {starts[-1].cpu:.2f} s of CPU, {starts[-1].resident:.0f} MiB")
        for name, taken in (await deferToThread(_measure_libraries)).items():
            libraries.setdefault(name, []).append(taken)
    one = await deferToThread(of_bytes, _RECEIVED, run.datasets)
    rest = []
    for _ in range(FEW):
        with fresh_disk(run.directory) as disk:
            rest.append(await memory_after(one, disk, at_once=_AT_ONCE, rest=_REST_SECONDS))
        run.say(f"{_REST_SECONDS} s after {_AT_ONCE} servers at once: {rest[-1]:.0f} MiB")
    rows = [
        *listed(empty, _cpu("CPU seconds, Twisted alone"), _mib("MiB, Twisted alone")),
        *listed(plain, _cpu("CPU seconds to the first answer", _CPU), _mib("MiB then", _MEMORY)),
        *listed(
            docker, _cpu("CPU seconds, with docker-py", _CPU), _mib("MiB, with docker-py", _MEMORY)
        ),
        Row(f"MiB, {_REST_SECONDS} s after {_AT_ONCE} servers at once", [Figure.of(rest, _REST)]),
    ]
    imported = [Row(name, [Figure.middle(each)]) for name, each in libraries.items()]
    caption = "MiB by what is imported, in this order; the start takes the rest:"
    tables = [Table(rows), Table(imported, ["MiB"], caption)]
    return Measured(rounds=str(len(plain)), tables=tables)


def _cpu(name: str, bound: Bound | None = None) -> Column:
    return Column(name, lambda one: one.cpu, bound)


def _mib(name: str, bound: Bound | None = None) -> Column:
    return Column(name, lambda one: one.resident, bound)


IDLE = Series(
    "idle",
    "An idle node",
    f"""
    A node that does nothing needs some 80 MiB, more than half of it for Twisted; Go Wings needs
    less CPU time and memory. A node with {_SERVERS} servers, none of which runs, is started and
    asked for `/api/system` over TLS. Memory is resident, with libraries that other processes
    share. With docker-py: Docker is on in the configuration, but no engine answers. Twisted alone:
    `twistd` with a site over TLS that has no resource.
    """,
    _measure,
    (Bars(), Bars("MiB by what is imported", table=1)),
)
