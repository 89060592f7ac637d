"""The errors of the calls about the node itself.

What an administrator can mend is a 4xx: of a 500, Panels show a general text only.
"""

from __future__ import annotations

from wingsd.errors import Conflict, WingsdError

__all__ = ["EngineUnavailable", "FiguresUnavailable", "PruneInProgress"]


class EngineUnavailable(Conflict):
    """The Docker engine is disabled, does not answer, or refuses (409)."""

    code = "engine-unavailable"

    def __init__(self, detail: str) -> None:
        super().__init__("Docker cannot be asked on this node", detail)


class PruneInProgress(Conflict):
    """Unused images are still being removed (409)."""

    code = "prune-in-progress"

    def __init__(self) -> None:
        super().__init__(
            "Docker is still removing unused images",
            "this node goes on with it; ask again in some minutes for what was removed",
        )


class FiguresUnavailable(WingsdError):
    """The system does not show its figures to this daemon (500)."""

    code = "figures-unavailable"

    def __init__(self, detail: str) -> None:
        super().__init__("the figures of this node cannot be read", detail)
