"""The address of a client behind a proxy, by the headers of proxies that are trusted.

A proxy adds the address that it was called from to `X-Forwarded-For`, at the end. What is before
the first address that is no trusted proxy's may be the client's own invention.
"""

from __future__ import annotations

from collections.abc import Sequence

from wingsd.http.request import StreamingRequest
from wingsd.util.addresses import Address, parse_address, parse_network

__all__ = ["TrustedProxies"]


class TrustedProxies:
    """The proxies with these addresses or networks, `api.trusted_proxies`.

    With any of them, what calls over a Unix socket is one as well.
    """

    def __init__(self, proxies: Sequence[str]) -> None:
        self._networks = [parse_network(proxy) for proxy in proxies]

    def client_of(self, request: StreamingRequest) -> str:
        """Return the address that a request comes from; of a Unix socket, a text that is none."""
        forwarded = request.requestHeaders.getRawHeaders("X-Forwarded-For", [])
        chain = [part.strip() for value in forwarded for part in value.split(",")]
        chain = chain or [request.header("X-Real-IP").strip()]
        return self.client(request.peer, chain)

    def client(self, peer: str, chain: Sequence[str]) -> str:
        """Return the address of the client of `peer`, where `chain` are the forwarded ones.

        It is the last one that is no trusted proxy's. An invalid one ends the chain.
        """
        if not self._networks:
            return peer
        client = peer
        for text in (*chain, *([peer] if _parsed(peer) else []))[::-1]:
            found = _parsed(text)
            if found is None:
                break
            client = str(found)
            if not any(found in network for network in self._networks):
                break
        return client


def _parsed(text: str) -> Address | None:
    try:
        return parse_address(text)
    except ValueError:
        return None
