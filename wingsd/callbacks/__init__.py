"""Callbacks to the Panel: reports of transfers and installations, sent until they are accepted."""

from wingsd.callbacks.queue import CallbackQueue, PendingReport

__all__ = ["CallbackQueue", "PendingReport"]
