"""Certificates: by the name in the URL, whatever the address."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from tests.http_client.fetching import OK, Names, fetch, make_client, url_of
from tests.http_client.test_download import says
from tests.transfers.peers import Peer, pem, server_context
from wingsd.errors import DownloadFailed

pytestmark = pytest.mark.promise("url-download-is-public-only")

NOW = datetime.now(UTC)
DAY = timedelta(days=1)


@pytest.fixture
def ca(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """An authority that this process trusts."""
    made = trustme.CA()
    monkeypatch.setenv("SSL_CERT_FILE", str(pem(made, tmp_path / "ca.pem")))
    return made


async def ask(certificate: trustme.LeafCert, host: str, body: bytes = b"body") -> bytes:
    peer = Peer(says(OK + b"Content-Length: 4\r\n\r\n" + body), server_context(certificate))
    names = Names({host: [["127.0.0.1"]]})
    try:
        url = url_of(peer, host=host, scheme="https")
        return (await fetch(url, client=make_client(names))).body
    finally:
        peer.outcome.addErrback(lambda _: None)
        await peer.outcome


@pytest.mark.parametrize("host", ["host.example", "127.0.0.1"])
async def test_a_file_is_received_by_tls(ca: trustme.CA, host: str) -> None:
    assert await ask(ca.issue_cert(host), host) == b"body"


@pytest.mark.parametrize("name", ["other.example", "127.0.0.1"])
async def test_a_certificate_of_another_name_is_refused(ca: trustme.CA, name: str) -> None:
    with pytest.raises(DownloadFailed) as raised:
        await ask(ca.issue_cert(name), "host.example")
    assert raised.value.detail == "the certificate of host.example is for another name"


async def test_an_expired_certificate_is_refused(ca: trustme.CA) -> None:
    old = ca.issue_cert("host.example", not_before=NOW - 9 * DAY, not_after=NOW - DAY)
    with pytest.raises(DownloadFailed) as raised:
        await ask(old, "host.example")
    assert raised.value.detail == "the certificate of host.example has expired"


@pytest.mark.usefixtures("ca")
async def test_a_certificate_of_an_unknown_authority_is_refused() -> None:
    with pytest.raises(DownloadFailed) as raised:
        await ask(trustme.CA().issue_cert("host.example"), "host.example")
    assert "an authority that this node does not trust" in raised.value.detail


@pytest.mark.usefixtures("ca")
async def test_a_server_without_tls_is_told() -> None:
    peer = Peer(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    with pytest.raises(DownloadFailed) as raised:
        await fetch(url_of(peer, scheme="https"))
    assert "TLS could not be set up" in raised.value.detail
    await peer.outcome


async def test_a_redirect_from_https_to_http_is_refused(ca: trustme.CA) -> None:
    head = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    peer = Peer(says(head), server_context(ca.issue_cert("127.0.0.1")))
    with pytest.raises(DownloadFailed) as raised:
        await fetch(url_of(peer, scheme="https"))
    assert "it redirects from https to http" in raised.value.detail
    await peer.outcome


async def test_a_redirect_from_http_to_https_is_followed(ca: trustme.CA) -> None:
    last = Peer(says(OK + b"\r\nbody"), server_context(ca.issue_cert("127.0.0.1")))
    location = url_of(last, scheme="https").encode()
    first = Peer(says(b"HTTP/1.1 301 Moved\r\nLocation: " + location + b"\r\n\r\n"))
    assert (await fetch(url_of(first))).body == b"body"
    await first.outcome
    await last.outcome
