"""The MIME type of a file by its first bytes, as far as the Panels' pages decide by it.

Pages offer to extract archives, and to edit everything but images, Java archives and
`application/octet-stream`. So an empty file, a script and text in any encoding are `text/plain`.
"""

from __future__ import annotations

__all__ = ["BINARY", "DIRECTORY", "HEAD", "TEXT", "is_text", "mime_by_name", "mime_of"]

#: Bytes that are looked at: with the magic of tar, which is the farthest from the start.
HEAD = 512
DIRECTORY = "inode/directory"
TEXT = "text/plain; charset=utf-8"
BINARY = "application/octet-stream"

_MAGICS = (
    (b"\x1f\x8b", "application/gzip"),
    (b"BZh", "application/x-bzip2"),
    (b"\xfd7zXZ\0", "application/x-xz"),
    (b"\x28\xb5\x2f\xfd", "application/zstd"),
    (b"\x04\x22\x4d\x18", "application/x-lz4"),
    (b"LZIP", "application/x-lzip"),
    (b"\xff\x06\x00\x00sNaPpY", "application/x-sz"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (b"Rar!\x1a\x07", "application/x-rar-compressed"),
    (b"PK\x05\x06", "application/zip"),
    (b"PK\x07\x08", "application/zip"),
    (b"%PDF-", "application/pdf"),
    (b"SQLite format 3\0", "application/vnd.sqlite3"),
    (b"\x7fELF", "application/x-elf"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"\0\0\1\0", "image/x-icon"),
    (b"OggS", "audio/ogg"),
    (b"fLaC", "audio/flac"),
    (b"ID3", "audio/mpeg"),
    (b"\x1a\x45\xdf\xa3", "video/webm"),
)
#: By the four bytes behind `RIFF` and a length, and behind a length and `ftyp`.
_RIFF = {b"WEBP": "image/webp", b"WAVE": "audio/wav", b"AVI ": "video/x-msvideo"}
_FTYP = {b"avif": "image/avif", b"heic": "image/heic", b"mp42": "video/mp4", b"isom": "video/mp4"}
_ZIP, _ZIP_NAME = b"PK\x03\x04", 30
_TAR, _TAR_AT = b"ustar", 257
_SVG = (b"<svg", b"<?xml")
#: Bytes that no text in ASCII or a superset of it has (WHATWG MIME Sniffing, section 3).
_NO_TEXT = bytes({*range(0x20)} - {*b"\t\n\x0b\x0c\r\x1b\x08"})
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")

#: By the end of the name, for files that are not looked into.
_BY_NAME = {
    **dict.fromkeys((".gz", ".tgz"), "application/gzip"),
    **dict.fromkeys((".bz2", ".tbz2"), "application/x-bzip2"),
    **dict.fromkeys((".xz", ".txz"), "application/x-xz"),
    ".zst": "application/zstd",
    ".tar": "application/x-tar",
    ".zip": "application/zip",
    ".jar": "application/jar",
    ".rar": "application/x-rar-compressed",
    ".7z": "application/x-7z-compressed",
    ".png": "image/png",
    **dict.fromkeys((".jpg", ".jpeg"), "image/jpeg"),
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".svg": "image/svg+xml",
    **dict.fromkeys(
        (
            *(".bat", ".cfg", ".cnf", ".conf", ".css", ".csv", ".html", ".ini", ".java", ".js"),
            *(".json", ".json5", ".lang", ".log", ".lua", ".md", ".mcfunction", ".mcmeta"),
            *(".php", ".properties", ".py", ".rb", ".sh", ".sk", ".sql", ".toml", ".ts", ".txt"),
            *(".vdf", ".xml", ".yaml", ".yml"),
        ),
        TEXT,
    ),
}


def mime_of(head: bytes) -> str:
    """Return the type of a file that begins with these bytes, `HEAD` of them if it has as many."""
    if head.startswith(_ZIP):
        is_jar = head[_ZIP_NAME:].startswith(b"META-INF/")
        return "application/jar" if is_jar else "application/zip"
    for magic, mime in _MAGICS:
        if head.startswith(magic):
            return mime
    return _container_type(head) or (TEXT if _is_text(head) else BINARY)


def _container_type(head: bytes) -> str | None:
    """Return the type of a file whose magic is not at its start."""
    if head[_TAR_AT : _TAR_AT + len(_TAR)] == _TAR:
        return "application/x-tar"
    if head.startswith(b"RIFF"):
        return _RIFF.get(head[8:12])
    if head[4:8] == b"ftyp":
        return _FTYP.get(head[8:12], "video/mp4")
    if head.lstrip().startswith(_SVG) and b"<svg" in head:
        return "image/svg+xml"
    return None


def mime_by_name(name: bytes) -> str:
    """Return the type of a file that is not looked into, by its name."""
    _, dot, extension = name.rpartition(b".")
    return _BY_NAME.get((dot + extension).decode("latin-1").lower(), BINARY)


def is_text(mime: str) -> bool:
    """Return whether a type is text, which can be edited."""
    return mime == TEXT or mime.endswith("+xml")


def _is_text(head: bytes) -> bool:
    if head.startswith(_UTF_16):
        return True
    return not head or len(head.translate(None, _NO_TEXT)) == len(head)
