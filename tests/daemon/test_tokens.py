"""What a token is good for: one transfer, to one node, whatever becomes of the daemon."""

from __future__ import annotations

import time

import pytest
from twisted.internet.ssl import Certificate

from tests.support import Answer
from tests.support.browser import Browser
from tests.support.node_process import reactor
from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import UUID, archive
from tests.support.upload_client import UploadClient
from wingsd.statedb import Store

pytestmark = pytest.mark.promise("transfer-token-is-used-once")

USED = "it was used for a transfer before; start the transfer again in the Panel for a new token"
OTHER = "1b0e7a6e-95c1-4a5b-8a53-7f6c5d2e4b11"


async def fail_with(daemon: ReceivingNode, token: str) -> None:
    """Have a transfer fail whose body was taken, and the Panel begin another one."""
    since = len(daemon.log)
    assert (await daemon.upload(archive(), "0", token))[0] == 400
    await daemon.failure_reported(since)
    daemon.panel.open_transfer(UUID, daemon.node)


def told(daemon: ReceivingNode) -> list[str]:
    return [call.path for call in daemon.panel.calls if UUID in call.path]


async def assert_used(daemon: ReceivingNode, token: str) -> None:
    """See the token refused, and nothing done on its account."""
    before, since = told(daemon), len(daemon.log)
    status, answer = await daemon.upload(archive(), token=token)
    assert (status, answer["code"], answer["detail"]) == (401, "token-used", USED)
    assert USED in await daemon.wait_for_line(" refused: ", since)
    # What it is sent with says nothing of the server: the next transfer is not its to end.
    assert told(daemon) == before
    assert daemon.stored() == []


@pytest.mark.promise("transfer-token-is-used-once")
async def test_a_token_is_good_for_one_transfer_even_after_a_kill(running: ReceivingNode) -> None:
    token = running.token()
    await fail_with(running, token)
    # The database is written in order: what is asked of it now comes after all that was written.
    await assert_used(running, token)
    await running.kill()
    await running.start_loaded()
    await assert_used(running, token)
    # Nor does it become another token by another spelling of its signature.
    other = running.token()
    await fail_with(running, f"{other}=")
    await assert_used(running, other)
    assert await running.upload(archive(), token=running.token()) == (200, None)


@pytest.mark.promise("refusal-keeps-the-token")
async def test_a_refusal_before_the_body_does_not_use_up_the_token(daemon: ReceivingNode) -> None:
    await daemon.start_loaded()
    token = daemon.token()
    # No such form, with a good token: the Panel hears of it, and begins anew with another one.
    status, _ = await daemon.curl("-H", "Content-Type: text/plain", "--data", "x", token=token)
    assert status == 400
    await daemon.failure_reported()
    daemon.panel.open_transfer(UUID, daemon.node)
    # The Panel cannot be asked.
    daemon.panel.inject(f"/servers/{UUID}", Answer(404))
    status, _ = await daemon.upload(archive(), token=token)
    assert status in (403, 404, 500, 502, 503)
    # The server is being received already.
    sender = UploadClient(daemon, archive())
    since = len(daemon.log)
    await sender.begin()
    await daemon.wait_for_line("receiving the archive", since)
    assert (await daemon.upload(archive(), token=token))[0] == 409
    await sender.vanish()
    await daemon.wait_for_line("the failure was reported to the Panel", since)
    daemon.panel.open_transfer(UUID, daemon.node)
    assert await daemon.upload(archive(), token=token) == (200, None)


@pytest.mark.promise("refusal-keeps-the-token")
async def test_an_unknown_server_does_not_use_up_the_token(running: ReceivingNode) -> None:
    token = running.panel.transfer_token(OTHER, running.node)
    status, answer = await running.upload(archive(), token=token)
    assert (status, answer["code"]) == (404, "server-not-found")
    assert running.panel.reports() == []
    running.expect(OTHER)
    assert await running.upload(archive(), token=token) == (200, None)


@pytest.mark.promise("token-is-for-one-purpose")
@pytest.mark.parametrize(
    ("address", "status"),
    [("https://node.invalid:8080/", 200), ("https://other.invalid:8080", 401)],
)
async def test_a_node_that_knows_its_address_takes_no_other_nodes_tokens(
    daemon: ReceivingNode, address: str, status: int
) -> None:
    await daemon.start(api={"public_url": address})
    found, answer = await daemon.upload(archive(), token=daemon.token())
    assert found == status
    assert answer is None or "`api.public_url`" in answer["detail"]


async def console(daemon: ReceivingNode, jti: str) -> Browser:
    """Connect a browser that shows a new token."""
    token = daemon.panel.console_token(UUID, node=daemon.node, jti=jti)
    url = f"{daemon.url.replace('http', 'ws')}/api/servers/{UUID}/ws"
    ca = Certificate.loadPEM(daemon.ca.read_bytes())
    browser = await Browser(url, token, daemon.panel.url, ca=ca).connect(reactor)
    browser.send("auth", token)
    return browser


@pytest.mark.promise("revoked-console-token-stays-refused")
async def test_the_deny_list_survives_a_kill(daemon: ReceivingNode) -> None:
    await daemon.start_loaded()
    assert await daemon.upload(archive(), token=daemon.token()) == (200, None)
    path = f"/api/servers/{UUID}/ws/deny"
    jtis = '{"jtis": ["denied"]}'
    status, _ = await daemon.curl("--data", jtis, token=daemon.node.token, path=path)
    assert status == 204
    await daemon.kill()
    store = Store(str(daemon.directory))
    store.open()
    assert [*store.denied()] == ["denied"]
    # As if the clock had been set back since: by the start alone, the next one would be good.
    store.deny(time.time() + 1000, ["denied"])
    store.close()
    await daemon.start_loaded()
    refused, taken = await console(daemon, "denied"), await console(daemon, "other")
    try:
        await refused.wait_for("jwt error", "jwt: created too far in past (denylist)")
        await taken.wait_for("auth success")
    finally:
        await refused.close()
        await taken.close()


@pytest.mark.promise("token-is-for-one-purpose")
async def test_a_pelican_node_takes_only_tokens_with_pelicans_scope(daemon: ReceivingNode) -> None:
    await daemon.start(family="pelican")
    status, answer = await daemon.upload(archive(), token=daemon.token(scope=None))
    assert (status, answer["code"]) == (401, "token-invalid")
    assert "it has no scope" in answer["detail"]
    assert told(daemon) == []
    assert await daemon.upload(archive(), token=daemon.token(scope="transfer")) == (200, None)
