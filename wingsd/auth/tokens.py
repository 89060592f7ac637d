"""Who may do what on this node: the Panel itself, and whoever has a JWT of it.

PyJWT does the checking; here is what the Panel's tokens must hold. Times must be numbers, as RFC
7519 says, where PyJWT also takes texts that look like one. That `iat` is not in the
future is left alone, since `nbf` already allows for the five minutes by which two clocks may
differ. `aud` is the node's public address, which a Panel's configuration does not tell: it is
judged where `api.public_url` does. A `scope`, which some Panels write and others do not, is held
to whenever there is one; a node of Pelican's demands that of transfers, as its family's own do.

Secrets are compared in constant time, here by `compare_digest` and in PyJWT by the same; they are
compared nowhere else.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Mapping
from hashlib import sha256
from hmac import compare_digest
from typing import Any

import attrs
import jwt

from wingsd.errors import Forbidden, Unauthorized
from wingsd.util.text import canonical_uuid, origin

__all__ = [
    "EXPIRED",
    "RENEW_DIRECT",
    "ConsoleToken",
    "DenyList",
    "TokenExpired",
    "TokenInvalid",
    "TokenMissing",
    "TokenUsed",
    "TransferToken",
    "authorize_panel",
    "console_token",
    "direct_token",
    "token_was_used",
    "transfer_token",
]

#: What is said of a console's token that has expired. The Panel's page looks for these words,
#: and for none else but those of the deny list, and then asks for another token by itself.
EXPIRED = "jwt: exp claim is invalid"
#: How to get another token for a direct transfer.
RENEW_DIRECT = "run wingsctl receive there again for a new token"

_MISSING = "The required authorization heads were not present in the request."
_NOT_VALID = "The token is not valid"
_AGAIN_FOR_TRANSFER = "start the transfer again in the Panel for a new token"
_AGAIN_FOR_CONSOLE = "reload the page for a new token"
#: The claim of a direct transfer's token, which a node issues itself; no Panel has it.
_DIRECT = "by_hand"
#: Seconds by which two nodes' clocks may differ; the Panels' own figure.
_CLOCKS_DIFFER = 300

#: The claims that are times.
_TIMES = ("exp", "iat", "nbf")
#: Seconds since the epoch that are later than anything: a number can be too large for a float.
_FOREVER = 1 << 52

# The first that fits is told; PyJWT's classes go from the special to the general.
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (jwt.ExpiredSignatureError, "it has expired; {again}"),
    (jwt.ImmatureSignatureError, "it is not valid yet; compare the clocks of node and Panel"),
    (jwt.InvalidAlgorithmError, "it must be signed with HS256"),
    (
        jwt.InvalidSignatureError,
        "it was not signed with this node's key; compare `token` in the node's configuration "
        "with the Panel's",
    ),
    (jwt.MissingRequiredClaimError, "{error}"),
    (Exception, "it cannot be read ({error}); {again}"),
)


class TokenMissing(Unauthorized):
    """The request has no token (401)."""

    code = "token-missing"


class TokenInvalid(Unauthorized):
    """The token cannot be read, or is for something else (401)."""

    code = "token-invalid"


class TokenExpired(TokenInvalid):
    """The token has expired (401)."""

    code = "token-expired"


class TokenUsed(TokenInvalid):
    """The token was used for a previous transfer (401)."""

    code = "token-used"


@attrs.frozen
class TransferToken:
    """What a good token says: which server may be sent with it.

    `digest` tells it from every other token, and `expires` (seconds since the epoch) is how long
    that must be remembered, for it to be good for one transfer only.
    """

    server: str
    digest: str
    expires: float
    #: Whether this node issued it, for a direct transfer, and not the Panel.
    direct: bool = False


def transfer_token(
    authorization: str | None,
    key: str,
    public_url: str = "",
    *,
    scoped: bool = False,
    expired_too: bool = False,
    again: str = _AGAIN_FOR_TRANSFER,
) -> TransferToken:
    """Return what the `Authorization` header grants; `key` is the node's `token`.

    `public_url` is the address that the token must be for, empty when it may be any; a token for
    a node that is `scoped` must have a scope. One that has expired begins no transfer; to ask what
    became of one, it is good `expired_too`. `again` says how another is to be had. Raises
    `Unauthorized` with the reason. The source of the rules is the document of
    `POST /api/transfers` and the Panels' own tokens.
    """
    token = _bearer(authorization)
    claims = _decode(token, key, ["exp", "sub"], again, expired_too=expired_too)
    if scoped and claims.get("scope") is None:
        raise TokenInvalid(
            _NOT_VALID,
            "it has no scope, which every token of a Pelican Panel has; when this node's Panel is "
            "another, say so by `family` in its configuration",
        )
    _check_scope(claims, "transfer")
    _check_audience(claims.get("aud"), public_url)
    # Of what is signed alone: the signature itself can be written in more ways than one.
    signed, _, _ = token.rpartition(".")
    return TransferToken(
        server=_server(claims["sub"], "its subject"),
        digest=sha256(signed.encode()).hexdigest(),
        expires=_seconds(claims, "exp"),
        direct=claims.get(_DIRECT) is True,
    )


def direct_token(server: str, key: str, now: float, expires: float, public_url: str = "") -> str:
    """Return a token by which the server may be sent to this node once, by hand.

    `key`, `public_url` as for `transfer_token`; times in seconds since the epoch.
    """
    claims = {
        "sub": server,
        "scope": "transfer",
        "iat": int(now),
        "nbf": int(now) - _CLOCKS_DIFFER,
        "exp": int(expires),
        "unique_id": secrets.token_hex(8),
        _DIRECT: True,
    } | ({"aud": [public_url]} if public_url else {})
    return jwt.encode(claims, key, "HS256")


def token_was_used(again: str = _AGAIN_FOR_TRANSFER) -> TokenUsed:
    """Return the refusal of a token with which a server was sent before."""
    return TokenUsed(_NOT_VALID, f"it was used for a transfer before; {again}")


@attrs.frozen
class ConsoleToken:
    """Who may watch which server's console, and do what there.

    `issued` and `expires` are seconds since the epoch; `jti` is one for all tokens of a user for
    a server.
    """

    user: str
    server: str
    permissions: frozenset[str]
    jti: str
    issued: float
    expires: float

    def allows(self, permission: str) -> bool:
        """Return whether a permission was granted; `*` grants all but those of administrators."""
        anything = "*" in self.permissions and not permission.startswith("admin")
        return anything or permission in self.permissions


def console_token(token: str, key: str) -> ConsoleToken:
    """Return what the JWT of a WebSocket's `auth` grants; `key` is the node's `token`.

    Raises `Unauthorized` with the reason. The source of the rules are the Panels' own tokens.
    """
    claims = _decode(token, key, ["exp", "iat", "jti"], _AGAIN_FOR_CONSOLE, EXPIRED)
    _check_scope(claims, "websocket")
    permissions = claims.get("permissions") or []
    if not (isinstance(permissions, list) and all(isinstance(word, str) for word in permissions)):
        raise TokenInvalid(_NOT_VALID, "its permissions are not a list of texts")
    return ConsoleToken(
        user=str(claims.get("user_uuid") or ""),
        server=_server(claims.get("server_uuid"), "its server_uuid"),
        permissions=frozenset(permissions),
        jti=str(claims["jti"]),
        issued=_seconds(claims, "iat"),
        expires=_seconds(claims, "exp"),
    )


class DenyList:
    """Tokens taken back by the Panel before they expire (`POST /api/servers/{uuid}/ws/deny`).

    Tokens issued before `booted` (seconds since the epoch) are refused as well, as every node
    does. What was denied before is still to be known: in the second of the boot, and after a
    clock that was set back. A `jti` stands for a user and a server, which bounds the list.
    """

    def __init__(self, booted: float) -> None:
        # Some Panels date their tokens in whole seconds: one of this second may be a new one.
        self._booted: float = math.floor(booted)
        self._denied: dict[str, float] = {}

    def deny(self, jtis: Iterable[str], now: float) -> None:
        """Refuse all tokens of these `jti` that were issued before `now`."""
        self.restore(dict.fromkeys(jtis, now))

    def restore(self, denied: Mapping[str, float]) -> None:
        """Know what was denied, and when; of two times for one `jti` the later counts."""
        for jti, at in denied.items():
            self._denied[jti] = max(at, self._denied.get(jti, at))

    def refuse_before(self, at: float) -> None:
        """Refuse all tokens issued before `at`: which of them were denied is forgotten."""
        self._booted = max(self._booted, at)

    def refuses(self, token: ConsoleToken) -> bool:
        """Return whether the token was taken back."""
        return token.issued < max(self._booted, self._denied.get(token.jti, self._booted))


def authorize_panel(authorization: str | None, key: str) -> None:
    """Let the Panel's own calls pass: `Authorization` bears `key`, the node's `token`.

    Raises `Unauthorized` without a token, `Forbidden` for another one, in the words of Wings.
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
        raise TokenMissing(_MISSING, "send the header Authorization: Bearer <token of the Panel>")
    return token.strip()


