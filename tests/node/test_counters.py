"""What the kernel counts, and rates of it."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest

from wingsd.errors import FiguresUnavailable
from wingsd.node.figures import Counters, memory, processor, read_counters

NOTHING = Counters(0.0, 0.0, 0.0, 0, 0, 0, 0, 0, 0)


def test_rates_are_what_was_counted_in_a_second() -> None:
    later = Counters(
        time=4.0,
        processor_time=16.0,
        idle_time=12.0,
        received=4000,
        received_packets=40,
        sent=400,
        sent_packets=4,
        read=8,
        written=0,
    )
    rates = later.rates_since(NOTHING)
    assert rates.cpu_percent == 25.0
    assert attrs.astuple(rates)[3:] == (1000.0, 10.0, 100.0, 1.0, 2.0, 0.0)


def test_a_busy_machine_uses_no_more_than_all_of_its_cores() -> None:
    # Divided by the time and multiplied again, this is a little more than it was.
    rates = attrs.evolve(NOTHING, time=1.5, processor_time=0.3).rates_since(NOTHING)
    assert rates.cpu_percent == 100.0


def test_a_counter_that_was_set_back_counts_as_nothing() -> None:
    before = attrs.evolve(NOTHING, received=10, processor_time=10.0, idle_time=1.0)
    rates = attrs.evolve(NOTHING, time=1.0).rates_since(before)
    assert (rates.received, rates.cpu_percent) == (0.0, 0.0)


def test_no_time_between_two_readings_is_no_rate() -> None:
    after = attrs.evolve(NOTHING, received=10)
    assert after.rates_since(NOTHING).received == 0.0


def test_the_machine_is_read() -> None:
    counted, used = read_counters(3.0, "pterodactyl0"), memory()
    assert counted.time == 3.0
    assert 0 < counted.idle_time < counted.processor_time
    assert counted.processor_time < 1.1 * os.cpu_count() * float(  # type: ignore[operator]
        Path("/proc/uptime").read_text().split()[0]
    )
    assert 0 < used.used_process < used.used < used.total
    assert used.total == int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert processor().model


def test_traffic_within_the_machine_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    one = SimpleNamespace(bytes_recv=1, packets_recv=1, bytes_sent=1, packets_sent=1)
    names = ["eth0", "lo", "docker0", "veth1a2b", "br-0123", "pterodactyl0", "eno1"]
    monkeypatch.setattr("psutil.net_io_counters", lambda **_: dict.fromkeys(names, one))
    assert read_counters(0.0, "pterodactyl0").received == 2


def test_a_hidden_proc_is_an_error_that_names_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psutil.PROCFS_PATH", str(tmp_path))
    with pytest.raises(FiguresUnavailable) as raised:
        read_counters(0.0, "")
    assert "ProcSubset=" in raised.value.detail
    with pytest.raises(FiguresUnavailable):
        memory()
