"""What the process that looks at directories writes of each: see `walk_process`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct

from attrs import frozen

__all__ = ["WalkFrame", "frames_in"]

#: Bytes of the path, the names of files and those of directories; whether a file has several
#: names; and the digest.
_HEAD = Struct("<III?16s")


@frozen(eq=False, repr=False)
class WalkFrame:
    """A directory that was looked at: its digest in `SeenDirectories`, and what is in it."""

    path: bytes
    digest: bytes
    is_linked: bool
    files: Sequence[bytes]
    directories: Sequence[bytes]

    def encode(self) -> bytes:
        """Return it as bytes."""
        texts = (self.path, b"\0".join(self.files), b"\0".join(self.directories))
        return _HEAD.pack(*map(len, texts), self.is_linked, self.digest) + b"".join(texts)


def frames_in(buffer: bytearray) -> Iterator[tuple[WalkFrame, int]]:
    """Take what is whole from the beginning of a buffer; yield frames with their lengths."""
    at = 0
    while len(buffer) - at >= _HEAD.size:
        *lengths, is_linked, digest = _HEAD.unpack_from(buffer, at)
        begin, end = at + _HEAD.size, at + _HEAD.size + sum(lengths)
        if end > len(buffer):
            break
        files, directories = begin + lengths[0], end - lengths[2]
        yield (
            WalkFrame(
                bytes(buffer[begin:files]),
                digest,
                is_linked,
                _names(buffer[files:directories]),
                _names(buffer[directories:end]),
            ),
            end - at,
        )
        at = end
    del buffer[:at]


def _names(text: bytearray) -> list[bytes]:
    return bytes(text).split(b"\0") if text else []
