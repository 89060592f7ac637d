"""Errors of requests to addresses that users give.

All are below 500, so that Panels show them to the user, who can act on them. None tells an address
that a name has in the node's networks.
"""

from __future__ import annotations

from wingsd.errors import BadRequest

__all__ = [
    "AddressBlocked",
    "DownloadFailed",
    "TooManyRedirects",
    "UrlInvalid",
    "UrlSchemeRefused",
]


class UrlInvalid(BadRequest):
    """The URL cannot be requested (400, with Wings' message)."""

    code = "url-invalid"

    def __init__(self, reason: str) -> None:
        super().__init__(f"An error occurred while parsing that URL: {reason}")
        self.reason = reason


class UrlSchemeRefused(UrlInvalid):
    """The URL is of neither http nor https (400)."""

    code = "url-scheme-refused"

    def __init__(self) -> None:
        super().__init__("it must begin with http:// or https://")


class AddressBlocked(BadRequest):
    """The host is in a network that users may not reach through this node (400)."""

    code = "address-blocked"

    def __init__(self, host: str) -> None:
        super().__init__(
            "This node does not connect to the address of that URL.",
            f"{host} is not on the public Internet, or is this node itself; an administrator of "
            "the node can allow it",
        )


class DownloadFailed(BadRequest):
    """The other server did not send the file (400)."""

    code = "download-failed"

    def __init__(self, detail: str) -> None:
        super().__init__("The file could not be downloaded from that URL.", detail)


class TooManyRedirects(DownloadFailed):
    """Its redirects are too many, or lead back to where one has been (400)."""

    code = "too-many-redirects"
