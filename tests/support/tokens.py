"""The tokens that a Panel hands out: the claims of each, and the signing of all."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Collection
from typing import Any
from uuid import uuid4

import jwt

from tests.support.settings import Json
from tests.support.state import Node
from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL

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


# Tokens of users, as the three Panels make them: for signed URLs, consoles and transfers


USER = "6f1f2fd4-8f43-4a92-b1a7-9ddc6f1ba0d5"
BACKUP = "5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11"
#: By the kind of a token: its scope, and its claims beside those that all tokens have.
_KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "console": ("websocket", {"permissions": ["websocket.connect"]}),
    "file": ("file-download", {"file_path": "/a"}),
    "directory": ("file-download", {"file_path": "/d"}),
    "no file": ("file-download", {"file_path": ""}),
    "backup": ("backup-download", {"backup_uuid": BACKUP}),
    "upload": ("file-upload", {}),
    "transfer": ("transfer", {"server_uuid": None, "user_uuid": None, "user_id": None}),
}
#: Those that Calagopus' Panel alone makes: of several files, and to copy some to another server.
_MORE_KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "files": ("file-download", {"file_path": "", "file_paths": ["a", "d"]}),
    "copy": ("transfer", {"server_uuid": None, "root": "/", "destination_path": "/"}),
}


def panel_tokens(key: str, server: str, family: str, **more: Any) -> dict[str, str]:
    """Return a token of each kind that the Panel of a family makes; `more` are claims of all."""
    made = {}
    for name, (scope, claims) in (_KINDS | (_MORE_KINDS if family == CALAGOPUS else {})).items():
        own = {"scope": None if family == PTERODACTYL else scope} | more | claims
        if scope == "transfer":
            own["sub"] = server
        made[name] = signed_url_token(key, server, scope, family, **own)
    return made


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
