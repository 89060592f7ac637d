"""Real processes that parse one file each: what they may take, and how they end."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import attrs
import pytest

from tests.egg_files.helpers import DOTTED_KEYS
from tests.support.parsers import TRIES, is_confined, lives, open_secret, processes_of, program
from wingsd.egg_files.changes import Change, NotDone
from wingsd.egg_files.process import BOUNDS, RewriteJob, child

__all__ = ["open_secret"]

pytestmark = pytest.mark.promise("egg-files-are-parsed-apart")

CHANGES = [Change("a.b", "2")]
MIB = 1 << 20


def has_process(job: RewriteJob) -> bool:
    return job._process is not None and job._process.returncode is None


def refusal(job: RewriteJob, parser: str = "json", data: bytes = b"{}") -> str:
    with pytest.raises(NotDone) as refused:
        job.rewrite(parser, data, CHANGES)
    return str(refused.value)


@pytest.mark.parametrize(
    ("parser", "before", "after"),
    [
        ("file", b"a.b=1\nc\xff\n", b"2\nc\xff\n"),
        ("ini", *(f"\ufeff[a]\r\nb={value}\r\n".encode("utf-16-le") for value in (1, 2))),
        ("json", b'{"a": {"b": 1}}', b'{"a": {"b": 2}}'),
        ("properties", b"a.b=\\u00e9\n", b"a.b=2\n"),
        ("toml", b"[a]\nb = 1\nd = 2020-01-01\n", b"[a]\nb = 2\nd = 2020-01-01\n"),
        (
            "xml",
            "<?xml version='1.0' encoding='koi8-r'?>\n<a><b>я</b></a>".encode("koi8-r"),
            b"<?xml version='1.0' encoding='koi8-r'?>\n<a><b>2</b></a>",
        ),
        (
            "yaml",
            b"m: &m {x: 1}\na:\n  b: 1\n  <<: *m\n  t: 2020-01-01 10:00:00\n",
            b"m: &m {x: 1}\na:\n  b: 2\n  <<: *m\n  t: 2020-01-01 10:00:00\n",
        ),
    ],
)
def test_each_form_is_rewritten(parser: str, before: bytes, after: bytes) -> None:
    job = RewriteJob(BOUNDS)
    assert job.rewrite(parser, before, CHANGES).data == after
    assert job.rewrite(parser, after, CHANGES).data == after
    assert not job.slow


def test_what_the_parser_refuses_is_refused_in_its_words() -> None:
    job = RewriteJob(BOUNDS)
    assert refusal(job, "yaml", b"a: [\n").startswith("it is not YAML: line 2: ")
    why = refusal(job, "xml", b"<?xml version='1.0' encoding='gb1'?><a/>")
    assert why == 'its parser, "xml", failed: LookupError: unknown encoding: gb1'
    (fault,) = job.rewrite("json", b'{"a": 1}', CHANGES).failures
    assert fault.startswith('"a.b": "a" is a single value')
    assert not job.slow


@pytest.mark.promise("egg-files-are-parsed-apart")
def test_a_file_of_dotted_keys_ends_at_its_cpu_time() -> None:
    job = RewriteJob(attrs.evolve(BOUNDS, cpu_seconds=1, seconds=600))
    assert refusal(job, "toml", DOTTED_KEYS) == "its parser needs more than 1 s of CPU time"
    assert job.slow


@pytest.mark.promise("egg-files-are-parsed-apart")
def test_a_quick_job_stops_when_it_is_slow_and_leaves_the_rest_to_another() -> None:
    bounds = attrs.evolve(BOUNDS, slow_seconds=1, quick_seconds=600)
    job = RewriteJob(bounds, quick=True)
    refusal(job, "toml", DOTTED_KEYS)
    assert (job.slow, job.unfinished) == (True, True)
    assert refusal(job) == "it is left for another job"
    job = RewriteJob(
        attrs.evolve(bounds, quick_seconds=0.1), program("signal.pause()"), quick=True
    )
    refusal(job)
    assert (job.slow, job.unfinished) == (True, True)
    # A process that ends otherwise, or takes its time in several files.
    job = RewriteJob(bounds, program("os.abort()"), quick=True)
    refusal(job)
    assert (job.slow, job.unfinished) == (True, False)
    job = RewriteJob(attrs.evolve(bounds, slow_seconds=0), quick=True)
    assert job.rewrite("json", b"{}", CHANGES).data
    assert (job.slow, job.unfinished) == (True, False)
    assert refusal(job) == "it is left for another job"
    assert job.unfinished


@pytest.mark.promise("egg-files-are-parsed-apart")
@pytest.mark.parametrize(
    ("parser", "data"),
    [
        ("json", b"[" + b"[]," * (3 * MIB) + b"[]]"),
        ("xml", b"<a>" + b"<b c='' d='' e=''/>" * (MIB // 2) + b"</a>"),
    ],
    ids=["json", "xml"],
)
def test_a_file_that_takes_memory_ends_at_its_bound(parser: str, data: bytes) -> None:
    job = RewriteJob(attrs.evolve(BOUNDS, memory=112 * MIB, cpu_seconds=600, seconds=600))
    assert refusal(job, parser, data) == "its parser needs more than 112 MiB of memory"


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "signal 11 (Segmentation fault)"),
        ("out(b'half'); os.abort()", "signal 6 (Aborted)"),
        ("os.kill(os.getpid(), signal.SIGRTMIN + 2)", "signal 36 (Real-time signal 2)"),
        ("os._exit(3)", "its exit with status 3"),
    ],
)
def test_a_process_that_breaks_is_named_with_its_cause(code: str, cause: str) -> None:
    job = RewriteJob(BOUNDS, program(code))
    assert refusal(job) == f'its parser, "json", ended by {cause}'
    assert job.slow


@pytest.mark.parametrize("code", ["signal.pause()", "os.close(1); signal.pause()"])
def test_a_process_that_waits_is_ended_with_the_time_of_all_files(code: str) -> None:
    job = RewriteJob(attrs.evolve(BOUNDS, seconds=0.3), program(code))
    why = "the 0.3 s that a server's egg files may take are over"
    assert refusal(job) == why
    assert job.slow
    assert refusal(job) == why
    assert not has_process(job)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("while True: out(b'x' * 65536)", "the process that parsed it sent too long an answer"),
        ("out(b'{}')", "the process that parsed it sent an invalid answer"),
        ("pass", "the process that parsed it sent an invalid answer"),
    ],
)
def test_an_answer_without_end_or_sense_is_refused(code: str, why: str) -> None:
    assert refusal(RewriteJob(BOUNDS, program(code))) == why


def test_many_seconds_of_cpu_time_make_a_start_slow_that_succeeds() -> None:
    job = RewriteJob(attrs.evolve(BOUNDS, slow_seconds=0))
    assert job.rewrite("json", b"{}", CHANGES).data
    assert job.slow


def test_no_interpreter_is_an_error_of_the_system() -> None:
    with pytest.raises(FileNotFoundError):
        RewriteJob(BOUNDS, ["/nowhere/python"]).rewrite("json", b"{}", CHANGES)


def test_a_job_that_is_cancelled_ends_its_process_and_starts_no_other() -> None:
    job = RewriteJob(attrs.evolve(BOUNDS, seconds=600), program("signal.pause()"))
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(refusal(job)))
    thread.start()
    until(lambda: has_process(job))
    job.cancel()
    thread.join()
    assert found == ['its parser, "json", ended by signal 9 (Killed)']
    assert refusal(job) == "the start was cancelled"
    assert not has_process(job)


# What it sees and may do. The spy stands in the place of a form: what it finds is the new file.
SPY = """
import wingsd.egg_files.child as child
from wingsd.egg_files.child import Rewritten

