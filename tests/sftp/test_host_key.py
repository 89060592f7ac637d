"""The host key of SFTP: taken over, made, and refused with what to do."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from wingsd.errors import HostKeyUnusable
from wingsd.sftp.host_key import host_key_path, load_host_key

pytestmark = pytest.mark.promise("sftp-host-key-is-kept")


def written(data: Path, content: bytes, mode: int = 0o600) -> Path:
    path = Path(host_key_path(str(data)))
    path.parent.mkdir()
    path.write_bytes(content)
    path.chmod(mode)
    return path


def pem(key: Ed25519PrivateKey, form: PrivateFormat = PrivateFormat.PKCS8) -> bytes:
    return key.private_bytes(Encoding.PEM, form, NoEncryption())


def test_a_key_is_made_once_and_kept(tmp_path: Path) -> None:
    made = load_host_key(str(tmp_path))
    again = load_host_key(str(tmp_path))
    assert (made.is_new, again.is_new) == (True, False)
    assert made.public == again.public
    assert made.public.startswith("ssh-ed25519 ")
    path = tmp_path / ".sftp" / "id_ed25519"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    assert os.listdir(path.parent) == ["id_ed25519"]


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.OpenSSH])
def test_a_key_that_is_there_is_taken_over_and_made_private(
    tmp_path: Path, form: PrivateFormat
) -> None:
    content = pem(Ed25519PrivateKey.generate(), form)
    path = written(tmp_path, content, 0o644)
    assert not load_host_key(str(tmp_path)).is_new
    assert path.read_bytes() == content
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (bytes(119), "is damaged"),
        (b"-----BEGIN PRIVATE KEY-----\nMC4CAQ\n", "is damaged"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\n", "is damaged"),
        (bytes(range(100, 200)), "is damaged"),
        (
            Ed25519PrivateKey.generate().private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")
            ),
            "has a passphrase",
        ),
        (
            generate_private_key(SECP256R1()).private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
            ),
            "is not an ed25519 key",
        ),
    ],
    ids=["zeros", "cut", "cut OpenSSH", "no key", "encrypted", "of another kind"],
)
def test_a_key_that_cannot_be_used_stays_and_the_error_says_what_to_do(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = written(tmp_path, content)
    with pytest.raises(HostKeyUnusable) as caught:
        load_host_key(str(tmp_path))
    assert reason in str(caught.value)
    assert "delete it and restart the node" in str(caught.value)
    assert path.read_bytes() == content


@pytest.mark.promise("sftp-host-key-is-kept")
@pytest.mark.parametrize("content", [b"", b" \n"])
def test_an_empty_file_is_set_aside_and_a_new_key_made(tmp_path: Path, content: bytes) -> None:
    path = written(tmp_path, content)
    made = load_host_key(str(tmp_path))
    aside = Path(made.replaced)
    assert aside.parent == path.parent
    assert aside.name.startswith("id_ed25519.empty.")
    assert aside.read_bytes() == content
    assert made.is_new
    again = load_host_key(str(tmp_path))
    assert (again.public, again.is_new, again.replaced) == (made.public, False, "")
    path.write_bytes(b"")
    assert load_host_key(str(tmp_path)).replaced not in ("", made.replaced)
    assert len(os.listdir(path.parent)) == 3


class Killed(BaseException):
    """The end of the daemon at that moment."""


@pytest.mark.promise("sftp-host-key-is-kept")
@pytest.mark.parametrize("is_empty", [False, True])
def test_a_daemon_that_is_killed_while_it_makes_a_key_leaves_none_or_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_empty: bool
) -> None:
    """Each call of the kernel that changes the disk is the last one once, before and after it."""
    calls = ("mkdir", "chmod", "fchmod", "fsync", "rename", "replace")
    for last in range(40):
        data = tmp_path / str(last)
        data.mkdir()
        if is_empty:
            written(data, b"")
        with monkeypatch.context() as patch:
            count_down = CountDown(last)
            for name in calls:
                patch.setattr(os, name, count_down.wrapped(getattr(os, name)))
            patch.setattr(os, "unlink", lambda _: None)  # what a daemon does after its end
            try:
                load_host_key(str(data))
            except Killed:
                ended = False
            else:
                ended = True
        path = Path(host_key_path(str(data)))
        was_moved = any(path.parent.glob("*.empty.*"))
        assert not path.exists() or path.stat().st_size > 100 or (is_empty and not was_moved)
        key = load_host_key(str(data))
        assert key.public == load_host_key(str(data)).public
        if ended:
            break
    assert ended
    assert last > 8  # calls are seen


class CountDown:
    """Ends the daemon at a call."""

    def __init__(self, left: int) -> None:
        self._left = left

    def wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self._end()
            result = function(*arguments, **options)
            self._end()
            return result

        return call

    def _end(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise Killed


def test_a_fifo_in_its_place_is_refused_without_waiting(tmp_path: Path) -> None:
    (tmp_path / ".sftp").mkdir()
    os.mkfifo(host_key_path(str(tmp_path)))
    with pytest.raises(HostKeyUnusable):
        load_host_key(str(tmp_path))
