"""The reactor that the tests run on, with its type."""

from __future__ import annotations

from wingsd.util.reactor import Reactor, installed_reactor

__all__ = ["reactor"]

reactor: Reactor = installed_reactor()
