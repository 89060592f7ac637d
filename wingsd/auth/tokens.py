"""Authorization: the Panel's own token, and the JWTs for transfers, consoles and signed URLs.

PyJWT verifies signatures; the claims are checked here. Times must be numbers (RFC 7519), while
PyJWT also accepts numeric strings. `iat` may be in the future, as `nbf` already allows for the
five minutes by which two clocks may differ. `aud` is the node's public address and is checked if
`api.public_url` is configured. A token opens what its `TokenKind` is for and nothing else.

Secrets are compared in constant time (`compare_digest`, which PyJWT uses as well).
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Iterable, Mapping
from enum import Enum
from hashlib import sha256
from hmac import compare_digest
from typing import Any

import attrs
import jwt

from wingsd.config import CALAGOPUS, PELICAN
from wingsd.errors import (
    Forbidden,
    SignedUrlVoid,
    TokenExpired,
    TokenInvalid,
    TokenMissing,
    TokenUsed,
    WingsdError,
)
from wingsd.util.text import canonical_uuid, origin, require_uuid

#: The error for an expired console token. The Panel's page looks for this text or that of the deny
#: list, and then requests another token by itself.
EXPIRED = "jwt: exp claim is invalid"
#: How to get another token for a direct transfer.
RENEW_DIRECT = "run wingsctl receive there again for a new token"

_MISSING = "The required authorization heads were not present in the request."
#: The message of the error for a token that is not valid; its detail says why.
NOT_VALID = "The token is not valid"
_AGAIN_FOR_TRANSFER = "start the transfer again in the Panel for a new token"
_AGAIN_FOR_CONSOLE = "reload the page for a new token"
#: The claim of a direct transfer's token, which a node issues itself; no Panel has it.
_DIRECT = "by_hand"
#: Seconds by which two nodes' clocks may differ; the Panels' own figure.
_CLOCK_SKEW = 300

#: The claims that are times.
_TIMES = ("exp", "iat", "nbf")
#: The latest time, in seconds since the epoch: an integer may be too large for a float.
_LATEST = 1 << 52

_OTHER_KEY = "compare `token` in the node's configuration with the Panel's"
_OTHER_NODE = f"it is another node's, or not all of it was copied; {RENEW_DIRECT}"
_NOT_YET = "it is not valid yet; compare the clocks of node and Panel"
# The first match is used; subclasses come before their base classes.
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (jwt.ExpiredSignatureError, "it has expired; {again}"),
    (jwt.InvalidAlgorithmError, "it must be signed with HS256"),
    (
        jwt.InvalidSignatureError,
        "it was not signed with this node's key; {other}",
    ),
    (jwt.MissingRequiredClaimError, "{error}"),
    (Exception, "it cannot be read ({error}); {again}"),
)


class TokenKind(Enum):
    """The purpose of a token, in the order in which its kind is determined.

    A kind has a word in `scope`, which Pelican's and Calagopus' Panels write, and a claim of its
    own. A token is of the first kind of which it has both; of the claim alone where it has no
    scope, with Pterodactyl. All other claims are ignored. Sources: the Panels' own tokens.
    """

    CONSOLE = "websocket", "permissions"
    BACKUP_DOWNLOAD = "backup-download", "backup_uuid"
    #: Of several files or directories, as one archive (Calagopus).
    FILES_DOWNLOAD = "file-download", "file_paths"
    FILE_DOWNLOAD = "file-download", "file_path"
    #: Of files to a server from another one (Calagopus), which this node does not support.
    FILES_COPY = "transfer", "destination_path"
    FILE_UPLOAD = "file-upload", "server_uuid"
    TRANSFER = "transfer", "sub"

    def __init__(self, scope: str, claim: str) -> None:
        self.scope = scope
        self.claim = claim

    def __str__(self) -> str:
        return f"{self.scope} ({self.claim})"


#: The families whose Panels write a scope in every token.
_SCOPED: Mapping[str, str] = {PELICAN: "Pelican", CALAGOPUS: "Calagopus"}


def check_kind(claims: Mapping[str, Any], needed: TokenKind, family: str) -> None:
    """Check that a token is of the kind that is needed, at a node of `family`.

    Raises `TokenInvalid` with the reason.
    """
    scope = claims.get("scope")
    if scope is None and family in _SCOPED:
        raise TokenInvalid(
            NOT_VALID,
            f"it has no scope, which every token of a {_SCOPED[family]} Panel has; when this "
            "node's Panel is another, say so by `family` in its configuration",
        )
    # Of several words with spaces between them; Calagopus' nodes also take commas.
    words = scope.replace(",", " ").split() if isinstance(scope, str) else []
    if scope is not None and needed.scope not in words:
        raise TokenInvalid(NOT_VALID, f"its scope is not {needed.scope}")
    kinds = (kind for kind in TokenKind if scope is None or kind.scope in words)
    found = next((kind for kind in kinds if claims.get(kind.claim) is not None), None)
    if found is not needed:
        raise TokenInvalid(NOT_VALID, f"it is for {found or 'nothing known'}, not for {needed}")


@attrs.frozen(repr=False)
class TransferToken:
    """A valid token to send one server to this node, once.

    `digest` identifies it among used tokens, until it `expires`. It was `issued` by the clock of
    who has signed it, None where it does not say when. Both are seconds since the epoch.
    """

    server: str
    digest: str
    expires: float
    issued: float | None = None
    #: Whether this node issued it, for a direct transfer, and not the Panel.
    direct: bool = False


def transfer_token(
    authorization: str | None,
    key: str,
    family: str,
    public_url: str = "",
    *,
    accept_expired: bool = False,
    again: str = _AGAIN_FOR_TRANSFER,
) -> TransferToken:
    """Return the token in an `Authorization` header; `key` is the `token` of a node of `family`.

    `public_url` is the audience that the token must have, empty for any. Expired tokens are valid
    with `accept_expired`, to query a transfer. `again` says how to get another token. Raises
    `TokenMissing` or `TokenInvalid` with the reason. Source: the document of
    `POST /api/transfers`.
    """
    token = bearer(authorization)
    claims = decode_claims(token, key, ["exp", "sub"], again, accept_expired=accept_expired)
    check_kind(claims, TokenKind.TRANSFER, family)
    _check_audience(claims.get("aud"), public_url)
    # Without the signature, which can be encoded in several ways.
    signed, _, _ = token.rpartition(".")
    return TransferToken(
        server=server_claim(claims["sub"], "its subject"),
        digest=sha256(signed.encode()).hexdigest(),
        expires=seconds_claim(claims, "exp"),
        issued=seconds_claim(claims, "iat") if "iat" in claims else None,
        direct=claims.get(_DIRECT) is True,
    )


def direct_token(server: str, key: str, now: float, expires: float, public_url: str = "") -> str:
    """Return a token for a direct transfer of the server to this node.

    `key`, `public_url` as for `transfer_token`; times in seconds since the epoch.
    """
    claims = {
        "sub": server,
        "scope": "transfer",
        "iat": int(now),
        "nbf": int(now) - _CLOCK_SKEW,
        "exp": int(expires),
        "unique_id": secrets.token_hex(8),
        _DIRECT: True,
    } | ({"aud": [public_url]} if public_url else {})
    return jwt.encode(claims, key, "HS256")


def expiry_of(authorization: str) -> float | None:
    """Return when a token for another node expires, in seconds since the epoch.

    None where that cannot be read. `authorization` is the whole header.
    """
    try:
        claims = jwt.decode(bearer(authorization), options={"verify_signature": False})
        _check_time(claims, "exp")
        return seconds_claim(claims, "exp")
    except (jwt.PyJWTError, WingsdError, ValueError, TypeError, KeyError, RecursionError):
        return None


def token_was_used(again: str = _AGAIN_FOR_TRANSFER) -> TokenUsed:
    """Return the error for a token that was used before."""
    return TokenUsed(NOT_VALID, f"it was used for a transfer before; {again}")


@attrs.frozen(eq=False, repr=False)
class UserToken:
    """A valid token of a user for a server.

    `issued` and `expires` are seconds since the epoch; `jti` is the same for all tokens of a user
    for a server's console.
    """

    user: str
    server: str
    jti: str
    issued: float
    expires: float

    @property
    def keys(self) -> tuple[str, ...]:
        """The identifiers by which a `DenyList` may refuse the token."""
        return (self.jti, user_key(self.user, self.server), user_key(self.user))


@attrs.frozen(repr=False)
class ConsoleToken(UserToken):
    """A valid token of a user for a server's console, with permissions."""

    permissions: frozenset[str]

    def allows(self, permission: str) -> bool:
        """Return whether a permission is granted; `*` grants all but those of administrators."""
        all_granted = "*" in self.permissions and not permission.startswith("admin")
        return all_granted or permission in self.permissions


