"""What a Panel's settings become in the operator's file."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trustme

from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL, Config, load
from wingsd.config_file import updates
from wingsd.config_file.editing import replace_file
from wingsd.config_file.updates import NodeSettings, Saved, save, taken_over, values
from wingsd.errors import Conflict, SettingsNotSaved, Unprocessable, WingsdError
from wingsd.util.serialization import structure, unknown_keys

FILE = """\
# Our node in Falkenstein.
debug: false
uuid: 12345678-1234-4234-8234-123456789abc
token_id: aaaaaaaaaaaaaaaa   # public
token: "old-t0k3n"
api:
  port: 8080
  # Behind a proxy.
  ssl: {enabled: false, cert: /root/own.crt, key: /root/own.key}
system:
  # On the fast disks.
  data: /srv/servers
remote: https://panel.example.com
allowed_mounts:
- /srv/maps   # read-only
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "config.yml"
    made.write_text(FILE)
    made.chmod(0o644)
    return made


def saved(path: Path, **settings: Any) -> Saved:
    return save(str(path), structure(settings, NodeSettings), unknown_keys(settings, NodeSettings))


def config_of(path: Path) -> Config:
    return load(str(path))[0]


def refusal(path: Path, kind: type[WingsdError], **settings: Any) -> str:
    """Return the reason for which settings are refused, and see that nothing has changed."""
    before = path.read_bytes()
    with pytest.raises(kind) as caught:
        saved(path, **settings)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]
    return caught.value.detail


def test_values_change_and_comments_and_order_stay(path: Path) -> None:
    result = saved(
        path,
        debug=True,
        token_id="bbbbbbbbbbbbbbbb",
        token="new-t0k3n",
        api={"port": 8080, "upload_limit": 256},
        system={"data": "/srv/servers", "sftp": {"bind_port": 2222}},
        allowed_mounts=["/srv/maps", "/srv/music"],
        remote="https://other.example.com",
    )
    assert result.left_out == ()
    assert set(result.changed) == {
        "debug",
        "token_id",
        "token",
        "api.upload_limit",
        "system.sftp.bind_port",
        "allowed_mounts",
        "remote",
    }
    text = path.read_text()
    assert text == (
        FILE.replace("debug: false", "debug: true")
        .replace("aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb")
        .replace("old-t0k3n", "new-t0k3n")
        .replace(", key: /root/own.key}\n", ", key: /root/own.key}\n  upload_limit: 256\n")
        .replace("data: /srv/servers\n", "data: /srv/servers\n  sftp:\n    bind_port: 2222\n")
        .replace("panel.example.com", "other.example.com")
        .replace("- /srv/maps   # read-only\n", "- /srv/maps\n- /srv/music\n")
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert saved(path, debug=True, api={"upload_limit": 256}) == Saved()


def test_settings_as_they_are_leave_the_file_untouched(path: Path) -> None:
    before = path.stat()
    assert saved(path, debug=False, api={"port": 8080, "ssl": {"enabled": False}}) == Saved()
    after = path.stat()  # but for the time of access: it was read
    assert (after.st_ino, after.st_ctime_ns) == (before.st_ino, before.st_ctime_ns)


@pytest.mark.promise("node-token-does-not-open-the-machine")
def test_directories_and_other_keys_are_left_out_by_name(path: Path) -> None:
    result = saved(
        path,
        debug=True,
        system={"data": "/", "root_directory": "/", "log_directory": "/etc", "username": "root"},
        docker={"socket": "unix:///tmp/evil.sock"},
        control={"socket": "/tmp/s"},
        app_name="Elsewhere",
    )
    assert result.changed == ("debug",)
    assert set(result.left_out) == {
        "system.data",
        "system.root_directory",
        "system.log_directory",
        "system.username",
        "docker",
        "control",
        "app_name",
    }
    assert config_of(path) == attrs.evolve(load_text(path, FILE), debug=True)


def load_text(path: Path, text: str) -> Config:
    other = path.with_name("other.yml")
    other.write_text(text)
    found = config_of(other)
    other.unlink()
    return found


def test_calagopus_nodes_take_over_their_own_keys(path: Path) -> None:
    path.write_text(FILE + "app_name: Calagopus\n")
    result = saved(
        path,
        app_name="Our games",
        allowed_origins=["https://status.example.com"],
        allow_cors_private_network=True,
        token="new-t0k3n",
        remote="https://other.example.com",
    )
    assert set(result.left_out) == {"token", "remote"}
    config = config_of(path)
    assert (config.app_name, config.token) == ("Our games", "old-t0k3n")
    assert config.allowed_origins == ("https://status.example.com",)
    # The name was the only trace of the family.
    assert config.family == CALAGOPUS


def test_an_operator_can_refuse_all(path: Path) -> None:
    path.write_text(FILE + "ignore_panel_config_updates: true\n")
    before = path.read_bytes()
    assert saved(path, token="new-t0k3n") == Saved(is_ignored=True)
    assert path.read_bytes() == before


@pytest.mark.promise("node-token-does-not-open-the-machine")
@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"token": ""}, "token: "),
        ({"token_id": ""}, "token_id: "),
        ({"remote": "panel.example.com"}, "remote: "),
        ({"remote": "https://"}, "remote: "),
        ({"remote": "https://panel.example.com:99999"}, "remote: "),
        ({"remote": "https://panel.example.com\0"}, "remote: "),
        ({"remote": "https://panel.example.com/ x"}, "remote: "),
        ({"remote": f"https://{'a' * 3000}"}, "remote: "),
        ({"api": {"port": 0}}, "api.port: "),
        ({"api": {"port": 40000, "host": "a\0b"}}, "api.port: cannot listen at "),
        ({"api": {"port": 65536}}, "api.port: "),
        ({"token": "file:///etc/shadow"}, "token: "),
        ({"token_id": "$HOME"}, "token_id: "),
        ({"api": {"ssl": {"enabled": True}}}, "api.ssl.cert: /root/own.crt"),
        (
            {"api": {"ssl": {"enabled": True, "cert": "/none.crt", "key": "/none.key"}}},
            "api.ssl.cert: /none.crt",
        ),
        (
            {"api": {"ssl": {"enabled": True, "cert": "/dev/zero", "key": "/dev/zero"}}},
            "api.ssl.cert: /dev/zero cannot be used: it is not a regular file",
        ),
    ],
)
def test_an_invalid_value_changes_nothing(
    path: Path, settings: dict[str, Any], named: str
) -> None:
    assert named in refusal(path, Unprocessable, debug=True, **settings)


