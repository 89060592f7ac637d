"""What is read of the Panel's signed URLs, and when it is asked for others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from wingsd.backups.s3 import (
    ASK_PANEL_FOR,
    MARGIN,
    PartUrls,
    part_url,
)
from wingsd.errors import (
    BackupSettled,
    BackupUploadFailed,
    InvalidData,
    PanelRefused,
    PanelUnreachable,
)

URL = "https://store/bucket/b.tar.gz?partNumber={}&uploadId=up&X-Amz-Expires=3600"


class FakePanel:
    """Answers by what was asked; an exception is raised."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.paths: list[str] = []

    async def get(self, _: str, path: str, read: Callable[[object], Any]) -> Any:
        self.paths.append(path)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return read(answer)


def answer(count: int, **fields: Any) -> dict[str, Any]:
    return {"parts": [URL.format(n + 1) for n in range(count)], "part_size": 100} | fields


def all_parts(panel: Any, clock: Clock) -> PartUrls:
    return PartUrls(panel, clock, "b", 250)


async def test_the_panel_is_asked_once_by_the_size_of_the_archive() -> None:
    panel, clock = FakePanel(answer(3, max_concurrent_uploads=10)), Clock()
    urls = all_parts(panel, clock)
    signed = await urls.signed(1)
    assert (signed.part_size, signed.at_once, signed.renewable) == (100, 10, False)
    assert (await urls.of(3)).url == URL.format(3)
    assert panel.paths == ["/backups/b?size=250"]


async def test_calagopus_is_asked_page_by_page() -> None:
    panel, clock = FakePanel(answer(2)), Clock()
    urls = PartUrls(panel, clock, "b")  # type: ignore[arg-type]
    assert (await urls.signed(1)).renewable
    await urls.of(2)
    await urls.of(3)
    assert panel.paths == [f"/backups/b/s3/parts?from_part={n}" for n in (1, 3)]


async def test_urls_that_are_about_to_expire_are_asked_anew() -> None:
    panel, clock = FakePanel(answer(3)), Clock()
    urls = all_parts(panel, clock)
    await urls.of(1)
    clock.advance(3600 - MARGIN)
    await urls.of(2)
    assert len(panel.paths) == 2


async def test_a_forgotten_answer_is_not_used_any_more() -> None:
    panel, clock = FakePanel(answer(3)), Clock()
    urls = all_parts(panel, clock)
    url = await urls.of(1)
    urls.forget(url)
    urls.forget(url)
    await urls.of(2)
    assert len(panel.paths) == 2


async def test_a_panel_that_cannot_be_reached_is_asked_until_it_answers() -> None:
    panel, clock = FakePanel(PanelUnreachable("down", ""), answer(3)), Clock()
    waiting = Deferred.fromCoroutine(all_parts(panel, clock).of(1))
    assert not waiting.called
    clock.advance(1)
    assert (await waiting).upload == "up"


async def test_a_panel_that_is_away_for_hours_is_given_up() -> None:
    panel, clock = FakePanel(PanelUnreachable("down", "")), Clock()
    waiting = Deferred.fromCoroutine(all_parts(panel, clock).of(1))
    clock.pump([300.0] * int(ASK_PANEL_FOR / 300 + 1))
    with pytest.raises(BackupUploadFailed, match="no URLs for 6 h"):
        await waiting


@pytest.mark.parametrize(
    ("status", "error"),
    [(409, BackupSettled), (400, BackupUploadFailed), (417, BackupUploadFailed)],
)
async def test_a_panel_that_refuses_is_not_asked_again(
    status: int, error: type[Exception]
) -> None:
    panel = FakePanel(PanelRefused("no", "it is not of S3", status))
    with pytest.raises(error, match="not of S3"):
        await all_parts(panel, Clock()).of(1)
    assert len(panel.paths) == 1


async def test_a_panel_that_is_asked_too_often_is_asked_again() -> None:
    panel, clock = FakePanel(PanelRefused("no", "", 429, 60.0), answer(3)), Clock()
    waiting = Deferred.fromCoroutine(all_parts(panel, clock).of(1))
    clock.advance(59)
    assert not waiting.called
    clock.advance(1)
    await waiting


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"part_size": 0}, "part_size"),
        ({"part_size": "5"}, "part_size"),
        ({"parts": []}, "parts"),
        ({"parts": [URL.format(1)]}, "signed 1 parts"),
        ({"parts": None}, "parts"),
    ],
)
async def test_an_answer_that_fits_no_archive_is_refused(
    fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidData, match=words):
        await all_parts(FakePanel(answer(3, **fields)), Clock()).of(1)


async def test_a_page_without_the_part_that_was_asked_for_ends_the_upload() -> None:
    clock = Clock()
    urls = all_parts(FakePanel(answer(3)), clock)
    with pytest.raises(BackupUploadFailed, match="no URL for part 4"):
        await urls.of(4)


async def test_more_parts_than_a_store_has_end_the_upload() -> None:
    with pytest.raises(BackupUploadFailed, match="make parts larger"):
        await all_parts(FakePanel(answer(3)), Clock()).of(10_001)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://store/x?secret",
        "https:///x?secret",
        "https://user:secret@store/x",
        "https://store:0/x?secret",
        "https://store:99999/x?secret",
        "https://[::1/x?secret",
        "https://störe/x?secret",
        "https://store/x?secret\r\nX: y",
        "https://store/" + "x" * 9000 + "secret",
        "",
    ],
)
def test_a_url_that_cannot_be_asked_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(InvalidData) as caught:
        part_url(url, 0.0)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("query", "seconds"),
    [
        ("X-Amz-Expires=600", 600 - MARGIN),
        ("X-Amz-Expires=10", 9),
        ("X-Amz-Expires=soon", 3600 - MARGIN),
        ("Expires=2000", 1000 - MARGIN),
        ("", 3600 - MARGIN),
    ],
)
def test_the_lifetime_of_a_url_is_read_from_it(
    query: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: 1000.0)
    assert part_url(f"http://10.0.0.2:9000/b?{query}", 5.0).good_until == 5.0 + seconds
