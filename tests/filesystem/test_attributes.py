"""Extended attributes and ACLs on the disk: read, bounded, checked, written, and as text."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from struct import pack

import pytest

from tests.support.attributes import ACCESS, DEFAULT, OWN, acl, entries
from wingsd.filesystem.attributes import (
    MAX_BYTES,
    MAX_COUNT,
    AttributesKept,
    acl_from_kernel,
    acl_from_text,
    acl_text,
    check_attribute,
    clear_attributes,
    decode_attributes,
    encode_attributes,
    kept_attributes,
    mode_without_mask,
    read_attributes,
    write_attributes,
)

NOBODY = (4001, 4002)


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR, 0o640)
    yield opened
    os.close(opened)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path / "other", os.O_CREAT | os.O_RDWR, 0o600)
    yield opened
    os.close(opened)


def test_attributes_and_an_acl_are_copied_with_the_nodes_own_ids(fd: int, other: int) -> None:
    os.setxattr(fd, "user.note", b"a\0b\n")
    os.setxattr(fd, ACCESS, acl(users={33: 6, 988: 4}, groups={989: 7}, group=4, mask=6))

    found = read_attributes(fd, (988, 989))
    mode = mode_without_mask(os.fstat(fd).st_mode & 0o7777, found[0])

    assert found[1]
    assert mode == 0o640
    assert write_attributes(other, found[0], mode, (500, 501))
    assert os.getxattr(other, "user.note") == b"a\0b\n"
    expected = acl(users={33: 6, 500: 4}, groups={501: 7}, group=4, mask=6)
    assert entries(os.getxattr(other, ACCESS)) == entries(expected)
    assert os.fstat(other).st_mode & 0o7777 == 0o660  # the mask


def test_a_mask_gives_the_group_no_more_than_its_entry(fd: int) -> None:
    os.setxattr(fd, ACCESS, acl(users={33: 7}, group=0, mask=7))

    value = read_attributes(fd, NOBODY)[0]

    assert os.fstat(fd).st_mode & 0o070 == 0o070
    assert mode_without_mask(0o4770, value) == 0o4700
    assert mode_without_mask(0o770, b"") == 0o770


def test_security_and_trusted_attributes_are_not_read(fd: int) -> None:
    if os.geteuid():
        pytest.skip("only root may set them")
    os.setxattr(fd, "trusted.a", b"1")
    os.setxattr(fd, "security.a", b"1")

    assert read_attributes(fd, NOBODY)[0] == b""


def test_a_default_acl_of_a_directory_is_read(tmp_path: Path) -> None:
    opened = os.open(tmp_path, os.O_RDONLY)
    os.setxattr(opened, DEFAULT, acl(users={33: 7}, group=5, mask=7))

    value = read_attributes(opened, NOBODY)[0]

    assert list(decode_attributes(value, is_directory=True)) == [DEFAULT.encode()]
    with pytest.raises(ValueError, match="name"):
        decode_attributes(value, is_directory=False)
    clear_attributes(opened)
    assert os.listxattr(opened) == []
    os.close(opened)


def test_more_than_the_most_attributes_are_left_out(fd: int) -> None:
    os.setxattr(fd, ACCESS, acl(users={33: 7}, group=5, mask=7))
    for number in range(MAX_COUNT):
        os.setxattr(fd, f"user.{number:03}", b"")

    found = read_attributes(fd, NOBODY)

    names = list(decode_attributes(found[0], is_directory=False))
    assert not found[1]
    assert names == [ACCESS.encode(), *(b"user.%03d" % n for n in range(MAX_COUNT - 1))]


def test_what_a_file_system_cannot_keep_is_left_out(fd: int) -> None:
    value = encode_attributes({b"user.large": bytes(60_000), b"user.small": b"1"})

    is_whole = write_attributes(fd, value, 0o600, NOBODY)

    assert ("user.large" in os.listxattr(fd)) is is_whole  # ext4 has no room for it
    assert os.getxattr(fd, "user.small") == b"1"


def test_kinds_that_the_other_side_does_not_keep_are_left_out() -> None:
    values = {ACCESS.encode(): acl(users={1: 1}, group=0, mask=1), b"user.a": b"1"}
    value = encode_attributes(values)

    for user, acls in ((True, True), (True, False), (False, True), (False, False)):
        kept = decode_attributes(
            kept_attributes(value, AttributesKept(user=user, acls=acls)), is_directory=False
        )
        assert set(kept) == {name for name in values if (user if name == b"user.a" else acls)}


VALID = acl(users={33: 6}, group=4, mask=6)
INVALID_ACLS = [
    b"",
    VALID[:-1],
    pack("<I", 1) + VALID[4:],
    VALID + VALID[-8:],
    acl(users={33: 8}, group=4, mask=6),
    acl(users={33: 6}, group=4),
    acl(users={33: 6}, group=None, mask=6),
    acl(users={0xFFFFFFFF: 6}, group=4, mask=6),
    pack("<I", 2) + b"".join(VALID[at : at + 8] for at in range(len(VALID) - 8, 0, -8)),
    VALID + pack("<HHI", 64, 0, 0xFFFFFFFF),
]


@pytest.mark.parametrize("value", INVALID_ACLS)
def test_an_acl_that_is_none_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match="ACL"):
        decode_attributes(encode_attributes({ACCESS.encode(): value}), is_directory=False)


def encoded(*pairs: tuple[bytes, bytes]) -> bytes:
    return b"".join(pack("<H", len(text)) + text for pair in pairs for text in pair)


@pytest.mark.parametrize(
    "value",
    [
        encoded((b"security.capability", b"1")),
        encoded((b"trusted.a", b"1")),
        encoded((b"system.other", b"1")),
        encoded((b"user.", b"1")),
        encoded((b"user.a\0", b"1")),
        encoded((b"user." + bytes(255), b"1")),
        encoded((b"user.b", b"1"), (b"user.a", b"1")),
        encoded((b"user.a", b"1"), (b"user.a", b"1")),
        encoded((b"user.a", b"1"))[:-1],
        encoded((b"user.a", b"1"))[:9],
        encoded((b"user.a", b"1")) + b"\0",
        encoded(*((b"user.%03d" % number, b"") for number in range(MAX_COUNT + 1))),
        encoded((b"user.a", bytes(40_000)), (b"user.b", bytes(40_000))),
    ],
)
def test_a_hostile_value_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match="extended attribute"):
        decode_attributes(value, is_directory=True)


def test_the_largest_value_is_taken() -> None:
    value = encode_attributes({b"user.a": bytes(MAX_BYTES - 10)})

    assert len(value) == MAX_BYTES
    assert decode_attributes(value, is_directory=False) == {b"user.a": bytes(MAX_BYTES - 10)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("user::rw-,user:988:r--,group::r--,group:5:rwx,mask::rwx,other::---", True),
        ("u::rw-\nu:lisa:r--:988 # a comment\ng::r--\ng:adm:rwx:5\nm::rwx\no::---\n", True),
        ("user::rw-,user:lisa:r--,group::r--,mask::rwx,other::---", None),
    ],
)
def test_an_acl_is_read_from_text(text: str, expected: object) -> None:
    found = acl_from_text(text.encode(), (988, 989))

    if expected is None:
        assert found is None
        return
    assert found == acl(users={OWN: 4}, groups={5: 7}, owner=6, group=4, mask=7, other=0)
    written = acl_text(found, (7, 8))
    assert written == b"user::rw-,user:7:r--,group::r--,group:5:rwx,mask::rwx,other::---"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "user::rw-",
        "user::rw-,user::rw-,group::r--,other::---",
        "user::rw,group::r--,other::---",
        "user::rw-,group::r--,other:5:---",
        "user::rw-,user:5:rw-,group::r--,other::---",
        "user::rw-,user:99999999999:rw-,group::r--,mask::rwx,other::---",
        "default:user::rw-,group::r--,other::---",
    ],
)
def test_a_text_that_is_no_acl_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="ACL"):
        acl_from_text(text.encode(), NOBODY)


@pytest.mark.promise("archive-attributes-are-filtered")
def test_an_acl_beyond_the_limit_is_neither_accepted_nor_cached() -> None:
    """An archive may name one of a megabyte, and the caches of ACLs last as long as the daemon."""
    large = acl(users=dict.fromkeys(range(MAX_BYTES // 8), 7), group=0, mask=7)
    for check in (
        lambda: acl_from_kernel(large, NOBODY),
        lambda: check_attribute(ACCESS.encode(), large, is_directory=False),
    ):
        with pytest.raises(ValueError, match="more than 65535 bytes"):
            check()


@pytest.mark.promise("archive-attributes-are-filtered")
def test_an_acl_that_the_kernel_refuses_is_left_out(
    fd: int, other: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel refuses ACLs with a user id that its user namespace does not map."""
    set_attribute = os.setxattr

    def refusing(fd: int, name: bytes, value: bytes) -> None:
        if name == ACCESS.encode():
            raise OSError(errno.EINVAL, "Invalid argument")
        set_attribute(fd, name, value)

    os.setxattr(fd, "user.note", b"1")
    os.setxattr(fd, ACCESS, acl(users={70_000: 6}, group=4, mask=6))
    value = read_attributes(fd, NOBODY)[0]
    monkeypatch.setattr(os, "setxattr", refusing)
    assert not write_attributes(other, value, 0o640, NOBODY)
    assert os.listxattr(other) == ["user.note"]
    assert os.fstat(other).st_mode & 0o7777 == 0o640
