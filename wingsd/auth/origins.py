"""Which web pages may use this node: the Panel's own, and those of `allowed_origins`. Pure."""

from __future__ import annotations

from wingsd.config import Config
from wingsd.util.text import origin

__all__ = ["allows_origin"]


def allows_origin(config: Config, page: str) -> bool:
    """Return whether a page of the origin `page`, as the header `Origin` names it, may use it."""
    here = origin(page)
    return any(
        allowed == "*" or origin(allowed) == here
        for allowed in (config.remote, *config.allowed_origins)
    )
