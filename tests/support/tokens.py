"""The tokens that a Panel hands out: the claims of each, and the signing of all."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection
from typing import Any

import jwt

from tests.support.settings import Json
from tests.support.state import Node
from wingsd.config import PTERODACTYL

# Seconds.
_NOT_BEFORE = 5 * 60
_TRANSFER_LIFETIME = 15 * 60
_CONSOLE_LIFETIME = 10 * 60


def _usual(panel: str, node: Node, scope: str, jti: str, issued: int, lifetime: int) -> Json:
    return ({} if node.family == PTERODACTYL else {"scope": scope}) | {
        "iss": panel,
        "aud": [node.address],
        "jti": jti,
        "unique_id": secrets.token_hex(8),
        "iat": issued,
        "nbf": issued - _NOT_BEFORE,
        "exp": issued + lifetime,
    }


def transfer_claims(panel: str, node: Node, uuid: str, issued: int) -> Json:
    """Return what the token for a server's transfer to `node` says."""
    jti = hashlib.sha256(uuid.encode()).hexdigest()
    return _usual(panel, node, "transfer", jti, issued, _TRANSFER_LIFETIME) | {"sub": uuid}


def console_claims(
    panel: str, node: Node, uuid: str, user: str, permissions: Collection[str], issued: int
) -> Json:
    """Return what the token of a user's browser says that watches a server on `node`."""
    jti = hashlib.md5(f"{user}{uuid}".encode(), usedforsecurity=False).hexdigest()
    return _usual(panel, node, "websocket", jti, issued, _CONSOLE_LIFETIME) | {
        "server_uuid": uuid,
        "user_uuid": user,
        "permissions": list(permissions),
    }


def signed(
    claims: Json, changes: dict[str, Any], key: str, algorithm: str = "HS256", **headers: str
) -> str:
    """Return the token; `changes` replace claims, and None leaves one out."""
    payload = {name: value for name, value in (claims | changes).items() if value is not None}
    return jwt.encode(payload, key, algorithm, headers)
