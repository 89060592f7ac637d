"""Headers of tar: fields and records that are read, and headers that are written."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.archives import pax_record
from tests.support.present import present
from wingsd.archive import tar_headers as pax
from wingsd.archive.pipeline import Blocks
from wingsd.archive.tar_headers import LATEST
from wingsd.archive.tar_reader import Member, TarReader, number, pax_records, pax_time


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        (b"1700000000.123456789", 1_700_000_000_123_456_789),
        (b"1700000000.1234567899", 1_700_000_000_123_456_789),
        (b"1", 10**9),
        (b"1.", 10**9),
        (b"0.000000001", 1),
        (b"-1.5", -1_500_000_000),
        (b"-0.0000000001", -1),
    ],
)
def test_pax_times_are_exact(text: bytes, nanoseconds: int) -> None:
    assert pax_time(text) == nanoseconds


@pytest.mark.parametrize("text", [b"", b"x", b"1e5", b"nan", b"1_0", b" 1", b"9" * 19, b"1\n"])
def test_other_times_are_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="time"):
        pax_time(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"0000644\0", 0o644),
        (b" 644 \0\0\0", 0o644),
        (b"        ", 0),
        (b"\0" * 8, 0),
        (b"644\0junk", 0o644),
        (b"\x80" + bytes(6) + b"\x05", 5),
        (b"77777777", 0o77777777),
    ],
)
def test_numbers(field: bytes, value: int) -> None:
    assert number(field, "size") == value


@given(st.lists(st.tuples(st.binary(min_size=1).filter(lambda k: b"=" not in k), st.binary())))
def test_pax_records_round_trip(records: list[tuple[bytes, bytes]]) -> None:
    assert list(pax_records(b"".join(pax_record(*r) for r in records))) == records


SECOND = 10**9
FAR = LATEST * SECOND


def by_tarfile(archive: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:", encoding="utf-8") as file:
        return file.getmembers()


def by_reader(archive: bytes) -> Member:
    reader = TarReader(Blocks(iter([archive])))
    return present(reader.next_member())


names = st.one_of(
    st.binary(min_size=1, max_size=400),
    st.text(min_size=1, max_size=120).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from([b"n" * 100, b"n" * 101, b"d/" * 49 + b"ff", b"a\nb", b"12 path=x\n"]),
).filter(lambda name: b"\0" not in name and name.strip(b"/"))
times = st.one_of(
    st.integers(-FAR, FAR),
    st.integers(-10, LATEST).map(lambda seconds: seconds * SECOND),
    st.sampled_from(
        [0, -1, 1, -SECOND, 8**11 * SECOND, (8**11 - 1) * SECOND, -SECOND - 1, FAR, -FAR]
    ),
)


@given(names, st.integers(0, 0o7777), st.integers(0, 2**63 - 1), times, names)
def test_all_is_read_back(name: bytes, mode: int, size: int, mtime: int, link: bytes) -> None:
    header = pax.member_header(name, pax.FILE, mode, size, mtime, link)
    member = by_reader(header)
    assert (member.name, member.link) == (name, link)
    assert (member.mode, member.size, member.mtime) == (mode, size, mtime)
    assert len(header) % 512 == 0


@given(names.map(lambda name: name.strip(b"/")), times, names)
def test_the_standard_library_reads_the_same(name: bytes, mtime: int, link: bytes) -> None:
    archive = pax.member_header(name, pax.SYMLINK, 0o777, 0, mtime, link) + pax.END
    [found] = by_tarfile(archive)
    assert found.name.encode("utf-8", "surrogateescape") == name
    assert found.linkname.encode("utf-8", "surrogateescape").rstrip(b"/") == link.rstrip(b"/")
    assert found.mtime == pytest.approx(mtime / SECOND, abs=1e-3, rel=1e-12)
    assert (found.uid, found.gid, found.uname, found.gname) == (0, 0, "", "")


def test_names_that_are_not_utf8_are_said_to_be_bytes() -> None:
    header = pax.member_header(b"not-utf8-\xff", pax.FILE, 0o644, 0, 5)
    assert b"21 hdrcharset=BINARY\n" in header
    assert b"hdrcharset" not in pax.member_header("é".encode(), pax.FILE, 0o644, 0, 5)