def console_token(token: str, key: str, family: str) -> ConsoleToken:
    """Return the token of a WebSocket's `auth` message. Raises `TokenInvalid` with the reason.

    `key` is the `token` of a node of `family`.
    """
    claims = decode_claims(token, key, ["exp", "iat", "jti"], _AGAIN_FOR_CONSOLE, EXPIRED)
    check_kind(claims, TokenKind.CONSOLE, family)
    permissions = claims["permissions"] or []
    if not (isinstance(permissions, list) and all(isinstance(word, str) for word in permissions)):
        raise TokenInvalid(NOT_VALID, "its permissions are not a list of texts")
    return ConsoleToken(
        user=str(claims.get("user_uuid") or ""),
        server=server_claim(claims.get("server_uuid"), "its server_uuid"),
        permissions=frozenset(permissions),
        jti=str(claims["jti"]),
        issued=seconds_claim(claims, "iat"),
        expires=seconds_claim(claims, "exp"),
    )


def user_key(user: str, server: str = "") -> str:
    """Return what stands in a `DenyList` for a user's tokens for a server, or for all servers."""
    return f"user {user.lower()} server {server or '*'}"


class DenyList:
    """Tokens revoked by the Panel before they expire: by their `jti`, or all of a user by its key.

    Tokens issued before `booted` (seconds since the epoch) are refused as well, as on all nodes.
    Earlier revocations are still needed: in the second of the boot, and after a clock was set
    back. Both stand for a user and a server, which bounds the list.
    """

    def __init__(self, booted: float) -> None:
        # Some Panels use whole seconds: a token of this second may be new.
        self._booted: float = math.floor(booted)
        #: The time up to which revocations have been deleted.
        self._deleted = 0.0
        self._denied: dict[str, float] = {}

    def deny(self, keys: Iterable[str], now: float) -> None:
        """Refuse all tokens with one of these `ConsoleToken.keys` issued before `now`."""
        self.restore(dict.fromkeys(keys, now))

    def restore(self, denied: Mapping[str, float]) -> None:
        """Add revocations with their times; of two times for one key the later counts."""
        for key, at in denied.items():
            self._denied[key] = max(at, self._denied.get(key, at))

    def refuse_before(self, at: float) -> None:
        """Refuse all tokens issued before `at`, of which revocations have been deleted."""
        self._deleted = max(self._deleted, at)

    def refuses(self, token: UserToken) -> bool:
        """Return whether the token is revoked, or was issued before the boot."""
        return token.issued < self._booted or self.revoked(token.keys, token.issued)

    def revoked(self, keys: Iterable[str], issued: float) -> bool:
        """Return whether a token is revoked, by this daemon or an earlier one."""
        times = (self._denied.get(key, self._deleted) for key in keys)
        return issued < max(self._deleted, *times)


