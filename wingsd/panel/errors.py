"""The errors of calls to the Panel."""

from __future__ import annotations

from wingsd.errors import ServerNotFound, WingsdError

__all__ = [
    "NodeTokenRefused",
    "PanelError",
    "PanelRefused",
    "PanelUnreachable",
    "ServerNotAssigned",
]


class ServerNotAssigned(ServerNotFound):
    """The Panel knows the server, but of no transfer that brings it to this node (404)."""

    code = "server-not-assigned"


class PanelError(WingsdError):
    """The Panel did not do what was asked of it.

    `retry_after` is the seconds it asks to be left alone for, 0 when it does not.
    """

    code = "panel-failed"

    def __init__(self, message: str, detail: str = "", retry_after: float = 0.0) -> None:
        super().__init__(message, detail)
        self.retry_after = retry_after


class PanelRefused(PanelError):
    """The Panel answered, and the answer was no (a 4xx in `response_status`)."""

    code = "panel-refused"

    def __init__(
        self, message: str, detail: str, response_status: int, retry_after: float = 0.0
    ) -> None:
        super().__init__(message, detail, retry_after)
        self.response_status = response_status


class NodeTokenRefused(PanelRefused):
    """The Panel refuses this node's own token (503): it has said nothing of any server.

    `answer` is what it said, with its status in `response_status`.
    """

    code = "node-token-refused"
    status = 503

    def __init__(self, answer: str, response_status: int, retry_after: float = 0.0) -> None:
        super().__init__(
            "the Panel does not accept this node's token",
            "copy the node's configuration from the Panel again, then restart this node; "
            f"{answer}",
            response_status,
            retry_after,
        )


class PanelUnreachable(PanelError):
    """The Panel gave no answer that could be used: down, too slow, a 5xx, or nonsense (503)."""

    code = "panel-unreachable"
    status = 503
