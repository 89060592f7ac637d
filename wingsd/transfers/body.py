"""The body of an upload, as it is written in a worker thread: the archive, then the backups."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from contextlib import closing

from wingsd.archive import Packed, pack
from wingsd.bridge import Outflow
from wingsd.transfers.formdata import FormFrame
from wingsd.transfers.localbackups import LocalBackup
from wingsd.transfers.order import Form

__all__ = ["write_body"]


def write_body(
    body: Outflow,
    frame: FormFrame,
    *,
    directory: str,
    links: bool,
    form: Form,
    backups: Iterable[LocalBackup],
    note: Callable[[str], None],
    progress: Callable[[int], None],
) -> Packed:
    """Write all of it to `body`; tell `progress` how many bytes of files are read so far.

    Raises `OutflowClosed` when nobody takes it any more, and what `pack` and `blocks` raise.
    """
    body.write(frame.before())
    packed = pack(
        directory,
        body.write,
        links=links,
        form=form.archive,
        compression=form.compression,
        note=note,
        progress=progress,
    )
    body.write(frame.after(packed.sha256))
    read = packed.packed_bytes
    for local in backups:
        body.write(frame.before_backup(local.backup))
        digest = hashlib.sha256()
        with closing(local.blocks()) as blocks:
            for block in blocks:
                digest.update(block)
                body.write(block)
                read += len(block)
                progress(read)
        body.write(frame.after_backup(local.backup, digest.hexdigest()))
    body.write(frame.end())
    body.finish()
    return packed
