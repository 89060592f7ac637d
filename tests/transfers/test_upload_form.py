"""The form of an upload: written by a source around an archive, and read by a destination."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wingsd.backups.store import AttachedLog, Backup
from wingsd.config import CALAGOPUS, PELICAN, FormConfig
from wingsd.errors import (
    ArchiveNotFirst,
    BadRequest,
    InvalidForm,
    UploadPartMissing,
    UploadTruncated,
    WingsdError,
)
from wingsd.transfers.upload_form import Checksums, FormFrame, UploadForm

BOUNDARY = "------------------------d74496d66958873e"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"
ARCHIVE = b"\x1f\x8b archive \r\n--not-the-boundary\r\r\n"
CHECKSUM = "AB" * 32
CURL = 'Content-Disposition: form-data; name="{}"; filename="a.tar.gz"\r\nContent-Type: {}\r\n'
NODE = 'content-disposition: form-data; name="{}"; filename="blob"\r\ncontent-type: {}\r\n'
REQUESTS = 'Content-Disposition: form-data; name="{}"; filename="archive.tar.gz"\r\n'


def part(name: str, data: bytes, head: str = CURL) -> bytes:
    header = head.format(name, "application/gzip")
    return f"--{BOUNDARY}\r\n{header}\r\n".encode() + data + b"\r\n"


def body(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def good(head: str = CURL) -> bytes:
    checksum = 'Content-Disposition: form-data; name="{}"\r\n'
    return body(part("archive", ARCHIVE, head), part("checksum", CHECKSUM.encode(), checksum))


def receive(chunks: Iterable[bytes], content_type: str = TYPE) -> tuple[bytes, str]:
    form = UploadForm(content_type)
    archive = b"".join(pieces(form, chunks))
    return archive, form.close().archive


def pieces(form: UploadForm, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the bytes of an archive that nothing comes with."""
    for chunk in chunks:
        for piece in form.receive(chunk):
            assert isinstance(piece, bytes)
            yield piece


@pytest.mark.parametrize("head", [CURL, NODE, REQUESTS])
def test_an_upload_comes_out_whole(head: str) -> None:
    assert receive([good(head)]) == (ARCHIVE, CHECKSUM.lower())


def test_the_archives_end_is_known_before_the_bodys() -> None:
    form = UploadForm(TYPE)
    archive = b"".join(pieces(form, [part("archive", ARCHIVE)]))
    assert not form.archive_complete
    archive += b"".join(pieces(form, [f"--{BOUNDARY}\r\n".encode()]))
    assert form.archive_complete
    assert archive == ARCHIVE


def test_unknown_parts_are_skipped() -> None:
    unknown = part("other_logs", b"x" * 5000)
    archive, checksum = part("archive", ARCHIVE), part("checksum", b" C \n")
    whole = body(unknown, archive, unknown, checksum, unknown)
    assert receive([whole]) == (ARCHIVE, "c")


@pytest.mark.parametrize(
    "names",
    [
        ["checksum"],
        ["checksum_archive"],
        ["checksum", "checksum_archive"],
        ["checksum_archive", "other", "checksum"],
    ],
)
def test_each_familys_checksum_is_read(names: list[str]) -> None:
    parts = [part(name, b"Cafe") for name in names]
    assert receive([body(part("archive", ARCHIVE), *parts)]) == (ARCHIVE, "cafe")


ID = "6f5a0c1e-0d0f-4c1b-9d0e-1f2a3b4c5d6e"
PELICANS = (f"backup_{ID}.tar.gz", f"checksum_backup_{ID}.tar.gz")
CALAGOPUS_ = (f"backup-{ID}", f"backup-checksum-{ID}")
WINGS = f'Content-Disposition: form-data; name="{{}}"; filename="{ID}.zip"\r\n'


WINGS += "Content-Type: backup/wings\r\n"


BASIS = part("archive", ARCHIVE) + part("checksum", b"C")


