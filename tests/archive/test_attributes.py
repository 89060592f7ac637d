"""Extended attributes and ACLs in archives: packed, extracted, and read by other programs."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.archive.packing import packed, unpack, unpacked
from tests.archive.test_regular_files import Stored, rewritten
from tests.support.archives import END, header, member, pax
from tests.support.attributes import ACCESS, DEFAULT, acl, entries
from wingsd.archive.policy import Kind
from wingsd.errors import ArchiveError
from wingsd.filesystem.attributes import MAX_COUNT

pytestmark = pytest.mark.root

MIB = 1 << 20
ACL = acl(users={4033: 6, 4001: 4}, groups={4002: 7}, group=4, mask=6)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree of the user 4001, group 4002, with attributes of each kind."""
    tree = tmp_path / "tree"
    (tree / "d").mkdir(parents=True)
    for name in ("f", "d/g", "plain"):
        (tree / name).write_bytes(b"content of " + name.encode())
        (tree / name).chmod(0o640)
    with (tree / "sparse").open("wb") as file:
        file.truncate(8 * MIB)
        file.seek(4 * MIB)
        file.write(b"data")
    for path in (tree, *tree.rglob("*")):
        os.chown(path, 4001, 4002)
    os.setxattr(tree / "f", "user.note", b"a\0b\nc=d")
    os.setxattr(tree / "f", "user.odd=%3D name", b"")
    os.setxattr(tree / "f", ACCESS, ACL)
    os.setxattr(tree / "sparse", "user.sparse", b"1")
    os.setxattr(tree / "d", DEFAULT, ACL)
    os.setxattr(tree / "d", "user.directory", b"2")
    os.setxattr(tree, "user.root", b"3")
    return tree


def attributes(path: Path) -> dict[str, object]:
    """Return the attributes of a file; ACLs as entries."""
    found: dict[str, object] = {}
    for name in os.listxattr(path):
        value = os.getxattr(path, name)
        found[name] = entries(value) if name in (ACCESS, DEFAULT) else value
    return found


def test_they_come_back_with_this_nodes_own_ids(tree: Path, tmp_path: Path) -> None:
    sent = packed(tree, holes=True)
    done, notes = unpack(bytes(sent.archive), tmp_path / "out", owner=(5001, 5002))

    renumbered = acl(users={4033: 6, 5001: 4}, groups={5002: 7}, group=4, mask=6)
    assert notes == []
    assert sent.packed.without_attributes == 0
    out = tmp_path / "out"
    assert attributes(out / "f") == {
        "user.note": b"a\0b\nc=d",
        "user.odd=%3D name": b"",
        ACCESS: entries(renumbered),
    }
    assert attributes(out / "sparse") == {"user.sparse": b"1"}
    assert attributes(out / "d") == {"user.directory": b"2", DEFAULT: entries(renumbered)}
    assert attributes(out / "d/g") == {}  # the default ACL came after it
    assert attributes(out) == {"user.root": b"3"}
    assert stat.S_IMODE((out / "f").stat().st_mode) == 0o660  # the mask
    assert (out / "f").stat().st_mtime_ns == (tree / "f").stat().st_mtime_ns
    assert done.counts[Kind.FILE] == 4


@pytest.mark.parametrize(
    "command",
    [
        ["tar", "--xattrs", "--acls", "-xpf"],
        ["bsdtar", "--xattrs", "--acls", "-xpf"],
    ],
)
def test_other_programs_restore_them(tree: Path, tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "a.tar").write_bytes(packed(tree, holes=True).archive)
    out = tmp_path / "out"
    out.mkdir()

    subprocess.run([*command, str(tmp_path / "a.tar"), "-C", str(out)], check=True)

    found = attributes(out / "f")
    assert found["user.note"] == b"a\0b\nc=d"
    assert found[ACCESS] == entries(ACL)
    assert attributes(out / "d")[DEFAULT] == entries(ACL)
    assert attributes(out / "sparse") == {"user.sparse": b"1"}
    assert stat.S_IMODE((out / "f").stat().st_mode) == 0o660


@pytest.mark.parametrize(
    "command",
    [
        ["tar", "--xattrs", "--acls", "--numeric-owner", "--format=pax", "-cf"],
        ["bsdtar", "--xattrs", "--acls", "--numeric-owner", "--format=pax", "-cf"],
    ],
)
def test_those_of_other_programs_are_restored(
    tree: Path, tmp_path: Path, command: list[str]
) -> None:
    subprocess.run([*command, str(tmp_path / "a.tar"), "-C", str(tree), "."], check=True)

    archive = (tmp_path / "a.tar").read_bytes()
    _, notes = unpack(archive, tmp_path / "out", owner=(5001, 5002))

    renumbered = acl(users={4033: 6, 5001: 4}, groups={5002: 7}, group=4, mask=6)
    found = attributes(tmp_path / "out/f")
    assert notes == []
    assert found["user.note"] == b"a\0b\nc=d"
    assert found[ACCESS] == entries(renumbered)
    assert attributes(tmp_path / "out/d")[DEFAULT] == entries(renumbered)


def test_without_them_the_group_gets_no_more_than_its_own(tree: Path, tmp_path: Path) -> None:
    os.setxattr(tree / "plain", ACCESS, acl(users={33: 7}, group=0, mask=7))
    assert stat.S_IMODE((tree / "plain").stat().st_mode) == 0o670

    sent = packed(tree, attributes=False)
    unpacked(sent, tmp_path / "out")

    assert sent.packed.without_attributes == 5
    assert b"SCHILY" not in sent.archive
    assert stat.S_IMODE((tmp_path / "out/plain").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "out/f").stat().st_mode) == 0o640


