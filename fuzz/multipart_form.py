"""The body of an upload: however it is cut, it is the same upload or is refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fuzz.findings import Finding, fields, pieces
from wingsd.errors import WingsdError
from wingsd.transfers.formdata import MAX_CHECKSUM, UploadForm

__all__ = ["WORDS", "one", "seeds"]

WORDS = [
    b"\r\n--b\r\n",
    b"\r\n--b--\r\n",
    b"Content-Disposition: form-data; ",
    b'name="archive"',
    b'name="checksum"',
    b'; filename="a.tar.gz"',
    b"; filename*=utf-8''a%00",
    b"Content-Type: ",
    b"Content-Transfer-Encoding: base64",
    b"Content-Length: 1",
    b"multipart/form-data; boundary=",
    b"python-requests/2",
]

_TYPE = b"multipart/form-data; boundary=b"


def one(data: bytes) -> None:
    """Read `data`: the header Content-Type, the User-Agent, and the body."""
    head, agent, body = fields(data, 2)
    kind, client = head.decode("utf-8", "replace"), agent.decode("utf-8", "replace")
    whole, cut = _outcome(kind, client, [body]), _outcome(kind, client, pieces(body))
    # The library passes over some faults (bytes before the first boundary, a bare line feed in a
    # part's header) where it is given the whole, and not where it is cut, or the other way round.
    if not isinstance(whole, str) and not isinstance(cut, str) and whole != cut:
        raise Finding(f"whole it is {whole}, in pieces {cut}")


def _outcome(kind: str, client: str, chunks: Iterable[bytes]) -> tuple[bytes, str] | str:
    try:
        form = UploadForm(kind, client)
        archive = b"".join(piece for chunk in chunks for piece in form.receive(chunk))
        checksum = form.close()
    except WingsdError as error:
        if error.status != 400 or not error.message or not error.detail:  # noqa: PLR2004
            raise
        return error.message
    if len(checksum) > MAX_CHECKSUM or not form.archive_complete:
        raise Finding(f"the checksum {checksum!r} of {archive!r} was taken")
    return archive, checksum


def seeds() -> Iterator[bytes]:
    """Yield uploads as clients write them."""
    part = b'--b\r\nContent-Disposition: form-data; name="%b"; filename="a"\r\n\r\n%b\r\n'
    archive, checksum = part % (b"archive", b"\x1f\x8b\r\n--x"), part % (b"checksum", b"ab" * 32)
    end = b"--b--\r\n"
    yield b"\0".join([_TYPE, b"", archive + checksum + end])
    yield b"\0".join([_TYPE, b"python-requests/2.32", checksum + archive + end])
    yield b"\0".join([_TYPE, b"curl", part % (b"other", b"") + archive + checksum])
    yield b"\0".join([b'Multipart/Form-Data; charset=utf-8; boundary="b"', b"", archive])
