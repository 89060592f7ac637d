"""Answers of the Panel that are not as they should be, and requests that are repeated."""

from __future__ import annotations

from typing import Any

import pytest

from tests.panel.client_harness import UNKNOWN, UUID, Harness
from tests.support import Answer, Drop
from wingsd.errors import PanelError, PanelRefused, PanelUnreachable
from wingsd.panel import client as panel_module
from wingsd.panel.client import MAX_BODY, MAX_VALUES

FAULTS = [
    Answer(500),
    Answer(502, b"<html>Bad gateway</html>", "text/html"),
    Answer(200, b"<html>We are updating</html>", "text/html"),
    Answer(200, b'{"data": 5}'),
    Answer(200, b"[" * 100_000),
    Answer(500, b"[" * 100_000),
    Answer(302, b""),
    Drop(),
    Drop(carried_out=True),
]


@pytest.mark.promise("answers-are-bounded")
@pytest.mark.parametrize("fault", FAULTS)
async def test_an_invalid_answer_is_retried(harness: Harness, fault: Any) -> None:
    harness.fake.inject("/servers", fault, times=2)
    assert not await harness.client().owns(UUID)
    assert len(harness.fake.calls) == 3


@pytest.mark.promise("answers-are-bounded")
async def test_too_long_an_answer_is_retried(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panel_module, "MAX_BODY", 10_000)
    harness.fake.inject("/servers", Answer(200, b" " * 10_001), times=2)
    assert not await harness.client().owns(UUID)
    assert len(harness.fake.calls) == 3


async def test_a_panel_whose_answers_are_past_a_bound_is_named_with_it(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panel_module, "GIVE_UP_AFTER", 0)
    harness.fake.inject("/servers", Answer(200, b" " * (MAX_BODY + 1)))
    with pytest.raises(PanelUnreachable) as caught:
        await harness.client().owns(UUID)
    assert caught.value.detail == (
        f"GET {harness.fake.url}/api/remote/servers?page=1&per_page=2: its answer is longer than "
        "16 MiB; see whether remote in the configuration is the Panel's address, and what a "
        "proxy in front of it sends; try again when it answers"
    )


@pytest.mark.promise("answers-are-bounded")
@pytest.mark.parametrize("status", [200, 500])
async def test_json_of_more_values_than_its_bound_is_not_decoded(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(panel_module, "GIVE_UP_AFTER", 0)
    values = b"[],{}," * (MAX_VALUES // 4)
    body = b'{"data": [], "errors": [{"detail": "why"}], "x": [%s1]}' % values
    harness.fake.inject("/servers", Answer(status, body))
    says = {200: "its answer has more than 2,000,000 values", 500: "it answered 500: no reason"}
    with pytest.raises(PanelUnreachable, match=says[status]):
        await harness.client().owns(UUID)


async def test_an_answer_about_another_server_is_not_believed(harness: Harness) -> None:
    harness.fake.open_transfer(UUID, harness.here)
    harness.fake.settings_of(UUID)["uuid"] = UNKNOWN
    with pytest.raises(PanelUnreachable, match="the Panel's answer is invalid"):
        await harness.client().describe(UUID)


async def test_an_html_page_is_retried(harness: Harness) -> None:
    harness.fake.open_transfer(UUID, harness.here)
    harness.fake.inject("/success", Answer(200, b"<html>We are updating</html>", "text/html"))
    await harness.client().transfer_succeeded(UUID)
    assert harness.fake.reports() == [(UUID, "success")] * 2
    assert harness.fake.node_of(UUID) == harness.here


async def test_a_request_that_came_too_early_is_repeated(harness: Harness) -> None:
    harness.fake.inject("/servers", Answer(429, retry_after="1"))
    assert not await harness.client().owns(UUID)
    assert len(harness.fake.calls) == 2


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_kept_in_the_error(harness: Harness, status: int) -> None:
    answer = Answer(status, retry_after="90")
    harness.fake.inject("/servers", answer)
    with pytest.raises(PanelError) as caught:
        await harness.client().owns(UUID)
    assert caught.value.retry_after == 90
    assert len(harness.fake.calls) == 1


@pytest.mark.promise("dropped-backups-are-kept-for-days")
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (None, True),
        (Answer(404, b"<html>Not Found</html>", "text/html"), False),
        (Answer(404, b'{"error": "no such route"}'), False),
        (Answer(403, b'{"errors": [{"detail": "of another node"}]}'), False),
        (Answer(401, b'{"errors": [{"detail": "no token"}]}'), False),
        (Answer(409, b'{"errors": [{"detail": "completed"}]}'), False),
        (Answer(200, b'{"parts": []}'), False),
    ],
)
async def test_only_the_panels_own_404_says_that_it_lacks_a_backup(
    harness: Harness, answer: Any, expected: bool
) -> None:
    if answer is not None:
        harness.fake.inject("/backups", answer)
    assert await harness.client().lacks_backup(UNKNOWN) is expected


@pytest.mark.promise("sftp-access-ends-at-once")
@pytest.mark.parametrize(
    ("body", "why", "is_own"),
    [
        (b'{"errors": [{"detail": "wrong"}, {"detail": "and late"}]}', "wrong; and late", True),
        (b'{"errors": ["user not found"]}', "user not found", True),  # Calagopus
        (b'{"errors": [1]}', "no reason given", False),
        (b"<html>Not Found</html>", "no reason given", False),
    ],
)
async def test_a_refusal_has_the_reason_and_whether_it_is_the_panels_own(
    harness: Harness, body: bytes, why: str, is_own: bool
) -> None:
    harness.fake.inject("/sftp/auth", Answer(404, body))
    with pytest.raises(PanelRefused) as caught:
        await harness.client().sftp_access({})
    assert str(caught.value).endswith(f"was answered 404: {why}")
    assert caught.value.is_own is is_own


@pytest.mark.parametrize("answer", [Answer(500), Answer(200, b"<html>maintenance</html>")])
async def test_a_panel_that_fails_says_nothing_of_a_backup(harness: Harness, answer: Any) -> None:
    harness.fake.inject("/backups", answer)
    with pytest.raises(PanelUnreachable):
        await harness.client().lacks_backup(UNKNOWN)
