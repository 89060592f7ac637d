"""Gauges of the copies that follow servers of this node at other nodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.core import GaugeMetricFamily, Metric

from wingsd.transfers.step_log import SeedFigures

__all__ = ["of_seeds"]


def of_seeds(figures: Sequence[SeedFigures]) -> Iterator[Metric]:
    """Return what is known of these copies: their number, and the worst of them."""
    yield GaugeMetricFamily(
        "wingsd_seeds",
        "Copies that follow servers of this node at other nodes.",
        value=len(figures),
    )
    yield GaugeMetricFamily(
        "wingsd_seeds_failing",
        "Those of them whose last round has failed.",
        value=sum(each.trouble != "" for each in figures),
    )
    yield GaugeMetricFamily(
        "wingsd_seed_age_seconds",
        "Time since the last whole round of the oldest copy began; 0 while none is known.",
        value=max((each.age or 0.0 for each in figures), default=0.0),
    )
    missing = [each.missing for each in figures if each.missing is not None]
    if missing or not figures:  # it is absent while nothing is known
        yield GaugeMetricFamily(
            "wingsd_seed_missing_bytes",
            "Bytes that were seen to be changed and are not at the other nodes yet.",
            value=sum(missing),
        )
    yield GaugeMetricFamily(
        "wingsd_seed_predicted_downtime_seconds",
        "The longest time for which one of their servers would be down if it were moved now.",
        value=max((each.downtime or 0.0 for each in figures), default=0.0),
    )
