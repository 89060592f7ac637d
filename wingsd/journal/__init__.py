"""What the node must not forget when it dies: transfers, reports to the Panel, tokens used up.

`entries` are the values, `store` is SQLite, blocking; `Journal` is the door to it on the reactor.
`python -m wingsd.journal` lists it for people.
"""

from wingsd.journal.door import Journal
from wingsd.journal.entries import (
    Account,
    Described,
    Direction,
    Entry,
    Order,
    Outcome,
    Report,
)

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
