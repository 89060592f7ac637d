"""The state database that version 0.1.0 left, with transfers in each of its states.

`wingsd-0.1.0.sql` was written by that version's own code. This makes it again, in a clone that has
the release's commit:

    python -m tests.support.release_0_1_0

Times are seconds before or after `WRITTEN`; a test that starts a daemon moves them to its present.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from wingsd.statedb import FILE

#: The commit of the release.
COMMIT = "9f9814514df344432e943f2aec75c7eba752f2a5"
#: The version of its schema: `PRAGMA user_version`.
VERSION = 7
#: When the database was written.
WRITTEN = 1_800_000_000.0
_SQL = Path(__file__).with_name("wingsd-0.1.0.sql")

#: Unfinished transfers from a Panel: the server, the direction and the recorded step.
UNFINISHED = {
    f"{number:08}-0000-4000-8000-000000000010": (direction, step)
    for number, (direction, step) in enumerate(
        [
            *(("in", step) for step in ("ADMIT", "RECEIVE", "VERIFY", "DURABLE")),
            *(("in", step) for step in ("SWAP", "ENVIRONMENT", "REPORT", "FAILED")),
            *(("out", step) for step in ("ASK", "STOP", "RETIRE", "SEND", "SETTLE")),
        ]
    )
}
#: The server of an unfinished direct transfer to this node, and of one from it.
DIRECT_IN = "11111111-0000-4000-8000-000000000010"
DIRECT_OUT = "22222222-0000-4000-8000-000000000010"
#: Servers that came by transfers that ended: from a Panel, and directly; that was sent directly;
#: and whose transfer failed.
CAME, CAME_DIRECTLY, SENT_DIRECTLY, FAILED = (
    f"{number}-0000-4000-8000-000000000010"
    for number in ("33333333", "44444444", "55555555", "66666666")
)
#: The backup of the server in the step SEND, which is removed where that has moved, and of `CAME`.
BACKUP = "77777777-0000-4000-8000-000000000010"
#: The name of a directory in quarantine.
QUARANTINED = "88888888-0000-4000-8000-000000000010.20270114T080000.000000Z"
#: A token that was used, and the `jti` of a console token that the Panel has revoked.
USED, REVOKED = "of a used token", "of a revoked token"
#: The settings of servers that came directly, as JSON.
DESCRIPTION = '{{"settings": {{"uuid": "{}"}}}}'

#: What runs in 0.1.0's code.
_SCRIPT = f"""
import sys
from wingsd.statedb.records import DirectOrder, Direction, Outcome, TransferResult
from wingsd.statedb.store import Store

now = {WRITTEN}
store = Store(sys.argv[1])
store.open()
waiting = []
for at, (server, (direction, step)) in enumerate({UNFINISHED}.items()):
    first = "ADMIT" if direction == "in" else "ASK"
    entry = store.begin(now - 60 + at, server, Direction(direction), first)
    if step == "SEND":
        store.set_terms(entry, removals=(f"{{server}}/{BACKUP}.tar.gz",))
    if step != first:
        store.enter(now - 30 + at, entry, step)
    if step == "REPORT":
        report = store.add_report(now - 5, server, Outcome.SUCCESS)
        store.record_attempt(report, "no answer")
    if (direction, step) == ("in", "FAILED"):
        waiting.append(store.add_report(now - 4, server, Outcome.FAILURE))

for server in ({DIRECT_IN!r}, {CAME_DIRECTLY!r}):
    store.add_description(server, "digest of " + server, {DESCRIPTION!r}.format(server))
entry = store.begin(now - 50, {DIRECT_IN!r}, Direction.IN, "ADMIT", direct=True)
store.enter(now - 40, entry, "REPORT")
entry = store.begin(now - 50, {DIRECT_OUT!r}, Direction.OUT, "ASK", direct=True)
order = DirectOrder("https://127.0.0.1:9", "Bearer of a direct transfer", remove=True)
store.add_order(entry, order)
store.enter(now - 40, entry, "SEND")

done = TransferResult("", 1 << 20, 100)
for server, direction, direct in (
    ({CAME!r}, "in", False), ({CAME_DIRECTLY!r}, "in", True), ({SENT_DIRECTLY!r}, "out", True)
):
    first, last = ("ADMIT", "REPORT") if direction == "in" else ("ASK", "SEND")
    entry = store.begin(now - 90_000, server, Direction(direction), first, direct=direct)
    store.set_terms(entry, pool="", removals=(), inode=(1 << 64) - 1)
    store.enter(now - 89_500, entry, last)
    store.end(now - 89_000, entry, Outcome.SUCCESS, done)
store.mark_arrived(now - 89_000, {CAME_DIRECTLY!r})
told = store.add_report(now - 89_000, {CAME!r}, Outcome.SUCCESS, ({BACKUP!r},))
store.record_attempt(told, "204")
store.settle(now - 88_999, told, "204")
entry = store.begin(now - 80_000, {FAILED!r}, Direction.OUT, "ASK")
store.end(now - 79_000, entry, Outcome.FAILURE, TransferResult("the disk is full"))

store.use_token({USED!r}, now + 1800)
store.deny(now - 600, [{REVOKED!r}])
store.ages(now - 90_000, [{QUARANTINED!r}])
store.ages(now - 45_000, [{QUARANTINED!r}])
store.close()
"""


def write(directory: Path, now: float = WRITTEN) -> None:
    """Write the database into a directory as the release would have at `now`."""
    with closing(sqlite3.connect(directory / FILE)) as database, database:
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript(_SQL.read_text())
        database.execute(f"PRAGMA user_version = {VERSION}")
        for table, columns in _times(database):
            changes = ", ".join(f"{name} = {name} + :later" for name in columns)
            statement = f"UPDATE {table} SET {changes}"  # noqa: S608 - names of the schema
            database.execute(statement, {"later": now - WRITTEN})


def _times(database: sqlite3.Connection) -> list[tuple[str, list[str]]]:
    """Return the tables with times, each with its columns of that kind."""
    tables = database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    found = []
    for (table,) in tables:
        columns = database.execute(f"PRAGMA table_info({table})").fetchall()
        # An age is not a time, and 0 in `forgotten` is the beginning of time.
        times = [name for _, name, kind, *_ in columns if kind == "REAL" and name != "age"]
        if times and table != "forgotten":
            found.append((table, times))
    return found


def main() -> None:
    """Write `wingsd-0.1.0.sql` with the code of the release."""
    with tempfile.TemporaryDirectory() as name:
        code = Path(name, "code")
        code.mkdir()
        archive = ["git", "archive", COMMIT, "wingsd"]
        content = subprocess.run(archive, check=True, stdout=subprocess.PIPE).stdout
        subprocess.run(["tar", "-x", "-C", str(code)], input=content, check=True)
        script = [sys.executable, "-c", _SCRIPT, name]
        subprocess.run(script, check=True, env={"PYTHONPATH": str(code)}, cwd=name)
        with closing(sqlite3.connect(Path(name, FILE))) as database:
            (version,) = database.execute("PRAGMA user_version").fetchone()
            assert version == VERSION
            lines = [line for line in database.iterdump() if line not in _TRANSACTION]
    _SQL.write_text("\n".join([*lines, ""]))


#: A dump is written as one transaction, which `write` has already.
_TRANSACTION = ("BEGIN TRANSACTION;", "COMMIT;")


if __name__ == "__main__":
    main()
