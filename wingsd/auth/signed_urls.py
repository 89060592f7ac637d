"""The tokens of signed URLs, with which browsers download and upload files of servers.

A JWT in the query, issued by the Panel when a user clicks, and signed with the node's own token.
It is for one server and one user, and opens the paths of its kind in the table of routes and no
other.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import attrs

from wingsd.auth.tokens import (
    NOT_VALID,
    TokenKind,
    check_kind,
    decode_claims,
    seconds_claim,
    server_claim,
    user_key,
)
from wingsd.errors import SignedUrlVoid, TokenInvalid, TokenMissing
from wingsd.util.text import canonical_uuid

__all__ = ["SignedToken", "SignedUrlVoid", "signed_token"]

_AGAIN = "start it again on the page of the server for a new address"


@attrs.frozen(eq=False, repr=False)
class SignedToken:
    """A valid token. `digest` identifies it among used ones until it `expires`.

    Times are seconds since the epoch. `server` is empty where Calagopus' Panel names only the
    `backup`. `ignored` are files that the user may not see, as in gitignore.
    """

    server: str
    user: str
    jti: str
    digest: str
    issued: float
    expires: float
    file: str = ""
    files: tuple[str, ...] = ()
    backup: str = ""
    ignored: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """What a `DenyList` may know it by."""
        return (self.jti, user_key(self.user, self.server), user_key(self.user))


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
        backup = _backup(claims.get("backup_uuid"))
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


def _backup(claim: Any) -> str:
    backup = canonical_uuid(claim) if isinstance(claim, str) else None
    if backup is None:
        raise TokenInvalid(NOT_VALID, "its backup_uuid is not the UUID of a backup")
    return backup


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
