"""The whole daemon with a real Docker engine."""

from __future__ import annotations

import pytest
from docker.errors import NotFound
from twisted.internet.defer import Deferred

from tests.support.docker_engine import Engine
from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import UUID, archive
from tests.support.upload_client import UploadClient, begun


async def start(daemon: ReceivingNode, engine: Engine) -> None:
    daemon.panel.settings_of(UUID)["container"]["image"] = engine.image
    await daemon.start(**engine.for_node(UUID))


async def killed_with_a_running_server(daemon: ReceivingNode, engine: Engine) -> None:
    """Receive a server, start it and kill the daemon: its container runs on."""
    settings = daemon.panel.settings_of(UUID)
    settings["invocation"] = "while read line; do echo $line; done"
    await start(daemon, engine)
    assert await daemon.upload(archive()) == (200, None)
    body = ("-H", "Content-Type: application/json", "-d", '{"action": "start"}')
    path = f"/api/servers/{UUID}/power"
    assert (await daemon.curl(*body, token=daemon.node.token, path=path))[0] == 202
    await daemon.wait_for_line(f"{UUID}: container started")
    await daemon.kill()


@pytest.mark.promise("servers-start-after-a-reboot")
async def test_a_server_that_ran_is_started_after_a_restart_of_the_machine(
    daemon: ReceivingNode, engine: Engine
) -> None:
    await killed_with_a_running_server(daemon, engine)
    engine.client.kill(UUID)
    await daemon.start(**engine.for_node(UUID))
    await daemon.wait_for_line("was running when this node ended", since=0)
    await daemon.wait_for_line(f"{UUID}: container started")
    assert engine.client.inspect_container(UUID)["State"]["Running"]


async def test_the_container_is_removed_when_the_panel_revokes_the_transfer(
    daemon: ReceivingNode, engine: Engine
) -> None:
    await start(daemon, engine)
    # A Panel that describes the server to the two nodes of a transfer alone, and closes it.
    daemon.panel.strict = True
    hang = daemon.panel.hold("/success")
    uploading = Deferred.fromCoroutine(daemon.upload(archive()))
    await daemon.panel.called("/success")
    daemon.panel.close_transfer(UUID)
    hang.release()
    status, answer = await uploading
    assert (status, answer["code"]) == (409, "transfer-revoked")
    await daemon.wait_for_line("cleaned up")
    with pytest.raises(NotFound):
        engine.client.inspect_container(UUID)


@pytest.mark.promise("nodes-can-share-an-engine")
async def test_a_container_name_used_by_another_node_is_refused_with_409_before_the_body(
    daemon: ReceivingNode, engine: Engine
) -> None:
    await start(daemon, engine)
    image, mounts = engine.image.removeprefix("~"), ["/srv/node2:/home/container"]
    host = engine.client.create_host_config(binds=mounts)
    theirs = engine.client.create_container(image, "true", name=UUID, host_config=host)
    token = daemon.token()
    sender = await begun(daemon, archive(), token=token)
    status, body = await sender.answer()
    assert status == 409
    assert b"the server cannot have a container on this node" in body
    assert b"/srv/node2" in body
    await daemon.failure_reported()
    assert daemon.stored() == []
    assert daemon.panel.reports() == [(UUID, "failure")]
    engine.client.remove_container(theirs)
    daemon.panel.open_transfer(UUID, daemon.node)
    again = UploadClient(daemon, archive(), token=token)  # The token was not used up.
    await again.begin()
    assert await again.finish() == (200, b"")


async def test_a_token_that_is_not_ascii_is_answered_with_401(running: ReceivingNode) -> None:
    status, _ = await running.curl("-F", "archive=x", token="caf\udce9")
    assert status == 401


@pytest.mark.promise("orphaned-container-is-named")
async def test_a_container_whose_server_was_deleted_meanwhile_is_named_with_its_removal(
    daemon: ReceivingNode, engine: Engine
) -> None:
    """The Panel has deleted the server by force while the node was away, and its program runs."""
    await killed_with_a_running_server(daemon, engine)
    await daemon.ended()
    daemon.panel.remove_server(UUID)
    await daemon.start(**engine.for_node(UUID))
    removal = f"docker rm --force --volumes {UUID}"
    await daemon.wait_for_line(f"to remove it, run `{removal}`", since=0)
    status = await daemon.wingsctl("status")
    assert removal in " ".join(status.out.split())
    assert removal in (await daemon.wingsctl("diagnostics", "--no-logs")).out
    assert engine.client.inspect_container(UUID)["State"]["Running"]
    engine.client.remove_container(UUID, force=True, v=True)
    left = (await daemon.wingsctl("status", "--json")).json["containers_without_server"]
    assert left == []
