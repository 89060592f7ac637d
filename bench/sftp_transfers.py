"""What clients of SFTP cost a transfer, and what those of OpenSSH's server cost it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import attrs
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from bench.datasets import Dataset
from bench.meter import Meter
from bench.node import BenchNode, reactor
from bench.openssh import openssh_server
from bench.runs import upload
from bench.sftp import (
    CLIENT_SIZE,
    LAST,
    LOGINS,
    TransferTimes,
    busy_clients,
    ended,
    make_file,
    sftp_node,
    sftp_process,
)

__all__ = ["TRANSFERS", "measure_transfers"]

#: Transfers of one figure: each takes less than a second.
TRANSFERS = 4


async def measure_transfers(
    directory: Path, dataset: Dataset, rounds: int, times: list[TransferTimes]
) -> None:
    """Have a node without Docker receive servers in turns, as often as there are rounds."""
    source = directory / "source"
    await deferToThread(make_file, source, CLIENT_SIZE)
    async with sftp_node(directory, ()) as (node, own, _):
        with openssh_server(directory, own.key, ()) as reference:
            account, other = (attrs.evolve(each, wrapper=LAST) for each in (own, reference))
            servers = count(2)
            await _received(node, dataset, servers)  # all that is imported and compiled once
            for _ in range(rounds):
                quiet = await _received(node, dataset, servers)
                async with busy_clients(account, source):
                    process = await sftp_process(node.pid)
                    meter = Meter(process)
                    cpu, begun = meter.cpu(), time.monotonic()
                    busy = await _received(node, dataset, servers)
                    cores = (meter.cpu() - cpu) / (time.monotonic() - begun)
                await ended(process)
                async with busy_clients(other, source):
                    await deferLater(reactor, LOGINS)
                    openssh = await _received(node, dataset, servers)
                times.append(TransferTimes(quiet, busy, openssh, cores))


async def _received(node: BenchNode, dataset: Dataset, servers: Iterator[int]) -> float:
    """Have the node receive other servers, one after the other; return the seconds of all."""
    total = 0.0
    for number in islice(servers, TRANSFERS):
        total += await _receive(node, dataset, number)
    return total


async def _receive(node: BenchNode, dataset: Dataset, number: int) -> float:
    """Have the node receive another server, and forget its files; return the seconds."""
    site = node.site
    elsewhere = node.panel.add_node("https://elsewhere.invalid:8080")
    uuid = site.add_server(number, elsewhere)
    node.panel.open_transfer(uuid, node.node)
    token = node.panel.transfer_token(uuid, node.node)
    begun = time.monotonic()
    await deferToThread(upload, node.url, site.ca, token, dataset)
    seconds = time.monotonic() - begun
    await deferToThread(shutil.rmtree, node.volumes / uuid)
    return seconds