class Spy:
    def load(self, data):
        self.found = {"descriptors": descriptors(), "arguments": sys.argv[2:],
                      "environment": open("/proc/self/environ").read(), "directory": os.getcwd()}
        self.files = [open(f"/proc/self/{name}") for name in ("status", "limits")]

    def rewrite(self, data, changes):
        DO
        status, limits = (file.read() for file in self.files)
        self.found |= {
            "tried": [tried(open, "/etc/passwd"), tried(socket.socket), tried(os.fork),
                      tried(os.mkdir, "/tmp/made"), tried(os.stat, "/"),
                      tried(os.kill, os.getppid(), 0)],
            "capabilities": [field(status, name)
                             for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")],
            "users": field(status, "Uid"), "groups": field(status, "Groups"),
            "seccomp": field(status, "Seccomp"), "no new privileges": field(status, "NoNewPrivs"),
            "limits": {name: limit(limits, name)
                       for name in ("core file size", "file size", "processes", "open files")},
        }
        return Rewritten(json.dumps(self.found).encode(), [])

child.format_of = lambda parser: Spy()
child.main(int(sys.argv[2]), int(sys.argv[3]))
"""


def spy(do: str = "pass") -> list[str]:
    """Return the program with a spy that does that once it is confined."""
    *start, _code, path, cpu_seconds, memory = child(10, BOUNDS.memory)
    return [*start, TRIES + SPY.replace("DO", do), path, cpu_seconds, memory]


@pytest.mark.promise("egg-files-are-parsed-apart")
def test_the_process_inherits_no_descriptor_variable_or_argument(
    open_secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WINGSD_TOKEN", "hunter2")
    seen = json.loads(RewriteJob(BOUNDS, spy()).rewrite("json", b"{}", CHANGES).data)
    assert seen["descriptors"].keys() == {"0", "1", "2"}
    assert open_secret not in seen["descriptors"].values()
    assert seen["environment"] == ""
    assert seen["arguments"] == [str(BOUNDS.cpu_seconds), str(BOUNDS.memory)]
    assert seen["directory"] == "/"


@pytest.mark.promise("egg-files-are-parsed-apart")
def test_the_process_can_open_and_start_nothing() -> None:
    seen = json.loads(RewriteJob(BOUNDS, spy()).rewrite("json", b"{}", CHANGES).data)
    assert seen["tried"] == [errno.EPERM] * 6
    assert seen["capabilities"] == [["0" * 16]] * 4
    user = 65534 if os.geteuid() == 0 else os.geteuid()
    assert seen["users"] == [str(user)] * 4
    assert (seen["seccomp"], seen["no new privileges"]) == (["2"], ["1"])
    assert seen["limits"] == {
        "core file size": ["0", "0"],
        "file size": ["0", "0"],
        "processes": ["0", "0"],
        "open files": ["3", "3"],
    }


DAEMON = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from wingsd.egg_files.process import BOUNDS, RewriteJob
RewriteJob(BOUNDS, json.loads(sys.argv[2])).rewrite("json", b"{}", [])
"""


@pytest.mark.promise("egg-files-are-parsed-apart")
@pytest.mark.parametrize("is_ready", [is_confined, lives], ids=["confined", "started"])
def test_the_process_ends_with_a_killed_daemon(is_ready: Callable[[int], bool]) -> None:
    path = json.dumps(sys.path)
    program = json.dumps(spy("time.sleep(600)"))
    daemon = subprocess.Popen([sys.executable, "-c", DAEMON, path, program])
    try:
        until(lambda: any(is_ready(each) for each in processes_of(daemon.pid)))
        (started,) = processes_of(daemon.pid)
    finally:
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()
    until(lambda: not lives(started))


def until(true: Callable[[], bool]) -> None:
    for _ in range(6000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to be true")
