"""Tokens of signed URLs, as the three Panels make them."""

from __future__ import annotations

import secrets
import time
from typing import Any
from uuid import uuid4

import jwt

from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL

__all__ = ["USER", "signed_url_token"]

USER = "6f1f2fd4-8f43-4a92-b1a7-9ddc6f1ba0d5"


def signed_url_token(
    key: str, server: str | None, scope: str, family: str = PTERODACTYL, /, **claims: Any
) -> str:
    """Return a Panel's token for `scope`, such as `file-download`.

    `claims` replace the usual ones; None leaves one out.
    """
    now = int(time.time())
    usual: dict[str, Any] = {
        "iss": "https://panel.invalid",
        "aud": ["https://node.invalid"],
        "jti": "c" * 32,
        "iat": now,
        "nbf": now - 300,
        "exp": now + 900,
        "server_uuid": server,
        "user_uuid": USER,
        "user_id": 1,
        "unique_id": secrets.token_hex(8),
    }
    if family == PELICAN:
        usual |= {"jti": "c" * 64, "scope": f"websocket {scope}"}
    elif family == CALAGOPUS:
        # Its `nbf` is null, which says nothing.
        usual |= {"iss": "panel", "aud": [], "jti": USER, "scope": scope}
        usual |= {"unique_id": str(uuid4())}
        del usual["user_id"]
    payload = {name: value for name, value in (usual | claims).items() if value is not None}
    if family == CALAGOPUS and "nbf" not in claims:
        payload["nbf"] = None
    return jwt.encode(payload, key, "HS256")
