"""OpenSSH: its server, beside which SFTP is measured, and the clients of both servers."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

__all__ = ["CIPHERS", "SftpAccount", "free_port", "make_key", "openssh_server"]

#: The ciphers of clients, by what they are called; an empty one is the client's own choice.
CIPHERS = {"ChaCha20": "", "AES-GCM": "aes128-gcm@openssh.com"}
_OPTIONS = {
    "IdentitiesOnly": "yes",
    "LogLevel": "ERROR",
    "StrictHostKeyChecking": "no",
    "UserKnownHostsFile": "/dev/null",
}
_CONFIGURATION = """
ListenAddress 127.0.0.1
Port {port}
HostKey {key}
AuthorizedKeysFile {key}.pub
PermitRootLogin yes
StrictModes no
UsePAM no
PidFile none
Subsystem sftp internal-sftp
"""
#: The directory that the server wants to exist, and does not use as `UsePAM no` has it.
_SEPARATION = Path("/run/sshd")


@frozen
class SftpAccount:
    """How a client reaches files: `home` is where they are, as the server names it.

    `wrapper` are the words of a command that gives the client another priority, and `cipher` one
    of `CIPHERS`.
    """

    name: str
    port: int
    key: Path
    home: str = ""
    wrapper: tuple[str, ...] = ()
    cipher: str = "AES-GCM"

    def seconds(self, *lines: str) -> float:
        """Return the seconds that a new client takes for these commands of `sftp`. Blocking."""
        options = [f"-o{name}={value}" for name, value in _OPTIONS.items()]
        if CIPHERS[self.cipher]:
            options.append(f"-oCiphers={CIPHERS[self.cipher]}")
        command = [*self.wrapper, "sftp", "-F/dev/null", "-b-"]
        command += ["-P", str(self.port), "-i", str(self.key), *options]
        begun = time.monotonic()
        subprocess.run(
            [*command, f"{self.name}@127.0.0.1"],
            input="".join(f"{line}\n" for line in lines).encode(),
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return time.monotonic() - begun


def make_key(path: Path) -> str:
    """Make a pair of keys; return the public one, in the form of authorized_keys."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)]
    subprocess.run(command, check=True)
    return path.with_name(f"{path.name}.pub").read_text().strip()


def free_port() -> int:
    """Return a free port of the loopback interface."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def openssh_server(directory: Path, key: Path, wrapper: tuple[str, ...]) -> Iterator[SftpAccount]:
    """Run OpenSSH's server, whose files are in `directory`; the key is the host's and the user's.

    `wrapper` is that of the server and its clients. Root only: sshd wants to be root.
    """
    program = shutil.which("sshd", path="/usr/sbin:/usr/bin")
    if program is None:
        raise SystemExit("bench: there is no sshd; tools/prepare bench installs it")
    _SEPARATION.mkdir(exist_ok=True)
    port = free_port()
    configuration = directory / "sshd_config"
    configuration.write_text(_CONFIGURATION.format(port=port, key=key))
    home = directory / "files"
    home.mkdir()
    with subprocess.Popen(
        [*wrapper, program, "-D", "-e", "-f", str(configuration)], stderr=subprocess.DEVNULL
    ) as process:
        try:
            _wait(port, process)
            yield SftpAccount("root", port, key, str(home), wrapper)
        finally:
            process.terminate()


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        with socket.socket() as trying:
            if trying.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    raise SystemExit(f"bench: sshd has ended with the status {process.returncode}")
