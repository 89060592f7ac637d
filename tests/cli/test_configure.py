"""`wingsctl configure`: the configuration of a node, from a Panel with TLS."""

from __future__ import annotations

import base64
import json
import ssl
import stat
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any
from unittest.mock import Mock

import pytest
import trustme
import yaml
from click.testing import CliRunner, Result

from wingsd.cli import configure
from wingsd.cli.__main__ import main
from wingsd.config import differences, load

TOKEN = "ptla_t0k3n"
PELICANS_TOKEN = "papp_t0k3n"
#: From before tokens had a prefix.
OLD_TOKEN = "0ldt0k3n"
SECRET = "s3cr3t-of-the-node"
CONFIGURATION: dict[str, Any] = {
    "debug": False,
    "uuid": "12345678-1234-4234-8234-123456789abc",
    "token_id": "abcdefghijklmnop",
    "token": SECRET,
    "api": {
        "host": "127.0.0.1",
        "port": 8080,
        "ssl": {"enabled": False, "cert": "/c.pem", "key": "/k.pem"},
        "upload_limit": 100,
    },
    "system": {"data": "/var/lib/pterodactyl/volumes", "sftp": {"bind_port": 2022}},
    "allowed_mounts": [],
    "remote": "https://panel.example.com",
}


#: What Panels say of a node: of Pterodactyl's and of Pelican's, with much left out.
PTERODACTYLS_NODE = {"id": 7, "location_id": 1, "daemon_base": "/var/lib/pterodactyl/volumes"}
PELICANS_NODE = {"id": 7, "tags": [], "cpu": 0, "daemon_connect": 8080}


class TlsPanel:
    """A Panel that gives `answer` to its tokens for node 7, and says `node` of that."""

    def __init__(self, authority: trustme.CA) -> None:
        self.answer: bytes = json.dumps(CONFIGURATION).encode()
        self.node: object = PTERODACTYLS_NODE
        self.tokens = {TOKEN, PELICANS_TOKEN, OLD_TOKEN}
        self.status = 200
        #: Answers wait for it.
        self.answers = Event()
        self.answers.set()
        panel = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status = panel.status
                answer = panel.answer
                if self.headers["Authorization"].removeprefix("Bearer ") not in panel.tokens:
                    status = 403
                elif self.path == "/api/application/nodes/7":
                    answer = json.dumps({"object": "node", "attributes": panel.node}).encode()
                    status = 500 if panel.node is None else 200
                elif self.path != "/api/application/nodes/7/configuration":
                    status = 404
                panel.answers.wait()
                self.send_response(status)
                self.send_header("Location", "https://elsewhere.example.com/")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TlsPanel]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    made = TlsPanel(authority)
    yield made
    made.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "etc" / "config.yml"


Run = Callable[..., Result]


@pytest.fixture
def run(panel: TlsPanel, path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(configure, "systemd_units", dict)

    def invoke(*options: str, typed: str = "", token: str = TOKEN, node: str = "7") -> Result:
        usual = ["--panel-url", panel.url, "--token", token, "--node", node]
        command = ["configure", "--config-path", str(path), *usual, *options]
        return CliRunner().invoke(main, command, input=typed)

    return invoke


def test_the_panels_command_writes_a_file_for_the_daemon_alone(run: Run, path: Path) -> None:
    result = run()
    assert result.exit_code == 0, result.output
    assert yaml.safe_load(path.read_text()) == CONFIGURATION | {"family": "pterodactyl"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load(str(path))[0].token == SECRET
    assert "Next: start or restart wingsd, then wingsctl status\n" in result.output
    assert SECRET not in result.output
    assert TOKEN not in result.output


def test_a_file_that_exists_keeps_the_operators_part(run: Run, path: Path) -> None:
    path.parent.mkdir()
    path.write_text(
        "# Ours.\n"
        "token_id: old\ntoken: old\nremote: https://old.example.com\n"
        "docker: {socket: unix:///run/other.sock}\n"
    )
    before = path.read_text()
    refused = run(typed="n\n")
    assert refused.exit_code == 1
    assert path.read_text() == before
    assert run(typed="y\n").exit_code == 0
    text = path.read_text()
    assert text.startswith("# Ours.\ntoken_id: abcdefghijklmnop\n")
    config, _ = load(str(path))
    assert (config.token, config.docker.socket) == (SECRET, "unix:///run/other.sock")
    assert run("--override").output == f"{path} is as the Panel has it already.\n"


@pytest.mark.promise("wrong-family-is-logged")
@pytest.mark.parametrize(
    ("token", "node", "family"),
    [
        (TOKEN, PTERODACTYLS_NODE, "pterodactyl"),
        # A Panel of Pelican's that was one of Pterodactyl's before has its tokens still.
        (TOKEN, PELICANS_NODE, "pelican"),
        (TOKEN, None, "pterodactyl"),
        (TOKEN, [], "pterodactyl"),
        (PELICANS_TOKEN, None, "pelican"),
        (OLD_TOKEN, PELICANS_NODE, "pelican"),
        (OLD_TOKEN, None, None),
    ],
)
def test_the_family_is_written_as_the_token_and_the_panel_say(
    run: Run, panel: TlsPanel, path: Path, token: str, node: object, family: str | None
) -> None:
    panel.node = node
    result = run(token=token)
    assert result.exit_code == 0, result.output
    assert yaml.safe_load(path.read_text()).get("family") == family
    assert run("--override", token=token).output == f"{path} is as the Panel has it already.\n"


@pytest.mark.promise("wrong-family-is-logged")
def test_a_node_that_was_taken_for_another_family_keeps_its_directories(
    run: Run, path: Path
) -> None:
    path.parent.mkdir()
    path.write_text(
        "token_id: old\ntoken: old\nremote: https://old.example.com\n"
        "system: {data: /srv/games, log_directory: /srv/logs}\n"
    )
    before = load(str(path))[0].system
    result = run("--override", token=PELICANS_TOKEN)
    assert result.exit_code == 0, result.output
    shown = [line.split() for line in result.output.splitlines()]
    assert ["system.backup_directory", "/var/lib/pterodactyl/backups"] in shown
    config, _ = load(str(path))
    assert config.family == "pelican"
    assert differences(before, config.system) == ["data"]
    # The engine decides about its network: see tests/docker/test_docker.py.
    assert config.docker.network.name == "pelican_nw"
    assert run("--override", token=PELICANS_TOKEN).output.endswith("already.\n")


def test_what_is_missing_is_asked_for(panel: TlsPanel, path: Path) -> None:
    typed = f"nowhere\n{panel.url}\n{TOKEN}\nseven\n7\n"
    result = CliRunner().invoke(main, ["configure", "-c", str(path)], input=typed)
    assert result.exit_code == 0, result.output
    assert load(str(path))[0].token == SECRET
    assert TOKEN not in result.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"token": "wrong"}, "does not accept the token (403)"),
        ({"node": "8"}, "the Panel has no node 8 (404)"),
    ],
)
def test_a_refusal_says_what_to_do(
    run: Run, path: Path, options: dict[str, str], said: str
) -> None:
    result = run(**options)
    assert result.exit_code == 1
    assert said in result.output
    assert not path.exists()


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (302, b"", "leads to https://elsewhere.example.com/"),
        (500, b"", "the Panel answered 500"),
        (200, b"<html>", "is not JSON"),
        (200, b"[" * 100_000, "is not JSON"),
        (200, b"[]", "is not a configuration"),
        (200, b" " * (1024 * 1024 + 1), "is larger than a configuration"),
        (200, b'{"token": 7}', "token: expected a text"),
        (200, b'{"token": "t", "token_id": "i"}', "remote: is missing"),
    ],
)
def test_a_bad_answer_writes_nothing(
    run: Run, panel: TlsPanel, path: Path, status: int, answer: bytes, said: str
) -> None:
    panel.status, panel.answer = status, answer
    result = run()
    assert result.exit_code == 1
    assert said in result.output
    assert not path.exists()


