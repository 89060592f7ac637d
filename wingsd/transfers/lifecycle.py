"""The life of an incoming transfer: its steps, and the state the world sees in each.

The states are those of the document. Up to and including `Step.VERIFY` a transfer can be given up
without loss; after it, the server's data is whole and the transfer is brought to its end.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["Lifecycle", "State", "Step"]


class State(Enum):
    """What the Panel and the browsers are told of a transfer."""

    PENDING = "pending"
    PROCESSING = "processing"
    SUCCESS = "success"
    FAILURE = "failure"


class Step(Enum):
    """Where a transfer is: what it does in words, and the state that shows it."""

    ADMIT = ("waiting for the archive", State.PENDING)
    RECEIVE = ("receiving the archive", State.PROCESSING)
    VERIFY = ("verifying the checksum", State.PROCESSING)
    DURABLE = ("writing to stable storage", State.PROCESSING)
    SWAP = ("moving the files into place", State.PROCESSING)
    ENVIRONMENT = ("configuring the environment", State.PROCESSING)
    REPORT = ("telling the Panel", State.PROCESSING)
    DONE = ("moved", State.SUCCESS)
    FAILED = ("undone", State.FAILURE)

    def __init__(self, words: str, state: State) -> None:
        self.words = words
        self.state = state


_ORDER = tuple(Step)


class Lifecycle:
    """A transfer's way through the steps: always onward, and to `FAILED` from any but the ends."""

    def __init__(self) -> None:
        self.step = Step.ADMIT

    def advance(self, to: Step) -> None:
        """Enter the step `to`. Raises `ValueError` when no such way leads from here."""
        if self.over or _ORDER.index(to) <= _ORDER.index(self.step):
            raise ValueError(f"a transfer cannot go from {self.step.name} to {to.name}")
        self.step = to

    @property
    def over(self) -> bool:
        """Whether nothing more can happen."""
        return self.step in (Step.DONE, Step.FAILED)

    @property
    def can_be_given_up(self) -> bool:
        """Whether the source's copy is still the only whole one."""
        return _ORDER.index(self.step) <= _ORDER.index(Step.VERIFY)

    @property
    def may_be_told(self) -> bool:
        """Whether the Panel may already know the server to be here."""
        return _ORDER.index(self.step) >= _ORDER.index(Step.REPORT)
