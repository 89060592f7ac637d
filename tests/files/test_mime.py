"""Types of files by what they begin with."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import zipfile

import pytest

from wingsd.files.entries import BINARY, HEAD, TEXT, mime_of, mime_of_entry
from wingsd.filesystem.directory import Entry


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    return buffer.getvalue()


def zipped(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, "x")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "mime"),
    [
        (b"", TEXT),
        (b"hello\n", TEXT),
        (b"#!/bin/sh\nexit 0\n", TEXT),
        ("grün".encode(), TEXT),
        ("grün".encode("latin-1"), TEXT),
        ("a text".encode("utf-16"), TEXT),
        (b"\x1b[31mred\x1b[0m", TEXT),
        (("x" * (HEAD - 1) + "ü").encode(), TEXT),
        (b'{"a": 1}', TEXT),
        (b"a\0b", BINARY),
        (b"\x01\x02", BINARY),
        (gzip.compress(b"x"), "application/gzip"),
        (bz2.compress(b"x"), "application/x-bzip2"),
        (lzma.compress(b"x"), "application/x-xz"),
        (tar(), "application/x-tar"),
        (zipped("a.txt"), "application/zip"),
        (zipped("META-INF/MANIFEST.MF"), "application/jar"),
        (b"\x28\xb5\x2f\xfd\0\0", "application/zstd"),
        (b"7z\xbc\xaf\x27\x1c\0", "application/x-7z-compressed"),
        (b"Rar!\x1a\x07\x01\0", "application/x-rar-compressed"),
        (b"LZIP\x01", "application/x-lzip"),
        (b"\xff\x06\x00\x00sNaPpY", "application/x-sz"),
        (b"\x89PNG\r\n\x1a\n\0", "image/png"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (b'<?xml version="1.0"?>\n<svg xmlns="x">', "image/svg+xml"),
        (b"<?xml version='1.0'?><a/>", TEXT),
    ],
    ids=lambda value: value if isinstance(value, str) else "content",  # some contain the time
)
def test_a_type_is_told_by_the_first_bytes(content: bytes, mime: str) -> None:
    assert mime_of(content[:HEAD]) == mime


@pytest.mark.parametrize(
    ("name", "mime"),
    [
        (b"a.log", TEXT),
        (b"A.LOG", TEXT),
        (b"world.tar.gz", "application/gzip"),
        (b"plugin.jar", "application/jar"),
        (b"r.0.0.mca", BINARY),
        (b"noextension", BINARY),
        (b".\xff\xfe", BINARY),
    ],
)
def test_a_type_is_guessed_by_the_name(name: bytes, mime: str) -> None:
    entry = Entry(name, stat.S_IFREG, 1, 0, 0, 0, 1, 0, 0)
    assert mime_of_entry(entry) == mime