def taken(whole: bytes, size: int) -> tuple[list[tuple[object, bytes]], Checksums]:
    form = UploadForm(TYPE)
    parts: list[tuple[object, bytes]] = [(None, b"")]
    for at in range(0, len(whole), size):
        for piece in form.receive(whole[at : at + size]):
            if isinstance(piece, bytes):
                parts.append((parts[-1][0], parts.pop()[1] + piece))
            else:
                parts.append((piece, b""))
    return parts, form.close()


@pytest.mark.parametrize("size", [1, 7, 64, 100_000])
def test_attachments_are_read_part_by_part(size: int) -> None:
    other = ID.replace("6f5a", "7f5a")
    extras = (
        part("unknown", b"u" * 300),
        part(PELICANS[0], b"b" * 1000),
        part(PELICANS[1], b" AB \n"),
        part("install_logs", b"log"),
        part(f"backup-{other}", b"", WINGS),
        part(f"backup-checksum-{other}", b"cd"),
    )
    parts, checksums = taken(BASIS + body(*extras), size)
    assert parts == [
        (None, ARCHIVE),
        (Backup(ID, "tar.gz", PELICAN), b"b" * 1000),
        (AttachedLog(), b"log"),
        (Backup(other, "zip", CALAGOPUS), b""),
    ]
    assert checksums == Checksums("c", {ID: "ab", other: "cd"})


@pytest.mark.parametrize(
    ("parts", "message", "detail"),
    [
        ([part(PELICANS[0], b"b")], "missing archive or checksum", "lacks the checksum"),
        ([part(PELICANS[1], b"c")], "missing archive or checksum", "lacks the file"),
        ([part(CALAGOPUS_[0], b"b", WINGS)], "missing archive or checksum", ID),
        ([part(PELICANS[0], b"b")] * 2, f"the part {PELICANS[0]} was sent twice", "send it once"),
        (
            [part(PELICANS[0], b"b"), part(CALAGOPUS_[0], b"b", WINGS)],
            f"the part {CALAGOPUS_[0]} was sent twice",
            "send it once",
        ),
        ([part(PELICANS[1], b"b")] * 2, f"the part {PELICANS[1]} was sent twice", "send it once"),
        ([part("install_logs", b"b")] * 2, "the part install_logs was sent twice", "send it once"),
        ([part(PELICANS[1], b"b" * 300)], "the checksum is too long", "SHA-256"),
        (
            [part("backup_world.tar.gz", b"b")],
            "this node cannot store a backup that was sent with the server",
            "without that backup",
        ),
    ],
)
def test_an_incomplete_backup_is_refused(parts: list[bytes], message: str, detail: str) -> None:
    with pytest.raises(BadRequest) as caught:
        taken(BASIS + body(*parts), 50)
    assert caught.value.message == message
    assert detail in caught.value.detail


@pytest.mark.parametrize("name", [PELICANS[0], "install_logs"])
def test_attachments_before_the_archive_are_refused(name: str) -> None:
    with pytest.raises(BadRequest, match=f"archive must be sent before the {name}"):
        taken(part(name, b"b") + body(part("archive", ARCHIVE)), 50)


def test_python_requests_may_send_the_checksum_first() -> None:
    form = UploadForm(TYPE, "python-requests/2.32.3")
    whole = body(part("checksum", b"c"), part("archive", ARCHIVE))
    assert b"".join(pieces(form, [whole])) == ARCHIVE
    assert form.close().archive == "c"


LONGEST = len('Content-Disposition: form-data; name="archive"; filename="a.tar.gz"')


