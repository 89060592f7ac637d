"""The users of a Panel who log in by SFTP, and what a Panel answers to a node that asks."""

from __future__ import annotations

from typing import Any

import attrs

from tests.support.settings import Json

__all__ = ["SftpUser", "SftpUsers"]

WRONG = "Authorization credentials were not correct, please try again."


@attrs.define(eq=False)
class SftpUser:
    """A user: `permissions` by the UUIDs of servers, `keys` in the form of authorized_keys."""

    uuid: str
    password: str = ""
    keys: set[str] = attrs.field(factory=set)
    permissions: dict[str, list[str]] = attrs.field(factory=dict)
    #: What they may not see, with Calagopus.
    ignored_files: list[str] = attrs.field(factory=list)


class SftpUsers:
    """The users of a Panel by their names."""

    def __init__(self) -> None:
        self._users: dict[str, SftpUser] = {}

    def add(self, name: str, user: SftpUser) -> None:
        self._users[name] = user

    def access(self, login: Any) -> Json | None:
        """Return the answer to a login; None for one that is wrong."""
        name, _, short = str(login["username"]).rpartition(".")
        user = self._users.get(name)
        if user is None or not self._is_right(user, login):
            return None
        for server, permissions in user.permissions.items():
            if server.startswith(short.lower()):
                found = {"user": user.uuid, "server": server, "permissions": permissions}
                more = {"ignored_files": user.ignored_files} if user.ignored_files else {}
                return found | more
        return None

    @staticmethod
    def _is_right(user: SftpUser, login: Json) -> bool:
        given = login["password"]
        if login["type"] == "public_key":
            # Without the comment.
            return " ".join(given.split()[:2]) in user.keys
        return bool(user.password) and given == user.password
