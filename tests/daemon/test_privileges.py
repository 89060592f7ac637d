"""The daemon as a user of its own, with the capabilities that it needs and with fewer."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

import pytest
import pytest_twisted

from tests.daemon.harness import UUID, House, archive, reactor
from tests.daemon.test_engine import with_engine
from tests.engine import Engine

NOBODY, OWNER = 4711, 988
NEEDED = ("chown", "dac_override", "fowner")
SAYS = "this node may not do all that a node does"


async def start(house: House, capabilities: tuple[str, ...], **changes: object) -> None:
    """Start the daemon as a user without a name, a group, or more than these capabilities."""
    os.chown(house.directory, NOBODY, NOBODY)
    system = house.configuration()["system"] | {"user": {"uid": OWNER, "gid": OWNER}}
    configuration = house.configuration(system=system, **changes)
    await house.panel.listen(reactor)
    configuration["remote"] = house.panel.url
    sets = ",".join(["-all", *(f"+{name}" for name in capabilities)])
    house.spawn(
        [
            "/usr/bin/setpriv",
            *(f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"),
            *(f"--inh-caps={sets}", f"--ambient-caps={sets}", f"--bounding-set={sets}"),
            *house.command(configuration, "--endpoint", "tcp:0:interface=127.0.0.1"),
        ]
    )
    await house.listening()


def owners(house: House) -> Iterator[tuple[int, int]]:
    """Yield user and group of all that there is of the server."""
    for directory, directories, files in os.walk(house.volumes / UUID):
        for name in ("", *directories, *files):
            found = os.lstat(os.path.join(directory, name))
            yield found.st_uid, found.st_gid


@pytest_twisted.ensureDeferred
async def test_three_capabilities_are_enough_to_receive_run_and_delete_a_server(
    house: House, engine: Engine
) -> None:
    await start(house, NEEDED, docker=with_engine(house, engine))
    assert await house.upload(archive()) == (200, None)
    assert not [line for line in house.log if SAYS in line]
    assert set(owners(house)) == {(OWNER, OWNER)}
    world = house.volumes / UUID / "world" / "region" / "r.0.0.mca"
    assert (stat.S_IMODE(world.stat().st_mode), world.stat().st_mtime) == (0o640, 1_700_000_000)
    assert engine.client.inspect_container(UUID)["State"]["Status"] == "created"
    # What a server closes to all but itself goes as well.
    closed = house.volumes / UUID / "closed"
    closed.mkdir(mode=0o500)
    os.chown(closed, OWNER, OWNER)
    (closed / "file").touch(mode=0)
    house.url += f"/api/servers/{UUID}?"
    assert await house.curl("-X", "DELETE", token=house.node.token) == (204, None)
    await house.wait_for_line("deleted")
    assert house.left() == []


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("chown", "it cannot give files to system.user (988:988)"),
        ("fowner", "it cannot set modes and times of files of system.user (988:988)"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_one_that_is_missing_is_said_at_start_and_fails_a_transfer_cleanly(
    house: House, missing: str, says: str
) -> None:
    await start(house, tuple(name for name in NEEDED if name != missing))
    (line,) = [line for line in house.log if SAYS in line]
    assert says in line
    status, answer = await house.upload(archive())
    assert (status, answer["code"]) == (500, "storage-failed")
    assert "not permitted; wingsd must run as a user who may" in answer["detail"]
    await house.told_of_failure()
    assert house.left() == []
