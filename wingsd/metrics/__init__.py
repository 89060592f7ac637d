"""What Prometheus is told of this node: `Recorder` hears it, `Exposition` has it read.

Nothing is counted twice, and nothing while bytes flow: what the node knows already is looked at
when it is asked for.
"""

from wingsd.metrics.exposition import Exposition
from wingsd.metrics.gauges import Sources
from wingsd.metrics.recorder import DIRECTIONS, Recorder

__all__ = ["DIRECTIONS", "Exposition", "Recorder", "Sources"]
