"""The client of the daemon's control socket; errors and exit statuses of commands."""

from __future__ import annotations

import getpass
import grp
import json
import os
import socket
from contextlib import closing, suppress
from enum import IntEnum
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import IO, Any
from urllib.request import HTTPRedirectHandler

import click

from wingsd.util.text import escaped

Json = dict[str, Any]


class Exit(IntEnum):
    """The exit statuses."""

    DONE = 0
    #: The command failed, or the transfer that it waited for.
    FAILED = 1
    #: The command line is invalid; click's own.
    USAGE = 2
    #: No daemon listens at the socket.
    NO_DAEMON = 3
    #: This user has no permission to open the socket.
    NOT_PERMITTED = 4
    #: The daemon has no such server or transfer.
    UNKNOWN = 5
    #: Interrupted while the transfer continues; the shell's status for SIGINT.
    INTERRUPTED = 130


class CtlError(click.ClickException):
    """The command fails with the exit status `status`.

    `detail` is the remedy; `code` is the error's code, when the daemon sent it.
    """

    def __init__(
        self, message: str, detail: str = "", status: Exit = Exit.FAILED, code: str = ""
    ) -> None:
        super().__init__(message)
        self.detail = detail
        self.code = code
        # `show` is called without the command's context.
        context = click.get_current_context(silent=True)
        self._as_json = context is not None and bool(context.params.get("as_json"))
        self.exit_code = int(status)  # type: ignore[misc]  # click's own way, whatever it says

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the error to standard error, with `--json` as JSON."""
        if self._as_json:
            answer = {"error": self.message, "detail": self.detail}
            text = json.dumps(answer | ({"code": self.code} if self.code else {}))
        else:
            # Messages of the daemon may quote other programs.
            text = f"wingsctl: {escaped(self.message)}"
            text += f" ({escaped(self.code)})" if self.code else ""
            text += f"\n  {escaped(self.detail)}" if self.detail else ""
        click.echo(text, file=file, err=True)


class NoRedirects(HTTPRedirectHandler):
    """Follows no redirect: it could lead a key elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        """Return no request; the answer is then an `HTTPError`."""


#: Seconds for an answer of the daemon.
TIMEOUT = 30.0
#: Bytes of an answer at most.
MAX_ANSWER = 64 * 1024 * 1024


class _UnixConnection(HTTPConnection):
    """An HTTP connection over the socket at `path`."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("wingsd", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect. Raises `OSError`."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class ControlClient:
    """A client of the daemon that listens on the socket at `path`."""

    def __init__(self, path: str, timeout: float = TIMEOUT) -> None:
        self._path = path
        self._timeout = timeout

    def ask(self, method: str, path: str, content: object = None) -> Any:
        """Send a request with `content` as JSON; return the answer, None for an empty one.

        Raises `CtlError`.
        """
        with closing(_UnixConnection(self._path, self._timeout)) as connection:
            try:
                body = None if content is None else json.dumps(content)
                connection.request(method, f"/v1/{path}", body)
                answer = connection.getresponse()
                text = answer.read(MAX_ANSWER + 1)
            except (OSError, HTTPException) as error:
                raise self._unreachable(error) from error
        if len(text) > MAX_ANSWER:
            raise CtlError(
                f"the answer is longer than {MAX_ANSWER // 1024**2} MiB",
                f"check that wingsd listens on {self._path}",
                Exit.FAILED,
            )
        decoded = None
        with suppress(ValueError):
            decoded = json.loads(text) if text else None
        if answer.status >= HTTPStatus.BAD_REQUEST:
            fault = decoded if isinstance(decoded, dict) else {}
            code = str(fault.get("code") or "")
            raise CtlError(
                str(fault.get("error") or f"the daemon answered {answer.status}"),
                str(fault.get("detail") or (code and f"wingsctl explain {code} says what to do")),
                Exit.UNKNOWN if answer.status == HTTPStatus.NOT_FOUND else Exit.FAILED,
                code,
            )
        return decoded

    def _unreachable(self, error: Exception) -> CtlError:
        path = self._path
        match error:
            case PermissionError():
                message = f"no permission to open {path}"
                return CtlError(message, _permitted(path), Exit.NOT_PERMITTED)
            case FileNotFoundError() | NotADirectoryError():
                return CtlError(
                    f"wingsd is not running: there is no {path}",
                    "start it with systemctl start wingsd; if it does not stay, systemctl status "
                    "wingsd and wingsctl check-config say why. If it runs, its log says where its "
                    "socket is, or why it has none; --socket names another socket",
                    Exit.NO_DAEMON,
                )
            case ConnectionRefusedError():
                return CtlError(
                    f"wingsd is not running: no process listens on {path}",
                    "start it with systemctl start wingsd; journalctl -u wingsd says why it ended",
                    Exit.NO_DAEMON,
                )
            case ConnectionError():
                return CtlError(
                    "wingsd closed the connection without an answer",
                    "see its log: it is stopping, or has too many files open (LimitNOFILE=)",
                    Exit.NO_DAEMON,
                )
            case TimeoutError():
                return CtlError(
                    f"no answer from wingsd within {self._timeout:g} s",
                    "see its log",
                    Exit.NO_DAEMON,
                )
        return CtlError(f"{path}: {error}", "check that wingsd listens on it", Exit.NO_DAEMON)


def _permitted(path: str) -> str:
    """Return which users may open the socket."""
    try:
        number = os.stat(path).st_gid
    except OSError:
        return f"run wingsctl as root, or as a user who may enter {os.path.dirname(path)}"
    try:
        group = grp.getgrgid(number).gr_name
    except KeyError:
        group = str(number)
    if number == 0:
        return "only root may open it: run wingsctl as root"
    return (
        f"root and the group {group} may open it: run wingsctl as root, or join the group with "
        f"adduser {getpass.getuser()} {group} and log in again"
    )