@pytest.mark.promise("request-heads-are-bounded")
@pytest.mark.parametrize(
    ("bounds", "fits"),
    [
        (FormConfig(parts=2, headers=2, header_bytes=LONGEST + 2), True),
        (FormConfig(parts=1), False),
        (FormConfig(headers=1), False),
        (FormConfig(header_bytes=LONGEST - 1), False),
    ],
)
@pytest.mark.parametrize("size", [1, 10_000])
def test_parts_and_their_headers_are_bounded(bounds: FormConfig, fits: bool, size: int) -> None:
    form = UploadForm(TYPE, bounds=bounds)
    whole = good()
    cut = [whole[at : at + size] for at in range(0, len(whole), size)]
    with nullcontext() if fits else pytest.raises(BadRequest):
        for piece in cut:
            list(form.receive(piece))
        assert form.close().archive == CHECKSUM.lower()


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        f"multipart/mixed; boundary={BOUNDARY}",
        "multipart/form-data; boundary=" + "x" * 300,
        "application/x-www-form-urlencoded; boundary=x",
    ],
)
def test_another_content_type_is_refused(content_type: str) -> None:
    with pytest.raises(BadRequest) as caught:
        UploadForm(content_type)
    assert caught.value.message == "invalid content type"


def test_a_quoted_boundary_in_any_case_is_accepted() -> None:
    kind = f'Multipart/Form-Data; charset=utf-8; boundary="{BOUNDARY}"'
    assert receive([good()], kind) == (ARCHIVE, CHECKSUM.lower())


ONLY_ARCHIVE = body(part("archive", ARCHIVE))
REFUSED: list[tuple[Callable[[], bytes], type[WingsdError], str]] = [
    (lambda: b"", UploadPartMissing, "missing archive or checksum"),
    (body, UploadPartMissing, "missing archive or checksum"),
    (lambda: body(part("other", b"")), UploadPartMissing, "missing archive or checksum"),
    (lambda: ONLY_ARCHIVE, UploadPartMissing, "missing archive or checksum"),
    (
        lambda: body(part("checksum", b"c"), part("archive", b"a")),
        ArchiveNotFirst,
        "archive must be sent before the checksum",
    ),
    (lambda: good()[:-90], UploadTruncated, "the upload ended before it was complete"),
    (lambda: good()[:200], UploadTruncated, "the upload ended before it was complete"),
    (
        lambda: body(part("archive", b"a"), part("archive", b"b")),
        InvalidForm,
        "the part archive was sent twice",
    ),
    (
        lambda: body(part("archive", b"a"), part("checksum", b"c"), part("checksum", b"c")),
        InvalidForm,
        "the part checksum was sent twice",
    ),
    (
        lambda: body(part("checksum_archive", b"c"), part("archive", b"a")),
        ArchiveNotFirst,
        "archive must be sent before the checksum",
    ),
    (
        lambda: body(
            part("archive", b"a"), part("checksum", b"c"), part("checksum_archive", b"d")
        ),
        InvalidForm,
        "the parts checksum and checksum_archive differ",
    ),
    (
        lambda: body(part("archive", b"a"), part("checksum", b"c" * 300)),
        InvalidForm,
        "the checksum is too long",
    ),
    (
        lambda: body(*[part("x", b"")] * 300),
        InvalidForm,
        "the request body is not valid multipart/form-data",
    ),
    (
        lambda: body(b"--" + BOUNDARY.encode() + b"\r\n" + b"x" * 9000 + b"\r\n"),
        InvalidForm,
        "the request body is not valid multipart/form-data",
    ),
]


@pytest.mark.parametrize(("make", "kind", "message"), REFUSED)
def test_an_invalid_body_is_refused_as_documented(
    make: Callable[[], bytes], kind: type[WingsdError], message: str
) -> None:
    with pytest.raises(WingsdError) as caught:
        receive([make()])
    assert (type(caught.value), caught.value.message) == (kind, message)
    assert caught.value.detail


@given(st.binary(max_size=300))
def test_any_body_gives_a_result_or_a_refusal(noise: bytes) -> None:
    for whole in (noise, part("archive", noise)[:-2] + noise, good().replace(ARCHIVE, noise)):
        try:
            receive([whole])
        except WingsdError as error:
            assert error.status == 400