@pytest.mark.promise("bad-configuration-answer-changes-nothing")
@pytest.mark.parametrize("exists", [False, True])
def test_a_configuration_that_is_nested_too_deeply_is_refused(
    run: Run, panel: TlsPanel, path: Path, exists: bool
) -> None:
    if exists:
        assert run().exit_code == 0
    before = path.read_bytes() if exists else b""
    nested: Any = 1
    for _ in range(900):
        nested = {"a": nested}
    panel.answer = json.dumps(CONFIGURATION | {"x": nested}).encode()
    result = run("--override")
    assert (result.exit_code, type(result.exception)) == (1, SystemExit)
    assert "nested too deeply" in result.output
    assert (path.read_bytes() if path.exists() else b"") == before


@pytest.mark.promise("bad-configuration-answer-changes-nothing")
def test_an_answer_that_never_ends_is_given_up(
    run: Run, panel: TlsPanel, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configure, "TOTAL_TIMEOUT", 0.1)
    panel.answers.clear()
    result = run()
    panel.answers.set()
    assert result.exit_code == 1
    assert "its answer takes longer than 0.1 s" in result.output
    assert not path.exists()


def test_a_file_that_cannot_be_used_is_named_with_advice(
    run: Run, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.parent.touch()
    result = run()
    assert result.exit_code == 1
    path.parent.unlink()
    assert "Not a directory\n  or name another file with --config-path\n" in result.output
    monkeypatch.setattr(configure, "replace_file", Mock(side_effect=PermissionError(13, "no")))
    assert "cannot be written: no\n  run this as root\n" in run("--override").output


def test_an_unknown_certificate_needs_the_option(
    run: Run, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    result = run()
    assert result.exit_code == 1
    assert "--allow-insecure" in result.output
    assert run("--allow-insecure").exit_code == 0
    assert path.exists()


def test_a_panel_that_is_down_is_named(run: Run, panel: TlsPanel) -> None:
    panel.close()
    result = run()
    assert result.exit_code == 1
    assert f"the Panel at {panel.url} does not answer" in result.output


def test_join_data_of_calagopus_is_the_configuration(path: Path) -> None:
    data = base64.b64encode(yaml.safe_dump(CONFIGURATION).encode()).decode()
    command = ["configure", "-c", str(path), "--join-data"]
    result = CliRunner().invoke(main, [*command, data])
    assert result.exit_code == 0, result.output
    config, _ = load(str(path))
    assert (config.token, config.family) == (SECRET, "calagopus")
    for damaged in (data[:-3], "é", base64.b64encode(b"- a").decode()):
        result = CliRunner().invoke(main, [*command, damaged])
        assert result.exit_code == 1
        assert "the join data is" in result.output


def test_the_default_is_the_file_that_the_daemon_uses(
    panel: TlsPanel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first.yml", tmp_path / "second.yml"
    monkeypatch.setattr(configure, "PLACES", (str(first), str(second)))
    second.write_text("{token_id: old, token: old, remote: https://old.example.com}\n")
    options = ["--panel-url", panel.url, "--token", TOKEN, "--node", "7", "--override"]
    assert CliRunner().invoke(main, ["configure", *options]).exit_code == 0
    assert (load(str(second))[0].token, first.exists()) == (SECRET, False)
    second.unlink()
    assert CliRunner().invoke(main, ["configure", *options]).exit_code == 0
    assert load(str(first))[0].token == SECRET
