"""The headers that every answer of the node's interface has."""

from __future__ import annotations

import json

import pytest

from tests.http.talk import REFUSAL, Conversation, Taker, head
from wingsd import __version__
from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL, Config
from wingsd.http import request as request_module
from wingsd.http.site import NodeSite, NotFound

PANEL = "https://panel.example.com"
EVERY_KIND = [
    (head("/nothing", method="GET"), 404),
    (head("/nothing", method="OPTIONS"), 404),
    (head(Content_Length=1000), 401),
    (head("/whole", Content_Length=2) + b"ab", 200),
    (head("/whole", Content_Length=2, Authorization="wrong"), 401),
    (head("/whole", Content_Length=request_module.MAX_STORED_BODY + 1), 413),
    (head("/whole", X="y" * 20_000), 431),
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"nonsense\r\n\r\n", 400),
]


def config_of(**settings: object) -> Config:
    given = {"token_id": "abc123", "token": "t", "remote": f"{PANEL}/panel/", **settings}
    return Config(**given)  # type: ignore[arg-type]


def headers_for(origin: str, **settings: object) -> dict[str, str]:
    return NodeSite(NotFound(), config=config_of(**settings)).common_headers(origin)


def answer(sent: bytes, **settings: object) -> tuple[int, dict[str, str], bytes]:
    talk = Conversation(Taker(REFUSAL), config=config_of(**settings))
    talk.send(sent)
    return talk.answer


@pytest.mark.promise("version-suits-the-panel")
@pytest.mark.parametrize(
    ("family", "name"),
    [
        (PTERODACTYL, "pterodactyl wings"),
        (PELICAN, "pelican wings"),
        (CALAGOPUS, "calagopus wings"),
    ],
)
@pytest.mark.parametrize(("sent", "status"), EVERY_KIND)
def test_every_answer_names_the_node_as_its_familys_daemon(
    sent: bytes, status: int, family: str, name: str
) -> None:
    found, headers, _ = answer(sent, family=family)
    assert found == status
    assert headers["user-agent"] == f"{name}/v{__version__} (id:abc123)"


@pytest.mark.parametrize(("sent", "status"), EVERY_KIND)
def test_every_answer_may_be_read_by_a_page_of_the_panel(sent: bytes, status: int) -> None:
    found, headers, _ = answer(sent)
    assert found == status
    cors = {name: value for name, value in headers.items() if name.startswith("access-control")}
    assert cors == {
        "access-control-allow-origin": PANEL,
        "access-control-allow-credentials": "true",
        "access-control-allow-methods": "get, post, patch, put, delete, options",
        "access-control-allow-headers": "accept, accept-encoding, authorization, cache-control, "
        "content-type, content-length, origin, x-real-ip, x-csrf-token",
        "access-control-max-age": "7200",
    }


@pytest.mark.parametrize(
    ("sent", "status"), [(sent, status) for sent, status in EVERY_KIND if status >= 400]
)
def test_every_error_has_the_id_of_its_request(sent: bytes, status: int) -> None:
    _, headers, body = answer(sent)
    assert json.loads(body)["request_id"] == headers["x-request-id"]


@pytest.mark.parametrize(
    ("origin", "others", "allowed"),
    [
        ("", (), PANEL),
        (PANEL, (), PANEL),
        ("https://evil.example.com", (), PANEL),
        ("https://evil.example.com", ("https://status.example.com",), PANEL),
        ("https://status.example.com", ("https://status.example.com",), None),
        ("https://any.example.com", ("*",), None),
    ],
)
def test_the_allowed_origin_is_the_panels_or_a_configured_one(
    origin: str, others: tuple[str, ...], allowed: str | None
) -> None:
    headers = headers_for(origin, allowed_origins=others)
    assert headers["Access-Control-Allow-Origin"] == (allowed or origin)


def test_private_networks_are_allowed_only_where_configured() -> None:
    name = "Access-Control-Request-Private-Network"
    assert name not in headers_for(PANEL)
    headers = headers_for(PANEL, allow_cors_private_network=True)
    assert headers[name] == headers["Access-Control-Allow-Private-Network"] == "true"
