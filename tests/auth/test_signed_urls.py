"""Which tokens of signed URLs are accepted, and for what."""

from __future__ import annotations

import time
from typing import Any

import jwt
import pytest

from tests.auth.token_values import NODE, UUID
from tests.support.tokens import BACKUP, USER, signed_url_token
from wingsd.auth.tokens import DenyList, SignedToken, TokenKind, signed_token, user_key
from wingsd.config import CALAGOPUS, FAMILIES, PELICAN, PTERODACTYL
from wingsd.errors import SignedUrlVoid, TokenExpired, TokenInvalid, TokenMissing, WingsdError

pytestmark = pytest.mark.promise("signed-url-is-used-once")

NOW = int(time.time())
DAY = 86400
FILE = TokenKind.FILE_DOWNLOAD
UPLOAD = TokenKind.FILE_UPLOAD
#: The claim of each kind.
CLAIMS: dict[TokenKind, dict[str, Any]] = {
    TokenKind.BACKUP_DOWNLOAD: {"backup_uuid": BACKUP},
    FILE: {"file_path": "/a"},
    UPLOAD: {},
}


def read(kind: TokenKind, family: str = PTERODACTYL, **claims: Any) -> SignedToken:
    usual = CLAIMS.get(kind, {}) | claims
    server = usual.pop("server_uuid", UUID)
    text = signed_url_token(NODE.token, server, kind.scope, family, **usual)
    return signed_token(text, NODE.token, kind, family)


def refusal(kind: TokenKind = FILE, **claims: Any) -> WingsdError:
    with pytest.raises(WingsdError) as caught:
        read(kind, **claims)
    return caught.value


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", CLAIMS)
def test_a_token_of_each_family_says_who_may_do_what(kind: TokenKind, family: str) -> None:
    token = read(kind, family)
    assert (token.server, token.user) == (UUID, USER)
    assert (token.file, token.backup) == (
        "/a" if kind is FILE else "",
        BACKUP if kind is TokenKind.BACKUP_DOWNLOAD else "",
    )
    assert NOW <= token.issued <= token.expires == token.issued + 900


def test_calagopus_names_files_and_what_a_user_may_not_see() -> None:
    token = read(
        TokenKind.FILES_DOWNLOAD,
        CALAGOPUS,
        user_uuid=None,
        file_path="/world",
        file_paths=["a", "b"],
        ignored_files=["*.key"],
    )
    assert (token.user, token.files, token.ignored) == (USER, ("a", "b"), ("*.key",))


def test_a_token_is_known_by_its_unique_id_alone() -> None:
    one, same, other = (
        read(FILE, unique_id=unique, file_path=path)
        for unique, path in (("x", "/a"), ("x", "/b"), ("y", "/a"))
    )
    assert one.digest == same.digest != other.digest


@pytest.mark.parametrize(
    ("claims", "kind", "reason"),
    [
        ({"exp": NOW - 1}, TokenExpired, "it has expired"),
        ({"exp": None}, TokenInvalid, '"exp"'),
        ({"iat": None}, TokenInvalid, '"iat"'),
        ({"iat": float("nan")}, TokenInvalid, "its iat is not a time"),
        ({"nbf": NOW + DAY}, TokenInvalid, "it is not valid yet"),
        ({"unique_id": None}, TokenInvalid, '"unique_id"'),
        ({"unique_id": 5}, TokenInvalid, "its unique_id is not a text"),
        ({"server_uuid": "8d2f5a14"}, TokenInvalid, "its server_uuid"),
        ({"user_uuid": None}, TokenInvalid, "its user_uuid"),
        ({"user_uuid": 5}, TokenInvalid, "its user_uuid is not a text"),
        ({"file_path": ["/a"]}, TokenInvalid, "its file_path is not a text"),
        ({"file_path": ""}, SignedUrlVoid, "its token names no file"),
        ({"file_path": None}, SignedUrlVoid, "it is for file-upload (server_uuid), not for file-"),
        ({"file_paths": []}, SignedUrlVoid, "it is for file-download (file_paths), not for"),
        ({"ignored_files": [1]}, TokenInvalid, "its ignored_files is not a list of texts"),
        ({"scope": "websocket"}, SignedUrlVoid, "its scope is not file-download"),
        ({"scope": ["file-download"]}, SignedUrlVoid, "its scope is not file-download"),
        ({"scope": "", "family": PELICAN}, SignedUrlVoid, "its scope is not file-download"),
        ({"scope": None, "family": CALAGOPUS}, SignedUrlVoid, "it has no scope"),
    ],
)
def test_a_bad_token_is_refused_with_its_reason(
    claims: dict[str, Any], kind: type[WingsdError], reason: str
) -> None:
    error = refusal(**claims)
    assert type(error) is kind
    assert reason in error.detail


@pytest.mark.parametrize("files", ["/a", [1], {"a": 1}])
def test_files_are_a_list_of_texts(files: Any) -> None:
    error = refusal(TokenKind.FILES_DOWNLOAD, file_paths=files)
    assert error.detail == "its file_paths is not a list of texts"


@pytest.mark.parametrize("backup", [None, 5, "", "../../etc/passwd", "b" * 36])
def test_a_backup_is_a_uuid(backup: Any) -> None:
    assert "backup_uuid" in refusal(TokenKind.BACKUP_DOWNLOAD, backup_uuid=backup).detail


def test_another_key_or_algorithm_and_what_is_no_token_are_refused() -> None:
    claims = {"exp": NOW + DAY, "iat": NOW, "unique_id": "x", "server_uuid": UUID}
    claims["file_path"] = "/a"
    tokens = [
        signed_url_token("x" * 64, UUID, "file-download", file_path="/a"),
        jwt.encode(claims, NODE.token, "HS384"),
        jwt.encode(claims, "", "none"),
        signed_url_token(NODE.token, UUID, "file-download", file_path="/a")[:-2],
        "a.b.c",
        "é",
        "\0",
        "\ud800",
    ]
    for token in tokens:
        with pytest.raises(TokenInvalid):
            signed_token(token, NODE.token, FILE, PTERODACTYL)
    with pytest.raises(TokenMissing):
        signed_token("", NODE.token, FILE, PTERODACTYL)


@pytest.mark.promise("signed-url-is-used-once")
def test_a_token_from_before_its_users_access_was_changed_is_revoked() -> None:
    token = read(FILE, iat=1000)
    denied = DenyList(booted=5000.0)
    # Not by the boot alone: which tokens were used is known to the next daemon as well.
    assert not denied.revoked(token.keys, token.issued)
    for key in (token.jti, user_key(USER, UUID), user_key(USER)):
        denied = DenyList(booted=5000.0)
        denied.deny([key], 1000.5)
        assert denied.revoked(token.keys, token.issued)
        later = read(FILE, iat=1001)
        assert not denied.revoked(later.keys, later.issued)
    denied = DenyList(booted=5000.0)
    denied.refuse_before(1000.5)
    assert denied.revoked(token.keys, token.issued)
