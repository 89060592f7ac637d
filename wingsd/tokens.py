"""Who may do what on this node: the Panel itself, and whoever has a JWT of it.

PyJWT does the checking; here is what the Panel's tokens must hold. `iat` is left alone, since
`nbf` already allows for the five minutes by which two clocks may differ, and so is `aud`: it is
the node's public address, which its configuration does not tell.
"""

from __future__ import annotations

from hmac import compare_digest
from typing import Any

import attrs
import jwt

from wingsd.errors import Forbidden, NotAuthorized
from wingsd.model import canonical_uuid

__all__ = ["TransferToken", "authorize_panel", "transfer_token"]

_MISSING = "The required authorization heads were not present in the request."
_ASK_AGAIN = "start the transfer again in the Panel for a new token"

# The first that fits is told; PyJWT's classes go from the special to the general.
_REASONS: tuple[tuple[type[jwt.PyJWTError], str], ...] = (
    (jwt.ExpiredSignatureError, f"it has expired; {_ASK_AGAIN}"),
    (jwt.ImmatureSignatureError, "it is not valid yet; compare the clocks of node and Panel"),
    (jwt.InvalidAlgorithmError, "it must be signed with HS256"),
    (
        jwt.InvalidSignatureError,
        "it was not signed with this node's key; compare `token` in the node's configuration "
        "with the Panel's",
    ),
    (jwt.MissingRequiredClaimError, "{error}"),
    (jwt.PyJWTError, f"it cannot be read ({{error}}); {_ASK_AGAIN}"),
)


@attrs.frozen
class TransferToken:
    """What a good token says: which server may be sent with it."""

    server: str


def transfer_token(authorization: str | None, key: str) -> TransferToken:
    """Return what the `Authorization` header grants; `key` is the node's `token`.

    Raises `NotAuthorized` with the reason. The source of the rules is the document of
    `POST /api/transfers` and the Panels' own tokens.
    """
    claims = _decode(_bearer(authorization), key)
    subject = claims["sub"]
    server = canonical_uuid(subject) if isinstance(subject, str) else None
    if server is None:
        raise NotAuthorized("The token is not valid", "its subject is not the UUID of a server")
    return TransferToken(server)


def authorize_panel(authorization: str | None, key: str) -> None:
    """Let the Panel's own calls pass: `Authorization` bears `key`, the node's `token`.

    Raises `NotAuthorized` without a token, `Forbidden` for another one, in the words of Wings.
    """
    if not compare_digest(_bearer(authorization).encode(), key.encode()):
        raise Forbidden(
            "You are not authorized to access this endpoint.",
            "the token sent is not this node's; compare `token` in the node's configuration with "
            "the Panel's",
        )


def _bearer(authorization: str | None) -> str:
    scheme, _, token = (authorization or "").strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise NotAuthorized(_MISSING, "send the header Authorization: Bearer <token of the Panel>")
    return token.strip()


def _decode(token: str, key: str) -> dict[str, Any]:
    try:
        return jwt.decode(
            token,
            key,
            algorithms=["HS256"],
            options={"require": ["exp", "sub"], "verify_aud": False, "verify_iat": False},
        )
    except jwt.PyJWTError as error:
        reason = next(text for kind, text in _REASONS if isinstance(error, kind))
        raise NotAuthorized("The token is not valid", reason.format(error=error)) from error
