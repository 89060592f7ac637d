"""Tokens of consoles, as the Panel gives them to a browser."""

from __future__ import annotations

from typing import Any

import jwt

UUID = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10"
KEY = "k" * 64


def console_token(now: float, *permissions: str, **claims: Any) -> str:
    usual = {
        "iat": now,
        "exp": now + 600,
        "jti": "j",
        "user_uuid": "user",
        "server_uuid": UUID,
        "permissions": ["websocket.connect", *permissions],
        "scope": "websocket",
    }
    return jwt.encode(usual | claims, KEY, "HS256")
