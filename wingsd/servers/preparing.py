"""What is done to a server's files before every start: the egg's files are rewritten."""

from __future__ import annotations

from typing import Any

import attrs

from wingsd.config import Config
from wingsd.eggfiles import rewrite
from wingsd.model import Configuration
from wingsd.servers.means import Means

__all__ = ["rewrite_files", "visible"]


def visible(config: Config) -> dict[str, Any]:
    """Return the node's configuration as an egg's files may see it: without any secret.

    What an egg writes into a server's files is read by whoever has the server.
    """
    seen = attrs.asdict(config)
    del seen["token"], seen["token_id"], seen["docker"]["registries"]
    return seen


async def rewrite_files(means: Means, configuration: Configuration, directory: str) -> list[str]:
    """Rewrite the egg's files; return a line for whatever could not be done."""
    files = configuration.process.configs
    if not files:
        return []
    return await means.disk.run(rewrite, directory, means.owner, files, visible(means.config))
