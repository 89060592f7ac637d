"""`wingsctl check-config`: whether the daemon could start with a configuration."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import trustme
import yaml

from tests.cli.daemon import Command
from tests.support.node_process import free_port
from wingsd.cli.client import Exit

EXAMPLE = Path(__file__).parent.parent.parent / "etc" / "wingsd.example.yml"


@pytest.fixture
def good(tmp_path: Path) -> dict[str, Any]:
    """A configuration that a daemon can start with."""
    pem = tmp_path / "node.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(pem))
    return {
        "token_id": "a",
        "token": "b",
        "remote": "https://panel.invalid",
        "api": {
            "host": "127.0.0.1",
            "port": free_port(),
            "ssl": {"enabled": True, "cert": str(pem), "key": str(pem)},
        },
        "docker": {"enabled": False},
        "system": directories(tmp_path),
    }


def directories(place: Path) -> dict[str, str]:
    return {
        "root_directory": str(place),
        "data": str(place / "volumes"),
        "backup_directory": str(place / "backups"),
    }


@pytest.fixture
def check(tmp_path: Path, wingsctl: Command) -> Any:
    """Write a configuration and check it; return how that ended, and what was found."""

    def run(configuration: dict[str, Any], *options: str) -> tuple[int, Any]:
        path = tmp_path / "config.yml"
        path.write_text(yaml.safe_dump(configuration))
        ran = wingsctl("check-config", str(path), "--json", *options)
        return ran.status, ran.json

    return run


def test_a_good_one_can_be_used(check: Any, good: dict[str, Any], tmp_path: Path) -> None:
    path = str(tmp_path / "config.yml")
    found = {"file": path, "usable": True, "errors": [], "warnings": [], "notes": []}
    assert check(good) == (0, found)


def test_people_read_it_in_lines(good: dict[str, Any], tmp_path: Path, wingsctl: Command) -> None:
    path = tmp_path / "config.yml"
    path.write_text(yaml.safe_dump(good | {"remote": "panel", "sytem": {}}))
    ran = wingsctl("check-config", str(path))
    assert ran.status == Exit.FAILED
    assert "error: remote: expected an http:// or https:// address, found 'panel'\n" in ran.out
    assert ran.out.endswith(f"{path}: invalid\n")
    assert ran.out.count("invalid") == 1


def test_a_directory_of_histories_that_cannot_serve_is_named(
    check: Any, good: dict[str, Any], tmp_path: Path
) -> None:
    place = tmp_path / "history"
    history = {"every": "5m", "directory": str(place)}
    good["system"] |= {"data": str(tmp_path), "history": history}
    assert check(good)[0] == Exit.FAILED  # it is below the servers'
    (tmp_path / "volumes").mkdir()
    good["system"]["data"] = str(tmp_path / "volumes")
    for expected in ("does not exist, and no points are made", "is on the file system of"):
        status, found = check(good)
        (warning,) = found["warnings"]
        assert (status, expected in warning) == (0, True)
        place.mkdir(exist_ok=True)
    place.rmdir()
    place.symlink_to(place)
    assert "cannot be used, and no points" in check(good)[1]["warnings"][0]


def test_unknown_keys_are_named(check: Any, good: dict[str, Any]) -> None:
    good["system"] |= {"transfers": {"donwload_limit": 5}}
    status, found = check(good)
    assert (status, found["usable"]) == (0, True)
    told = "system.transfers.donwload_limit: unknown key, ignored"
    assert found["warnings"] == [told]
    status, found = check(good, "--strict")
    assert (status, found["usable"]) == (Exit.FAILED, False)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"token": ""}, "token: must not be empty"),
        ({"api": {"port": 0}}, "api.port: expected a port from 1 to 65535, found 0"),
        ({"api": {"ssl": {"enabled": True, "cert": "/no", "key": "/no"}}}, "api.ssl.cert: /no"),
        ({"system": {"transfers": {"ca_file": "/no"}}}, "system.transfers.ca_file: /no"),
        ({"control": {"socket": "here"}}, "control.socket: expected an absolute path"),
        ({"api": {"host": "192.0.2.1"}}, "api.host and api.port: 192.0.2.1 port 8080: cannot"),
        ({"api": {"host": "no such name"}}, "cannot listen"),
    ],
)
def test_what_keeps_it_from_starting_is_named(
    check: Any, good: dict[str, Any], change: dict[str, Any], says: str
) -> None:
    status, found = check(good | change)
    assert (status, found["usable"]) == (Exit.FAILED, False)
    assert says in "\n".join(found["errors"])


@pytest.fixture
def street() -> Iterator[Path]:
    """A directory that everybody may look into, as /etc is, and into all that it is in."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.parametrize(
    ("mode", "around", "warns"),
    [
        (0o644, 0o755, True),
        (0o602, 0o755, True),
        (0o640, 0o755, False),
        (0o600, 0o755, False),
        (0o644, 0o750, False),
    ],
)
def test_one_that_everybody_can_read_is_complained_of(
    good: dict[str, Any], street: Path, wingsctl: Command, mode: int, around: int, warns: bool
) -> None:
    path = street / "config.yml"
    path.write_text(yaml.safe_dump(good))
    path.chmod(mode)
    street.chmod(around)
    link = street / "link.yml"
    link.symlink_to(path)
    found = wingsctl("check-config", str(link), "--json").json
    told = f"{link} contains the node's token and is accessible to every user"
    assert [line.startswith(told) for line in found["warnings"]] == [True] * warns
    assert found["usable"]