def _decode(
    token: str,
    key: str,
    required: list[str],
    again: str,
    expired: str = _NOT_VALID,
    *,
    expired_too: bool = False,
) -> dict[str, Any]:
    try:
        claims = jwt.decode(
            token,
            key,
            algorithms=["HS256"],
            options={
                "require": required,
                "verify_aud": False,
                "verify_iat": False,
                "verify_exp": not expired_too,
            },
        )
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
        # Not all of them are PyJWT's: half a character, a header nested too deep for JSON, a time
        # that is a list, or without end.
        has_expired = isinstance(error, jwt.ExpiredSignatureError)
        kind, message = (TokenExpired, expired) if has_expired else (TokenInvalid, _NOT_VALID)
        reason = next(text for each, text in _REASONS if isinstance(error, each))
        raise kind(message, reason.format(error=error, again=again)) from error
    for name in _TIMES:
        _check_time(claims, name)
    return claims


def _check_time(claims: Mapping[str, Any], name: str) -> None:
    """Raise `Unauthorized` where a time that there is is not a JSON number (RFC 7519, section 2).

    Python reads NaN and Infinity as numbers, which JSON does not have.
    """
    time = claims.get(name, 0)
    is_number = isinstance(time, int | float) and not isinstance(time, bool)
    if not is_number or (isinstance(time, float) and not math.isfinite(time)):
        raise TokenInvalid(_NOT_VALID, f"its {name} is not a time in seconds")


def _check_scope(claims: Mapping[str, Any], needed: str) -> None:
    scope = claims.get("scope")
    if scope is not None and needed not in str(scope).split():
        raise TokenInvalid(_NOT_VALID, f"its scope is not {needed}")


def _check_audience(audience: Any, public_url: str) -> None:
    if not public_url:
        return
    addresses = audience if isinstance(audience, list) else [audience]
    if not any(isinstance(a, str) and origin(a) == origin(public_url) for a in addresses):
        raise TokenInvalid(
            _NOT_VALID,
            f"it is not for this node, {public_url}; compare the node's address in the Panel with "
            "`api.public_url` in its configuration",
        )


def _server(claim: Any, name: str) -> str:
    server = canonical_uuid(claim) if isinstance(claim, str) else None
    if server is None:
        raise TokenInvalid(_NOT_VALID, f"{name} is not the UUID of a server")
    return server


def _seconds(claims: Mapping[str, Any], name: str) -> float:
    return float(max(-_FOREVER, min(claims[name], _FOREVER)))
