"""Whose request it is that comes through proxies."""

from __future__ import annotations

import pytest

from wingsd.http.request import client_of

CLIENT, PROXY, INNER = "198.51.100.7", "192.0.2.1", "10.0.0.5"
UNIX = "a Unix socket"


@pytest.mark.parametrize(
    ("trusted", "peer", "chain", "client"),
    [
        ([], PROXY, [CLIENT], PROXY),
        ([PROXY], CLIENT, ["203.0.113.1"], CLIENT),
        ([PROXY], PROXY, [CLIENT], CLIENT),
        (["192.0.2.0/24"], PROXY, [CLIENT], CLIENT),
        ([PROXY], f"::ffff:{PROXY}", [CLIENT], CLIENT),
        # What comes before the address that the proxy has added may be invented.
        ([PROXY], PROXY, ["203.0.113.1", CLIENT], CLIENT),
        ([PROXY, "10.0.0.0/8"], PROXY, ["203.0.113.1", CLIENT, INNER], CLIENT),
        ([PROXY, "10.0.0.0/8"], PROXY, ["203.0.113.1", INNER], "203.0.113.1"),
        ([PROXY, "10.0.0.0/8"], PROXY, [INNER], INNER),
        ([PROXY], PROXY, ["2001:db8::1"], "2001:db8::1"),
        ([PROXY], PROXY, [f"{CLIENT}, x"], PROXY),
        ([PROXY], PROXY, ["unknown"], PROXY),
        ([PROXY], PROXY, [""], PROXY),
        ([PROXY], PROXY, [], PROXY),
        ([PROXY], UNIX, [CLIENT], CLIENT),
        ([PROXY], UNIX, [], UNIX),
        ([], UNIX, [CLIENT], UNIX),
    ],
)
def test_the_client_is_the_last_that_is_no_trusted_proxy(
    trusted: list[str], peer: str, chain: list[str], client: str
) -> None:
    assert client_of(trusted, peer, chain) == client
