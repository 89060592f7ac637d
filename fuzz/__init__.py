"""Coverage-guided fuzzing of all parsers of untrusted input.

A module for each target. It has `one(data)`, which raises for a finding; `seeds()`, inputs to
begin with; and `WORDS`, which the fuzzer puts into its inputs. None of them needs the fuzzer, so
an input that was found once can be tried anywhere: `python -m fuzz TARGET FILE`.
"""

from __future__ import annotations

__all__ = ["TARGETS"]

TARGETS = (
    "multipart_form",
    "archive",
    "configuration",
    "egg_files",
    "console_session",
    "peer_answer",
    "download",
    "request_body",
    "paths",
    "file_changes",
    "file_requests",
    "user_archives",
    "move_batch",
    "move_ledger",
    "history_delta",
    "sftp_channel",
)
