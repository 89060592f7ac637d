"""A node, tokens of its Panel for it, and how one is refused."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import Node, Panel
from wingsd.auth.tokens import TransferToken, transfer_token
from wingsd.config import PTERODACTYL
from wingsd.errors import Unauthorized

UUID = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10"
# The names of the tests are made of its secret: each worker must give them the same names.
NODE = Node("https://node.invalid:8080", token="0123456789abcdef" * 4)


def bearer(**claims: Any) -> str:
    return f"Bearer {Panel().transfer_token(UUID, NODE, **claims)}"


def read(authorization: str | None, public_url: str = "", **options: Any) -> TransferToken:
    """Return what a Panel's or another node's token says to the node."""
    return transfer_token(authorization, NODE.token, PTERODACTYL, public_url, **options)


def refusal(authorization: str | None, public_url: str = "") -> Unauthorized:
    with pytest.raises(Unauthorized) as caught:
        read(authorization, public_url)
    assert caught.value.status == 401
    return caught.value
