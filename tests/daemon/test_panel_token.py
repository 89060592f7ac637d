"""A Panel that does not accept the node's token has said nothing of any server."""

from __future__ import annotations

import pytest_twisted
from twisted.internet.defer import Deferred

from tests.daemon.harness import UUID, House, archive
from tests.support import Hang

REFUSED = "the Panel does not accept this node's token"


@pytest_twisted.ensureDeferred
async def test_it_is_told_at_the_start_and_to_who_sends_a_server(house: House) -> None:
    await house.start(token_id="another")
    line = await house.wait_for_line("the Panel was asked to ")
    assert f"{REFUSED}: " in line
    status, answer = await house.upload(archive())
    assert (status, answer["code"]) == (503, "node-token-refused")
    assert house.left() == []
    assert house.panel.in_transfer(UUID)


@pytest_twisted.ensureDeferred
async def test_what_has_come_whole_stays_until_the_token_is_put_right(house: House) -> None:
    await house.start()
    hang = Hang()
    house.panel.inject("/transfer/success", hang)
    uploading = Deferred.fromCoroutine(house.upload(archive()))
    uploading.addErrback(lambda _: None)  # its connection breaks
    await house.panel.called("/transfer/success")
    house.signal("KILL")
    await house.ended()
    await uploading
    house.launch("--endpoint", "tcp:0:interface=127.0.0.1", token_id="another")
    since = len(house.log)
    await house.wait_for_line("its transfer is not known yet", since=since)
    assert house.left() == [UUID]
    house.signal("KILL")
    await house.ended()
    house.launch("--endpoint", "tcp:0:interface=127.0.0.1")
    await house.wait_for_line("state success", since=since)
    assert house.left() == [UUID]
    assert house.panel.node_of(UUID) is house.node
