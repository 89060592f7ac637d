"""What the daemon refuses, with the words that a real client reads."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from socket import create_connection

import jwt
import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from tests.daemon.harness import UUID, House, archive
from tests.daemon.uploads import Sender

OTHER = "1b0e7a6e-95c1-4a5b-8a53-7f6c5d2e4b11"


@pytest_twisted.ensureDeferred
async def test_a_refused_token_is_told_why_and_the_panel_nothing(house: House) -> None:
    await house.start()
    await house.loaded()
    before = list(house.panel.calls)
    status, answer = await house.curl("-F", "archive=x", token=house.token(exp=1))
    assert (status, answer["code"]) == (401, "token-expired")
    assert "expired" in answer["detail"]
    assert "expired" in await house.wait_for_line(" refused: ")
    assert house.panel.calls == before


def get(address: tuple[str, int], path: bytes) -> None:
    """Send a request as it stands, and read until the answer ends."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with context.wrap_socket(create_connection(address)) as line:
        line.sendall(b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path)
        while line.recv(4096):
            pass


@pytest_twisted.ensureDeferred
async def test_nothing_that_a_stranger_sends_forges_a_line_of_the_log(house: House) -> None:
    await house.start(debug=True)
    await house.loaded()
    forged = "\x1b[2J\x85\u202e\n2026-01-01T00:00:00+0000 [wingsd.app.daemon#info] forged"
    header = {"alg": "HS256", "typ": "JWT", "crit": [forged]}
    # Newer versions of PyJWT name the extension that they do not know.
    token = jwt.encode({"sub": UUID}, "x" * 32, "HS256", headers=header)
    status, _ = await house.curl("-F", "archive=x", token=token)
    assert status == 401
    await house.wait_for_line(" refused: ")
    address = ("127.0.0.1", int(house.url.rpartition(":")[2]))
    # Newer versions of Twisted refuse the first path, and note nothing of it.
    for path in (b"/\x1b[2J\x85", b"/" + b"x" * 5000):
        await deferToThread(get, address, path)
    assert "x…: 404" in await house.wait_for_line("GET /xxx")
    assert not [line for line in house.log if not line.isprintable() and line[0] != "\t"]
    assert not [line for line in house.log if line.startswith("2026-01-01T00:00:00+0000")]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["-H", "Content-Type: text/plain", "--data", "x"], "invalid content type"),
        (["-F", "checksum=c", "-F", "archive=x"], "archive must be sent before the checksum"),
        (["-F", "archive=@server.tar.gz"], "missing archive or checksum"),
        (["-F", "checksums=c"], "missing archive or checksum"),
        (["-F", "archive=@server.tar.gz", "-F", "checksum=c"], "checksums don't match"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_bad_request_is_refused_in_the_documents_words(
    house: House, arguments: list[str], error: str
) -> None:
    await house.start()
    path = house.directory / "server.tar.gz"
    path.write_bytes(archive())
    arguments = [argument.replace("@server.tar.gz", f"@{path}") for argument in arguments]
    status, answer = await house.curl(*arguments)
    assert (status, answer["error"]) == (400, error)
    assert answer["detail"]
    await house.told_of_failure()
    assert house.left() == []
    assert house.panel.reports() == [(UUID, "failure")]
    await house.wait_for_line("state failure")
    assert house.states()[-1] == "failure"


@pytest_twisted.ensureDeferred
async def test_a_damaged_archive_is_a_500_with_its_reason(house: House) -> None:
    await house.start()
    status, answer = await house.upload(b"this is no archive" * 100)
    assert (status, answer["code"]) == (500, "archive-invalid")
    assert answer["detail"]
    await house.told_of_failure()
    assert house.left() == []
    assert house.panel.reports() == [(UUID, "failure")]


@pytest_twisted.ensureDeferred
async def test_a_server_that_is_here_is_not_received_again(house: House) -> None:
    await house.start()
    await house.upload(archive())
    status, answer = await house.upload(archive())
    assert (status, answer["code"]) == (409, "server-already-exists")
    assert house.panel.reports() == [(UUID, "success")]
    assert (house.volumes / UUID / "server.properties").exists()


@pytest_twisted.ensureDeferred
async def test_a_server_the_panel_does_not_know_is_a_404_and_not_told(house: House) -> None:
    await house.start()
    token = house.panel.transfer_token(OTHER, house.node)
    status, answer = await house.curl("-F", "archive=x", token=token)
    assert (status, answer["code"]) == (404, "server-not-found")
    assert house.panel.reports() == []


@pytest_twisted.ensureDeferred
async def test_one_server_is_not_received_twice_at_once(house: House) -> None:
    await house.start()
    sender = Sender(house, archive())
    await sender.begin()
    await house.wait_for_line("receiving the archive")
    status, answer = await house.upload(archive())
    assert (status, answer["code"]) == (409, "server-already-exists")
    assert await sender.finish() == (200, b"")
    assert house.panel.reports() == [(UUID, "success")]


@pytest_twisted.ensureDeferred
async def test_what_stood_in_the_servers_place_is_set_aside_and_told(house: House) -> None:
    await house.start()
    (house.volumes / UUID).mkdir()
    (house.volumes / UUID / "precious").write_text("old")
    assert await house.upload(archive()) == (200, None)
    line = await house.wait_for_line("set-aside")
    aside = Path(line.rpartition(" ")[2])
    assert (aside / "precious").read_text() == "old"
    assert not (house.volumes / UUID / "precious").exists()


@pytest_twisted.ensureDeferred
async def test_a_refusal_is_read_by_a_client_that_is_still_sending(house: House) -> None:
    await house.start()
    sender = Sender(house, os.urandom(20_000_000), token="bad")
    await sender.begin()
    status, body = await sender.finish()
    assert status == 401
    assert b"error" in body


@pytest_twisted.ensureDeferred
async def test_what_is_too_large_is_told_so(house: House) -> None:
    await house.start()
    status, answer = await house.curl("-H", f"X: {'x' * 20_000}", "-F", "archive=x")
    assert (status, answer["code"]) == (431, "header-too-long")
    path = house.directory / "large"
    path.write_bytes(bytes(3_000_000))
    house.url += "/elsewhere?"
    status, answer = await house.curl("-F", f"archive=@{path}")
    assert (status, answer["code"]) == (413, "body-too-large")
    assert "/api/transfers" in answer["detail"]


@pytest_twisted.ensureDeferred
async def test_another_method_is_told_which_one_to_use(house: House) -> None:
    await house.start()
    status, answer = await house.curl("-X", "GET")
    assert (status, answer["detail"]) == (405, "use OPTIONS, POST")