SCRAPS = [
    *["\r\n", "--", "\n", "\r", ": ", "x", "\r\n\r\n", f"--{BOUNDARY}", f"\r\n--{BOUNDARY}\r\n"],
    *["Content-Disposition: form-data", '; name="archive"', '; name="checksum"', "; name=x"],
    *['; filename="a"', "Content-Type: ", "Content-Length: 1"],
]


@pytest.mark.promise("corrupt-upload-fails")
@given(st.lists(st.sampled_from(SCRAPS), max_size=24), st.integers(1, 40))
def test_the_result_does_not_depend_on_the_cuts(words: list[str], size: int) -> None:
    whole = f"--{BOUNDARY}\r\n{''.join(words)}\r\n\r\n".encode() + good()
    once = outcome([whole])
    cut = outcome(whole[at : at + size] for at in range(0, len(whole), size))
    assert once == cut


def outcome(chunks: Iterable[bytes]) -> tuple[bytes | str, str]:
    try:
        return receive(chunks)
    except WingsdError as error:
        assert (error.status, bool(error.message)) == (400, True)
        return error.message, error.detail


# The form of an upload, as a source writes it around an archive and what goes along


def test_an_upload_is_written_as_gos_multipart_writes_it() -> None:
    frame = FormFrame(boundary="b0")
    assert frame.content_type == "multipart/form-data; boundary=b0"
    assert frame.before() == (
        b"--b0\r\n"
        b'Content-Disposition: form-data; name="archive"; filename="archive.tar.gz"\r\n'
        b"Content-Type: application/octet-stream\r\n"
        b"\r\n"
    )
    assert frame.after("cafe") == (
        b"\r\n--b0\r\n"
        b'Content-Disposition: form-data; name="checksum"\r\n'
        b"\r\n"
        b"cafe"
        b"\r\n--b0\r\n"
        b'Content-Disposition: form-data; name="checksum_archive"\r\n'
        b"\r\n"
        b"cafe"
    )
    assert frame.end() == b"\r\n--b0--\r\n"


def test_backups_are_written_as_each_family_writes_them() -> None:
    frame = FormFrame(boundary="b0")
    uuid = "5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11"
    for family, before, after in (
        (
            PELICAN,
            f'form-data; name="backup_{uuid}.tar.gz"; filename="{uuid}.tar.gz"\r\n'
            "Content-Type: application/octet-stream",
            f'form-data; name="checksum_backup_{uuid}.tar.gz"',
        ),
        (
            CALAGOPUS,
            f'form-data; name="backup-{uuid}"; filename="{uuid}.tar.gz"\r\n'
            "Content-Type: backup/wings",
            f'form-data; name="backup-checksum-{uuid}"',
        ),
    ):
        backup = Backup(uuid, "tar.gz", family)
        start = "\r\n--b0\r\nContent-Disposition: "
        assert frame.before_backup(backup) == f"{start}{before}\r\n\r\n".encode()
        assert frame.after_backup(backup, "cafe") == f"{start}{after}\r\n\r\ncafe".encode()


@pytest.mark.parametrize(
    ("family", "name", "kind"),
    [
        (PELICAN, "install_logs", "application/octet-stream"),
        (CALAGOPUS, "install-logs", "text/plain"),
    ],
)
def test_a_log_is_written_as_each_family_writes_it(family: str, name: str, kind: str) -> None:
    head = f'Content-Disposition: form-data; name="{name}"; filename="install.log"'
    expected = f"\r\n--b0\r\n{head}\r\nContent-Type: {kind}\r\n\r\n"
    assert FormFrame(boundary="b0").before_log(family) == expected.encode()


@given(st.binary(max_size=400))
def test_what_is_written_can_be_read(archive: bytes) -> None:
    frame = FormFrame()
    whole = [frame.before(), archive, frame.after(CHECKSUM), frame.end()]
    assert receive(whole, frame.content_type) == (archive, CHECKSUM.lower())
