"""Tokens of transfers, users and the node, through kills and changes of them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from twisted.internet.ssl import Certificate
from twisted.internet.utils import getProcessOutputAndValue

from tests.support import Answer, server_settings
from tests.support.browser import Browser, browse
from tests.support.node_process import reactor
from tests.support.reactor import until
from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import UUID, archive
from tests.support.tokens import USER, signed_url_token
from tests.support.upload_client import UploadClient
from wingsd.statedb import Store

USED = "it was used for a transfer before; start the transfer again in the Panel for a new token"
OTHER = "1b0e7a6e-95c1-4a5b-8a53-7f6c5d2e4b11"


async def fail_with(daemon: ReceivingNode, token: str) -> None:
    """Have a transfer fail whose body was taken, and the Panel begin another one."""
    since = len(daemon.log)
    assert (await daemon.upload(archive(), "0", token))[0] == 400
    await daemon.failure_reported(since)
    daemon.panel.open_transfer(UUID, daemon.node)


def told(daemon: ReceivingNode) -> list[str]:
    return [call.path for call in daemon.panel.calls if UUID in call.path]


async def assert_used(daemon: ReceivingNode, token: str) -> None:
    """See the token refused, and nothing done on its account."""
    before, since = told(daemon), len(daemon.log)
    status, answer = await daemon.upload(archive(), token=token)
    assert (status, answer["code"], answer["detail"]) == (401, "token-used", USED)
    assert USED in await daemon.wait_for_line(" refused: ", since)
    # What it is sent with says nothing of the server: the next transfer is not its to end.
    assert told(daemon) == before
    assert daemon.stored() == []


@pytest.mark.promise("transfer-token-is-used-once")
async def test_a_token_is_good_for_one_transfer_even_after_a_kill(running: ReceivingNode) -> None:
    token = running.token()
    await fail_with(running, token)
    # The database is written in order: what is asked of it now comes after all that was written.
    await assert_used(running, token)
    await running.kill()
    await running.start_loaded()
    await assert_used(running, token)
    # Nor does it become another token by another spelling of its signature.
    other = running.token()
    await fail_with(running, f"{other}=")
    await assert_used(running, other)
    assert await running.upload(archive(), token=running.token()) == (200, None)


@pytest.mark.promise("refusal-keeps-the-token", "transfer-token-is-used-once")
async def test_a_refusal_before_the_body_does_not_use_up_the_token(daemon: ReceivingNode) -> None:
    await daemon.start_loaded()
    token = daemon.token()
    # No such form, with a good token: the Panel hears of it, and begins anew with another one.
    status, _ = await daemon.curl("-H", "Content-Type: text/plain", "--data", "x", token=token)
    assert status == 400
    await daemon.failure_reported()
    daemon.panel.open_transfer(UUID, daemon.node)
    # The Panel cannot be asked.
    daemon.panel.inject(f"/servers/{UUID}", Answer(404))
    status, _ = await daemon.upload(archive(), token=token)
    assert status in (403, 404, 500, 502, 503)
    # The server is being received already.
    sender = UploadClient(daemon, archive())
    since = len(daemon.log)
    await sender.begin()
    await daemon.wait_for_line("receiving the archive", since)
    assert (await daemon.upload(archive(), token=token))[0] == 409
    await sender.vanish()
    await daemon.failure_reported(since)
    daemon.panel.open_transfer(UUID, daemon.node)
    assert await daemon.upload(archive(), token=token) == (200, None)


@pytest.mark.promise("refusal-keeps-the-token", "transfer-token-is-used-once")
async def test_an_unknown_server_does_not_use_up_the_token(running: ReceivingNode) -> None:
    token = running.panel.transfer_token(OTHER, running.node)
    status, answer = await running.upload(archive(), token=token)
    assert (status, answer["code"]) == (404, "server-not-found")
    assert running.panel.reports() == []
    running.expect(OTHER)
    assert await running.upload(archive(), token=token) == (200, None)


@pytest.mark.promise("token-is-for-one-purpose", "transfer-token-is-used-once")
@pytest.mark.parametrize(
    ("address", "status"),
    [("https://node.invalid:8080/", 200), ("https://other.invalid:8080", 401)],
)
async def test_a_node_that_knows_its_address_takes_no_other_nodes_tokens(
    daemon: ReceivingNode, address: str, status: int
) -> None:
    await daemon.start(api={"public_url": address})
    found, answer = await daemon.upload(archive(), token=daemon.token())
    assert found == status
    assert answer is None or "`api.public_url`" in answer["detail"]


async def console(daemon: ReceivingNode, jti: str) -> Browser:
    """Connect a browser that shows a new token."""
    token = daemon.panel.console_token(UUID, node=daemon.node, jti=jti)
    url = f"{daemon.url.replace('http', 'ws')}/api/servers/{UUID}/ws"
    ca = Certificate.loadPEM(daemon.ca.read_bytes())
    browser = await Browser(url, token, daemon.panel.url, ca=ca).connect(reactor)
    browser.send("auth", token)
    return browser


@pytest.mark.promise("revoked-console-token-stays-refused", "transfer-token-is-used-once")
async def test_the_deny_list_survives_a_kill(daemon: ReceivingNode) -> None:
    await daemon.start_loaded()
    assert await daemon.upload(archive(), token=daemon.token()) == (200, None)
    path = f"/api/servers/{UUID}/ws/deny"
    jtis = '{"jtis": ["denied"]}'
    status, _ = await daemon.curl("--data", jtis, token=daemon.node.token, path=path)
    assert status == 204
    await daemon.kill()
    store = Store(str(daemon.directory))
    store.open()
    assert [*store.denied()] == ["denied"]
    # As if the clock had been set back since: by the start alone, the next one would be good.
    store.deny(time.time() + 1000, ["denied"])
    store.close()
    await daemon.start_loaded()
    refused, taken = await console(daemon, "denied"), await console(daemon, "other")
    try:
        await refused.wait_for("jwt error", "jwt: created too far in past (denylist)")
        await taken.wait_for("auth success")
    finally:
        await refused.close()
        await taken.close()


@pytest.mark.promise("token-is-for-one-purpose", "transfer-token-is-used-once")
async def test_a_pelican_node_takes_only_tokens_with_pelicans_scope(daemon: ReceivingNode) -> None:
    await daemon.start(family="pelican")
    status, answer = await daemon.upload(archive(), token=daemon.token(scope=None))
    assert (status, answer["code"]) == (401, "token-invalid")
    assert "it has no scope" in answer["detail"]
    assert told(daemon) == []
    assert await daemon.upload(archive(), token=daemon.token(scope="transfer")) == (200, None)


# A Panel saves the settings of a running node


NEW = "n3w-" * 16


async def test_a_new_token_is_in_force_for_the_panel_and_open_consoles(
    daemon: ReceivingNode,
) -> None:
    await daemon.start_loaded()
    assert await daemon.upload(archive()) == (200, None)
    browser = await browse(daemon, UUID, node=daemon.node)
    old = daemon.node.token
    update = ("--json", json.dumps({"token": NEW, "allowed_origins": []}))
    path = "/api/update"
    assert await daemon.curl(*update, token=old, path=path) == (200, {"applied": True})
    daemon.node.token = NEW
    status, _ = await daemon.curl(*update, token=old, path=path)
    assert status == 403
    await browser.auth(daemon.panel.console_token(UUID, node=daemon.node))
    await browser.close()
    # The daemon asks the Panel about this server, by the new token, and reports to it.
    daemon.expect(OTHER)
    assert await daemon.upload(archive(), token=daemon.token(OTHER)) == (200, None)
    written = yaml.safe_load((daemon.directory / "config.yml").read_text())
    assert written == daemon.configuration()
    await daemon.wait_for_line("changed by the Panel: token")
    assert not daemon.lines_with(NEW)


# A user's downloads and uploads by signed URLs: curl, over TLS, from a whole daemon


SERVER = "1b0e7a6e-95c1-4a5b-8a53-7f6c5d2e4b11"
OFTEN: dict[str, Any] = {"system": {"activity_send_interval": 1}}
SOMETHING_ELSE = 22  # curl's exit status of an answer from 400 up, with --fail


async def start(daemon: ReceivingNode) -> Path:
    """Start the daemon with a server; return the directory of its files."""
    daemon.panel.add_server(server_settings(SERVER), daemon.node)
    await daemon.start_loaded(**OFTEN)
    home = daemon.volumes / SERVER
    home.mkdir(exist_ok=True)
    return home


def url(daemon: ReceivingNode, path: str, scope: str, **claims: Any) -> str:
    token = signed_url_token(daemon.node.token, SERVER, scope, **claims)
    return f"{daemon.url}{path}?token={token}"


async def curl(daemon: ReceivingNode, directory: Path, *arguments: str) -> tuple[int, str]:
    """Run curl in a directory; return its exit status and output."""
    command = ["-sS", "--fail-with-body", "--cacert", str(daemon.ca), "--max-time", "30"]
    out, _, status = await getProcessOutputAndValue(
        "/usr/bin/curl", [*command, *arguments], os.environ, path=str(directory)
    )
    return status, out.decode()


async def test_curl_downloads_and_resumes_and_a_kill_makes_no_token_good_again(
    daemon: ReceivingNode, tmp_path: Path
) -> None:
    home = await start(daemon)
    content = os.urandom(3_000_000)
    (home / "мир 1.zip").write_bytes(content)
    saved = tmp_path / "saved"
    saved.mkdir()
    address = url(daemon, "/download/file", "file-download", file_path="мир 1.zip")
    assert await curl(daemon, saved, "-OJ", address) == (0, "")
    (file,) = saved.iterdir()
    assert file.read_bytes() == content
    with file.open("r+b") as cut:
        cut.truncate(1_234_567)
    assert await curl(daemon, saved, "-C", "-", "-o", file.name, address) == (0, "")
    assert file.read_bytes() == content
    await daemon.kill()
    await daemon.start_loaded(**OFTEN)
    port = daemon.url.rpartition(":")[2]
    again = f"https://127.0.0.1:{port}{address[address.index('/download') :]}"
    status, out = await curl(daemon, saved, again)
    assert status == SOMETHING_ELSE
    assert "The requested resource was not found on this server." in out


async def test_curl_uploads_and_the_panel_learns_who_it_was(
    daemon: ReceivingNode, tmp_path: Path
) -> None:
    home = await start(daemon)
    content = os.urandom(3_000_000)
    (tmp_path / "мир 1.zip").write_bytes(content)
    (tmp_path / "b").write_bytes(b"b")
    address = url(daemon, "/upload/file", "file-upload") + "&directory=maps"
    files = ["-F", "files=@мир 1.zip", "-F", "files=@b"]
    assert await curl(daemon, tmp_path, *files, address) == (0, "")
    assert (home / "maps" / "мир 1.zip").read_bytes() == content
    await until(lambda: len(daemon.panel.activity) == 2)
    entry = daemon.panel.activity[0]
    assert (entry["event"], entry["user"], entry["ip"]) == (
        "server:file.uploaded",
        USER,
        "127.0.0.1",
    )
    assert entry["metadata"] == {"file": "мир 1.zip", "directory": "/maps"}


@pytest.mark.promise("refused-upload-leaves-nothing")
async def test_curl_is_told_at_once_that_a_file_is_too_large(
    daemon: ReceivingNode, tmp_path: Path
) -> None:
    home = await start(daemon)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(300 << 20)
    address = url(daemon, "/upload/file", "file-upload")
    page = ["-H", f"Origin: {daemon.panel.url}", "-w", "%{size_upload}"]
    status, out = await curl(daemon, tmp_path, *page, "-F", "files=@large", address)
    assert status == SOMETHING_ELSE
    assert "File large is larger than the maximum file upload size of 100 MB." in out
    assert int(out.rpartition("}")[2]) < 50 << 20
    assert [*home.iterdir()] == []


@pytest.mark.promise("uploads-resume")
async def test_curl_resumes_an_upload_after_a_kill(daemon: ReceivingNode, tmp_path: Path) -> None:
    home = await start(daemon)
    content = os.urandom(3_000_000)
    (tmp_path / "first").write_bytes(content[:2_000_000])

    def address() -> str:
        signed = url(daemon, "/upload/file", "file-upload")
        return f"{signed}&directory=maps&file=world.zip"

    async def patch(offset: int, name: str, *headers: str) -> tuple[int, str]:
        sent = [f"Upload-Offset: {offset}", "Upload-Length: 3000000", *headers]
        arguments = [part for header in sent for part in ("-H", header)]
        body = ["-X", "PATCH", "--data-binary", f"@{name}"]
        return await curl(daemon, tmp_path, *body, *arguments, address())

    assert await patch(0, "first") == (0, "")
    assert not (home / "maps/world.zip").exists()
    await daemon.kill()
    await daemon.start_loaded(**OFTEN)
    # As a page does that was opened again: it asks how much is here, and sends the rest.
    shown = ["-I", "-o", "/dev/null", "-w", "%header{upload-offset}"]
    status, here = await curl(daemon, tmp_path, *shown, address())
    assert (status, here) == (0, "2000000")
    (tmp_path / "rest").write_bytes(content[int(here) :])
    assert await patch(int(here), "rest", "Upload-Complete: ?1") == (0, "")
    assert (home / "maps/world.zip").read_bytes() == content
    assert [path.name for path in (home / "maps").iterdir()] == ["world.zip"]


# The activity of a user's browser, on its way to the Panel through restarts of the daemon


def events(daemon: ReceivingNode) -> list[str]:
    return [entry["event"] for entry in daemon.panel.activity]


def stored(daemon: ReceivingNode) -> list[str]:
    """Return what the daemon has stored and not sent."""
    store = Store(str(daemon.directory))
    store.open(read_only=True)
    try:
        return [entry.event for entry in store.activity(0, 100)]
    finally:
        store.close()


@pytest.mark.promise("activity-survives-a-kill")
async def test_activity_survives_a_kill_and_a_panel_that_is_away(daemon: ReceivingNode) -> None:
    daemon.panel.add_server(server_settings(SERVER), daemon.node)
    daemon.panel.inject("/activity", Answer(503), times=1000)
    await daemon.start_loaded(**OFTEN)
    browser = await browse(daemon, SERVER)
    browser.send("set state", "stop")
    await until(lambda: stored(daemon) == ["server:power.stop"])
    await daemon.wait_for_line("activity not sent, entries waiting: 1")
    await daemon.kill()
    await daemon.start_loaded(**OFTEN)
    browser = await browse(daemon, SERVER)
    browser.send("set state", "kill")
    browser.send("send stats")
    await browser.wait_for("stats")
    daemon.signal("TERM")
    await daemon.ended()
    assert stored(daemon) == ["server:power.stop", "server:power.kill"], (
        "all was stored at its end"
    )
    daemon.panel.heal("/activity")
    await daemon.start_loaded(**OFTEN)
    await until(lambda: len(events(daemon)) > 1)
    assert events(daemon) == ["server:power.stop", "server:power.kill"]
    first = daemon.panel.activity[0]
    assert (first["ip"], first["metadata"], first["server"]) == ("127.0.0.1", {}, SERVER)
    await until(lambda: stored(daemon) == [])


async def test_pelicans_panel_has_the_state_of_each_server(daemon: ReceivingNode) -> None:
    daemon.panel.add_server(server_settings(SERVER), daemon.node)
    await daemon.start_loaded(family="pelican")
    await daemon.panel.called("/container/status")
    browser = await browse(daemon, SERVER)
    browser.send("set state", "start")  # There are no containers on this node.
    await until(
        lambda: daemon.panel.statuses[-1][2] == "offline" and len(daemon.panel.statuses) > 1
    )
    assert daemon.panel.statuses[0] == (SERVER, "offline", "offline")
    assert daemon.panel.statuses[-1][0] == SERVER


async def test_no_other_panel_is_told_states(daemon: ReceivingNode) -> None:
    daemon.panel.add_server(server_settings(SERVER), daemon.node)
    await daemon.start_loaded()
    browser = await browse(daemon, SERVER)
    browser.send("set state", "start")
    await browser.wait_for("daemon error")
    assert daemon.panel.statuses == []
    assert not [call for call in daemon.panel.calls if "/container/" in call.path]
