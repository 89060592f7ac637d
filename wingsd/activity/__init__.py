"""The activity log: what users do on this node, and crashes, kept until the Panel accepts it."""

from wingsd.activity.log import ActivityLog, record_crashes
from wingsd.activity.sender import ActivitySender

__all__ = ["ActivityLog", "ActivitySender", "record_crashes"]
