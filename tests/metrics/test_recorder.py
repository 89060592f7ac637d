"""What has happened is counted, by names that somebody has thought of before."""

from __future__ import annotations

import time
from threading import Thread

import pytest
from docker.errors import APIError, DockerException
from prometheus_client import REGISTRY, generate_latest
from twisted.internet.defer import CancelledError

from tests.metrics.exposed import FakePassage, Samples, told
from wingsd.errors import (
    ArchiveError,
    EnvironmentFailed,
    PanelRefused,
    TransferCancelled,
    Unauthorized,
)
from wingsd.metrics import REASONS, Recorder
from wingsd.util.observer import ENGINE, PANEL


def samples(recorder: Recorder) -> Samples:
    return Samples(generate_latest(recorder.registry).decode())


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "success"),
        (ArchiveError("cut"), "failure"),
        (TransferCancelled(), "cancelled"),
        (RuntimeError("a mistake"), "failure"),
    ],
)
def test_a_transfer_is_counted_by_how_it_ends(error: Exception | None, outcome: str) -> None:
    recorder = Recorder()
    recorder.transfer_over("in", error)
    found = samples(recorder)
    ended = [{"direction": "in", "outcome": outcome}]
    assert found.having("wingsd_transfers_total") == ended


def test_a_failure_has_its_reason_and_a_cancelled_transfer_is_none() -> None:
    recorder = Recorder()
    for error in (ArchiveError("cut"), TransferCancelled(), RuntimeError("a mistake"), None):
        recorder.transfer_over("out", error)
    assert samples(recorder).having("wingsd_transfer_failures_total") == [
        {"direction": "out", "reason": "archive_error"},
        {"direction": "out", "reason": "unforeseen"},
    ]


def test_counters_begin_at_zero() -> None:
    found = samples(Recorder())
    for name in REASONS:
        assert found.get("wingsd_request_errors_total", reason=name) == 0
        for way in ("in", "out"):
            labels = {"direction": way, "reason": name}
            assert found.get("wingsd_transfer_failures_total", **labels) == 0


@pytest.mark.promise("metrics-name-no-server")
def test_no_text_that_anybody_may_send_becomes_a_label() -> None:
    recorder = Recorder()
    before = len(samples(recorder).all)
    for number in range(50):
        recorder.answered(Unauthorized(f"token {number}", f"of peer {number}"))
        recorder.transfer_over("in", ArchiveError(f"member {number}"))
    assert len(samples(recorder).all) == before


def test_moves_that_go_on_and_what_they_send_twice_are_counted() -> None:
    recorder = Recorder()
    recorder.move_resumed()
    recorder.sent_again(1000)
    found = samples(recorder)
    assert found.get("wingsd_move_resumptions_total") == 1
    assert found.get("wingsd_move_sent_again_bytes_total") == 1000


def test_rounds_of_running_servers_are_counted() -> None:
    recorder = Recorder()
    recorder.round_sent(5000, is_first=True)
    recorder.round_sent(70, is_first=False)
    recorder.round_sent(7, is_first=False)
    recorder.downtime_predicted(1.5)
    recorder.downtime_measured(2.5)
    recorder.distrusted()
    found = samples(recorder)
    assert found.get("wingsd_move_rounds_total") == 3
    assert found.get("wingsd_move_round_bytes_total", kind="first") == 5000
    assert found.get("wingsd_move_round_bytes_total", kind="changed") == 77
    assert found.get("wingsd_move_predicted_downtime_seconds") == 1.5
    assert found.get("wingsd_move_downtime_seconds_sum") == 2.5
    assert found.get("wingsd_move_unseen_changes_total") == 1


def test_steps_are_timed() -> None:
    recorder = Recorder()
    for seconds in (0.05, 100.0, 90_000.0):
        recorder.step_left(FakePassage("out", "send", step_seconds=seconds))
    found, labels = samples(recorder), {"direction": "out", "step": "send"}
    name = "wingsd_transfer_step_duration_seconds"
    assert found.get(f"{name}_count", **labels) == 3
    assert found.get(f"{name}_sum", **labels) == 90_100.05
    buckets = [found.get(f"{name}_bucket", le=le, **labels) for le in ("0.1", "300.0", "28800.0")]
    assert buckets == [1, 2, 2]


def test_the_bytes_of_a_transfer_count_while_it_goes_on_and_after_it() -> None:
    recorder = Recorder()
    one, two = FakePassage("in", moved=10), FakePassage("out", moved=500)
    for each in (one, two):
        recorder.transfer_begun(each)
    assert (recorder.moved("in"), recorder.moved("out")) == (10, 500)
    one.moved = 90
    recorder.transfer_over("in", ArchiveError("cut"), one)
    # Whatever becomes of its counter now is nobody's concern.
    one.moved = 0
    assert (recorder.moved("in"), recorder.moved("out")) == (90, 500)
    assert (recorder.moving("in"), recorder.moving("out")) == (0, 500)
    assert recorder.under_way == {two}


def durations(recorder: Recorder, peer: str) -> dict[tuple[str, str], float]:
    name = f"wingsd_{peer}_request_duration_seconds_count"
    return {
        (labels["operation"], labels["outcome"]): value
        for found, labels, value in samples(recorder).all
        if found == name
    }


def test_a_peer_that_says_no_has_answered() -> None:
    recorder = Recorder()
    recorder.called(PANEL, "success", 0.2, None)
    recorder.called(PANEL, "success", 0.2, PanelRefused("no", "", 409))
    recorder.called(PANEL, "success", 30.0, TimeoutError())
    assert durations(recorder, "panel") == {
        ("success", "ok"): 1,
        ("success", "refused"): 1,
        ("success", "failed"): 1,
    }
    recorder.called(ENGINE, "look", 0.2, APIError("conflict"))
    recorder.called(ENGINE, "look", 0.2, EnvironmentFailed("in the way"))
    recorder.called(ENGINE, "look", 0.2, DockerException("no socket"))
    assert durations(recorder, "engine") == {("look", "refused"): 2, ("look", "failed"): 1}


def test_a_call_that_nobody_waits_for_says_nothing_of_its_peer() -> None:
    recorder = Recorder()
    recorder.called(PANEL, "list", 5.0, CancelledError())
    assert durations(recorder, "panel") == {}


def test_it_is_known_when_a_peer_last_answered_and_last_did_not() -> None:
    recorder = Recorder()

    def last() -> list[float | None]:
        found, names = samples(recorder), ("answer", "failure")
        return [found.get(f"wingsd_panel_last_{name}_timestamp_seconds") for name in names]

    assert last() == [0, 0]
    began = time.time()
    recorder.called(PANEL, "list", 1.0, PanelRefused("no", "", 403))
    answer, failure = last()
    assert began <= (answer or 0) <= time.time()
    assert failure == 0
    recorder.called(PANEL, "list", 1.0, ConnectionError())
    assert last()[0] == answer
    assert began <= (last()[1] or 0) <= time.time()


def test_calls_are_counted_from_any_thread() -> None:
    recorder = Recorder()

    def work() -> None:
        for _ in range(500):
            recorder.called(ENGINE, "look", 0.1, None)

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert durations(recorder, "engine") == {("look", "ok"): 2000}


def test_each_node_counts_for_itself() -> None:
    one, two = told(), Recorder()
    assert samples(one).having("wingsd_transfers_total")
    assert not samples(two).having("wingsd_transfers_total")
    assert not [metric.name for metric in REGISTRY.collect() if metric.name.startswith("wingsd")]