def test_readers_that_know_no_acls_give_the_group_no_more(tree: Path, tmp_path: Path) -> None:
    os.setxattr(tree / "plain", ACCESS, acl(users={33: 7}, group=0, mask=7))
    (tmp_path / "a.tar").write_bytes(packed(tree).archive)
    out = tmp_path / "out"
    out.mkdir()

    subprocess.run(["tar", "-xpf", str(tmp_path / "a.tar"), "-C", str(out)], check=True)

    assert stat.S_IMODE((out / "plain").stat().st_mode) == 0o600


def with_records(*records: tuple[bytes, bytes], typeflag: bytes = b"0") -> bytes:
    name = b"f/" if typeflag == b"5" else b"f"
    return pax(*records) + member(name, b"", typeflag) + END


@pytest.mark.promise("archive-attributes-are-filtered")
def test_names_that_are_not_allowed_are_left_out_with_a_count(tmp_path: Path) -> None:
    archive = with_records(
        (b"SCHILY.xattr.security.capability", b"\1"),
        (b"SCHILY.xattr.trusted.overlay.opaque", b"y"),
        (b"SCHILY.xattr.system.nfs4_acl", b"y"),
        (b"SCHILY.xattr.user.good", b"1"),
    )

    _, notes = unpack(archive, tmp_path / "out")

    assert attributes(tmp_path / "out/f") == {"user.good": b"1"}
    assert len(notes) == 1
    assert notes[0].startswith("1 file ")


@pytest.mark.promise("archive-attributes-are-filtered")
def test_an_acl_with_names_alone_is_left_out_with_a_count(tmp_path: Path) -> None:
    text = b"user::rw-,user:root:rwx,group::---,mask::rwx,other::---"

    _, notes = unpack(with_records((b"SCHILY.acl.access", text)), tmp_path / "out")

    assert attributes(tmp_path / "out/f") == {}
    assert len(notes) == 1


@pytest.mark.promise("archive-attributes-are-filtered")
def test_an_empty_acl_is_none(tmp_path: Path) -> None:
    """GNU tar writes it for a directory that has an ACL and no default one."""
    text = b"user::rwx,user:5:r-x,group::r-x,mask::r-x,other::r-x"
    archive = with_records(
        (b"SCHILY.acl.access", text), (b"SCHILY.acl.default", b""), typeflag=b"5"
    )

    _, notes = unpack(archive, tmp_path / "out")

    expected = acl(users={5: 5}, owner=7, group=5, mask=5, other=5)
    assert attributes(tmp_path / "out/f") == {ACCESS: entries(expected)}
    assert notes == []


@pytest.mark.promise("archive-attributes-are-filtered")
@pytest.mark.parametrize("number", [b"-1", b"9" * 30, b"x", b""])
def test_an_archive_with_an_owner_that_is_no_number_here_is_extracted(
    number: bytes, tmp_path: Path
) -> None:
    text = b"user::rw-,user:5:rwx,group::---,mask::rwx,other::---"

    unpack(with_records((b"uid", number)), tmp_path / "plain")
    unpack(with_records((b"uid", number), (b"SCHILY.acl.access", text)), tmp_path / "out")

    assert (tmp_path / "plain/f").exists()
    assert attributes(tmp_path / "out/f") == {ACCESS: entries(acl(users={5: 7}, group=0, mask=7))}


def test_the_root_user_is_not_taken_for_the_servers(tmp_path: Path) -> None:
    text = b"user::rw-,user:0:rwx,group::---,group:0:rwx,mask::rwx,other::---"

    unpack(with_records((b"SCHILY.acl.access", text)), tmp_path / "out", owner=(5001, 5002))

    expected = acl(users={0: 7}, groups={0: 7}, group=0, mask=7)
    assert attributes(tmp_path / "out/f") == {ACCESS: entries(expected)}


HOSTILE = {
    "too many": [(b"SCHILY.xattr.user.%d" % n, b"") for n in range(MAX_COUNT + 1)],
    "too long": [(b"SCHILY.xattr.user.a", bytes(65_535))],
    "no name": [(b"SCHILY.xattr.user.", b"1")],
    "long name": [(b"SCHILY.xattr.user." + b"n" * 251, b"1")],
    "no ACL of the kernel": [(b"SCHILY.xattr.system.posix_acl_access", ACL[:-1])],
    "no ACL": [(b"SCHILY.acl.access", b"rwxrwxrwx")],
    "an ACL without a mask": [
        (b"SCHILY.acl.access", b"user::rw-,user:5:rwx,group::---,other::---")
    ],
    "a default ACL of a file": [(b"SCHILY.acl.default", b"user::rw-,group::---,other::---")],
}


@pytest.mark.promise("archive-attributes-are-filtered")
@pytest.mark.parametrize("records", HOSTILE.values(), ids=HOSTILE)
def test_hostile_attributes_are_refused(
    records: list[tuple[bytes, bytes]], tmp_path: Path
) -> None:
    with pytest.raises(ArchiveError):
        unpack(with_records(*records), tmp_path / "out")

    assert not (tmp_path / "out/f").exists()


def test_a_symlink_has_none_and_its_target_stays(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"")
    link = header(b"l", b"2", link=str(tmp_path / "target").encode())
    archive = pax((b"SCHILY.xattr.user.a", b"1")) + link + END

    unpack(archive, tmp_path / "out")

    assert attributes(tmp_path / "target") == {}


def test_the_form_for_go_nodes_is_without_them_and_counts(tree: Path) -> None:
    archive, files = rewritten(Stored(bytes(packed(tree).archive)))

    assert files.not_kept.attributes == 4
    assert "the extended attributes and ACLs of 4 files" in str(files.not_kept)
    assert b"SCHILY" not in archive
