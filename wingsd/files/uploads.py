"""The files of an upload form, written as the form arrives.

Nothing is stored elsewhere: the bytes of a file go to a new one beside its name, which replaces an
existing file when it is whole. Files that were whole before the form fails are kept. Blocking.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from multipart import MultipartError, MultipartSegment

from wingsd.errors import (
    FileMissing,
    NoFilesUploaded,
    PathInvalid,
    UploadFormInvalid,
    UploadTooLarge,
)
from wingsd.files.denylist import Denylist
from wingsd.files.guard import Guard
from wingsd.filesystem.new_file import NewFile, NewFileOptions
from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.root import ServerRoot
from wingsd.util.multipart_form import FormParts, form_boundary

_MIB = 1 << 20


@attrs.frozen
class _Bounds:
    """Bounds of a form. A name of 4095 bytes may be sent with three for each of them."""

    parts: int = 1000
    headers: int = 16
    header_bytes: int = 16384


@attrs.frozen
class FileRules:
    """The rules of an upload: a file of `limit` MiB at most (0: any), and none that is denied.

    What is `ignored` is as if it were not there.
    """

    limit: int
    denylist: Denylist
    ignored: Denylist

    def is_too_large(self, size: int) -> bool:
        """Return whether a file may not have so many bytes."""
        return bool(self.limit) and size > self.limit * _MIB

    def check_size(self, name: str, size: int) -> None:
        """Raise `UploadTooLarge` for a file that may not have so many bytes."""
        if self.is_too_large(size):
            raise UploadTooLarge(name, self.limit)

    def check_path(self, root: ServerRoot, path: ServerPath) -> None:
        """Raise PathInvalid, `FileDenied` or FileMissing for a file that a user may not write."""
        if path.is_root:
            raise PathInvalid("the file has no name.")
        Guard(root, self.denylist).check(path)
        if Guard(root, self.ignored).denies(path):
            raise FileMissing(str(path))


def _parts(content_type: str) -> FormParts:
    try:
        return FormParts(form_boundary(content_type), _Bounds())
    except MultipartError as error:
        raise UploadFormInvalid(str(error.args[0])) from error


@attrs.define(eq=False)
class FormUpload:
    """One form; `receive` its body, then `close` it. One thread at a time may use it.

    With `any_field` (Calagopus) each field with a file name is a file, whose name may be a path;
    else only those named `files` are, of which the last part of the name counts. Each has at least
    `expected` bytes, so that what is too large for its limits is refused at its beginning.

    It is made with the form's content type. Raises `UploadFormInvalid`.
    """

    _parts: FormParts = attrs.field(converter=_parts)
    _directory: ServerPath
    _rules: FileRules
    _any_field: bool = False
    _expected: int = 0
    #: The paths of the files that are whole, until they are taken.
    whole: list[ServerPath] = attrs.field(factory=list, init=False)
    _file: NewFile | None = attrs.field(default=None, init=False)
    _path: ServerPath = attrs.field(factory=ServerPath, init=False)
    _name: str = attrs.field(default="", init=False)
    _count: int = attrs.field(default=0, init=False)

    def receive(self, root: ServerRoot, pieces: Sequence[bytes]) -> None:
        """Take the next pieces of the body.

        Raises `UploadFormInvalid`, `UploadTooLarge`, FileDenied, and what `ServerRoot.new_file`
        and `NewFile` raise. The file that was being written is then deleted.
        """
        try:
            for piece in pieces:
                for event in self._parts.parse(piece):
                    if isinstance(event, MultipartSegment):
                        self._begin(root, event)
                    elif self._file is None:
                        continue
                    elif event is None:
                        self._file.commit()
                        self.abort()
                        self._count += 1
                        self.whole.append(self._path)
                    else:
                        self._rules.check_size(self._name, self._file.size + len(event))
                        self._file.write(event)
        except MultipartError as error:
            self.abort()
            raise UploadFormInvalid(str(error.args[0])) from error
        except BaseException:
            self.abort()
            raise

    def close(self) -> None:
        """Take the end of the body. Raises `UploadFormInvalid` and `NoFilesUploaded`."""
        self.abort()
        if not self._parts.is_complete:
            raise UploadFormInvalid("the form ends before its last boundary; upload it again")
        if not self._count:
            raise NoFilesUploaded

    def abort(self) -> None:
        """Delete the file that is being written."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _begin(self, root: ServerRoot, part: MultipartSegment) -> None:
        if not part.filename or not (self._any_field or part.name == "files"):
            return
        # As browsers escape what a name in quotes may not contain.
        name = part.filename.replace("%22", '"').replace("%0D", "\r").replace("%0A", "\n")
        if not self._any_field:
            name = name.rpartition("/")[2]
            if name in ("", ".", ".."):
                raise PathInvalid("the file has no name.", part.name)
        path = self._directory.joined(name)
        self._name = name
        self._rules.check_path(root, path)
        self._rules.check_size(name, self._expected)
        self._path = path
        self._file = root.new_file(path, NewFileOptions(size=self._expected))
