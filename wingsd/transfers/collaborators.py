"""What servers are received and sent with."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import DeferredSemaphore

from wingsd.archive import ArchiveLimits, Compression
from wingsd.backups.local import Removal
from wingsd.backups.received import ReceivedBackups
from wingsd.config import FormConfig
from wingsd.docker import Environment
from wingsd.panel.client import Panel
from wingsd.servers import Servers
from wingsd.statedb import StateDatabase
from wingsd.threadio import TokenBucket, Workers
from wingsd.transfers.form.install_log import InstallLogs
from wingsd.transfers.panel_callbacks import CallbackQueue
from wingsd.transfers.peer.tls import PeerTls
from wingsd.transfers.step_log import StepLogs
from wingsd.transfers.storage.shared_volume import Volume
from wingsd.transfers.storage.staging import Quarantine, Staging, WriteBack

__all__ = ["ReceivingCollaborators", "SendingCollaborators"]


@attrs.frozen
class ReceivingCollaborators:
    """`owner` is the uid and gid of every server's files; `family` is the node's."""

    reactor: Any
    panel: Panel
    journal: StateDatabase
    outbox: CallbackQueue
    environment: Environment
    servers: Servers
    staging: Staging
    #: What comes with a server beside its files.
    backups: ReceivedBackups
    logs: InstallLogs
    write_back: WriteBack
    step_logs: StepLogs
    owner: tuple[int, int]
    family: str
    #: What one archive may take of this node; a server's own disk limit comes with it.
    limits: ArchiveLimits
    attic: Quarantine
    #: Bounds for the parts of an upload.
    form: FormConfig
    #: Threads that extract, and as many slots: who has none is not read from yet.
    extractors: Workers
    slots: DeferredSemaphore
    #: Threads for the short work on the disk.
    disk: Workers
    volume: Volume


@attrs.frozen
class SendingCollaborators:
    """`stop_grace`, `stall_timeout`, `answer_grace` and `answer_timeout` in seconds."""

    reactor: Any
    panel: Panel
    journal: StateDatabase
    outbox: CallbackQueue
    environment: Environment
    servers: Servers
    attic: Quarantine
    step_logs: StepLogs
    trust: PeerTls
    compression: Compression
    stop_grace: float
    #: How long a destination may acknowledge nothing of what it is sent.
    stall_timeout: float
    #: Where local backups are kept, and the logs of installations.
    backup_directory: str
    logs: InstallLogs
    #: Threads for the short work on the disk.
    disk: Workers
    removal: Removal
    volume: Volume
    #: Threads that pack, and as many slots: who has none does not connect yet.
    packers: Workers
    slots: DeferredSemaphore
    #: How long the Panel is asked again when the answer of a destination that has everything is
    #: lost; 0 for not at all.
    answer_grace: float = 0
    #: How long that answer is waited for; 0 for ever.
    answer_timeout: float = 0
    #: As many further streams a server is sent in at most, where they are asked for.
    streams: int = 0
    #: All servers are sent by it; None without a limit.
    bucket: TokenBucket | None = None
