"""The daemon as a user of its own, with the capabilities that it needs and with fewer."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

import pytest

from tests.support.docker_engine import Engine
from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import UUID, archive

NOBODY, OWNER = 4711, 988
NEEDED = ("chown", "dac_override", "fowner")
SAYS = "the daemon is limited"


async def start(daemon: ReceivingNode, capabilities: tuple[str, ...], **changes: object) -> None:
    """Start the daemon as a user without a name, a group, or more than these capabilities."""
    os.chown(daemon.directory, NOBODY, NOBODY)
    sets = ",".join(["-all", *(f"+{name}" for name in capabilities)])
    await daemon.start(
        "/usr/bin/setpriv",
        *(f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"),
        *(f"--inh-caps={sets}", f"--ambient-caps={sets}", f"--bounding-set={sets}"),
        system={"user": {"uid": OWNER, "gid": OWNER}},
        **changes,
    )


def owners(daemon: ReceivingNode) -> Iterator[tuple[int, int]]:
    """Yield user and group of all that there is of the server."""
    for directory, directories, files in os.walk(daemon.volumes / UUID):
        for name in ("", *directories, *files):
            found = os.lstat(os.path.join(directory, name))
            yield found.st_uid, found.st_gid


async def test_three_capabilities_are_enough_to_receive_run_and_delete_a_server(
    daemon: ReceivingNode, engine: Engine
) -> None:
    daemon.panel.settings_of(UUID)["container"]["image"] = engine.image
    await start(daemon, NEEDED, **engine.for_node(UUID))
    assert await daemon.upload(archive()) == (200, None)
    assert not daemon.lines_with(SAYS)
    assert set(owners(daemon)) == {(OWNER, OWNER)}
    world = daemon.volumes / UUID / "world" / "region" / "r.0.0.mca"
    assert (stat.S_IMODE(world.stat().st_mode), world.stat().st_mtime) == (0o640, 1_700_000_000)
    assert engine.client.inspect_container(UUID)["State"]["Status"] == "created"
    # What a server closes to all but itself goes as well.
    closed = daemon.volumes / UUID / "closed"
    closed.mkdir(mode=0o500)
    os.chown(closed, OWNER, OWNER)
    (closed / "file").touch(mode=0)
    deleted = await daemon.curl(
        "-X", "DELETE", token=daemon.node.token, path=f"/api/servers/{UUID}"
    )
    assert deleted == (204, None)
    await daemon.wait_for_line("deleted")
    assert daemon.stored() == []


@pytest.mark.promise("missing-privileges-are-logged")
@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("chown", "cannot give files to system.user (988:988)"),
        ("fowner", "cannot set modes and times of files of system.user (988:988)"),
    ],
)
async def test_a_missing_capability_is_logged_at_the_start_and_fails_transfers_cleanly(
    daemon: ReceivingNode, missing: str, says: str
) -> None:
    await start(daemon, tuple(name for name in NEEDED if name != missing))
    (line,) = daemon.lines_with(SAYS)
    assert says in line
    status, answer = await daemon.upload(archive())
    assert (status, answer["code"]) == (500, "storage-failed")
    assert "not permitted; wingsd must run as a user who may" in answer["detail"]
    await daemon.failure_reported()
    assert daemon.stored() == []
