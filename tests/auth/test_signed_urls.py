"""Which tokens of signed URLs are accepted, and for what."""

from __future__ import annotations

import time
from typing import Any

import jwt
import pytest

from tests.auth.token_values import NODE, UUID
from tests.support.signed_urls import USER, signed_url_token
from wingsd.auth.signed_urls import SignedToken, SignedUrlVoid, SignedUse, signed_token
from wingsd.auth.tokens import DenyList, TokenExpired, TokenInvalid, TokenMissing, user_key
from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL
from wingsd.config.vendors import FAMILIES
from wingsd.errors import WingsdError

BACKUP = "5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11"
NOW = int(time.time())
DAY = 86400


def read(use: SignedUse, family: str = PTERODACTYL, **claims: Any) -> SignedToken:
    server = claims.pop("server_uuid", UUID)
    text = signed_url_token(NODE.token, server, use.value, family, **claims)
    return signed_token(text, NODE.token, use, scoped=family != PTERODACTYL)


def refusal(use: SignedUse = SignedUse.FILE_DOWNLOAD, **claims: Any) -> WingsdError:
    with pytest.raises(WingsdError) as caught:
        read(use, **claims)
    return caught.value


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("use", SignedUse)
def test_a_token_of_each_family_says_who_may_do_what(use: SignedUse, family: str) -> None:
    token = read(use, family, file_path="/a", backup_uuid=BACKUP)
    assert (token.server, token.user, token.file) == (UUID, USER, "/a")
    assert token.backup == (BACKUP if use is SignedUse.BACKUP_DOWNLOAD else "")
    assert NOW <= token.issued <= token.expires == token.issued + 900


def test_calagopus_names_files_and_what_a_user_may_not_see() -> None:
    token = read(
        SignedUse.FILE_DOWNLOAD,
        CALAGOPUS,
        user_uuid=None,
        file_path="/world",
        file_paths=["a", "b"],
        ignored_files=["*.key"],
    )
    assert (token.user, token.files, token.ignored) == (USER, ("a", "b"), ("*.key",))


def test_calagopus_names_no_server_for_a_backup() -> None:
    use = SignedUse.BACKUP_DOWNLOAD
    assert read(use, CALAGOPUS, server_uuid=None, backup_uuid=BACKUP).server == ""
    assert "server_uuid" in refusal(SignedUse.FILE_UPLOAD, server_uuid=None).detail


def test_a_token_is_known_by_its_unique_id_alone() -> None:
    use = SignedUse.FILE_DOWNLOAD
    one, same, other = (
        read(use, unique_id=unique, file_path=path)
        for unique, path in (("x", "/a"), ("x", "/b"), ("y", "/a"))
    )
    assert one.digest == same.digest != other.digest


@pytest.mark.parametrize(
    ("claims", "kind", "reason"),
    [
        ({"exp": NOW - 1}, TokenExpired, "it has expired"),
        ({"exp": None}, TokenInvalid, '"exp"'),
        ({"exp": "4000000000"}, TokenInvalid, "its exp is not a time"),
        ({"iat": None}, TokenInvalid, '"iat"'),
        ({"iat": float("nan")}, TokenInvalid, "its iat is not a time"),
        ({"nbf": NOW + DAY}, TokenInvalid, "it is not valid yet"),
        ({"nbf": [1]}, TokenInvalid, "its nbf is not a time"),
        ({"unique_id": None}, TokenInvalid, '"unique_id"'),
        ({"unique_id": ""}, TokenInvalid, "its unique_id is not a text"),
        ({"unique_id": 5}, TokenInvalid, "its unique_id is not a text"),
        ({"server_uuid": "8d2f5a14"}, TokenInvalid, "its server_uuid"),
        ({"server_uuid": 5}, TokenInvalid, "its server_uuid"),
        ({"user_uuid": None}, TokenInvalid, "its user_uuid"),
        ({"user_uuid": 5}, TokenInvalid, "its user_uuid is not a text"),
        ({"file_path": ["/a"]}, TokenInvalid, "its file_path is not a text"),
        ({"file_paths": "/a"}, TokenInvalid, "its file_paths is not a list of texts"),
        ({"ignored_files": [1]}, TokenInvalid, "its ignored_files is not a list of texts"),
        ({"scope": "websocket"}, SignedUrlVoid, "its scope is not file-download"),
        ({"scope": "file-download-x"}, SignedUrlVoid, "its scope is not file-download"),
        ({"scope": ["file-download"]}, SignedUrlVoid, "its scope is not file-download"),
        ({"scope": "", "family": PELICAN}, SignedUrlVoid, "its scope is not file-download"),
        ({"scope": None, "family": PELICAN}, SignedUrlVoid, "its scope is not file-download"),
        ({"scope": None, "family": CALAGOPUS}, SignedUrlVoid, "its scope is not file-download"),
    ],
)
def test_a_bad_token_is_refused_with_its_reason(
    claims: dict[str, Any], kind: type[WingsdError], reason: str
) -> None:
    error = refusal(**claims)
    assert type(error) is kind
    assert reason in error.detail


@pytest.mark.parametrize("backup", [None, 5, "", "../../etc/passwd", "b" * 36])
def test_a_backup_is_a_uuid(backup: Any) -> None:
    assert "backup_uuid" in refusal(SignedUse.BACKUP_DOWNLOAD, backup_uuid=backup).detail


def test_another_key_or_algorithm_and_what_is_no_token_are_refused() -> None:
    claims = {"exp": NOW + DAY, "iat": NOW, "unique_id": "x", "server_uuid": UUID}
    tokens = [
        signed_url_token("x" * 64, UUID, "file-download"),
        jwt.encode(claims, NODE.token, "HS384"),
        jwt.encode(claims, "", "none"),
        signed_url_token(NODE.token, UUID, "file-download")[:-2],
        "a.b.c",
        "é",
        "\0",
        "\ud800",
    ]
    for token in tokens:
        with pytest.raises(TokenInvalid):
            signed_token(token, NODE.token, SignedUse.FILE_DOWNLOAD, scoped=False)
    with pytest.raises(TokenMissing):
        signed_token("", NODE.token, SignedUse.FILE_DOWNLOAD, scoped=False)


def test_a_token_from_before_its_users_access_was_changed_is_revoked() -> None:
    token = read(SignedUse.FILE_DOWNLOAD, iat=1000)
    denied = DenyList(booted=5000.0)
    # Not by the boot alone: which tokens were used is known to the next daemon as well.
    assert not denied.revoked(token)
    for key in (token.jti, user_key(USER, UUID), user_key(USER)):
        denied = DenyList(booted=5000.0)
        denied.deny([key], 1000.5)
        assert denied.revoked(token)
        assert not denied.revoked(read(SignedUse.FILE_DOWNLOAD, iat=1001))
    denied = DenyList(booted=5000.0)
    denied.refuse_before(1000.5)
    assert denied.revoked(token)
