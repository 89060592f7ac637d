"""A Panel that does not accept the node's token has said nothing of any server."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from tests.support import Hang
from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import UUID, archive

REFUSED = "the Panel does not accept this node's token"


async def test_a_refused_node_token_is_logged_and_uploads_get_503(daemon: ReceivingNode) -> None:
    await daemon.start(token_id="another")
    line = await daemon.wait_for_line("the request to ")
    assert f"{REFUSED}: " in line
    status, answer = await daemon.upload(archive())
    assert (status, answer["code"]) == (503, "node-token-refused")
    assert daemon.stored() == []
    assert daemon.panel.in_transfer(UUID)


async def test_a_received_server_stays_until_its_token_is_right(daemon: ReceivingNode) -> None:
    await daemon.start()
    hang = Hang()
    daemon.panel.inject("/transfer/success", hang)
    uploading = Deferred.fromCoroutine(daemon.upload(archive()))
    uploading.addErrback(lambda _: None)  # its connection breaks
    await daemon.panel.called("/transfer/success")
    await daemon.kill()
    await uploading
    await daemon.start(token_id="another")
    since = len(daemon.log)
    await daemon.wait_for_line("its transfer is not known yet", since=since)
    assert daemon.stored() == [UUID]
    await daemon.kill()
    await daemon.start()
    await daemon.wait_for_line("state success", since=since)
    assert daemon.stored() == [UUID]
    assert daemon.panel.node_of(UUID) is daemon.node
