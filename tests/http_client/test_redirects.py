"""Redirects: each is judged as the first URL is."""

from __future__ import annotations

import attrs
import pytest

from tests.http_client.fetching import LIMITS, OK, Names, fetch, make_client, url_of
from tests.http_client.test_download import says
from tests.transfers.peers import Peer
from wingsd.errors import AddressBlocked, DownloadFailed, TooManyRedirects

pytestmark = pytest.mark.promise("url-download-is-public-only", "url-download-is-whole-or-nothing")


def leads_to(location: str, status: int = 302) -> Peer:
    """Return a server that redirects to a location."""
    head = f"HTTP/1.1 {status} Elsewhere\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
    return Peer(says(head.encode()))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed(status: int) -> None:
    last = Peer(says(OK + b"\r\nbody"))
    first = leads_to(url_of(last, "/there"), status)
    found = await fetch(url_of(first))
    assert (found.url, found.body) == (url_of(last, "/there"), b"body")
    assert (await last.outcome).startswith(b"GET /there HTTP/1.1\r\n")
    await first.outcome


async def test_a_redirect_without_a_location_is_an_answer() -> None:
    peer = Peer(says(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n"))
    assert (await fetch(url_of(peer))).status == 302
    await peer.outcome


@pytest.mark.parametrize(
    "location", ["http://127.0.0.2:8080/", "http://[::1]:8080/", "http://169.254.169.254/latest"]
)
async def test_a_redirect_into_a_network_of_the_node_is_refused(location: str) -> None:
    peer = leads_to(location)
    with pytest.raises(AddressBlocked):
        await fetch(url_of(peer))
    await peer.outcome


@pytest.mark.promise("url-download-is-public-only")
async def test_a_redirect_to_a_name_that_has_another_address_by_now_is_refused() -> None:
    names = Names({"rebinds.example": [["127.0.0.1"], ["127.0.0.2"]]})
    peer = leads_to("/there")
    with pytest.raises(AddressBlocked):
        await fetch(url_of(peer, host="rebinds.example"), client=make_client(names))
    assert names.asked == ["rebinds.example"] * 2
    await peer.outcome


@pytest.mark.promise("s3-links-are-checked")
async def test_a_trusted_url_may_lead_to_any_address_and_what_it_redirects_to_may_not() -> None:
    client = make_client(allowlist=())
    peer = Peer(says(OK + b"\r\nbody"))
    (await client.get(url_of(peer), LIMITS, is_trusted=True)).close()
    await peer.outcome
    for location in ("/there", "http://127.0.0.1:8080/"):
        peer = leads_to(location)
        with pytest.raises(AddressBlocked):
            await client.get(url_of(peer), LIMITS, is_trusted=True)
        await peer.outcome
    with pytest.raises(AddressBlocked):
        await client.get(url_of(peer), LIMITS)


@pytest.mark.parametrize("location", ["ftp://a/", "http://u:p@a/", "//127.1/", "\\\\a"])
async def test_a_redirect_to_an_invalid_url_is_refused(location: str) -> None:
    peer = leads_to(location)
    with pytest.raises(DownloadFailed) as raised:
        await fetch(url_of(peer))
    assert "it redirects to an invalid URL" in raised.value.detail
    await peer.outcome


async def test_a_loop_is_refused() -> None:
    peer = leads_to("/file#again")
    with pytest.raises(TooManyRedirects) as raised:
        await fetch(url_of(peer))
    assert "lead back" in raised.value.detail
    await peer.outcome


@pytest.mark.parametrize("most", [0, 1])
async def test_redirects_are_counted(most: int) -> None:
    last = leads_to("http://127.0.0.1:1/never")
    first = leads_to(url_of(last))
    limits = attrs.evolve(LIMITS, redirects=most)
    with pytest.raises(TooManyRedirects):
        await fetch(url_of(first) if most else url_of(last), limits)
    if not most:
        with pytest.raises(TooManyRedirects):
            await fetch(url_of(first), limits)
    await first.outcome
    await last.outcome