def test_a_file_that_is_not_there(wingsctl: Command, tmp_path: Path) -> None:
    ran = wingsctl("check-config", str(tmp_path / "no.yml"))
    assert ran.status == Exit.FAILED
    assert "error: there is no" in ran.out


def test_one_that_this_user_may_not_read(
    wingsctl: Command, good: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.yml"
    path.write_text(yaml.safe_dump(good))
    monkeypatch.setattr(os, "access", Mock(return_value=False))
    monkeypatch.setattr(Path, "read_text", Mock(side_effect=PermissionError(13, "denied")))
    ran = wingsctl("check-config", str(path))
    assert ran.status == Exit.FAILED
    assert f"error: {path} cannot be read: denied\n" in ran.out


@pytest.mark.parametrize("key", ["root_directory", "data", "backup_directory"])
def test_a_directory_that_is_a_file(
    check: Any, good: dict[str, Any], tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    good["system"][key] = str(tmp_path / "file" / "x")
    told = f"system.{key} ({tmp_path}/file/x): this user can create nothing there: "
    told += f"{tmp_path}/file is not a directory"
    for user, kind in ((0, "errors"), (1000, "warnings")):
        monkeypatch.setattr(os, "geteuid", Mock(return_value=user))
        found = check(good)[1]
        assert found["warnings" if key == "backup_directory" else kind] == [told]


def test_a_key_of_another_certificate(check: Any, good: dict[str, Any], tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_pem.write_to_path(str(other))
    good["api"]["ssl"]["key"] = str(other)
    status, found = check(good)
    assert status == Exit.FAILED
    refused = f"api.ssl.key: {other} cannot be used: it is not the key of the certificate"
    assert found["errors"] == [refused]


@pytest.mark.parametrize(("days", "word"), [(-1, "has expired"), (5, "expires")])
def test_a_certificate_that_ends_soon_is_named(
    check: Any, good: dict[str, Any], days: int, word: str
) -> None:
    pem = good["api"]["ssl"]["cert"]
    until = datetime.now(UTC) + timedelta(days=days)
    since = until - timedelta(days=90)
    issued = trustme.CA().issue_cert("127.0.0.1", not_before=since, not_after=until)
    issued.private_key_and_cert_chain_pem.write_to_path(pem)
    status, found = check(good)
    assert status == 0
    assert f"{pem} {word} on {until:%Y-%m-%d}" in found["warnings"][0]


def test_a_port_that_is_taken_may_be_the_daemons_own(check: Any, good: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        good["api"]["port"] = taken.getsockname()[1]
        status, found = check(good)
    assert status == 0
    assert "is in use, by a running wingsd" in found["warnings"][0]


def test_a_port_that_only_root_may_have(
    check: Any, good: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        socket, "create_server", Mock(side_effect=PermissionError(13, "Permission denied"))
    )
    status, found = check(good)
    assert status == 0
    assert "CAP_NET_BIND_SERVICE" in found["warnings"][0]


def test_the_example_has_no_key_that_is_not_known(wingsctl: Command) -> None:
    found = wingsctl("check-config", str(EXAMPLE), "--json").json
    assert not [line for line in found["warnings"] if "not a key" in line]
    # Its certificate is nobody's.
    assert all("letsencrypt" in line for line in found["errors"])
