"""The command `python -m fuzz`: runs every target for a while, or one input again."""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from fuzz import TARGETS

KEPT = Path(__file__).parent / "corpus"
WORK = Path(".cache/fuzz")
#: Requests over HTTP by schemathesis, and the property tests of tests/: not run by the fuzzer.
INTERFACE, PROPERTIES = "interface", "properties"

#: Seconds for one input, after which it is a hang; and MiB, after which it is a leak.
INPUT_WITHIN = 10
MEMORY = 1024
#: Bytes of an input.
INPUT_MAX = 8 * 1024


def main() -> int:
    """Run the command line; return its exit status."""
    arguments = _arguments()
    if arguments.file and arguments.target in TARGETS:
        import_module(f"fuzz.{arguments.target}").one(arguments.file.read_bytes())
        print("nothing was found")
        return 0
    targets = [arguments.target] if arguments.target else [*TARGETS, INTERFACE, PROPERTIES]
    found = [target for target in targets if not _run(target, arguments.seconds)]
    if arguments.keep:
        for target in TARGETS:
            if target in targets:
                _keep(target)
    return 1 if found else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m fuzz", description=__doc__)
    parser.add_argument(
        "target", nargs="?", choices=[*TARGETS, INTERFACE, PROPERTIES], help="this one alone"
    )
    parser.add_argument("file", nargs="?", type=Path, help="try this input alone")
    parser.add_argument("--seconds", type=int, default=600, help="for each target (600)")
    parser.add_argument("--keep", action="store_true", help="keep the best inputs found")
    return parser.parse_args()


def _run(target: str, seconds: int) -> bool:
    """Run a target; return whether nothing was found."""
    if target in TARGETS:
        return _fuzz(target, seconds)
    if target == PROPERTIES:
        return _search(seconds)
    command = [sys.executable, "-m", "fuzz.interface", str(seconds)]
    return subprocess.run(command, check=False).returncode == 0  # noqa: S603


def _search(seconds: int) -> bool:
    """Run the property tests with random examples until the time is over or one fails."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "hypothesis", "--ignore=tests/daemon"]
    environment = os.environ | {"HYPOTHESIS_PROFILE": "random"}
    until, runs, passed = time.monotonic() + seconds, 0, True
    while passed and time.monotonic() < until:
        passed = subprocess.run(command, env=environment, check=False).returncode == 0  # noqa: S603
        runs += 1
    print(f"{PROPERTIES}: {runs} runs in {seconds} s", flush=True)
    return passed


def _fuzz(target: str, seconds: int) -> bool:
    """Run a target guided by coverage. The log stays beside its corpus."""
    corpus, findings = WORK / target, WORK / "findings"
    corpus.mkdir(parents=True, exist_ok=True)
    findings.mkdir(exist_ok=True)
    module = import_module(f"fuzz.{target}")
    _store(corpus, module.seeds())
    _store(corpus, (path.read_bytes() for path in (KEPT / target).glob("*")))
    words = WORK / f"{target}.dict"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in module.WORDS))
    options = [
        f"-max_total_time={seconds}",
        f"-timeout={INPUT_WITHIN}",
        f"-rss_limit_mb={MEMORY}",
        f"-max_len={INPUT_MAX}",
        f"-dict={words}",
        f"-artifact_prefix={findings}/{target}-",
        "-print_final_stats=1",
    ]
    log = WORK / f"{target}.log"
    with log.open("wb") as output:
        done = _driver(target, [*options, str(corpus)], output.fileno())
    lines = log.read_text("utf-8", "replace").splitlines()
    runs = next((line.split()[-1] for line in lines if "number_of_executed_units" in line), "?")
    print(f"{target}: {runs} inputs in at most {seconds} s, see {log}", flush=True)
    if done == 0:
        return True
    print("\n".join(lines[-40:]))
    artifact = next((line.split()[-1] for line in lines if "Test unit written to" in line), "?")
    print(f"{target}: FOUND; to see it again: {sys.executable} -m fuzz {target} {artifact}")
    return False


def _driver(target: str, options: list[str], output: int) -> int:
    command = [sys.executable, "-m", "fuzz.driver", target, *options]
    return subprocess.run(command, stdout=output, stderr=output, check=False).returncode  # noqa: S603


def _keep(target: str) -> None:
    """Replace a target's corpus by the smallest inputs that add coverage to that of its seeds."""
    best = WORK / f"{target}.best"
    shutil.rmtree(best, ignore_errors=True)
    best.mkdir(parents=True)
    _store(best, import_module(f"fuzz.{target}").seeds())
    seeds = {path.name for path in best.iterdir()}
    with Path(os.devnull).open("wb") as nothing:
        # By edges alone: how often one is taken matters for the search, not for what is kept.
        options = ["-merge=1", "-use_counters=0", str(best), str(WORK / target)]
        _driver(target, options, nothing.fileno())
    kept = KEPT / target
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    _store(kept, (path.read_bytes() for path in best.iterdir() if path.name not in seeds))


def _store(directory: Path, inputs: Iterable[bytes]) -> None:
    for data in inputs:
        name = hashlib.sha1(data, usedforsecurity=False).hexdigest()
        (directory / name).write_bytes(data)


def _escaped(word: bytes) -> str:
    # libFuzzer's own form: quotes and backslashes escaped, all else that is odd in hexadecimal.
    plain = range(0x20, 0x7F)
    return "".join(
        chr(byte) if byte in plain and byte not in b'"\\' else f"\\x{byte:02X}" for byte in word
    )


if __name__ == "__main__":
    sys.exit(main())
