"""The backups of a node's servers."""

from __future__ import annotations

import time
from functools import cached_property
from typing import TYPE_CHECKING

from wingsd.app.wiring.base import MIB
from wingsd.app.wiring.restores import RestoresWiring
from wingsd.archive import ArchiveFormat, Compression
from wingsd.archive.quota import ArchiveLimits
from wingsd.backups.left import LeftBackups
from wingsd.config import CALAGOPUS, Config
from wingsd.util.later import Later
from wingsd.util.reactor import Reactor

if TYPE_CHECKING:
    from wingsd.backups.adapters import Adapter
    from wingsd.backups.checks import BackupChecks
    from wingsd.backups.creation import BackupParts, Backups
    from wingsd.backups.deletion import BackupDeletion
    from wingsd.backups.for_wings import BackupRewrites
    from wingsd.backups.making import ArchiveTerms
    from wingsd.backups.recovery import BackupRecovery
    from wingsd.backups.s3.adapter import S3Adapter
    from wingsd.backups.store import BackupStore

__all__ = ["BackupsWiring"]


class BackupsWiring(RestoresWiring):
    """The objects of a node's backups. A node at rest saves what they import."""

    def __init__(self, config: Config, endpoint: str, reactor: Reactor, path: str = "") -> None:
        """Raises `ConfigError` when the configuration names invalid files."""
        super().__init__(config, endpoint, reactor, path)
        self.backup_store = Later(self._make_backup_store)
        self.made_backups = Later(self._make_backups)
        self.backup_deletion = Later(self._make_backup_deletion)
        self.backup_checks = Later(self._make_checks)
        self.backup_rewrites = Later(self._make_rewrites)
        self.left_backups = LeftBackups(
            config.system.backup_directory,
            self.database,
            self.pools.disk,
            Later(self._make_backup_recovery),
        )

    def _make_backup_store(self) -> BackupStore:
        from wingsd.backups.store import BackupStore  # noqa: PLC0415

        return BackupStore(self._config.system.backup_directory, self._config.family)

    @cached_property
    def _backup_parts(self) -> BackupParts:
        from wingsd.backups.creation import BackupParts  # noqa: PLC0415

        config, pools = self._config, self.pools
        return BackupParts(
            family=config.family,
            store=self.backup_store.get(),
            terms=self._archive_terms(),
            database=self.database,
            callbacks=self.callbacks,
            bus=self._bus,
            workers=pools.backups,
            disk=pools.disk,
            reactor=self._reactor,
        )

    def _make_backups(self) -> Backups:
        from wingsd.backups.creation import Backups  # noqa: PLC0415

        concurrent = self._config.system.backups.concurrent
        return Backups(self._backup_parts, self._backup_adapters, concurrent)

    def _make_backup_recovery(self) -> BackupRecovery:
        from wingsd.backups.recovery import BackupRecovery  # noqa: PLC0415

        return BackupRecovery(self._backup_parts, self._backup_adapters, self.made_backups.get())

    def _make_backup_deletion(self) -> BackupDeletion:
        from wingsd.backups.deletion import BackupDeletion  # noqa: PLC0415

        return BackupDeletion(
            self.backup_store.get(),
            self.made_backups.get(),
            self.pools.long,
            self.callbacks,
            self._bus,
        )

    def _make_checks(self) -> BackupChecks:
        from wingsd.backups.checks import BackupChecks, CheckSchedule  # noqa: PLC0415

        settings, pools = self._config.system.backups, self.pools
        schedule = CheckSchedule(settings.check_interval, settings.check_limit * MIB)
        store = self.backup_store.get()
        return BackupChecks(store, schedule, pools.backups, pools.disk, self._reactor, time.time)

    def _make_rewrites(self) -> BackupRewrites:
        from wingsd.backups.for_wings import BackupRewrites  # noqa: PLC0415

        return BackupRewrites(
            self._backup_parts,
            self.made_backups.get(),
            self.servers,
            self.backup_checks.get().lock,
        )

    @cached_property
    def _backup_adapters(self) -> dict[str, Later[Adapter]]:
        """What keeps backups, by the kind that a Panel asks for."""
        from wingsd.backups.adapters import LocalAdapter  # noqa: PLC0415

        local = LocalAdapter(self.backup_store.get(), self.pools.disk)
        return {"wings": Later(lambda: local), "s3": Later(self._s3_adapter)}

    def _s3_adapter(self) -> S3Adapter:
        from wingsd.backups.s3.adapter import S3Adapter, S3Terms  # noqa: PLC0415
        from wingsd.backups.s3.parts import StoreLimits  # noqa: PLC0415

        config, settings = self._config, self._config.system.backups.s3
        limits = StoreLimits(part=settings.part_upload_timeout)
        return S3Adapter(
            self.panel,
            self.backup_store.get(),
            self.pools.uploads,
            self._reactor,
            S3Terms(config.family, settings.retry_limit, limits),
        )

    def _archive_terms(self) -> ArchiveTerms:
        from wingsd.backups.dialect import checksum_type_of  # noqa: PLC0415
        from wingsd.backups.making import ArchiveTerms  # noqa: PLC0415

        system, family = self._config.system, self._config.family
        form = ArchiveFormat.TAR_GZ
        if family == CALAGOPUS:
            wanted = system.backups.wings.archive_format
            form = next((each for each in ArchiveFormat if each.value == wanted), form)
        return ArchiveTerms(
            form=form,
            compression=Compression(system.backups.compression_level),
            checksum_type=checksum_type_of(family),
            write_limit=system.backups.write_limit * MIB,
            reserve=ArchiveLimits.configured(system.transfers).reserve,
        )
