"""Speaks to the daemon over its control socket; and the errors and exit statuses of a command."""

from __future__ import annotations

import getpass
import grp
import json
import os
import socket
from contextlib import closing
from enum import IntEnum
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import IO, Any

import click

from wingsd.util.text import escaped

__all__ = ["ControlClient", "CtlError", "Exit"]


class Exit(IntEnum):
    """The exit statuses."""

    DONE = 0
    #: What was asked for could not be done, or a transfer that was waited for has failed.
    FAILED = 1
    #: The command line makes no sense; click's own.
    USAGE = 2
    #: No daemon listens at the socket.
    NO_DAEMON = 3
    #: This user may not open the socket.
    NOT_PERMITTED = 4
    #: The daemon knows no such server, or transfer.
    UNKNOWN = 5
    #: The operator left, while what was begun goes on; the shell's for SIGINT.
    LEFT = 130


class CtlError(click.ClickException):
    """The command fails with the exit status `status`.

    `detail` says what to do, where that is known; `code` is the daemon's for the error, if it is
    the daemon's.
    """

    def __init__(
        self, message: str, detail: str = "", status: Exit = Exit.FAILED, code: str = ""
    ) -> None:
        super().__init__(message)
        self.detail = detail
        self.code = code
        # It is shown when the command's context is gone.
        context = click.get_current_context(silent=True)
        self._as_json = context is not None and bool(context.params.get("as_json"))
        self.exit_code = int(status)  # type: ignore[misc]  # click's own way, whatever it says

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it where errors go: for people, or with `--json` as JSON."""
        if self._as_json:
            answer = {"error": self.message, "detail": self.detail}
            text = json.dumps(answer | ({"code": self.code} if self.code else {}))
        else:
            # The daemon's words, which may quote others.
            text = f"wingsctl: {escaped(self.message)}"
            text += f" ({escaped(self.code)})" if self.code else ""
            text += f"\n  {escaped(self.detail)}" if self.detail else ""
        click.echo(text, file=file, err=True)


#: Seconds that the daemon has for an answer.
TIMEOUT = 30.0
#: Bytes of an answer.
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
    """The daemon that listens at the socket `path`."""

    def __init__(self, path: str, timeout: float = TIMEOUT) -> None:
        self._path = path
        self._timeout = timeout

    def ask(self, method: str, path: str, content: object = None) -> Any:
        """Return what the daemon answers, None for nothing; `content` is sent as JSON.

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
                f"see whether wingsd is what listens at {self._path}",
                Exit.FAILED,
            )
        told = _decoded(text)
        if answer.status >= HTTPStatus.BAD_REQUEST:
            fault = told if isinstance(told, dict) else {}
            raise CtlError(
                str(fault.get("error") or f"the daemon answered {answer.status}"),
                str(fault.get("detail") or ""),
                Exit.UNKNOWN if answer.status == HTTPStatus.NOT_FOUND else Exit.FAILED,
                str(fault.get("code") or ""),
            )
        return told

    def _unreachable(self, error: Exception) -> CtlError:
        path = self._path
        match error:
            case PermissionError():
                return CtlError(f"{path} is not for you", _who_may(path), Exit.NOT_PERMITTED)
            case FileNotFoundError() | NotADirectoryError():
                return CtlError(
                    f"no wingsd runs here: there is no {path}",
                    "start it with systemctl start wingsd; another socket (control.socket in its "
                    "configuration) is named with --socket",
                    Exit.NO_DAEMON,
                )
            case ConnectionRefusedError():
                return CtlError(
                    f"no wingsd runs here: nobody listens at {path} any more",
                    "start it with systemctl start wingsd, and see its log for why it ended",
                    Exit.NO_DAEMON,
                )
            case ConnectionError():
                return CtlError(
                    "wingsd closed the connection without an answer",
                    "see its log: it ends, or can open no more files (LimitNOFILE= in its unit)",
                    Exit.NO_DAEMON,
                )
            case TimeoutError():
                return CtlError(
                    f"wingsd gave no answer within {self._timeout:g} s",
                    "see its log",
                    Exit.NO_DAEMON,
                )
        return CtlError(f"{path}: {error}", "see whether wingsd is what listens", Exit.NO_DAEMON)


def _decoded(text: bytes) -> Any:
    try:
        return json.loads(text) if text else None
    except ValueError:
        return None


def _who_may(path: str) -> str:
    """Return who may open a socket that this user may not."""
    try:
        number = os.stat(path).st_gid
    except OSError:
        return f"run wingsctl as root, or as somebody who may enter {os.path.dirname(path)}"
    try:
        group = grp.getgrgid(number).gr_name
    except KeyError:
        group = str(number)
    if number == 0:
        return "it is for root alone: run wingsctl as root"
    return (
        f"it is for root and the group {group}: run wingsctl as root, or join that with "
        f"adduser {getpass.getuser()} {group} and log in anew"
    )
