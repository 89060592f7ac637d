"""Which certificates are good, and what is said of those that are not; with real TLS."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import pytest
import trustme
from OpenSSL import SSL
from OpenSSL.crypto import FILETYPE_PEM, load_certificate
from twisted.python.failure import Failure

from tests.support.reactor import reactor
from tests.transfers.peers import Peer, pem, read_head, server_context
from wingsd.errors import DestinationUnreachable
from wingsd.transfers.peer.client import PeerAddress, PeerClient

pytestmark = pytest.mark.promise("destination-is-verified")

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA(organization_name="Acme")


@pytest.fixture
def ca_file(ca: trustme.CA, tmp_path: Path) -> str:
    return str(pem(ca, tmp_path / "ca.pem"))


@pytest.fixture(autouse=True)
def no_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is trusted whom the test does not name, whatever the machine has."""
    (tmp_path / "none.pem").touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))


def heard_nothing(failure: Failure) -> None:
    """A node that is not trusted may fail in any way, but not after it heard something."""
    if not failure.check(OSError):
        assert failure.getErrorMessage().startswith("it ended after b''")


async def ask(
    certificate: trustme.LeafCert, host: str, trust: str, context: ssl.SSLContext | None = None
) -> bytes:
    """Ask a node with that certificate for its features; return what it heard."""
    heard = b""

    def answer(connection: object) -> None:
        nonlocal heard
        assert isinstance(connection, ssl.SSLSocket)
        heard = read_head(connection)
        connection.sendall(b"HTTP/1.1 204 No Content\r\nTransfer-Features: tls\r\n\r\n")
        connection.unwrap()

    peer = Peer(answer, context or server_context(certificate))
    peer.outcome.addErrback(heard_nothing)
    destination = PeerClient(f"https://{host}:{peer.port}/up", "Bearer secret", reactor, trust)
    try:
        assert await destination.features() == {"tls"}
    finally:
        await peer.outcome
    return heard


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_a_private_authority_is_trusted(ca: trustme.CA, ca_file: str, host: str) -> None:
    assert b"secret" in await ask(ca.issue_cert(host), host, ca_file)


async def test_the_systems_authorities_in_a_file_are_trusted(
    ca: trustme.CA, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", ca_file)
    assert await ask(ca.issue_cert("localhost"), "localhost", "")


async def test_the_systems_authorities_in_a_directory_are_trusted(
    ca: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = load_certificate(FILETYPE_PEM, ca.cert_pem.bytes())
    directory = tmp_path / "certs"
    directory.mkdir()
    pem(ca, directory / f"{certificate.subject_name_hash():08x}.0")
    monkeypatch.setenv("SSL_CERT_DIR", str(directory))
    assert await ask(ca.issue_cert("localhost"), "localhost", "")


async def test_a_private_authority_is_trusted_beside_the_systems(
    ca: trustme.CA, ca_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", ca_file)
    other = str(pem(trustme.CA(), tmp_path / "other.pem"))
    assert await ask(ca.issue_cert("localhost"), "localhost", other)


async def test_authorities_are_read_once_for_all_moves_until_they_change(
    ca: trustme.CA, ca_file: str, tmp_path: Path
) -> None:
    def trust() -> SSL.Context | None:
        return PeerAddress("https://localhost:1", reactor, ca_file)._context

    first = trust()
    assert trust() is first
    other = trustme.CA()
    pem(other, tmp_path / "new.pem").rename(ca_file)
    assert trust() is not first
    assert b"secret" in await ask(other.issue_cert("localhost"), "localhost", ca_file)
    assert (
        "does not trust"
        in (await refusal(ca.issue_cert("localhost"), "localhost", ca_file)).detail
    )


async def refusal(
    certificate: trustme.LeafCert, host: str, trust: str, context: ssl.SSLContext | None = None
) -> DestinationUnreachable:
    with pytest.raises(DestinationUnreachable) as caught:
        await ask(certificate, host, trust, context)
    return caught.value


async def test_a_certificate_of_an_unknown_authority_is_refused(ca: trustme.CA) -> None:
    error = await refusal(ca.issue_cert("localhost"), "localhost", "")
    assert error.message == "the destination node's certificate is invalid"
    assert "does not trust" in error.detail
    assert "system.transfers.ca_file" in error.detail
    assert "localhost" in error.detail


async def test_an_expired_certificate_is_refused(ca: trustme.CA, ca_file: str) -> None:
    old = ca.issue_cert("localhost", not_before=NOW - 9 * DAY, not_after=NOW - DAY)
    error = await refusal(old, "localhost", ca_file)
    assert f"expired on {NOW - DAY:%Y-%m-%d}" in error.detail
    assert "renew it on localhost" in error.detail


async def test_a_certificate_of_the_future_is_refused(ca: trustme.CA, ca_file: str) -> None:
    new = ca.issue_cert("localhost", not_before=NOW + DAY, not_after=NOW + 9 * DAY)
    error = await refusal(new, "localhost", ca_file)
    assert "clock" in error.detail


@pytest.mark.parametrize(
    ("host", "names"),
    [
        ("localhost", ["example.com", "*.example.com"]),
        ("localhost", ["127.0.0.1"]),
        ("127.0.0.1", ["localhost"]),
        ("127.0.0.1", ["127.0.0.2"]),
    ],
)
async def test_a_certificate_for_another_name_is_refused(
    ca: trustme.CA, ca_file: str, host: str, names: list[str]
) -> None:
    error = await refusal(ca.issue_cert(*names), host, ca_file)
    assert error.message == "the destination node's certificate is invalid"
    assert f"it is for {', '.join(names)}" in error.detail
    assert f"calls that node {host}" in error.detail


async def test_a_name_in_the_subject_alone_is_refused(ca: trustme.CA, ca_file: str) -> None:
    certificate = ca.issue_cert("alice@example.com", common_name="localhost")
    error = await refusal(certificate, "localhost", ca_file)
    assert "no name at all" in error.detail


@pytest.mark.promise("tls-is-modern")
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
@pytest.mark.parametrize(
    ("least", "most", "ciphers"),
    [
        (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1, "DEFAULT@SECLEVEL=0"),
        (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-SHA256"),
        (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES256-SHA384"),
    ],
)
async def test_tls_before_1_2_and_cbc_are_refused(
    ca: trustme.CA, ca_file: str, least: ssl.TLSVersion, most: ssl.TLSVersion, ciphers: str
) -> None:
    certificate = ca.issue_cert("localhost")
    context = server_context(certificate)
    context.set_ciphers(ciphers)
    context.minimum_version, context.maximum_version = least, most
    error = await refusal(certificate, "localhost", ca_file, context)
    assert "there is no TLS at localhost" in error.detail


async def test_a_destination_with_aead_is_accepted(ca: trustme.CA, ca_file: str) -> None:
    certificate = ca.issue_cert("localhost")
    context = server_context(certificate)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384")
    assert b"secret" in await ask(certificate, "localhost", ca_file, context)


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_file_without_certificates_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DestinationUnreachable) as caught:
        PeerClient("https://localhost/", "Bearer x", reactor, str(path))
    assert f"system.transfers.ca_file: {path} cannot be used" in caught.value.detail
    assert "Errno" not in caught.value.detail
