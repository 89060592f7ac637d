"""Metrics for Prometheus: `Recorder` counts, `Exposition` renders.

Nothing is counted twice, and nothing while bytes flow: what the node knows already is looked at
when it is asked for.
"""

from wingsd.metrics.exposition import Exposition, Sources
from wingsd.metrics.recorder import DIRECTIONS, Recorder

__all__ = ["DIRECTIONS", "Exposition", "Recorder", "Sources"]
