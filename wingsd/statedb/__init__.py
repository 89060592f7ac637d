"""The state database: transfers, callbacks to the Panel and used tokens, kept across restarts.

`entries` are the values, `store` is SQLite, blocking; `Journal` is the door to it on the reactor.
`python -m wingsd.statedb` lists it for people.
"""

from wingsd.statedb.async_store import Journal
from wingsd.statedb.records import Account, Described, Direction, Entry, Order, Outcome, Report

__all__ = [
    "Account",
    "Described",
    "Direction",
    "Entry",
    "Journal",
    "Order",
    "Outcome",
    "Report",
]
