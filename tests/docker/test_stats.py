"""Tests for `wingsd.docker.process`: the engine's figures, and those of its command line."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wingsd.docker.process import MAX_SAMPLE, Samples, usage
from wingsd.docker.runtime import ContainerUsage, DiskIo, NetworkUsage

STARTED = datetime(2026, 11, 25, 9, 16, 0, tzinfo=UTC)
SAMPLE: dict[str, Any] = json.loads(Path(__file__).with_name("stats.json").read_text())


def changed(section: str, **fields: Any) -> dict[str, Any]:
    sample = copy.deepcopy(SAMPLE)
    sample[section] |= fields
    return sample


def used(sample: dict[str, Any]) -> ContainerUsage:
    found = usage(sample, STARTED)
    assert found is not None
    return found


def test_the_figures_of_a_sample() -> None:
    assert usage(SAMPLE, STARTED) == ContainerUsage(
        memory_bytes=42_000_000,
        memory_limit_bytes=73_600_000,
        cpu_absolute=50.0,
        network=NetworkUsage(rx_bytes=120, tx_bytes=12, rx_packets=0, tx_packets=0),
        disk_io=DiskIo(read_bytes=4097, write_bytes=514),
        uptime=29_764,
    )


@pytest.mark.parametrize(
    ("details", "memory"),
    [
        ({"total_inactive_file": 1_000_000, "inactive_file": 8_000_000}, 49_000_000),
        ({"total_inactive_file": 60_000_000, "inactive_file": 8_000_000}, 42_000_000),
        ({"inactive_file": 50_000_000}, 50_000_000),
        ({}, 50_000_000),
        (None, 50_000_000),
    ],
)
def test_memory_is_counted_without_page_cache(details: Any, memory: int) -> None:
    assert used(changed("memory_stats", stats=details)).memory_bytes == memory


@pytest.mark.parametrize(
    ("now", "percent"),
    [
        ({"online_cpus": 1}, 12.5),
        ({"online_cpus": 0, "cpu_usage": {"total_usage": 1_523_456_789}}, 12.5),
        (
            {
                "online_cpus": 0,
                "cpu_usage": {"total_usage": 1_523_456_789, "percpu_usage": [1, 1]},
            },
            25.0,
        ),
        ({"cpu_usage": {"total_usage": 1_023_456_789 + 1_234_567}}, 0.123),
        ({"cpu_usage": {"total_usage": 5}}, 0.0),
        ({"system_cpu_usage": 8_000_000_000}, 0.0),
        ({"system_cpu_usage": None}, 0.0),
    ],
)
def test_cpu_is_in_percent_of_one_core(now: dict[str, Any], percent: float) -> None:
    assert used(changed("cpu_stats", **now)).cpu_absolute == percent


def test_uptime_is_by_the_engines_clock() -> None:
    later = datetime(2026, 11, 25, 9, 17, tzinfo=UTC)
    before_its_start, unknown = usage(SAMPLE, later), usage(SAMPLE, None)
    assert before_its_start is not None
    assert unknown is not None
    assert (before_its_start.uptime, unknown.uptime) == (0, 0)


def test_a_container_that_does_not_run_uses_nothing() -> None:
    assert usage({"read": "0001-01-01T00:00:00Z", "memory_stats": {}}, STARTED) is None
    assert usage({}, STARTED) is None


@pytest.mark.parametrize(
    "section", ["cpu_stats", "precpu_stats", "memory_stats", "networks", "blkio_stats"]
)
def test_what_the_engine_leaves_out_is_nought(section: str) -> None:
    assert usage(SAMPLE | {section: {}}, STARTED) is not None
    assert usage(SAMPLE | {section: None}, STARTED) is not None
    # cgroup v2 without an `io` controller.
    assert (
        usage(SAMPLE | {"blkio_stats": {"io_service_bytes_recursive": None}}, STARTED) is not None
    )
    assert usage({"read": SAMPLE["read"]}, STARTED) == ContainerUsage(uptime=29_764)


@given(st.lists(st.dictionaries(st.text(), st.integers())), st.integers(1, 50))
def test_samples_are_joined_from_any_pieces(samples: list[dict[str, int]], size: int) -> None:
    data = b"".join(json.dumps(sample).encode() + b"\r\n" for sample in samples)
    reader = Samples()
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert [sample for piece in pieces for sample in reader.feed(piece)] == samples


def test_lines_that_are_no_samples_are_passed_over() -> None:
    reader = Samples()
    assert list(reader.feed(b'nonsense\n[1]\n\xff\n{"a": 1}\n')) == [{"a": 1}]
    assert list(reader.feed(b"x" * (MAX_SAMPLE + 1))) == []
    assert list(reader.feed(b'{"b": 2}\n')) == [{"b": 2}]
