"""A reload of the configuration: what changes at once, and what is logged of the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.logged_errors import Logged
from wingsd.app.reload import Reload, with_system_user
from wingsd.config import Config, LiveConfig, Ssl, load
from wingsd.errors import ConfigError

SECRET = "s3cr3t-t0k3n-of-this-n0d3"
USUAL: dict[str, Any] = {
    "token_id": "id",
    "token": SECRET,
    "remote": "https://panel.example.com",
    "api": {"ssl": {"enabled": True, "cert": "/a.crt", "key": "/a.key"}},
}


class Harness:
    """A configuration file, and what is made of it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "config.yml"
        self.write()
        self.read: list[Ssl] = []
        self.followed: list[Config] = []
        self.fault: ConfigError | None = None
        self.uses_tls = True
        self.live = LiveConfig(with_system_user(load(str(self.path))[0]), str(self.path))
        self.live.follow(self.followed.append)
        self.reload = Reload(self.live, self.renew)

    def write(self, **changes: Any) -> None:
        self.path.write_text(yaml.safe_dump(USUAL | changes))

    def renew(self, ssl: Ssl) -> bool:
        if self.fault is not None:
            raise self.fault
        self.read.append(ssl)
        return self.uses_tls


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    return Harness(tmp_path)


def lines(logged: Logged, text: str) -> list[str]:
    return [line for line in logged.lines if text in line]


def test_the_certificate_is_read_from_its_new_path(harness: Harness, logged: Logged) -> None:
    harness.write(api={"ssl": {"enabled": True, "cert": "/b.crt", "key": "/b.key"}}, debug=True)
    harness.reload()
    assert harness.read == [Ssl(True, "/b.crt", "/b.key")]
    assert [config.debug for config in harness.followed] == [True]
    assert lines(logged, "certificate reloaded")
    assert lines(logged, f"configuration reloaded: {harness.path}")
    assert not lines(logged, "need a restart")


def test_what_needs_a_new_start_is_named_and_not_shown(harness: Harness, logged: Logged) -> None:
    harness.write(
        uuid="8a1c2b3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d",
        system={"data": "/elsewhere-s3cr3t"},
        docker={"enabled": False},
    )
    for _ in range(2):
        harness.reload()
    first, second = lines(logged, "changes that need a restart")
    # It does not become true by being read twice.
    assert first == second
    assert first.endswith("a restart: uuid, system.data, docker.enabled")
    assert not [line for line in logged.lines if "s3cr3t" in line or "/elsewhere" in line]


def test_tls_is_neither_begun_nor_ended(harness: Harness, logged: Logged) -> None:
    harness.write(api={"ssl": {"enabled": False}})
    harness.reload()
    assert lines(logged, "need a restart")[0].endswith("a restart: api.ssl.enabled")
    # The node goes on with the certificate that it has, and that may be renewed.
    assert harness.read == [Ssl(True, "/a.crt", "/a.key")]


@pytest.mark.parametrize("text", ["token: [", "token_id: id", None])
def test_with_a_file_that_is_no_good_the_certificate_is_still_renewed(
    harness: Harness, logged: Logged, text: str | None
) -> None:
    harness.path.unlink() if text is None else harness.path.write_text(text)
    harness.reload()
    (line,) = lines(logged, "configuration not reloaded")
    assert str(harness.path) in line
    assert harness.followed == []
    assert harness.read == [Ssl(True, "/a.crt", "/a.key")]


def test_a_bad_certificate_is_not_the_next_reloads_base(harness: Harness, logged: Logged) -> None:
    harness.fault = ConfigError("api.ssl.cert: /b.crt cannot be used")
    harness.write(api={"ssl": {"enabled": True, "cert": "/b.crt", "key": "/b.key"}})
    harness.reload()
    assert lines(logged, "certificate not reloaded: api.ssl.cert: /b.crt")
    harness.fault = None
    harness.path.unlink()
    harness.reload()
    assert harness.read == [Ssl(True, "/a.crt", "/a.key")]


def test_a_node_without_tls_logs_no_certificate(harness: Harness, logged: Logged) -> None:
    harness.uses_tls = False
    harness.reload()
    assert not lines(logged, "certificate")


def test_the_panels_keys_are_in_force_at_once(harness: Harness, logged: Logged) -> None:
    keys = {
        "token_id": "another",
        "token": "another-s3cr3t",
        "remote": "https://other.example.com",
        "allowed_mounts": ["/srv/shared"],
        "allowed_origins": ["https://status.example.com"],
    }
    harness.write(**keys)
    harness.reload()
    (config,) = harness.followed
    assert (config.token_id, config.token, config.remote) == tuple(keys.values())[:3]
    assert config.allowed_mounts == ("/srv/shared",)
    assert config.allows_origin("https://status.example.com")
    assert harness.live.current is config
    assert not lines(logged, "need a restart")
    harness.reload()
    assert harness.followed == [config]  # nothing has changed since
