"""Metrics for Prometheus: `Recorder` counts, `Exposition` renders.

A node without metrics only counts `MovedBytes`, and does not import the other two.

Counters are updated at the ends of steps and transfers, not while bytes flow; gauges are read when
they are requested.
"""

from wingsd.metrics.moved import DIRECTIONS, MovedBytes

__all__ = ["DIRECTIONS", "MovedBytes"]
