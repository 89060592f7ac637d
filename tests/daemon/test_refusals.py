"""What the daemon refuses, with the words that a real client reads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import pytest_twisted

from tests.daemon.house import UUID, House, archive
from tests.daemon.uploads import Sender

OTHER = "1b0e7a6e-95c1-4a5b-8a53-7f6c5d2e4b11"


@pytest_twisted.ensureDeferred
async def test_a_refused_token_is_told_why_and_the_panel_nothing(house: House) -> None:
    await house.start()
    await house.loaded()
    before = list(house.panel.calls)
    status, answer = await house.curl("-F", "archive=x", token=house.token(exp=1))
    assert (status, answer["error"]) == (401, "The token is not valid")
    assert "expired" in answer["detail"]
    assert "expired" in await house.wait_for_line("is refused")
    assert house.panel.calls == before


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
    assert (status, answer["error"]) == (500, "the archive could not be extracted")
    assert answer["detail"]
    await house.told_of_failure()
    assert house.left() == []
    assert house.panel.reports() == [(UUID, "failure")]


@pytest_twisted.ensureDeferred
async def test_a_server_that_is_here_is_not_received_again(house: House) -> None:
    await house.start()
    await house.upload(archive())
    status, answer = await house.upload(archive())
    assert (status, answer["error"]) == (409, "this server is already on this node")
    assert house.panel.reports() == [(UUID, "success")]
    assert (house.volumes / UUID / "server.properties").exists()


@pytest_twisted.ensureDeferred
async def test_a_server_the_panel_does_not_know_is_a_404_and_not_told(house: House) -> None:
    await house.start()
    token = house.panel.transfer_token(OTHER, house.node)
    status, answer = await house.curl("-F", "archive=x", token=token)
    assert (status, answer["error"][:9]) == (404, "the Panel")
    assert house.panel.reports() == []


@pytest_twisted.ensureDeferred
async def test_one_server_is_not_received_twice_at_once(house: House) -> None:
    await house.start()
    sender = Sender(house, archive())
    await sender.begin()
    await house.wait_for_line("receiving the archive")
    status, answer = await house.upload(archive())
    assert (status, answer["error"]) == (409, "this server is already being received")
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
    assert (status, answer["error"]) == (431, "a header line is too long")
    path = house.directory / "large"
    path.write_bytes(bytes(3_000_000))
    house.url += "/elsewhere?"
    status, answer = await house.curl("-F", f"archive=@{path}")
    assert (status, answer["error"]) == (413, "the request body is too large")
    assert "/api/transfers" in answer["detail"]


@pytest_twisted.ensureDeferred
async def test_another_method_is_told_which_one_to_use(house: House) -> None:
    await house.start()
    status, answer = await house.curl("-X", "GET")
    assert (status, answer["detail"]) == (405, "use OPTIONS, POST")
