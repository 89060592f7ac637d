"""Reference programs: tar, gzip and curl, timed in the same round on the same filesystem."""

from __future__ import annotations

import shlex
import subprocess
import time
from pathlib import Path

from bench.datasets import Dataset
from bench.machine import settle

__all__ = ["flush", "igzip_untar", "tar_to_file", "tar_to_sink", "untar"]


def untar(dataset: Dataset, directory: Path) -> float:
    """Return the seconds of `tar -xzf`."""
    with settle(dataset.size):
        return _timed("tar", "-xzf", str(dataset.archive), "-C", _made(directory))


def igzip_untar(dataset: Dataset, directory: Path) -> float:
    """Return the seconds of the fastest inflate program, piped to tar."""
    command = f"igzip -dc {_quoted(dataset.archive)} | tar -xf - -C {_quoted(_made(directory))}"
    with settle(dataset.size):
        return _timed("bash", "-o", "pipefail", "-c", command)


def flush(directory: Path) -> float:
    """Return the seconds until all of its filesystem is on the disk."""
    return _timed("sync", "-f", str(directory))


def tar_to_sink(dataset: Dataset, url: str, ca: Path) -> float:
    """Return the seconds of `tar -cz` at level 1, piped to curl."""
    upload = f"curl -sSf --cacert {_quoted(ca)} -X POST -T - -H Expect: {_quoted(url)}"
    command = f"tar -I 'gzip -1' -C {_quoted(dataset.tree)} -cf - . | {upload}"
    with settle():
        return _timed("bash", "-o", "pipefail", "-c", command)


def tar_to_file(dataset: Dataset, path: Path) -> float:
    """Return the seconds of `tar -cz` at level 1, to a file."""
    with settle():
        return _timed("tar", "-I", "gzip -1", "-C", str(dataset.tree), "-cf", str(path), ".")


def _made(directory: Path) -> str:
    directory.mkdir()
    return str(directory)


def _quoted(word: object) -> str:
    return shlex.quote(str(word))


def _timed(*command: str) -> float:
    began = time.monotonic()
    subprocess.run(command, check=True)
    return time.monotonic() - began
