"""What all answers of the node's interface have in common, errors and refusals included."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from wingsd.config import Config
from wingsd.config.vendors import CALAGOPUS, node_agent_of

__all__ = ["AnswerStyle"]

# Those of Wings, letter for letter; pages of the Panel call from a browser, too.
_CORS: Mapping[str, str] = {
    "Access-Control-Allow-Credentials": "true",
    "Access-Control-Allow-Methods": "GET, POST, PATCH, PUT, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": (
        "Accept, Accept-Encoding, Authorization, Cache-Control, Content-Type, Content-Length, "
        "Origin, X-Real-IP, X-CSRF-Token"
    ),
    "Access-Control-Max-Age": "7200",
}
#: Wings sends the first, which is the name of a request's header; browsers look for the second.
_PRIVATE_NETWORK: Mapping[str, str] = {
    "Access-Control-Request-Private-Network": "true",
    "Access-Control-Allow-Private-Network": "true",
}


class AnswerStyle:
    """The style of all answers of a node with this configuration."""

    def __init__(self, config: Config) -> None:
        #: Whether an empty answer is an empty map, as Calagopus' Panel expects it.
        self.empty_maps = config.family == CALAGOPUS
        self.use(config)

    def use(self, config: Config) -> None:
        """Answer later requests in the style of another configuration."""
        self._config = config
        panel = urlsplit(config.remote)
        self._panel = f"{panel.scheme}://{panel.netloc}"
        self._fixed = {
            "User-Agent": node_agent_of(config.family, config.token_id),
            # Bodies are JSON or MessagePack by `Accept`.
            "Vary": "Origin, Accept",
            **_CORS,
            **(_PRIVATE_NETWORK if config.allow_cors_private_network else {}),
        }

    def headers(self, origin: str) -> dict[str, str]:
        """Return the headers of an answer to a request with this `Origin`, empty for none."""
        allowed = origin if origin and self._config.allows_origin(origin) else self._panel
        return {**self._fixed, "Access-Control-Allow-Origin": allowed}
