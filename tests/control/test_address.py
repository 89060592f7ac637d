"""By which address other nodes reach this one."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import trustme

from wingsd.config import ApiConfig, Config, Ssl
from wingsd.control import reachable_at


def config(api: ApiConfig) -> Config:
    return Config(token_id="id", token="secret", remote="https://panel.invalid", api=api)


def certified(directory: Path, *names: str) -> ApiConfig:
    """Return a node with a certificate for those names."""
    path = directory / "cert.pem"
    issued = trustme.CA().issue_cert(*names)
    path.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    return ApiConfig(ssl=Ssl(True, str(path), str(path)))


def test_what_is_configured_is_certain() -> None:
    api = ApiConfig(public_url="https://node.example.com:8080/")
    found = reachable_at(config(api), "https://0.0.0.0:8080")
    assert found == ("https://node.example.com:8080", True)


@pytest.mark.parametrize(
    ("names", "host"),
    [
        (("node.example.com", "other.example.com"), "node.example.com"),
        (("*.example.com", "node.example.net"), "node.example.net"),
        (("203.0.113.5",), "203.0.113.5"),
        (("2001:db8::5",), "[2001:db8::5]"),
    ],
)
def test_a_certificate_has_the_name(tmp_path: Path, names: tuple[str, ...], host: str) -> None:
    api = certified(tmp_path, *names)
    assert reachable_at(config(api), "https://0.0.0.0:1234") == (f"https://{host}:1234", False)


def test_without_a_certificate_the_listening_address_is_a_guess() -> None:
    found = reachable_at(config(ApiConfig()), "http://192.0.2.7:8080")
    assert found == ("http://192.0.2.7:8080", False)


@pytest.mark.parametrize("listens", ["http://0.0.0.0:81", "http://[::]:81"])
def test_a_wildcard_address_is_replaced_by_the_host_name(listens: str) -> None:
    assert reachable_at(config(ApiConfig()), listens) == (f"http://{platform.node()}:81", False)


@pytest.mark.parametrize("content", ["", "nonsense"])
def test_an_invalid_certificate_is_ignored(tmp_path: Path, content: str) -> None:
    path = tmp_path / "cert.pem"
    path.write_text(content)
    api = ApiConfig(ssl=Ssl(True, str(path), str(path)))
    assert reachable_at(config(api), "https://127.0.0.1:81") == ("https://127.0.0.1:81", False)
