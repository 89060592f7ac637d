"""What Prometheus gets to read: its form, and what is looked at when it asks."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
from docker.errors import APIError, DockerException
from prometheus_client import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock

from tests.metrics.exposed import (
    FakePassage,
    Samples,
    exposition,
    rendered,
    server,
    sources,
    told,
)
from tests.support.logged_errors import Logged
from tests.test_errors import classes
from wingsd.docker.runtime import ContainerUsage
from wingsd.errors import (
    ArchiveError,
    ChecksumMismatch,
    EnvironmentFailed,
    PanelRefused,
    PanelUnreachable,
    ServersNotLoaded,
    StorageError,
    TransferCancelled,
    Unauthorized,
    WingsdError,
)
from wingsd.metrics import REASONS, DiskState, Recorder, of_pairs, reason
from wingsd.node.evacuation import Evacuation, EvacuationReport
from wingsd.transfers.peer.moves import ProgressAnswer, failure_of
from wingsd.transfers.steps import SeedFigures
from wingsd.util.observer import ENGINE, PANEL


def test_promtool_has_nothing_to_say_against_it(promtool: Callable[..., str]) -> None:
    text, kind = rendered(exposition(told()))
    assert kind.startswith("text/plain; version=0.0.4")
    promtool("check", "metrics", text=text)


def test_it_can_be_had_as_openmetrics() -> None:
    text, kind = rendered(exposition(told()), "application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    parse: Any = text_string_to_metric_families  # not annotated
    families = {family.name for family in parse(text)}
    assert {"wingsd_transfers", "wingsd_transfer_bytes", "process_cpu_seconds"} <= families


def test_running_transfers_are_counted_by_step() -> None:
    recorder = Recorder()
    for step, seconds in (("receive", 5.0), ("receive", 700.0), ("report", 1.0)):
        recorder.transfer_begun(FakePassage("in", step, seconds))
    recorder.transfer_begun(FakePassage("out", "await", 3.0))
    found = Samples(rendered(exposition(recorder))[0])
    age = "wingsd_transfer_step_age_seconds"
    assert found.get("wingsd_transfers_in_flight", direction="in", step="receive") == 2
    assert found.get(age, direction="in", step="receive") == 700
    assert found.get("wingsd_transfers_in_flight", direction="out", step="await") == 1
    assert found.get("wingsd_transfers_in_flight", direction="out", step="send") == 0
    assert found.get(age, direction="out", step="send") == 0


def test_the_worst_of_the_copies_that_follow_servers_is_shown() -> None:
    seeds = (
        SeedFigures(7, 900, 300, 40.0, 1.5, None, ""),
        SeedFigures(2, 80, 80, 7200.0, None, 1e9, "it is gone (destination-unreachable)"),
        SeedFigures(0, 0, None, None, None, None, ""),
    )
    found = Samples(rendered(exposition(Recorder(), sources(sending_seeds=seeds)))[0])
    assert found.get("wingsd_seeds") == 3
    assert found.get("wingsd_seeds_failing") == 1
    assert found.get("wingsd_seed_age_seconds") == 7200
    assert found.get("wingsd_seed_missing_bytes") == 380
    assert found.get("wingsd_seed_predicted_downtime_seconds") == 1.5
    unknown = rendered(exposition(Recorder(), sources(sending_seeds=seeds[2:])))[0]
    assert "wingsd_seeds 1" in unknown
    assert "wingsd_seed_missing_bytes" not in unknown


def test_an_evacuation_is_silent_that_nobody_reports_after_a_restart() -> None:
    pairs: Any = SimpleNamespace(receiving={}, sending={}, is_maintained=False)
    wanted: Any = SimpleNamespace(wanted={"server": None})
    evacuation = Evacuation(lambda: 1000.0)

    def shown() -> dict[str, list[float]]:
        found = of_pairs(pairs, evacuation, wanted, 1600.0)
        return {each.name: [sample.value for sample in each.samples] for each in found}

    assert shown()["wingsd_evacuation_silent_seconds"] == [600.0]
    # Deleted and cancelled servers are not left to be moved.
    evacuation.report(EvacuationReport("new", "plan", "done", total=9, moved=5, failed=1))
    assert shown()["wingsd_evacuation_silent_seconds"] == [0]
    assert shown()["wingsd_evacuation_servers"] == [5, 1, 0]


def test_what_waits_is_looked_up_when_it_is_asked_for() -> None:
    shown = sources(
        receiving_waiting=3,
        sending_waiting=1,
        reports_depth=2,
        activity_waiting=4,
        activity_sent=5,
        activity_dropped={"refused": 6},
        checks_damaged=("a", "b"),
        checks_count=7,
        left_counts={"follows": 3, "kept": 1},
        left_oldest=7200.0,
        sftp_sessions=SimpleNamespace(count=8),
        sftp_refused={"password": 9},
        sftp_moved={"in": 10, "out": 11},
    )
    exposed = exposition(Recorder(), shown)
    found = Samples(rendered(exposed)[0])
    assert found.get("wingsd_transfers_waiting", direction="in") == 3
    assert found.get("wingsd_transfers_waiting", direction="out") == 1
    assert found.get("wingsd_outbox_reports") == 2
    assert found.get("wingsd_activity_waiting") == 4
    assert found.get("wingsd_activity_sent_total") == 5
    assert found.get("wingsd_activity_dropped_total", reason="refused") == 6
    assert found.get("wingsd_backups_damaged") == 2
    assert found.get("wingsd_backups_verified_total") == 7
    assert found.get("wingsd_backups_left", state="follows") == 3
    assert found.get("wingsd_backups_left", state="kept") == 1
    assert found.get("wingsd_backups_left_oldest_seconds") == 7200
    assert found.get("wingsd_sftp_sessions") == 8
    assert found.get("wingsd_sftp_logins_refused_total", kind="password") == 9
    assert found.get("wingsd_sftp_bytes_total", direction="in") == 10
    assert found.get("wingsd_sftp_bytes_total", direction="out") == 11
    shown.reports.depth = 0  # type: ignore[misc]  # the test's own
    assert Samples(rendered(exposed)[0]).get("wingsd_outbox_reports") == 0


def of_server(found: Samples, name: str, **labels: str) -> float | None:
    wanted = (f"wingsd_server_{name}", {"uuid": "8d2f5a14", "name": "Lobby"} | labels)
    values = [value for series, has, value in found.all if (series, has) == wanted]
    assert len(values) <= 1
    return values[0] if values else None


def test_each_server_has_its_figures() -> None:
    lobby, world = server(), server("", ContainerUsage(), "11111111", limit=None)
    lobby.figures.crashes["memory_limit"] = 2
    shown = sources(servers_all=lambda: [lobby, world])
    found = Samples(rendered(exposition(Recorder(), shown))[0])
    expected = {
        "cpu_seconds_total": 7.5,
        "cpu_throttled_seconds_total": 0.5,
        "memory_bytes": 100,
        "memory_limit_bytes": 200,
        "memory_peak_bytes": 150,
        "oom_kills_total": 1,
        "processes": 10,
        "uptime_seconds": 1.5,
        "disk_bytes": 250,
        "disk_limit_bytes": 300,
        "starts_total": 1,
        "console_lines_total": 11,
    }
    assert {name: of_server(found, name) for name in expected} == expected
    assert of_server(found, "pressure_seconds_total", resource="io") == 2.5
    assert of_server(found, "disk_io_bytes_total", operation="write") == 6
    assert of_server(found, "disk_io_operations_total", operation="read") == 8
    assert of_server(found, "network_bytes_total", direction="out") == 2
    assert of_server(found, "network_packets_total", direction="in") == 3
    assert of_server(found, "crashes_total", reason="memory_limit") == 2
    # One that is offline and has no name shows what is known of it.
    known = {name for name, labels, _ in found.all if labels.get("uuid") == "11111111"}
    assert known == {
        f"wingsd_server_{name}"
        for name in (
            *("disk_bytes", "oom_kills_total", "starts_total", "crashes_total"),
            "console_lines_total",
        )
    }
    assert not [labels for _, labels, _ in found.all if labels.get("name") == ""]


def test_servers_are_not_shown_before_they_are_loaded_nor_where_they_are_not_to_be() -> None:
    def not_loaded() -> Any:
        raise ServersNotLoaded

    hidden = attrs.evolve(sources(), servers=None)
    for shown in (sources(servers_all=not_loaded), hidden):
        found = Samples(rendered(exposition(Recorder(), shown))[0])
        assert not [name for name in found.names if name.startswith("wingsd_server_")]
        assert found.get("wingsd_pressure_seconds_total", resource="memory") == 2.5


def test_what_is_kept_of_moves_is_told_unless_it_cannot_be_read() -> None:
    def broken() -> int:
        raise StorageError("it cannot be read")

    found = Samples(rendered(exposition(Recorder()))[0])
    assert found.get("wingsd_move_kept_bytes") == 5_000
    found = Samples(rendered(exposition(Recorder(), kept=broken))[0])
    assert found.get("wingsd_move_kept_bytes") is None
    assert found.get("wingsd_data_size_bytes")


class Disk:
    """Threads in which nothing comes to an end, or all ends in the same way."""

    def __init__(self, ending: Deferred[Any]) -> None:
        self.ending = ending
        self.asked = 0

    def run(self, *_: object) -> Deferred[Any]:
        self.asked += 1
        return self.ending


def test_a_disk_that_hangs_is_asked_once_and_complained_of_once(logged: Logged) -> None:
    disk, clock = Disk(Deferred()), Clock()
    exposed = exposition(Recorder(), workers=disk, clock=clock)
    for _ in range(3):
        rendering = Deferred.fromCoroutine(exposed.render())
        clock.advance(2)
        assert rendering.called
    assert disk.asked == 1
    assert [line for line in logged.lines if "size not available" in line] == [
        "/: size not available: no answer within 2 s"
    ]
    # It tells it in the end, which nobody waits for any more: it is asked anew.
    disk.ending.callback(DiskState(os.statvfs("/"), 0))
    disk.ending = succeed(DiskState(os.statvfs("/"), 0))
    assert Samples(rendered(exposed)[0]).get("wingsd_data_size_bytes")
    assert disk.asked == 2


# What has happened is counted, by names that somebody has thought of before


def samples(recorder: Recorder) -> Samples:
    return Samples(generate_latest(recorder.registry).decode())


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "success"),
        (ArchiveError("cut"), "failure"),
        (TransferCancelled(), "cancelled"),
        (failure_of(ProgressAnswer("over", code=TransferCancelled.code)), "cancelled"),
        (failure_of(ProgressAnswer("over", code="storage-failed")), "failure"),
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


# Failures are counted by labels that stay the same, whatever classes and codes are called


def test_every_class_has_a_label() -> None:
    for kind in classes():
        error = WingsdError.__new__(kind)
        assert reason(error) in REASONS
        assert re.fullmatch("[a-z_]+", reason(error))


def test_labels_are_those_of_previous_versions() -> None:
    assert len(REASONS) == 39
    assert reason(ChecksumMismatch("a", "b")) == "checksum_mismatch"
    assert reason(PanelUnreachable("gone")) == "panel_unreachable"


def test_a_subclass_without_a_label_is_counted_as_its_base_class() -> None:
    disk = type("FullFloppy", (StorageError,), {})
    assert reason(disk("full")) == "storage_error"
