"""Which token opens which path: tokens of all kinds and families, over HTTP."""

from __future__ import annotations

from itertools import product

import pytest

from tests.api.file_node import SignedSite
from tests.api.node import TOKEN, UUID, ApiNode
from tests.support.tokens import BACKUP, panel_tokens
from wingsd.api.routes import CALLS
from wingsd.auth.tokens import console_token, transfer_token
from wingsd.config import CALAGOPUS, FAMILIES, PTERODACTYL
from wingsd.errors import TokenInvalid
from wingsd.http.operations import Access

SIGNED = [access for access in Access if access.scheme == "signed"]
#: What a path of signed URLs is opened by.
OPENED_BY = {
    "/download/backup": "backup",
    "/download/directory": "directory",
    "/download/file": "file",
    "/download/files": "files",
    "/upload/file": "upload",
}
ONLY_CALAGOPUS = {"/download/directory", "/download/files"}
#: Claims that no Panel writes at present.
NEWER = {"sub": UUID, "name": "x", "roles": ["*"], "session": {"id": 1}}
FORM = (
    b'--x\r\nContent-Disposition: form-data; name="files"; filename="new"\r\n\r\nnew\r\n--x--\r\n'
)


def registered(*access: Access) -> list[tuple[str, str]]:
    """Return path and method of all calls of the node with this access."""
    return [
        (path, method)
        for path, calls in CALLS.items()
        for method, made in calls.items()
        if made.access in access
    ]


@pytest.fixture
def site(site: SignedSite, family: str) -> SignedSite:
    (site.home / "d").mkdir()
    for file in ("a", "d/b"):
        (site.home / file).write_bytes(b"secret")
    (site.backups / f"{BACKUP}.tar.gz").write_bytes(b"backup")
    return site


@pytest.mark.promise("token-is-for-one-purpose")
@pytest.mark.parametrize("issuer", FAMILIES)
@pytest.mark.parametrize("family", FAMILIES, indirect=True)
async def test_a_token_opens_the_paths_of_its_kind_and_no_other(
    site: SignedSite, issuer: str
) -> None:
    signed = registered(*SIGNED)
    assert {path for path, _ in signed} == set(OPENED_BY)
    understood = site.family == PTERODACTYL or issuer != PTERODACTYL
    wrong = []
    claims = ({}, NEWER) if issuer == site.family == CALAGOPUS else ({},)
    for (path, method), more in product(sorted(signed), claims):
        served = path not in ONLY_CALAGOPUS or site.family == CALAGOPUS
        for kind, token in panel_tokens(TOKEN, UUID, issuer, **more).items():
            files = sorted(site.home.rglob("*"))
            reply = await site.call(
                method,
                f"{path}?token={token}&directory=/new&file=new",
                {"POST": FORM, "PATCH": b"new"}.get(method),
                Authorization=None,
                Content_Type="multipart/form-data; boundary=x",
                Upload_Offset="0",
                Upload_Complete="?1",
            )
            opens = understood and served and OPENED_BY[path] == kind
            changed = sorted(site.home.rglob("*")) != files
            if reply.status not in ((200,) if opens else (401, 404)) or (changed and not opens):
                wrong.append((path, method, kind, reply.status, len(more)))
    assert wrong == []


@pytest.mark.promise("token-is-for-one-purpose")
@pytest.mark.parametrize("issuer", FAMILIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_consoles_and_transfers_are_opened_by_their_own_tokens(issuer: str, family: str) -> None:
    for more in ({}, NEWER):
        tokens = panel_tokens(TOKEN, UUID, issuer, **more)
        opened = set()
        for kind, token in tokens.items():
            try:
                assert console_token(token, TOKEN, family).server == UUID
                opened.add((kind, "console"))
            except TokenInvalid:
                pass
            try:
                assert transfer_token(f"Bearer {token}", TOKEN, family).server == UUID
                opened.add((kind, "transfer"))
            except TokenInvalid:
                pass
        understood = family == PTERODACTYL or issuer != PTERODACTYL
        own = {("console", "console"), ("transfer", "transfer")}
        assert opened == (own if understood else set())


@pytest.mark.promise("token-is-for-one-purpose")
async def test_no_token_of_a_user_opens_a_transfer(node: ApiNode) -> None:
    calls = registered(Access.TRANSFER, Access.DIRECT_TRANSFER)
    assert {"/api/transfers", "/api/transfers/{uuid}/move"} <= {path for path, _ in calls}
    for path, method in calls:
        for issuer in FAMILIES:
            tokens = panel_tokens(TOKEN, UUID, issuer)
            del tokens["transfer"]
            for kind, token in tokens.items():
                bearer = f"Bearer {token}"
                reply = await node.call(method, path.format(uuid=UUID), {}, Authorization=bearer)
                assert reply.status in (401, 404), (path, method, kind)
    assert node.calls == []
