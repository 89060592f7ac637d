"""Which web pages may use the node."""

from __future__ import annotations

import pytest

from wingsd.config import Config


def allows(origin: str, *others: str, remote: str = "https://Panel.example.com/panel/") -> bool:
    config = Config(token_id="i", token="t", remote=remote, allowed_origins=others)
    return config.allows_origin(origin)


@pytest.mark.parametrize(
    "origin",
    ["https://panel.example.com", "https://PANEL.example.com", "https://panel.example.com:443"],
)
def test_the_panels_origin_is_allowed(origin: str) -> None:
    assert allows(origin)


@pytest.mark.promise("console-needs-its-origin")
@pytest.mark.parametrize(
    "origin",
    [
        "http://panel.example.com",
        "https://panel.example.com:8443",
        "https://panel.example.com.evil.invalid",
        "https://evil.invalid/panel.example.com",
        "https://panel.example.com:port",
        "https://[",
        "null",
        "",
    ],
)
def test_other_origins_are_refused(origin: str) -> None:
    assert not allows(origin)
    assert not allows(origin, "https://status.example.com")


def test_configured_origins_are_allowed() -> None:
    assert allows("https://status.example.com", "https://status.example.com/")
    assert allows("http://localhost:3000", "https://x.invalid", "http://localhost:3000")
    assert not allows("http://localhost:3001", "http://localhost:3000")


def test_the_port_is_part_of_the_origin() -> None:
    assert allows("http://127.0.0.1:8000", remote="http://127.0.0.1:8000")
    assert not allows("http://127.0.0.1", remote="http://127.0.0.1:8000")


def test_a_star_allows_every_origin() -> None:
    assert allows("https://anything.invalid", "*")
    assert allows("null", "*")