def authorize_panel(authorization: str | None, key: str) -> None:
    """Check that `Authorization` has the Panel's token for this node, `key`.

    Raises `TokenMissing` without a token and `Forbidden` for another one, with Wings' messages.
    """
    if not compare_digest(bearer(authorization).encode(), key.encode()):
        raise Forbidden(
            "You are not authorized to access this endpoint.",
            "the token sent is not this node's; compare `token` in the node's configuration with "
            "the Panel's",
        )


def bearer(authorization: str | None) -> str:
    """Return the token in an `Authorization` header. Raises `TokenMissing`."""
    scheme, _, token = (authorization or "").strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise TokenMissing(_MISSING, "send the header Authorization: Bearer <token of the Panel>")
    return token.strip()


def decode_claims(
    token: str,
    key: str,
    required: list[str],
    again: str,
    expired: str = NOT_VALID,
    *,
    accept_expired: bool = False,
) -> dict[str, Any]:
    """Return the claims of a token that is signed with `key` and valid now.

    `again` says how to get another one, `expired` is the message for one that has expired. Raises
    `TokenInvalid` with the reason.
    """
    try:
        claims = jwt.decode(
            token,
            key,
            algorithms=["HS256"],
            options={
                "require": required,
                "verify_aud": False,
                "verify_iat": False,
                "verify_nbf": False,
                "verify_exp": not accept_expired,
            },
        )
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
        # Not only PyJWT's errors: incomplete UTF-8, a header nested too deeply for JSON, a time
        # that is a list or infinite.
        has_expired = isinstance(error, jwt.ExpiredSignatureError)
        kind, message = (TokenExpired, expired) if has_expired else (TokenInvalid, NOT_VALID)
        reason = next(text for each, text in _REASONS if isinstance(error, each))
        other = _OTHER_NODE if again == RENEW_DIRECT else _OTHER_KEY
        raise kind(message, reason.format(error=error, again=again, other=other)) from error
    for name in _TIMES:
        _check_time(claims, name)
    # Calagopus' Panel writes null, which is no time; PyJWT would refuse it.
    if (claims.get("nbf") or 0) > time.time():
        raise TokenInvalid(NOT_VALID, _NOT_YET)
    return claims


