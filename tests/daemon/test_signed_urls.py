"""A user's downloads and uploads by signed URLs: curl, over TLS, from a whole daemon."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.utils import getProcessOutputAndValue

from tests.support import server_settings
from tests.support.reactor import until
from tests.support.receiving_node import ReceivingNode
from tests.support.signed_urls import USER, signed_url_token

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
