"""Metrics for Prometheus: `Recorder` counts, `Exposition` renders.

A node without metrics only counts `MovedBytes`, and imports neither.

Counters are updated at the ends of steps and transfers, not while bytes flow; gauges are read when
they are requested.
"""
