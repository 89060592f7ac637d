"""A destination that is there and takes nothing of a single upload: people are told."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock

from tests.support.reactor import until
from tests.support.sample_server import UUID
from tests.support.sender import Sender, at_upload, sending
from wingsd.transfers.outgoing import source as streams
from wingsd.transfers.outgoing.source import EVERY, StandstillNotice


class Upload:
    """An upload that stands still."""

    def __init__(self) -> None:
        self.clock: Any = Clock()
        self.sent, self.is_full = 0, True
        self.told: list[str] = []
        self.notice = StandstillNotice(
            self.clock, lambda: self.sent, lambda: self.is_full, self.told.append
        )

    def pass_seconds(self, seconds: float) -> None:
        for _ in range(int(seconds / streams.LOOK_EVERY)):
            self.clock.advance(streams.LOOK_EVERY)


def test_it_is_told_every_five_minutes_and_when_it_goes_on() -> None:
    upload = Upload()
    upload.pass_seconds(EVERY - streams.LOOK_EVERY)
    assert upload.told == []
    upload.pass_seconds(EVERY + streams.LOOK_EVERY)
    assert [line.split(":")[0] for line in upload.told] == [
        "the destination has taken nothing for 300 s",
        "the destination has taken nothing for 600 s",
    ]
    upload.sent = 1
    upload.pass_seconds(EVERY)
    assert upload.told[2].startswith("the upload goes on, after 605 s")


def test_an_upload_that_goes_on_or_waits_for_this_node_is_not_told_of() -> None:
    upload = Upload()
    for _ in range(1000):
        upload.sent += 1
        upload.pass_seconds(streams.LOOK_EVERY)
    upload.is_full = False
    upload.pass_seconds(2 * EVERY)
    assert upload.told == []


def test_nothing_is_told_after_its_end() -> None:
    upload = Upload()
    for _ in range(2):
        upload.notice.stop()
    upload.is_full = True
    upload.pass_seconds(2 * EVERY)
    assert upload.told == []
    assert upload.clock.getDelayedCalls() == []


sender = pytest.fixture(sending)


async def test_the_console_of_a_server_tells_that_its_upload_is_not_taken(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "LOOK_EVERY", 0.02)
    monkeypatch.setattr(streams, "EVERY", 0.1)
    uploading = at_upload(sender)
    over = sender.start()
    await uploading
    await until(lambda: sender.said("the destination has taken nothing for "))
    sender.transfers.cancel(UUID)
    await over
