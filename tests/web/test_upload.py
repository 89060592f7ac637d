"""An upload's body, which waits until its token has been used up."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from wingsd.bridge import Feed
from wingsd.errors import StorageError, UploadCutShort, WingsdError
from wingsd.tokens import token_was_used
from wingsd.transfers.formdata import UploadForm
from wingsd.web.upload import Upload

BODY = (
    b'--x\r\nContent-Disposition: form-data; name="archive"; filename="a"\r\n\r\ndata\r\n'
    b'--x\r\nContent-Disposition: form-data; name="checksum"\r\n\r\n%b\r\n--x--\r\n'
) % (b"0" * 64)


class FakeRequest:
    """Writes down whether the client may send."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def header(self, name: str) -> str:
        return ""

    def pause(self) -> None:
        self.calls.append("pause")

    def resume(self) -> None:
        self.calls.append("resume")

    def proceed(self) -> None:
        self.calls.append("proceed")


class House:
    """An upload that is being read, and whose admission is still open."""

    def __init__(self) -> None:
        request: Any = FakeRequest()
        self.request: FakeRequest = request
        self.admitted: Deferred[None] = Deferred()
        self.asked = 0
        self.upload = Upload(request, self._admit)
        self.feed = Feed(None)
        self.found: list[Any] = []

    async def _admit(self) -> None:
        self.asked += 1
        await self.admitted

    def read(self) -> None:
        form = UploadForm("multipart/form-data; boundary=x", "")
        self.upload.read_into(form, self.feed).addBoth(self.found.append)

    def error(self) -> Any:
        """Return what the sender is to read; what reads the archive gets the same."""
        (failure,) = self.found
        with pytest.raises(WingsdError) as caught:
            list(self.feed.blocks())
        error: WingsdError = caught.value
        assert error is failure.value
        return error


def test_it_is_asked_for_when_the_body_is_to_be_taken_and_not_before() -> None:
    house = House()
    assert (house.asked, house.request.calls) == (0, ["pause"])
    house.read()
    assert (house.asked, house.request.calls) == (1, ["pause"])
    house.admitted.callback(None)
    assert house.request.calls == ["pause", "proceed", "resume"]
    house.upload.data(BODY)
    house.upload.end()
    assert house.found == ["0" * 64]
    assert list(house.feed.blocks()) == [b"data"]


def test_what_comes_before_that_is_kept_in_order() -> None:
    house = House()
    house.upload.data(BODY[:20])
    house.read()
    house.upload.data(BODY[20:90])
    house.upload.data(BODY[90:])
    house.upload.end()
    assert house.found == []
    house.admitted.callback(None)
    assert house.found == ["0" * 64]
    assert list(house.feed.blocks()) == [b"data"]


def test_a_token_used_meanwhile_is_refused_without_a_byte() -> None:
    house = House()
    house.upload.data(BODY)
    house.read()
    house.admitted.errback(token_was_used())
    assert house.error().status == 401
    house.upload.end()
    assert len(house.found) == 1


def test_what_the_journal_cannot_keep_is_not_taken() -> None:
    house = House()
    house.read()
    house.admitted.errback(StorageError("the disk is full"))
    assert house.error().detail == "the disk is full"


def test_a_mistake_is_an_error_too_and_no_transfer_that_hangs() -> None:
    house = House()
    house.read()
    house.admitted.errback(KeyError("mistake"))
    assert "mistake" in house.error().message


def test_a_client_that_goes_meanwhile_is_gone() -> None:
    house = House()
    house.read()
    reason: Any = type("Reason", (), {"getErrorMessage": lambda _: "reset"})()
    house.upload.lost(reason)
    assert isinstance(house.error(), UploadCutShort)
    house.admitted.callback(None)
    assert house.request.calls == ["pause"]
