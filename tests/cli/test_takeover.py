"""What is told of Wings' service, and of what the package's service cannot use."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.configurations import config
from wingsd.cli.check_config import handover, parse_units, service_limits

#: What `systemctl show` writes of a node that Wings runs, with the package's unit.
SHOWN = """\
BindPaths=
ReadWritePaths=
PrivateTmp=no
ProtectHome=no
ProtectSystem=no
Id=wings.service
LoadState=loaded
ActiveState={wings}
UnitFileState={starts}

BindPaths=-/tmp/pterodactyl:/tmp/pterodactyl:rbind
ReadWritePaths=-/var/lib/pterodactyl -/var/log/pterodactyl -/run/wings
PrivateTmp=yes
ProtectHome=yes
ProtectSystem=strict
Id=wingsd.service
LoadState=loaded
ActiveState=inactive
UnitFileState=enabled
"""
UNITS = parse_units(SHOWN.format(wings="active", starts="enabled"))
CONFIG = "/etc/pterodactyl/config.yml"


@pytest.mark.parametrize(
    ("wings", "starts", "told"),
    [
        ("active", "enabled", ["systemctl disable --now wings && systemctl start wingsd"]),
        ("activating", "disabled", ["systemctl disable --now wings && systemctl start wingsd"]),
        ("inactive", "enabled", ["systemctl disable wings"]),
        ("inactive", "disabled", []),
    ],
)
def test_wings_in_the_way_is_named(wings: str, starts: str, told: list[str]) -> None:
    units = parse_units(SHOWN.format(wings=wings, starts=starts))
    assert [line.rpartition(": ")[2] for line in handover(units)] == told


def test_both_services_started_are_named() -> None:
    shown = SHOWN.format(wings="activating", starts="enabled")
    (line,) = handover(parse_units(shown.replace("ActiveState=inactive", "ActiveState=active")))
    assert line.startswith("wings.service and wingsd.service are both started")


def test_units_that_are_not_there_are_left_out() -> None:
    absent = "Id=wings.service\nLoadState=not-found\nActiveState=inactive\nUnitFileState=\n"
    units = parse_units(absent)
    assert list(handover(units)) == []
    assert list(service_limits(config(system={"data": "/srv/games"}), CONFIG, units)) == []


def test_the_usual_places_are_the_services() -> None:
    assert list(service_limits(config(), CONFIG, UNITS)) == []


@pytest.mark.parametrize(
    ("keys", "named", "settings"),
    [
        (
            {"system": {"data": "/srv/games", "backup_directory": "/mnt/backups"}},
            "system.data (/srv/games), system.backup_directory (/mnt/backups)",
            "ReadWritePaths=/srv/games /mnt/backups",
        ),
        (
            {"system": {"data": "/home/games"}},
            "system.data (/home/games)",
            "ProtectHome=no ReadWritePaths=/home/games",
        ),
        (
            {"api": {"ssl": {"enabled": True, "cert": "/root/c.pem", "key": "/root/k.pem"}}},
            "api.ssl.cert (/root/c.pem), api.ssl.key (/root/k.pem)",
            "ProtectHome=no",
        ),
        (
            {"system": {"tmp_directory": "/tmp/wings"}},
            "system.tmp_directory (/tmp/wings)",
            "BindPaths=/tmp/wings",
        ),
        (
            {"system": {"passwd": {"enabled": True, "directory": "/etc/accounts"}}},
            "system.passwd.directory (/etc/accounts)",
            "ReadWritePaths=/etc/accounts",
        ),
    ],
)
def test_another_place_is_named_with_what_the_service_needs(
    keys: dict[str, Any], named: str, settings: str
) -> None:
    (told,) = service_limits(config(**keys), CONFIG, UNITS)
    assert f"the service cannot use {named}, and may not start;" in told
    assert told.endswith(f"[Service] {settings}")


def test_pelicans_places_are_named_by_their_own_keys() -> None:
    keys = {"app_name": "Pelican", "system": {"root_directory": "/var/lib/pterodactyl"}}
    (told,) = service_limits(config(**keys), CONFIG, UNITS)
    assert "system.user.passwd.directory (/etc/pelican)" in told
