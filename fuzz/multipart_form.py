"""The body of an upload: the result does not depend on how it is cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fuzz.findings import Finding, fields, pieces
from wingsd.backups.store import Attachment, Backup
from wingsd.errors import WingsdError
from wingsd.transfers.upload_form import MAX_CHECKSUM, Checksums, UploadForm

__all__ = ["WORDS", "one", "seeds"]

WORDS = [
    b"\r\n--b\r\n",
    b"\r\n--b--\r\n",
    b"Content-Disposition: form-data; ",
    b'name="archive"',
    b'name="checksum"',
    b'; filename="a.tar.gz"',
    b'name="backup_5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11.tar.gz"',
    b'name="checksum_backup_5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11.tar.gz"',
    b'name="backup-5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11"',
    b'name="backup-checksum-5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11"',
    b'; filename="5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11.tar.zst"',
    b"Content-Type: backup/wings",
    b'name="install_logs"',
    b"; filename*=utf-8''a%00",
    b"Content-Type: ",
    b"Content-Transfer-Encoding: base64",
    b"Content-Length: 1",
    b"multipart/form-data; boundary=",
    b"python-requests/2",
]

#: The archive, and what has come with it.
Parts = list[tuple[Attachment | None, bytes]]

_TYPE = b"multipart/form-data; boundary=b"


def one(data: bytes) -> None:
    """Read `data`: the header Content-Type, the User-Agent, and the body."""
    head, agent, body = fields(data, 2)
    kind, client = head.decode("utf-8", "replace"), agent.decode("utf-8", "replace")
    whole, cut = _outcome(kind, client, [body]), _outcome(kind, client, pieces(body))
    if whole != cut:
        raise Finding(f"whole it is {whole}, in pieces {cut}")


def _outcome(kind: str, client: str, chunks: Iterable[bytes]) -> tuple[Parts, Checksums] | str:
    parts: Parts = [(None, b"")]
    try:
        form = UploadForm(kind, client)
        for chunk in chunks:
            for piece in form.receive(chunk):
                _add(parts, piece)
        checksums = form.close()
    except WingsdError as error:
        if error.status != 400 or not error.message or not error.detail:  # noqa: PLR2004
            raise
        return error.message
    if len(checksums.archive) > MAX_CHECKSUM or not form.archive_complete:
        raise Finding(f"the checksum {checksums.archive!r} of {parts[0]!r} was taken")
    if {extra.uuid for extra, _ in parts if isinstance(extra, Backup)} != {*checksums.backups}:
        raise Finding(f"{parts!r} was taken with {checksums!r}")
    return parts, checksums


def _add(parts: Parts, piece: bytes | Attachment) -> None:
    if not isinstance(piece, bytes):
        path = piece.path("server") if isinstance(piece, Backup) else "log"
        if path.count("/") > 1 or path.startswith((".", "/")):
            raise Finding(f"a backup would be at {path!r}")
        parts.append((piece, b""))
        return
    extra, data = parts.pop()
    parts.append((extra, data + piece))


def seeds() -> Iterator[bytes]:
    """Yield uploads as clients write them."""
    part = b'--b\r\nContent-Disposition: form-data; name="%b"; filename="a"\r\n\r\n%b\r\n'
    archive, checksum = part % (b"archive", b"\x1f\x8b\r\n--x"), part % (b"checksum", b"ab" * 32)
    end = b"--b--\r\n"
    yield b"\0".join([_TYPE, b"", archive + checksum + end])
    yield b"\0".join([_TYPE, b"python-requests/2.32", checksum + archive + end])
    yield b"\0".join([_TYPE, b"curl", part % (b"other", b"") + archive + checksum])
    yield b"\0".join([b'Multipart/Form-Data; charset=utf-8; boundary="b"', b"", archive])
