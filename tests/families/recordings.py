"""A small server as the nodes of each family send it: the whole request, byte for byte.

It is all that the family's nodes carry: the archive, two backups and the log of an installation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import attrs

from tests.support.go import GoFile, go_tar
from tests.support.upload_forms import PTERODACTYL, Family, Part, as_go_packs, calagopus, pelican
from wingsd import config
from wingsd.backups.store import Backup

FAMILIES = (config.PTERODACTYL, config.PELICAN, config.CALAGOPUS)
BACKUPS: Mapping[str, bytes] = {
    "5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11": b"\r\n--backup\r\n--",
    "6b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c12": b"",
}
LOG = b"installed\r\n\n-"
#: Written by Rust's crate tar 0.4 from headers as Calagopus' nodes make them.
_RUST = Path(__file__).parent.parent / "daemon" / "calagopus.tar.gz"
_GO = as_go_packs(go_tar([GoFile(b"world/level.dat", b"hello", 0o640)]))


@attrs.frozen
class Recording:
    """One upload. `form` writes it around the `archive`; `checksum` is what it says of that."""

    family: str
    form: Any
    archive: bytes
    checksum: str | None
    #: Each file of the server by its path: its data.
    files: Mapping[str, bytes]

    @property
    def boundary(self) -> str:
        return cast(str, self.form.boundary)

    @property
    def content_type(self) -> str:
        return f"multipart/form-data; boundary={self.boundary}"

    def head(self, token: str) -> bytes:
        return cast(Family, self.form).head("node.invalid", token)

    @property
    def writes(self) -> list[bytes]:
        form = cast(Family, self.form)
        return [*form.before(), *form.archive(self.archive), *form.after(self.checksum)]

    @property
    def body(self) -> bytes:
        return b"".join(self.writes)

    @property
    def backups(self) -> dict[Backup, bytes]:
        if self.family == config.PTERODACTYL:
            return {}
        return {Backup(uuid, "tar.gz", self.family): data for uuid, data in BACKUPS.items()}

    def altered(self, name: str, change: Callable[[bytes], bytes]) -> Recording:
        if name == self.checksum_name:
            assert self.checksum is not None
            return attrs.evolve(self, checksum=change(self.checksum.encode()).decode())
        parts = [attrs.evolve(p, data=change(p.data)) if p.name == name else p for p in self.parts]
        assert parts != list(self.parts)
        return self._with(parts)

    def without(self, name: str) -> Recording:
        if name == self.checksum_name:
            return attrs.evolve(self, checksum=None)
        parts = [part for part in self.parts if part.name != name]
        assert parts != list(self.parts)
        return self._with(parts)

    def adding(self, *parts: Part) -> Recording:
        return self._with([*self.parts, *parts])

    @property
    def parts(self) -> tuple[Part, ...]:
        return cast(tuple[Part, ...], self.form.parts)

    @property
    def checksum_name(self) -> str:
        """What the part of the archive's checksum is called."""
        return getattr(self.form, "checksum", "checksum")

    @property
    def checksums(self) -> list[str]:
        """The names of all parts that are checksums."""
        return [self.checksum_name, *(p.name for p in self.parts if "checksum" in p.name)]

    def _with(self, parts: list[Part]) -> Recording:
        return attrs.evolve(self, form=attrs.evolve(self.form, parts=tuple(parts)))


def _recordings() -> Iterator[Recording]:
    go = {"world/level.dat": b"hello"}
    rust = go | {f"{'d' * 60}/{'f' * 60}": b"long", "welt-é": b""}
    packed = _RUST.read_bytes()
    for family, form, archive, files in (
        (config.PTERODACTYL, PTERODACTYL, _GO, go),
        (config.PELICAN, pelican(LOG, BACKUPS), _GO, go),
        (config.CALAGOPUS, calagopus(LOG, BACKUPS), packed, rust),
    ):
        checksum = hashlib.sha256(archive).hexdigest()
        yield Recording(family, form, archive, checksum, files)


RECORDINGS: Mapping[str, Recording] = {each.family: each for each in _recordings()}
