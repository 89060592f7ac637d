"""The process that parses one egg file: a request comes on stdin, the answer goes to stdout.

It is started by `wingsd.eggfiles.process`. Before it reads a byte of the file it bounds its own
time and memory, and before it parses one it gives up what it could do harm with: from then on it
opens no file or connection, starts no process, and has no privileges.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from contextlib import suppress

from wingsd.eggfiles.exchange import RewriteAnswer, RewriteRequest
from wingsd.eggfiles.forms import form_of, shown
from wingsd.eggfiles.refused import Refused

__all__ = ["main"]

#: The user and group "nobody".
_NOBODY = 65534
#: stdin, stdout and stderr.
_DESCRIPTORS = 3
#: The kernel ends this process before any other when memory runs out, proc(5).
_FIRST_TO_END = "1000"
# prctl(2), capset(2).
_PR_SET_PDEATHSIG = 1
_CAPABILITY_VERSION_3 = 0x20080522


def main(cpu_seconds: int, memory: int) -> None:
    """Answer the request on stdin, with so many seconds of CPU time and bytes of memory."""
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_AS, memory)
    # At the soft limit comes SIGXCPU, by which the daemon tells this from other ends.
    _limit(resource.RLIMIT_CPU, cpu_seconds, cpu_seconds + 1)
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write(_FIRST_TO_END)
    try:
        answer = _answer(RewriteRequest.decode(sys.stdin.buffer.read()))
    except MemoryError:
        why = f"its parser needs more than {memory >> 20} MiB of memory"
        answer = RewriteAnswer(time.process_time(), refused=why).encode(
            RewriteRequest("", b"", [])
        )
    with open(sys.stdout.fileno(), "wb", closefd=False) as out:
        out.write(answer)
    # Nothing of a large document is freed piece by piece.
    os._exit(0)


def _answer(request: RewriteRequest) -> bytes:
    try:
        form = form_of(request.parser)
        form.load(request.data)
        _confine()
        rewritten = form.rewrite(request.data, request.changes)
    except Refused as error:
        return RewriteAnswer(time.process_time(), refused=str(error)).encode(request)
    except MemoryError:
        raise
    except Exception as error:
        # What the libraries make of hostile files is theirs to decide.
        what = f"{type(error).__name__}: {error}"
        why = f"its parser, {shown(request.parser)}, failed: {what}"
        return RewriteAnswer(time.process_time(), refused=why).encode(request)
    return RewriteAnswer(time.process_time(), rewritten).encode(request)


def _confine() -> None:
    """Give up what parsing does not need. All that is to be imported has been."""
    _drop_privileges()
    # Ends with the daemon. Changing the user would undo it.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _limit(resource.RLIMIT_NPROC, 0)
    _limit(resource.RLIMIT_NOFILE, _DESCRIPTORS)


def _drop_privileges() -> None:
    """Give up root and all capabilities, as far as the sandbox that the daemon runs in lets it."""
    if os.geteuid() == 0:
        with suppress(OSError):
            os.setgroups([])
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)())


def _limit(kind: int, soft: int, hard: int | None = None) -> None:
    """Lower a limit of this process; a lower one that it has already stays."""
    highest = resource.getrlimit(kind)[1]
    hard = soft if hard is None else hard
    if highest != resource.RLIM_INFINITY:
        hard = min(hard, highest)
    resource.setrlimit(kind, (min(soft, hard), hard))
