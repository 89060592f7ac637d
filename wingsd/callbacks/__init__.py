"""Callbacks to the Panel: reports of outcomes, such as a transfer's, sent until accepted."""

from wingsd.callbacks.queue import CallbackQueue, PendingReport

__all__ = ["CallbackQueue", "PendingReport"]
