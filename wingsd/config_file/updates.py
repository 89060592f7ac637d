"""Changes of the node's settings by its Panel: saved one after the other, logged, put in force."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING

from twisted.internet.defer import DeferredLock
from twisted.logger import Logger

from wingsd.config.live import APPLIED, LiveConfig, value_at
from wingsd.errors import SettingsNotSaved, WingsdError
from wingsd.threadio import Workers

if TYPE_CHECKING:
    from wingsd.config_file.panel_settings import NodeSettings
    from wingsd.config_file.saving import Saved

__all__ = ["PanelUpdates"]


class PanelUpdates:
    """Saves a Panel's settings in the configuration's file, and puts them in force.

    The Panel has saved them before it sends them, and does so whatever the answer is. So they are
    written before the answer: if it is lost, both sides have the same token nevertheless. Where
    they are refused, the log says what to do. `reload` reads the file.
    """

    _log = Logger()

    def __init__(self, live: LiveConfig, disk: Workers, reload: Callable[[], object]) -> None:
        self._live = live
        self._disk = disk
        self._reload = reload
        self._lock = DeferredLock()
        #: The values that were last not taken over, by their keys.
        self._left_out: Mapping[str, object] = {}

    async def save(
        self, settings: NodeSettings, others: Mapping[str, object]
    ) -> Sequence[str] | None:
        """Save what this node takes over of the settings; None where it takes over none.

        `others` are what was sent besides, by dotted paths. They are in force after `apply`, but
        for those that are returned: they wait for a restart. Raises `Unprocessable`, `Conflict`,
        `SettingsNotSaved`.
        """
        # Here, since a node at rest saves 5 ms of its start and half a MiB without it.
        from wingsd.config_file.panel_settings import values  # noqa: PLC0415
        from wingsd.config_file.saving import save  # noqa: PLC0415

        if not self._live.path:
            raise SettingsNotSaved("this node was started without a configuration file")
        await self._lock.acquire()
        try:
            saved = await self._disk.run(save, self._live.path, settings, others)
        except WingsdError as error:
            self._log.error("the Panel's settings are not saved: {error}", error=error)
            self._compare_tokens(settings)
            raise
        finally:
            self._lock.release()
        self._report(saved, settings, {**others, **dict(values(settings))})
        if saved.is_ignored:
            return None
        changed = {key: value for key, value in values(settings) if key in saved.changed}
        self._warn_if_open(str(changed.get("api.host", "")))
        return [
            key
            for key, value in changed.items()
            if key not in APPLIED and value != value_at(self._live.current, key)
        ]

    def apply(self) -> None:
        """Put the saved settings in force; the log names those that need a restart."""
        self._reload()

    def _report(self, saved: Saved, settings: NodeSettings, sent: Mapping[str, object]) -> None:
        if saved.is_ignored:
            self._log.info(
                "the Panel's settings are not saved, as ignore_panel_config_updates says"
            )
            self._compare_tokens(settings)
        if saved.changed:
            self._log.info(
                "{path}: changed by the Panel: {keys}",
                path=self._live.path,
                keys=", ".join(saved.changed),
            )
        before = self._left_out
        self._left_out = {key: sent[key] for key in saved.left_out}
        # Panels send all of them at each save.
        new = [key for key, value in self._left_out.items() if before.get(key) != value]
        if new:
            self._log.warn(
                "not taken over from the Panel, since only an operator may change it: {keys}",
                keys=", ".join(new),
            )

    def _warn_if_open(self, host: str) -> None:
        """Log a change of `api.host` that lets more than one address reach this node."""
        own = self._live.current.api.host
        if _is_any(host) and not _is_any(own):
            self._log.warn(
                "{path}: the Panel has changed api.host to {host}: after its next restart this "
                "node listens at all addresses of this machine, and not at {own} only. To keep "
                "that, write `api.host: {own}` and `ignore_panel_config_updates: true` there",
                path=self._live.path,
                host=host,
                own=own,
            )

    def _compare_tokens(self, settings: NodeSettings) -> None:
        """Log what to do when the Panel has a token that this node does not."""
        config = self._live.current
        own = (config.token_id, config.token)
        if (settings.token_id or own[0], settings.token or own[1]) != own:
            self._log.error(
                "the Panel has another token for this node: copy token_id and token from the "
                "node's Configuration tab into {path}, then reload this node",
                path=self._live.path,
            )


def _is_any(host: str) -> bool:
    """Return whether a host to listen at stands for all addresses of the machine."""
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return False
