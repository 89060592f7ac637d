"""What a token is good for: one transfer, to one node, whatever becomes of the daemon."""

from __future__ import annotations

import time
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.ssl import Certificate

from tests.daemon.harness import UUID, House, archive, reactor, sha256
from tests.daemon.uploads import Sender
from tests.support import Answer, server_settings
from tests.support.browser import Browser
from wingsd.statedb.store import Store

USED = "it was used for a transfer before; start the transfer again in the Panel for a new token"
OTHER = "1b0e7a6e-95c1-4a5b-8a53-7f6c5d2e4b11"


async def send(
    house: House, token: str, checksum: str | None = None, *more: str
) -> tuple[int, Any]:
    """Upload the server with curl."""
    path = house.directory / "server-archive.tar.gz"
    path.write_bytes(archive())
    form = ["-F", f"archive=@{path}", "-F", f"checksum={checksum or sha256(archive())}"]
    return await house.curl(*form, *more, token=token)


async def fail_with(house: House, token: str) -> None:
    """Have a transfer fail whose body was taken, and the Panel begin another one."""
    assert (await send(house, token, "0"))[0] == 400
    await house.told_of_failure()
    house.panel.open_transfer(UUID, house.node)


def told(house: House) -> list[str]:
    """Return what the Panel was asked and told of the server."""
    return [call.path for call in house.panel.calls if UUID in call.path]


async def assert_used(house: House, token: str) -> None:
    """See the token refused, and nothing done on its account."""
    before, since = told(house), len(house.log)
    status, answer = await send(house, token)
    assert (status, answer["code"], answer["detail"]) == (401, "token-used", USED)
    assert USED in await house.wait_for_line(" refused: ", since)
    # What it is sent with says nothing of the server: the next transfer is not its to end.
    assert told(house) == before
    assert house.left() == []


@pytest_twisted.ensureDeferred
async def test_a_token_is_good_for_one_transfer(house: House) -> None:
    await house.start()
    token = house.token()
    await fail_with(house, token)
    await assert_used(house, token)
    assert await send(house, house.token()) == (200, None)


@pytest_twisted.ensureDeferred
async def test_a_signature_written_otherwise_makes_no_other_token(house: House) -> None:
    await house.start()
    token = house.token()
    await fail_with(house, f"{token}=")
    await assert_used(house, token)


@pytest_twisted.ensureDeferred
async def test_a_used_token_stays_used_after_a_kill(house: House) -> None:
    await house.start()
    token = house.token()
    await fail_with(house, token)
    # The journal is written in order: what is asked of it now comes after all that was written.
    await assert_used(house, token)
    house.signal("KILL")
    await house.ended()
    await house.start()
    await house.loaded()
    await assert_used(house, token)
    assert await send(house, house.token()) == (200, None)


@pytest_twisted.ensureDeferred
async def test_a_refusal_before_the_body_does_not_use_it_up(house: House) -> None:
    await house.start()
    await house.loaded()
    token = house.token()
    # No such form, with a good token: the Panel hears of it, and begins anew with another one.
    status, _ = await house.curl("-H", "Content-Type: text/plain", "--data", "x", token=token)
    assert status == 400
    await house.told_of_failure()
    house.panel.open_transfer(UUID, house.node)
    # The Panel cannot be asked.
    house.panel.inject(f"/servers/{UUID}", Answer(404))
    status, _ = await send(house, token)
    assert status in (403, 404, 500, 502, 503)
    # The server is being received already.
    sender = Sender(house, archive())
    since = len(house.log)
    await sender.begin()
    await house.wait_for_line("receiving the archive", since)
    assert (await send(house, token))[0] == 409
    await sender.vanish()
    await house.wait_for_line("the Panel was told of the failure", since)
    house.panel.open_transfer(UUID, house.node)
    assert await send(house, token) == (200, None)


@pytest_twisted.ensureDeferred
async def test_a_server_the_panel_does_not_know_does_not_use_it_up(house: House) -> None:
    await house.start()
    token = house.panel.transfer_token(OTHER, house.node)
    assert (await send(house, token))[0] == 404
    house.panel.add_server(server_settings(OTHER), house.source)
    house.panel.open_transfer(OTHER, house.node)
    assert await send(house, token) == (200, None)


@pytest.mark.parametrize(
    ("address", "status"),
    [("https://node.invalid:8080/", 200), ("https://other.invalid:8080", 401)],
)
@pytest_twisted.ensureDeferred
async def test_a_node_that_knows_its_address_takes_no_other_nodes_tokens(
    house: House, address: str, status: int
) -> None:
    api = house.configuration()["api"] | {"public_url": address}
    await house.start(api=api)
    found, answer = await send(house, house.token())
    assert found == status
    assert answer is None or "`api.public_url`" in answer["detail"]


async def console(house: House, jti: str) -> Browser:
    """Connect a browser that shows a new token."""
    token = house.panel.console_token(UUID, node=house.node, jti=jti)
    url = f"{house.url.replace('http', 'ws')}/api/servers/{UUID}/ws"
    ca = Certificate.loadPEM((house.directory / "ca.pem").read_bytes())
    browser = await Browser(url, token, house.panel.url, ca=ca).connect(reactor)
    browser.send("auth", token)
    return browser


@pytest_twisted.ensureDeferred
async def test_the_deny_list_survives_a_kill(house: House) -> None:
    await house.start()
    await house.loaded()
    assert await send(house, house.token()) == (200, None)
    house.url += f"/api/servers/{UUID}/ws/deny?"
    status, _ = await house.curl("--data", '{"jtis": ["denied"]}', token=house.node.token)
    assert status == 204
    house.signal("KILL")
    await house.ended()
    store = Store(str(house.directory))
    store.open()
    assert [*store.denied()] == ["denied"]
    # As if the clock had been set back since: by the start alone, the next one would be good.
    store.deny(time.time() + 1000, ["denied"])
    store.close()
    await house.start()
    await house.loaded()
    refused, taken = await console(house, "denied"), await console(house, "other")
    try:
        await refused.wait_for("jwt error", "jwt: created too far in past (denylist)")
        await taken.wait_for("auth success")
    finally:
        await refused.close()
        await taken.close()


@pytest_twisted.ensureDeferred
async def test_a_pelican_node_takes_only_tokens_with_pelicans_scope(house: House) -> None:
    await house.start(family="pelican")
    status, answer = await send(house, house.token())
    assert (status, answer["code"]) == (401, "token-invalid")
    assert "it has no scope" in answer["detail"]
    assert told(house) == []
    assert await send(house, house.token(scope="transfer")) == (200, None)
