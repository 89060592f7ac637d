"""The host key of SFTP: that of Wings where there is one, so that no client warns.

It is an ed25519 key in `system.data`, at `.sftp/id_ed25519`: PEM in PKCS #8, mode 0600. Blocking.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

import attrs
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
)

from wingsd.errors import HostKeyUnusable
from wingsd.util.durable import replace_file, sync_directory, time_stamp
from wingsd.util.text import disk_advice

_MAX_BYTES = 64 << 10
_DIRECTORY_MODE = 0o755
_MODE = 0o600
_OPENSSH = b"-----BEGIN OPENSSH PRIVATE KEY-----"


@attrs.frozen(repr=False)
class HostKey:
    """A host key: `private` as PEM in PKCS #8, `public` in the form of authorized_keys.

    `replaced` is the new name of an empty file that was in its place.
    """

    private: str
    public: str
    is_new: bool
    replaced: str = ""


def host_key_path(data: str) -> str:
    """Return where the key is, for a `system.data`."""
    return os.path.join(data, ".sftp", "id_ed25519")


def load_host_key(data: str) -> HostKey:
    """Return the host key of a node, which is made if there is none. Raises `HostKeyUnusable`.

    An empty file, which has no key to lose, is set aside.
    """
    path = host_key_path(data)
    try:
        try:
            content = _read(path)
        except FileNotFoundError:
            return _made(path)
        if not content.strip():
            replaced = f"{path}.empty.{time_stamp()}"
            os.rename(path, replaced)
            return attrs.evolve(_made(path), replaced=replaced)
    except OSError as error:
        raise HostKeyUnusable(f"{path}: {disk_advice(error)}") from error
    return _host_key(_parsed(path, content), is_new=False)


def _read(path: str) -> bytes:
    # Not blocking: there may be a FIFO in its place.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise HostKeyUnusable(f"{path} is not a regular file; remove it, and start again")
        if found.st_mode & 0o077:
            with suppress(OSError):  # it is another user's
                os.fchmod(fd, _MODE)
        return file.read(_MAX_BYTES)


def _parsed(path: str, content: bytes) -> Ed25519PrivateKey:
    advice = (
        "restore the file from a backup, or, if there is none, delete it and restart the node: a "
        "new key is made then, and clients warn their users of it"
    )
    load = load_ssh_private_key if content.lstrip().startswith(_OPENSSH) else load_pem_private_key
    try:
        key = load(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise HostKeyUnusable(f"{path} is damaged, or has a passphrase; {advice}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise HostKeyUnusable(f"{path} is not an ed25519 key; {advice}")
    return key


def _host_key(key: Ed25519PrivateKey, *, is_new: bool) -> HostKey:
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return HostKey(private.decode(), public.decode(), is_new)


def _made(path: str) -> HostKey:
    """Make a key that is on the disk as a whole, or not at all."""
    made = _host_key(Ed25519PrivateKey.generate(), is_new=True)
    directory = Path(path).parent
    if not directory.is_dir():
        directory.mkdir(parents=True)
        sync_directory(directory.parent)
    directory.chmod(_DIRECTORY_MODE)
    replace_file(Path(path), made.private.encode(), mode=_MODE)
    return made
