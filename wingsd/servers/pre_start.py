"""What is done to a server's files before every start: the egg's files are rewritten."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredLock

from wingsd.config import Config
from wingsd.egg_files.process import RewriteJob
from wingsd.panel.schemas import Configuration
from wingsd.servers.collaborators import ServerCollaborators

__all__ = ["Rewriting", "visible"]


def visible(config: Config) -> dict[str, Any]:
    """Return the node's configuration as an egg's files may see it: without any secret.

    What an egg writes into a server's files is read by whoever has the server.
    """
    seen = attrs.asdict(config)
    del seen["token"], seen["token_id"], seen["docker"]["registries"]
    return seen


class Rewriting:
    """The egg's files in one server's `directory`, rewritten by one thread at a time.

    A start that is called off ends the process that parses, but not its thread at once. The next
    start waits for that, so that a server never has more than one thread and one process.
    """

    def __init__(self, means: ServerCollaborators, directory: str) -> None:
        self._means = means
        self._directory = directory
        self._turn = DeferredLock()
        self._slow = False

    async def run(self, configuration: Configuration) -> list[str]:
        """Rewrite the egg's files; return a line for each that could not be rewritten."""
        files = configuration.process.configs
        if not files:
            return []
        await self._turn.acquire()
        means = self._means
        job, working = means.rewriters.begin(
            self._directory, means.owner, files, visible(means.config), slow=self._slow
        )
        done = Deferred[list[str]]()
        working.addBoth(self._ended, job).chainDeferred(done)
        try:
            return await done
        except CancelledError:
            job.cancel()
            raise

    def _ended(self, outcome: Any, job: RewriteJob) -> Any:
        # A job that was called off before it had a process says nothing about the files.
        if job.slow or not job.cancelled:
            self._slow = job.slow
        self._turn.release()
        return outcome
