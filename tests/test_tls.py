"""The certificate files, good and bad. How they serve is shown in tests/daemon."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from wingsd.errors import ConfigError
from wingsd.tls import ServerCertificate


@pytest.fixture
def pem(tmp_path: Path) -> tuple[Path, Path]:
    issued = trustme.CA().issue_cert("127.0.0.1")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return cert, key


def test_good_files_are_taken(pem: tuple[Path, Path]) -> None:
    ServerCertificate(*map(str, pem))


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("content", [None, b"", b"not a PEM file"])
def test_a_bad_file_is_named(pem: tuple[Path, Path], which: int, content: bytes | None) -> None:
    bad = pem[which]
    bad.unlink() if content is None else bad.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        ServerCertificate(*map(str, pem))
    assert str(bad) in str(caught.value)
    assert ("api.ssl.cert", "api.ssl.key")[which] in str(caught.value)


def test_a_key_of_another_certificate_is_refused(pem: tuple[Path, Path]) -> None:
    pem[1].write_bytes(trustme.CA().issue_cert("x").private_key_pem.bytes())
    with pytest.raises(ConfigError, match=r"api\.ssl\.key: .*mismatch"):
        ServerCertificate(*map(str, pem))


def test_a_key_with_a_passphrase_is_refused_and_nobody_asked(pem: tuple[Path, Path]) -> None:
    key = load_pem_private_key(pem[1].read_bytes(), None)
    secret = BestAvailableEncryption(b"secret")
    pem[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret))
    with pytest.raises(ConfigError, match=r"api\.ssl\.key: .*passphrase"):
        ServerCertificate(*map(str, pem))


def test_a_bad_file_at_reload_leaves_the_certificate_in_use(pem: tuple[Path, Path]) -> None:
    certificate = ServerCertificate(*map(str, pem))
    before = certificate._context
    pem[0].write_bytes(b"")
    with pytest.raises(ConfigError):
        certificate.reload()
    assert certificate._context is before