def _check_time(claims: Mapping[str, Any], name: str) -> None:
    """Raise `TokenInvalid` for a time that is not a JSON number (RFC 7519, section 2).

    Python's JSON also reads NaN and Infinity.
    """
    moment = claims.get(name, 0)
    if moment is None and name == "nbf":
        return
    is_number = isinstance(moment, int | float) and not isinstance(moment, bool)
    if not is_number or (isinstance(moment, float) and not math.isfinite(moment)):
        raise TokenInvalid(NOT_VALID, f"its {name} is not a time in seconds")


def _check_audience(audience: Any, public_url: str) -> None:
    if not public_url:
        return
    addresses = audience if isinstance(audience, list) else [audience]
    if not any(isinstance(a, str) and origin(a) == origin(public_url) for a in addresses):
        raise TokenInvalid(
            NOT_VALID,
            f"it is not for this node, {public_url}; compare the node's address in the Panel with "
            "`api.public_url` in its configuration",
        )


def server_claim(claim: Any, name: str, of: str = "a server") -> str:
    """Return the UUID in a claim; `name` and `of` are for the error. Raises `TokenInvalid`."""
    refusal = TokenInvalid(NOT_VALID, f"{name} is not the UUID of {of}")
    return require_uuid(claim if isinstance(claim, str) else "", refusal)


def seconds_claim(claims: Mapping[str, Any], name: str) -> float:
    """Return a claim that is a time, in seconds since the epoch."""
    return float(max(-_LATEST, min(claims[name], _LATEST)))


_AGAIN = "start it again on the page of the server for a new address"


@attrs.frozen(eq=False, repr=False)
class SignedToken(UserToken):
    """A valid token of a signed URL. `digest` identifies it among used ones until it `expires`.

    `server` is empty where Calagopus' Panel names only the `backup`. `ignored` are files that the
    user may not see, as in gitignore.
    """

    digest: str
    file: str = ""
    files: tuple[str, ...] = ()
    backup: str = ""
    ignored: tuple[str, ...] = ()


def signed_token(token: str, key: str, kind: TokenKind, family: str) -> SignedToken:
    """Return the token of a signed URL; `key` is the `token` of a node of `family`.

    Raises `TokenMissing`, `TokenInvalid` with the reason, and `SignedUrlVoid` for a token of
    another kind.
    """
    if not token:
        raise TokenMissing(
            "The address is not complete.", f"it has no token in its query; {_AGAIN}"
        )
    claims = decode_claims(token, key, ["exp", "iat", "unique_id"], _AGAIN)
    try:
        check_kind(claims, kind, family)
    except TokenInvalid as error:
        raise SignedUrlVoid(f"its token is not for this: {error.detail}") from error
    unique = claims["unique_id"]
    if not (isinstance(unique, str) and unique):
        raise TokenInvalid(NOT_VALID, "its unique_id is not a text")
    server, backup = claims.get("server_uuid"), ""
    if kind is TokenKind.BACKUP_DOWNLOAD:
        backup = server_claim(claims.get("backup_uuid"), "its backup_uuid", "a backup")
    file = _text(claims, "file_path")
    if kind is TokenKind.FILE_DOWNLOAD and not file:
        raise SignedUrlVoid("its token names no file")
    return SignedToken(
        server="" if server is None and backup else server_claim(server, "its server_uuid"),
        user=_user(claims),
        jti=_text(claims, "jti"),
        digest=sha256(f"signed url {unique}".encode("utf-8", "surrogatepass")).hexdigest(),
        issued=seconds_claim(claims, "iat"),
        expires=seconds_claim(claims, "exp"),
        file=file,
        files=_texts(claims, "file_paths"),
        backup=backup,
        ignored=_texts(claims, "ignored_files"),
    )


def _user(claims: dict[str, Any]) -> str:
    """Return the user's UUID, which is the `jti` of Calagopus' Panel."""
    given = (_text(claims, name) for name in ("user_uuid", "jti"))
    user = next(filter(None, map(canonical_uuid, given)), None)
    if user is None:
        raise TokenInvalid(NOT_VALID, "its user_uuid is not the UUID of a user")
    return user


def _text(claims: dict[str, Any], name: str) -> str:
    text = claims.get(name)
    if not isinstance(text, str | None):
        raise TokenInvalid(NOT_VALID, f"its {name} is not a text")
    return text or ""


def _texts(claims: dict[str, Any], name: str) -> tuple[str, ...]:
    texts = claims.get(name) or []
    if not (isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
        raise TokenInvalid(NOT_VALID, f"its {name} is not a list of texts")
    return tuple(texts)
