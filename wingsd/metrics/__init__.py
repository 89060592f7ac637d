"""Metrics for Prometheus: `Recorder` counts, `Exposition` renders.

Counters are updated at the ends of steps and transfers, not while bytes flow; gauges are read when
they are requested.
"""

from wingsd.metrics.exposition import Exposition, Sources
from wingsd.metrics.recorder import DIRECTIONS, Recorder

__all__ = ["DIRECTIONS", "Exposition", "Recorder", "Sources"]