def test_a_port_in_use_changes_nothing(path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        detail = refusal(path, Unprocessable, api={"host": "127.0.0.1", "port": port})
    assert detail == (f"api.port: cannot listen at 127.0.0.1 port {port}: another program uses it")


@pytest.mark.promise("saved-settings-are-in-force")
def test_a_certificate_is_checked_before_it_is_saved(path: Path, tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("node.example.com")
    other = authority.issue_cert("node.example.com")
    certificates = tmp_path.parent / f"{tmp_path.name}-certificates"
    certificates.mkdir()
    cert, key, wrong = (str(certificates / name) for name in ("cert", "key", "wrong"))
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    other.private_key_pem.write_to_path(wrong)
    ssl = {"enabled": True, "cert": cert}
    assert "api.ssl.key" in refusal(path, Unprocessable, api={"ssl": {**ssl, "key": wrong}})
    saved(path, api={"ssl": {**ssl, "key": key}})
    assert config_of(path).api.ssl.cert == cert
    # The Panel's usual paths do not replace the node's own.
    live = "/etc/letsencrypt/live/node.example.com/"
    usual = {"cert": f"{live}fullchain.pem", "key": f"{live}privkey.pem"}
    assert saved(path, api={"ssl": {"enabled": True, **usual}}) == Saved()


def test_the_panels_usual_certificate_is_used_where_the_node_has_none(path: Path) -> None:
    path.write_text(FILE.replace(", cert: /root/own.crt, key: /root/own.key", ""))
    cert = "/etc/letsencrypt/live/node.example.com/fullchain.pem"
    saved(path, api={"ssl": {"enabled": False, "cert": cert, "key": "/k.pem"}})
    assert config_of(path).api.ssl.cert == cert


def test_a_token_from_elsewhere_is_not_replaced(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path.parent / f"{tmp_path.name}-token"
    secret.write_text("old-t0k3n\n")
    path.write_text(FILE.replace('"old-t0k3n"', f"file://{secret}"))
    assert saved(path, debug=True, token="old-t0k3n").changed == ("debug",)
    assert f"file://{secret}" in refusal(path, Conflict, token="new-t0k3n")
    path.write_text(FILE)
    monkeypatch.setenv("WINGS_TOKEN", "old-t0k3n")
    assert "WINGS_TOKEN" in refusal(path, Conflict, token="new-t0k3n")


def test_a_symlink_stays_and_its_target_is_written(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere" / "node.yml"
    target.parent.mkdir()
    path.rename(target)
    path.symlink_to(target)
    saved(path, debug=True)
    assert path.is_symlink()
    assert config_of(target).debug
    assert os.listdir(target.parent) == ["node.yml"]


@pytest.mark.parametrize(
    "text",
    ["token: [", FILE.replace("8080", "none"), "", FILE + "---\n" + FILE],
    ids=["no YAML", "an invalid value", "empty", "two documents"],
)
def test_a_file_that_is_invalid_itself_is_not_changed(path: Path, text: str) -> None:
    path.write_text(text)
    assert str(path) in refusal(path, SettingsNotSaved, debug=True)


def test_a_value_in_two_places_is_not_changed(path: Path) -> None:
    path.write_text(FILE.replace("ssl: {", "ssl: &tls {") + "throttles: *tls\n")
    detail = refusal(path, SettingsNotSaved, api={"ssl": {"enabled": True}})
    assert "api.ssl.enabled, throttles.enabled" in detail


@pytest.mark.promise("saved-settings-are-in-force")
def test_a_file_that_changes_meanwhile_is_read_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meanwhile: list[Callable[[], object]] = [
        lambda: path.write_text(FILE + "app_name: Another\n"),
        lambda: None,
    ]

    def replace(*args: Any, **options: Any) -> None:
        meanwhile.pop(0)()
        replace_file(*args, **options)

    monkeypatch.setattr(updates, "replace_file", replace)
    saved(path, debug=True)
    config = config_of(path)
    assert (config.debug, config.app_name) == (True, "Another")


def test_a_file_that_always_changes_is_left_alone(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = iter(range(9))

    def replace(*args: Any, **options: Any) -> None:
        path.write_text(f"{FILE}# {next(changes)}\n")
        replace_file(*args, **options)

    monkeypatch.setattr(updates, "replace_file", replace)
    with pytest.raises(SettingsNotSaved):
        saved(path, debug=True)
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.promise("saved-settings-are-in-force")
def test_an_error_of_the_disk_leaves_the_old_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wingsd.config_file.editing.os.fsync", fail)
    assert "disk is full" in refusal(path, SettingsNotSaved, token="new-t0k3n")


@pytest.mark.parametrize("family", [PTERODACTYL, PELICAN, CALAGOPUS])
def test_only_keys_that_are_described_are_taken_over(family: str) -> None:
    full = structure(
        {
            "uuid": "u",
            "token_id": "i",
            "token": "t",
            "remote": "r",
            "debug": True,
            "app_name": "a",
            "api": {
                "host": "h",
                "port": 1,
                "ssl": {"enabled": True, "cert": "c", "key": "k"},
                "upload_limit": 1,
            },
            "system": {"sftp": {"bind_address": "a", "bind_port": 1}},
            "allowed_mounts": [],
            "allowed_origins": [],
            "allow_cors_private_network": True,
            "ignore_panel_config_updates": True,
        },
        NodeSettings,
    )
    described = {key for key, _ in values(full)}
    assert taken_over(family) <= described
    assert described == taken_over(PTERODACTYL) | taken_over(CALAGOPUS)
