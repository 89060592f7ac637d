"""The activity log: what users do on this node, and crashes, kept until the Panel accepts it."""

from wingsd.activity.crashes import CrashActivity
from wingsd.activity.log import ActivityLog, ActivityRecorder
from wingsd.activity.sender import ActivitySender

__all__ = ["ActivityLog", "ActivityRecorder", "ActivitySender", "CrashActivity"]
