"""A Panel that does not accept the node's token has said nothing of any server."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred

from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import UUID, archive

REFUSED = "the Panel does not accept this node's token"


@pytest.mark.promise("wrong-node-token-changes-nothing")
async def test_a_refused_node_token_is_logged_and_uploads_get_503(daemon: ReceivingNode) -> None:
    await daemon.start(token_id="another")
    line = await daemon.wait_for_line("the request to ")
    assert f"{REFUSED}: " in line
    status, answer = await daemon.upload(archive())
    assert (status, answer["code"]) == (503, "node-token-refused")
    assert daemon.stored() == []
    assert daemon.panel.in_transfer(UUID)


@pytest.mark.promise("wrong-node-token-changes-nothing")
async def test_a_received_server_stays_until_its_token_is_right(running: ReceivingNode) -> None:
    running.panel.hold("/transfer/success")
    uploading = Deferred.fromCoroutine(running.upload(archive()))
    uploading.addErrback(lambda _: None)  # its connection breaks
    await running.panel.called("/transfer/success")
    await running.kill()
    await uploading
    await running.start(token_id="another")
    since = len(running.log)
    await running.wait_for_line("its transfer is not known yet", since=since)
    assert running.stored() == [UUID]
    await running.kill()
    await running.start()
    await running.wait_for_line("state success", since=since)
    assert running.stored() == [UUID]
    assert running.panel.node_of(UUID) is running.node
