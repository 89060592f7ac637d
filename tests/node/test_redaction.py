"""What is taken out of text for other people."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from tests.support.harness import node_config
from wingsd.config import ApiConfig, Config, DockerConfig, Registry
from wingsd.node.redaction import REDACTED, Redaction, settings

CONFIG = {
    "token_id": "public-id",
    "token": "the-secret-token",
    "remote": "https://panel.example.com:8443/base",
    "remote_headers": {"X-Proxy": "header-value"},
    "api": {"host": "203.0.113.7", "ssl": {"key": "/etc/ssl/node.pem"}},
    "docker": {"registries": {"ghcr.io": {"username": "someone", "password": "hunter2hunter2"}}},
    "system": {"passwd": {"enabled": True, "directory": "/run/wings/etc"}},
    "later": {"s3_secret_key": "added-in-a-year"},
}
SECRETS = ("the-secret-token", "header-value", "hunter2hunter2", "added-in-a-year")


def shown(config: dict[str, Any], *, endpoints: bool) -> dict[str, Any]:
    redaction = Redaction(config, endpoints=endpoints)
    return {path: redaction.value(path, value) for path, value in settings(config)}


@pytest.mark.promise("secrets-are-not-shown")
@pytest.mark.parametrize("endpoints", [False, True])
def test_a_secret_is_one_by_its_key(endpoints: bool) -> None:
    values = shown(CONFIG, endpoints=endpoints)
    assert not set(SECRETS) & set(map(str, values.values()))
    assert values["token"] == values["later.s3_secret_key"] == REDACTED
    assert values["token_id"] == "public-id"
    assert values["system.passwd.directory"] == "/run/wings/etc"


def test_endpoints_are_shown_only_where_they_are_asked_for() -> None:
    names = ("remote", "api.host", "api.ssl.key")
    assert {shown(CONFIG, endpoints=False)[name] for name in names} == {REDACTED}
    assert shown(CONFIG, endpoints=True)["remote"] == CONFIG["remote"]
    hidden = Redaction(CONFIG, endpoints=False)
    assert hidden.name("docker.registries.ghcr.io.username") == (
        "docker.registries.{redacted}.username"
    )


@pytest.mark.promise("secrets-are-not-shown")
@pytest.mark.parametrize("endpoints", [False, True])
@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("it sent the-secret-token to us", "the-secret-token"),
        ("Authorization: Bearer abc.def-1234", "abc.def"),
        ("GET /download/file?token=abcdef&x=1", "abcdef"),
        ('{"password": "hunter3"}', "hunter3"),
        ("jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln done", "eyJ"),
        ("https://user:pa55@registry.example/v2", "pa55"),
        ("PUT https://s3/x?X-Amz-Signature=0f0f0f", "0f0f0f"),
    ],
)
def test_secrets_in_the_log_are_taken_out(text: str, secret: str, endpoints: bool) -> None:
    told = Redaction(CONFIG, endpoints=endpoints).text(text)
    assert secret not in told
    assert REDACTED in told


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("the Panel at https://panel.example.com:8443/base answers", "panel.example.com"),
        ("panel.example.com is not found", "panel.example.com"),
        ("192.0.2.1:5000: GET /api/system", "192.0.2.1"),
        ("2001:db8::17 closed", "2001:db8"),
        ("http://[2001:db8::17]:80/x", "2001:db8"),
    ],
)
def test_hosts_in_the_log_are_taken_out_unless_asked_for(text: str, host: str) -> None:
    assert host not in Redaction(CONFIG, endpoints=False).text(text)
    assert host in Redaction(CONFIG, endpoints=True).text(text)


def test_ordinary_lines_stay_as_they_are() -> None:
    line = "2026-11-27T09:02:27+0000 node wingsd[17]: 8d2f5a14: transfer failed: the disk is full"
    assert Redaction(CONFIG, endpoints=False).text(line) == line


def test_a_tree_has_its_keys_and_no_secrets() -> None:
    tree = Redaction(CONFIG, endpoints=True).tree(CONFIG)
    assert tree["docker"]["registries"]["ghcr.io"] == {"username": "someone", "password": ""}
    assert tree["token"] == ""
    assert tree["api"] == CONFIG["api"]


def test_every_secret_of_the_configuration_is_known(tmp_path: Any) -> None:
    registries = {"ghcr.io": Registry("someone", "registry-password")}
    config: Config = node_config(
        tmp_path,
        token="node-token-secret",
        docker=DockerConfig(registries=registries),
        api=ApiConfig(public_url="https://node.example.com"),
    )
    values = shown(attrs.asdict(config), endpoints=True)
    hidden = {path for path, value in values.items() if value == REDACTED}
    assert hidden == {"token", "docker.registries.ghcr.io.password"}
