"""Configurations as Panels and other node daemons write them, and a minimal one."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from wingsd.config import Config, parse
from wingsd.errors import ConfigError

SECRET = "s3cr3t-t0k3n-of-this-n0d3"
LEAST: dict[str, Any] = {"token_id": "id", "token": SECRET, "remote": "https://panel.example.com"}

# What a Panel prints, keys that wingsd does not use among them.
PRINTED = """\
debug: false
uuid: 6c1d1a3c-8f5e-4f3b-9a55-3f0f8a7c2b41
token_id: Ab12Cd34Ef56Gh78
token: s3cr3t-t0k3n-of-this-n0d3
api:
  host: 0.0.0.0
  port: 8443
  ssl:
    enabled: true
    cert: /etc/letsencrypt/live/node.example.com/fullchain.pem
    key: /etc/letsencrypt/live/node.example.com/privkey.pem
  upload_limit: 100
  trusted_proxies: []
system:
  data: /srv/volumes
  sftp:
    bind_port: 2022
allowed_mounts: []
remote: 'https://panel.example.com'
"""

# What Pterodactyl's node daemon makes of that file: it writes its own defaults into it.
WRITTEN_BY_WINGS = """\
debug: false
app_name: Pterodactyl
uuid: 6c1d1a3c-8f5e-4f3b-9a55-3f0f8a7c2b41
token_id: Ab12Cd34Ef56Gh78
token: s3cr3t-t0k3n-of-this-n0d3
api:
  host: 0.0.0.0
  port: 8080
  ssl: {enabled: false, cert: "", key: ""}
  disable_remote_download: false
  upload_limit: 100
  trusted_proxies: []
system:
  root_directory: /var/lib/pterodactyl
  log_directory: /var/log/pterodactyl
  data: /var/lib/pterodactyl/volumes
  archive_directory: /var/lib/pterodactyl/archives
  backup_directory: /var/lib/pterodactyl/backups
  tmp_directory: /tmp/pterodactyl
  username: pterodactyl
  timezone: UTC
  user:
    rootless: {enabled: false, container_uid: 0, container_gid: 0}
    uid: 988
    gid: 988
  passwd: {enabled: false, directory: /run/wings/etc}
  machine_id: {enable: true, directory: /run/wings/machine-id}
  disk_check_interval: 150
  activity_send_interval: 60
  activity_send_count: 100
  check_permissions_on_boot: true
  enable_log_rotate: true
  websocket_log_count: 150
  sftp: {bind_address: 0.0.0.0, bind_port: 2022, read_only: false}
  crash_detection: {enabled: true, detect_clean_exit_as_crash: true, timeout: 60}
  backups: {write_limit: 0, compression_level: best_speed}
  transfers: {download_limit: 0}
  openat_mode: auto
docker:
  network:
    interface: 172.18.0.1
    dns: [1.1.1.1, 1.0.0.1]
    name: pterodactyl_nw
    ispn: false
    driver: bridge
    network_mode: pterodactyl_nw
    is_internal: false
    enable_icc: true
    network_mtu: 1500
    interfaces:
      v4: {subnet: 172.18.0.0/16, gateway: 172.18.0.1}
      v6: {subnet: "fdba:17c8:6c94::/64", gateway: "fdba:17c8:6c94::1011"}
  domainname: ""
  registries: {}
  tmpfs_size: 100
  container_pid_limit: 512
  installer_limits: {memory: 1024, cpu: 100}
  overhead: {override: false, default_multiplier: 1.05, multipliers: {}}
  use_performant_inspect: true
  userns_mode: ""
  log_config:
    type: local
    config: {compress: "false", max-file: "1", max-size: 5m, mode: non-blocking}
throttles: {enabled: true, lines: 2000, line_reset_interval: 100}
remote: https://panel.example.com
remote_query: {timeout: 30, boot_servers_per_page: 50}
allowed_mounts: []
allowed_origins: []
allow_cors_private_network: false
ignore_panel_config_updates: false
"""
# What the other families' write beside that, or in its place.
WRITTEN_BY_PELICAN: dict[str, Any] = {
    "quiet": False,
    "api": {"remote_download": {"max_redirects": 10}},
    "system": {
        "user": {"passwd": {"enable": True, "directory": "/etc/pelican"}},
        "quotas": {"enabled": False},
        "crash_detection_activity_lines": 2,
        "sftp": {"key_only": False},
        "backups": {"restore_host_allowlist": [], "remove_backups_on_server_delete": True},
        "transfers": {"storage_pool": {"enabled": False, "pool_name": ""}},
    },
    "docker": {"network": {"IPv6": True}, "system_ips": []},
    "remote_query": {"custom_headers": {}},
    "Search": {"blacklisted_dirs": ["node_modules"], "max_recursion_depth": 8},
    "BlockBaseDirMount": True,
}
WRITTEN_BY_CALAGOPUS: dict[str, Any] = {
    "api": {
        "disable_openapi_docs": False,
        "server_remote_download_limit": 3,
        "remote_download_blocked_cidrs": ["127.0.0.0/8"],
        "disable_directory_size": False,
        "directory_entry_limit": 10000,
        "send_offline_server_logs": False,
        "file_search_threads": 4,
        "file_decompression_threads": 2,
        "file_compression_threads": 2,
        "max_jwt_uses": 5,
    },
    "system": {
        "disk_check_threads": 2,
        "disk_limiter_mode": "none",
        "check_permissions_on_boot_threads": 4,
        "sftp": {
            "enabled": True,
            "key_algorithm": "ssh-ed25519",
            "disable_password_auth": False,
            "directory_entry_limit": 20000,
            "directory_entry_send_amount": 500,
            "limits": {
                "authentication_password_attempts": 3,
                "authentication_pubkey_attempts": 20,
                "authentication_cooldown": 60,
            },
            "shell": {"enabled": True, "cli": {"name": ".wings"}},
            "activity": {"log_logins": False, "log_file_reads": False},
        },
        "backups": {
            "read_limit": 0,
            "mounting": {"enabled": True, "path": ".backups"},
            "wings": {"create_threads": 4, "restore_threads": 4, "archive_format": "tar_gz"},
            "s3": {"create_threads": 4, "part_upload_timeout": 7200, "retry_limit": 10},
            "ddup_bak": {"create_threads": 4, "compression_format": "deflate"},
            "restic": {
                "repository": "/var/lib/pterodactyl/backups/restic",
                "password_file": "/var/lib/pterodactyl/backups/restic_password",
                "retry_lock_seconds": 60,
                "environment": {},
            },
            "btrfs": {"restore_threads": 4, "create_read_only": True},
            "zfs": {"restore_threads": 4},
        },
    },
    "docker": {
        "socket": "/var/run/docker.sock",
        "server_name_in_container_name": False,
        "delete_container_on_stop": True,
        "network": {"disable_interface_binding": False, "mode": "pterodactyl_nw"},
        "installer_limits": {"timeout": 1800},
    },
    "remote_headers": {},
    "remote_query": {"retry_limit": 10},
}


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return `one` with the keys of `other`, map by map."""
    both = {key: merged(one[key], other[key]) for key in one if isinstance(other.get(key), dict)}
    return one | other | both


def config(**keys: Any) -> Config:
    return parse(yaml.safe_dump(LEAST | keys), "here")[0]


def fault(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text, "here")
    assert SECRET not in str(caught.value)
    return str(caught.value)


def faults(**keys: Any) -> list[str]:
    first, *rest = fault(yaml.safe_dump(LEAST | keys)).splitlines()
    assert first == "here cannot be used:"
    return rest
