"""What else the machine is for: a node keeps to its limits, and its threads yield."""

from __future__ import annotations

import os

import pytest
import pytest_twisted

from tests.daemon.daemon import Daemon
from tests.daemon.harness import UUID, House, archive, reactor
from tests.daemon.pair import Pair
from tests.daemon.uploads import Sender
from tests.daemon.watching import MIB, nice_values, until

SIZE = 10 * MIB
#: MiB/s
LIMIT = 4
#: Seconds that this takes at least; a twentieth of it is allowed for.
LEAST = SIZE / (LIMIT * MIB) * 0.95
#: The nice value of what is not told otherwise: that of the tests, which start the daemons.
USUAL = os.getpriority(os.PRIO_PROCESS, 0)


@pytest_twisted.ensureDeferred
async def test_servers_are_received_no_faster_than_the_limit(house: House) -> None:
    transfers = {"download_limit": LIMIT}
    await house.start(system=house.configuration()["system"] | {"transfers": transfers})
    began = reactor.seconds()
    assert await house.upload(archive(SIZE)) == (200, None)
    assert reactor.seconds() - began > LEAST
    assert (house.volumes / UUID / "world/region/r.0.0.mca").stat().st_size == SIZE


@pytest_twisted.ensureDeferred
async def test_servers_are_sent_no_faster_than_the_limit(pair: Pair) -> None:
    pair.add_server(SIZE)
    system = pair.source.configuration()["system"]
    system["transfers"]["upload_limit"] = LIMIT
    await pair.start(source={"system": system})
    began = reactor.seconds()
    await pair.transfer()
    await pair.destination.wait_for_line(f"{UUID}: received ")
    assert reactor.seconds() - began > LEAST
    await pair.destination.wait_for_line("state success")
    assert (pair.destination.files() / "world/region.mca").stat().st_size == SIZE


def yields(daemon: Daemon, nice: int, *names: str) -> None:
    """Assert that the threads of these names are as nice as that, and no others are."""
    found = nice_values(daemon)
    assert {name: found.pop(name) for name in names} == {
        name: {max(nice, USUAL)} for name in names
    }
    assert found == {name: {USUAL} for name in found}
    assert {"wingsd-disk", "wingsd-journal"} < found.keys()


@pytest.mark.parametrize(("transfers", "nice"), [({}, 10), ({"nice": 3}, 3), ({"nice": 0}, 0)])
@pytest_twisted.ensureDeferred
async def test_threads_that_receive_yield_and_no_others(
    house: House, transfers: dict[str, int], nice: int
) -> None:
    await house.start(system=house.configuration()["system"] | {"transfers": transfers})
    sender = Sender(house, archive(3 * MIB))
    await sender.begin()
    await until(lambda: "wingsd-inflate" in nice_values(house))
    yields(house, nice, "wingsd-extract", "wingsd-hash", "wingsd-inflate")
    assert await sender.finish() == (200, b"")


@pytest_twisted.ensureDeferred
async def test_threads_that_send_yield_and_no_others(pair: Pair) -> None:
    pair.add_server(SIZE)
    await pair.start()
    assert pair.destination.line is not None
    pair.destination.line.bytes_per_second = LIMIT * MIB
    await pair.transfer()
    await until(lambda: "wingsd-deflate" in nice_values(pair.source))
    yields(pair.source, 10, "wingsd-pack", "wingsd-read", "wingsd-deflate")
    await pair.destination.wait_for_line("state success")
