"""What is done to a server's files before every start: the egg's files are rewritten."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import Deferred, DeferredLock

from wingsd.config import Config
from wingsd.eggfiles import rewrite
from wingsd.model import Configuration
from wingsd.servers.means import Means

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

    A start can be called off, and its thread cannot: the next one waits for that, so that no
    server ever takes more than one.
    """

    def __init__(self, means: Means, directory: str) -> None:
        self._means = means
        self._directory = directory
        self._turn = DeferredLock()

    async def run(self, configuration: Configuration) -> list[str]:
        """Rewrite the egg's files; return a line for whatever could not be done."""
        files = configuration.process.configs
        if not files:
            return []
        await self._turn.acquire()
        means, done = self._means, Deferred[list[str]]()
        node = visible(means.config)
        working = means.rewriters.run(rewrite, self._directory, means.owner, files, node)
        working.addBoth(self._ended).chainDeferred(done)
        return await done

    def _ended(self, outcome: Any) -> Any:
        self._turn.release()
        return outcome
