"""The document of SFTP's figures."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from bench.datasets import MIB
from bench.openssh import CIPHERS
from bench.rows import TABLE, Row
from bench.sftp import CLIENT_SIZE, CLIENTS, SIZE, SMALL_FILES, SMALL_SIZE, SftpResult, SftpTimes
from bench.sftp_transfers import TRANSFERS
from bench.targets import (
    SFTP,
    SFTP_DELAY,
    SFTP_GROWTH,
    SFTP_LOSS,
    SFTP_MEMORY,
    SFTP_SMALL_DOWN,
    SFTP_SMALL_UP,
)

__all__ = ["sftp_report"]


def sftp_report(result: SftpResult, machine: str, version: str) -> str:
    """Return the document."""
    rows = [*_speeds(result), *_transfers(result), *_busy(result)]
    return "\n".join(
        [
            "# The speed of SFTP",
            "",
            "Written by `make bench SERIES=sftp`, not to be edited.",
            "",
            f"A file of {SIZE // MIB} MiB, and {SMALL_FILES:,} files of {SMALL_SIZE} bytes in one",
            "directory, are uploaded and downloaded by OpenSSH's `sftp`: with the node, and with",
            "OpenSSH's `sshd` and its `internal-sftp`, in turns, on loopback, both with the",
            f"client's own choice of a cipher, ChaCha20, and with {CIPHERS['AES-GCM']}.",
            "All files are in memory, so that no disk is measured. Times are from the start of",
            "the client to its end, with the login. Medians, with the lowest and the highest in",
            "brackets; each ratio is of one round. The servers and their clients come before all",
            "else on the machine, by the scheduler's class RR.",
            "",
            f"What SFTP costs the rest of the node: {CLIENTS} clients upload and download",
            f"{CLIENT_SIZE // MIB} MiB each, again and again, while another client watches a",
            "console with a line every 100 ms, or while curl sends the node servers, "
            f"{TRANSFERS} for",
            "each figure. The clients have the scheduler's class IDLE: on machines of their own",
            "they take no CPU time of the node. curl is on the same cores too, and all of them",
            "want more cores than there are, so the same is measured beside OpenSSH's server, in",
            "its usual class.",
            "",
            f"Machine: {machine}. Version: {version}.",
            "",
            *TABLE,
            *(row.text() for row in rows),
            "",
        ]
    )


def _speeds(result: SftpResult) -> list[Row]:
    return [row for cipher in CIPHERS for row in _of_cipher(result, cipher)]


def _of_cipher(result: SftpResult, cipher: str) -> list[Row]:
    own = [each for each in result.node if each.cipher == cipher]
    other = [each for each in result.openssh if each.cipher == cipher]

    def ratios(seconds: Callable[[SftpTimes], float]) -> list[float]:
        return [seconds(theirs) / seconds(ours) for ours, theirs in zip(own, other, strict=True)]

    size, files = f"{cipher}: {SIZE // MIB} MiB", f"{cipher}: {SMALL_FILES:,} files"
    speed = "speed against OpenSSH"
    return [
        Row(f"{size} up, {speed}", ratios(lambda one: one.up), SFTP, True),
        Row(f"{size} down, {speed}", ratios(lambda one: one.down), SFTP, True),
        Row(f"{files} up, {speed}", ratios(lambda one: one.small_up), SFTP_SMALL_UP, True),
        Row(f"{files} down, {speed}", ratios(lambda one: one.small_down), SFTP_SMALL_DOWN, True),
        Row(f"{size} up, seconds", [one.up for one in own]),
        Row(f"{size} up, seconds of OpenSSH", [one.up for one in other]),
        Row(f"{size} down, seconds", [one.down for one in own]),
        Row(f"{size} down, seconds of OpenSSH", [one.down for one in other]),
        Row(f"{files} up, seconds", [one.small_up for one in own]),
        Row(f"{files} down, seconds", [one.small_down for one in own]),
    ]


def _transfers(result: SftpResult) -> list[Row]:
    times = result.transfers
    losses = [1 - one.quiet / one.node for one in times]
    others = [1 - one.quiet / one.openssh for one in times]
    return [
        Row("part of a transfer's speed that is lost beside SFTP", losses, SFTP_LOSS),
        Row("the same beside OpenSSH's server", others),
        Row("cores that SFTP's process has meanwhile", [one.cores for one in times]),
    ]


def _busy(result: SftpResult) -> list[Row]:
    busy = result.busy
    if not busy:
        return []
    return [
        Row(f"MiB of SFTP's process, {CLIENTS} clients", [one.peak for one in busy], SFTP_MEMORY),
        Row(
            "ms of a console's line meanwhile",
            [1000 * median(one.delays) for one in busy],
            SFTP_DELAY,
        ),
        Row("the same without the clients", [1000 * median(one.quiet_delays) for one in busy]),
        Row(
            "MiB more of the daemon when SFTP's process has ended",
            [one.grown for one in busy],
            SFTP_GROWTH,
        ),
    ]
