"""Single runs: a server, or several at once, received, sent, or moved between two nodes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet.defer import gatherResults, maybeDeferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.protocols.portforward import ProxyFactory

from bench.datasets import Dataset
from bench.machine import settle
from bench.meter import Cost, Meter
from bench.node import BenchNode, Site, reactor
from bench.references import tar_to_sink
from tests.support import Node
from tests.support.line import Line
from tests.support.namespace_line import NamespaceLine, namespace_line

__all__ = [
    "behind_namespace",
    "memory_after",
    "mounted",
    "move",
    "move_over_line",
    "move_over_namespace",
    "new_directory",
    "opened_site",
    "receive",
    "received_tree",
    "send",
    "tar_and_curl",
    "upload",
]

#: Seconds until a run times out.
_WITHIN = 1800


async def receive(dataset: Dataset, disk: Path, *, durable: bool, at_once: int = 1) -> Cost:
    """Send the dataset to a new node on `disk` over TLS, by `at_once` processes of curl."""
    async with _receiving(dataset, disk, durable=durable, at_once=at_once) as (node, send_all):
        return (await _measured([node], send_all, dataset.size * at_once))[0]


async def memory_after(dataset: Dataset, disk: Path, *, at_once: int, rest: float) -> float:
    """Send the dataset to a node, `at_once` times; return its MiB `rest` seconds later."""
    async with _receiving(dataset, disk, durable=False, at_once=at_once) as (node, send_all):
        await send_all()
        await deferLater(reactor, rest)
        return Meter(node.pid).resident()


@asynccontextmanager
async def _receiving(
    dataset: Dataset, disk: Path, *, durable: bool, at_once: int
) -> AsyncIterator[tuple[BenchNode, Callable[[], Awaitable[None]]]]:
    async with opened_site() as site:
        elsewhere = site.panel.add_node("https://elsewhere.invalid:8080")
        node = BenchNode(site, new_directory(disk))
        servers = [site.add_server(number, elsewhere) for number in range(at_once)]
        for uuid in servers:
            site.panel.open_transfer(uuid, node.node)

        async def send_all() -> None:
            tokens = [site.panel.transfer_token(uuid, node.node) for uuid in servers]
            curls = [deferToThread(upload, node.url, site.ca, token, dataset) for token in tokens]
            await gatherResults(curls, consumeErrors=True)

        await node.run(durable=durable)
        try:
            yield node, send_all
        finally:
            await node.close()


async def send(dataset: Dataset, disk: Path) -> Cost:
    """Measure a new node that sends the dataset to a server that discards everything."""
    async with opened_site() as site:
        with _sink(site.pem) as url:
            destination = site.panel.add_node(url, ca=str(site.ca))
            async with _source(site, dataset, disk) as (source, uuid):
                moving = lambda: _moved(site, source, uuid, destination)  # noqa: E731
                return (await _measured([source], moving))[0]


async def tar_and_curl(dataset: Dataset) -> float:
    """Return the seconds in which tar, gzip and curl send the dataset to the same place."""
    async with opened_site() as site:
        with _sink(site.pem) as url:
            return await deferToThread(tar_to_sink, dataset, url, site.ca)


async def move(dataset: Dataset, disk: Path, **transfers: Any) -> list[Cost]:
    """Move the dataset between two new nodes; return the source's cost and the destination's.

    `transfers` are settings of both, below `system.transfers`.
    """
    async with opened_site() as site:
        destination = BenchNode(site, new_directory(disk))
        await destination.run(**transfers)
        try:
            async with _source(site, dataset, disk, **transfers) as (source, uuid):
                moving = lambda: _moved(site, source, uuid, destination.node)  # noqa: E731
                return await _measured([source, destination], moving, dataset.size)
        finally:
            await destination.close()


async def move_over_line(
    dataset: Dataset, disk: Path, prepare: Callable[[BenchNode, Line], None]
) -> int:
    """Move the dataset over a line; return the bytes that went to the destination.

    `prepare` is given the destination and the line before anything is sent.
    """
    async with opened_site() as site:
        destination = BenchNode(site, new_directory(disk), proxied=True)
        await destination.run()
        prepare(destination, destination.line)
        try:
            async with _source(site, dataset, disk) as (source, uuid):
                await _moved(site, source, uuid, destination.node)
            return destination.line.sent
        finally:
            await destination.close()


async def move_over_namespace(
    dataset: Dataset, disk: Path, bytes_per_second: float, **transfers: Any
) -> tuple[Cost, int]:
    """Move the dataset over a line of that rate; return the source's cost, and bytes on the line.

    `transfers` as of `move`.
    """
    start = lambda node: node.run(**transfers)  # noqa: E731
    async with (
        opened_site() as site,
        behind_namespace(site, disk, start, bytes_per_second) as (destination, line),
        _source(site, dataset, disk, **transfers) as (source, uuid),
    ):
        moving = lambda: _moved(site, source, uuid, destination.node)  # noqa: E731
        before = line.sent
        costs = await _measured([source], moving, dataset.size)
        return costs[0], line.sent - before


@asynccontextmanager
async def behind_namespace(
    site: Site,
    disk: Path,
    start: Callable[[BenchNode], Awaitable[None]],
    bytes_per_second: float,
) -> AsyncIterator[tuple[BenchNode, NamespaceLine]]:
    """Give a new node that `start` starts, and the line that all connections to it share."""
    with namespace_line() as line:
        node = BenchNode(site, new_directory(disk), proxied=True)
        node.names = ("127.0.0.1", line.there)
        node.issue_certificate()
        await start(node)
        port = int(node.url.rpartition(":")[2])
        forwarding = reactor.listenTCP(0, _forwarder(port), interface=line.here)
        try:
            relayed = line.relay(forwarding.getHost().port)
            node.node.address = f"https://{line.there}:{relayed}"
            line.shape(bytes_per_second)
            yield node, line
        finally:
            await node.close()
            await maybeDeferred(forwarding.stopListening)


def _forwarder(port: int) -> ProxyFactory:
    factory = ProxyFactory("127.0.0.1", port)
    factory.noisy = False
    return factory


def received_tree(disk: Path) -> Path:
    """Return the files of the only server that was received on this disk."""
    (tree,) = disk.glob("node-*/volumes/*-*")
    return tree


def new_directory(disk: Path) -> Path:
    """Return the directory of a new node: nothing of a round is deleted before its end."""
    return disk / f"node-{len(os.listdir(disk))}"


@asynccontextmanager
async def opened_site() -> AsyncIterator[Site]:
    """Give a new Panel, which is open, and the authority of its nodes."""
    with TemporaryDirectory() as directory:
        site = Site(Path(directory))
        await site.open()
        try:
            yield site
        finally:
            await site.close()


@asynccontextmanager
async def _source(
    site: Site, dataset: Dataset, disk: Path, **transfers: Any
) -> AsyncIterator[tuple[BenchNode, str]]:
    """A new node with the dataset mounted, since it is only read, and in the page cache."""
    assert dataset.tree is not None
    source = BenchNode(site, new_directory(disk))
    uuid = site.add_server(1, source.node)
    with mounted(dataset, source.volumes / uuid):
        try:
            await source.run(**transfers)
            yield source, uuid
        finally:
            await source.close()


@contextmanager
def mounted(dataset: Dataset, place: Path) -> Iterator[None]:
    """Mount the dataset's tree at a new directory."""
    place.mkdir(parents=True)
    _run("mount", "--bind", str(dataset.tree), str(place))
    try:
        yield
    finally:
        _run("umount", str(place))


async def _moved(site: Site, source: BenchNode, uuid: str, destination: Node) -> None:
    await site.panel.transfer(uuid, destination)
    await source.wait_for_line(f"{uuid}: state success", within=_WITHIN)


async def _measured(
    nodes: list[BenchNode], work: Callable[[], Awaitable[None]], size: int = 0
) -> list[Cost]:
    meters = [Meter(node.pid) for node in nodes]
    with await deferToThread(settle, size):
        for meter in meters:
            meter.begin()
        await work()
        return [meter.end() for meter in meters]


@contextmanager
def _sink(pem: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "bench.sink", str(pem)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield f"https://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def upload(url: str, ca: Path, token: str, dataset: Dataset) -> None:
    """Send the dataset to a node over TLS by curl. Blocking."""
    _run(
        *("curl", "-sSf", "--cacert", str(ca), "--max-time", str(_WITHIN)),
        *("-H", f"Authorization: Bearer {token}"),
        *("-F", f"archive=@{dataset.archive}", "-F", f"checksum={dataset.sha256}"),
        f"{url}/api/transfers",
    )


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
