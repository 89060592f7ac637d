"""A real daemon limits the servers that arrive. Runs in the machine only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.quota_vm.projects import BEYOND, MIB, NUMBER, OWNER, project, usage, write
from tests.support import server_settings
from tests.support.reactor import until
from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import UUID, archive

NOBODY = 4711
#: The capabilities of the package's service, and that of its drop-in for quotas.
CAPABILITIES = "-all,+chown,+dac_override,+fowner,+sys_admin"
UNPRIVILEGED = (
    "/usr/bin/setpriv",
    *(f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"),
    *(f"--{kind}-caps={CAPABILITIES}" for kind in ("inh", "ambient")),
    f"--bounding-set={CAPABILITIES}",
)


@pytest.fixture
def daemon(place: Path) -> Iterator[ReceivingNode]:
    made = ReceivingNode(place / "node")
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))


async def test_a_server_that_arrives_is_limited(daemon: ReceivingNode, kind: str) -> None:
    system = {
        "quotas": {"enabled": True},
        "user": {"uid": OWNER[0], "gid": OWNER[1]},
    }
    os.chown(daemon.directory, NOBODY, NOBODY)
    await daemon.start(*UNPRIVILEGED, system=system)
    await daemon.wait_for_line("project quotas limit the servers in")
    limits = server_settings(UUID)["build"] | {"disk_space": 4}
    daemon.expect(UUID, build=limits)
    assert await daemon.upload(archive(2 * MIB)) == (200, None)
    path = daemon.files()
    await until(lambda: usage(path).limit == 4 * MIB)
    assert project(path / "world" / "region" / "r.0.0.mca").id == NUMBER
    assert write(path / "more", 8) == BEYOND[kind]
    (path / "more").unlink()
    daemon.panel.settings_of(UUID)["build"]["disk_space"] = 20
    status, _ = await daemon.curl(token=daemon.node.token, path=f"/api/servers/{UUID}/sync")
    assert status == HTTPStatus.NO_CONTENT
    await until(lambda: usage(path).limit == 20 * MIB)
    assert write(path / "more", 8) == 0
    await daemon.kill()
    daemon.panel.settings_of(UUID)["build"]["disk_space"] = 12
    await daemon.start(*UNPRIVILEGED, system=system)
    await until(lambda: usage(path).limit == 12 * MIB)
    assert write(path / "most", 8) == BEYOND[kind]
