"""`wingsctl configure`: writes the node's configuration, as the Panel has it.

Its options are those of `wings configure`, so that the command on the node's page in the Panel can
be used with another name.
"""

from __future__ import annotations

import base64
import json
import os
import pwd
import ssl
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from threading import Thread
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.request import HTTPSHandler, OpenerDirector, Request, build_opener

import click
import yaml

from wingsd import __version__
from wingsd.cli.check_config import WINGSD_UNIT, Finding, check_certificates, systemd_units
from wingsd.cli.client import CtlError, Json, NoRedirects
from wingsd.cli.output import facts, plain, show
from wingsd.cli.parameters import node_url
from wingsd.config import (
    CALAGOPUS,
    PELICAN,
    PLACES,
    PTERODACTYL,
    Config,
    differences,
    parse,
    read_yaml,
    value_at,
)
from wingsd.config_file.editing import FileChanged, edited, replace_file
from wingsd.errors import ConfigError, InvalidData
from wingsd.node.redaction import settings

#: Seconds for the Panel to answer, as Wings gives it.
TIMEOUT = 30.0
#: Seconds for the whole answer.
TOTAL_TIMEOUT = 90.0
#: Bytes of its answer at most.
MAX_ANSWER = 1024 * 1024


#: By its first letters, the family whose Panel has made a token: an application's or a user's.
#: Sources: `getPrefixForType` of their ApiKey.
_TOKENS = {"papp_": PELICAN, "pacc_": PELICAN, "ptla_": PTERODACTYL, "ptlc_": PTERODACTYL}


def fetch(panel: str, token: str, node: str, *, allow_insecure: bool = False) -> Json:
    """Return the configuration of a node, by its number, from the Panel at the URL `panel`.

    It has the Panel's family, if that is known.

    `token` is one for the Panel's application API; `allow_insecure` accepts any certificate.
    Raises `CtlError`.
    """
    about = f"{panel.rstrip('/')}/api/application/nodes/{node}"
    url = f"{about}/configuration"
    headers = {
        "Authorization": f"Bearer {token}",
        "Accept": "application/vnd.pterodactyl.v1+json",
        "Content-Type": "application/json",
        "User-Agent": f"wingsd/{__version__}",
    }
    context = ssl.create_default_context()
    if allow_insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    opener = build_opener(NoRedirects, HTTPSHandler(context=context))
    done: Future[Json] = Future()

    def ask() -> None:
        try:
            request = Request(url, headers=headers)  # noqa: S310
            with opener.open(request, timeout=TIMEOUT) as answer:
                found = _configuration(answer, url)
            family = _TOKENS.get(token[:5], "")
            if family != PELICAN:
                # A Panel of Pelican's that was one of Pterodactyl's has its tokens still.
                request = Request(about, headers=headers)  # noqa: S310
                family = _family_of_node(opener, request) or family
            done.set_result({**found, "family": family} if family else found)
        except BaseException as error:
            done.set_exception(error)

    # A timeout of a socket is for each read, and a drop now and then would be enough.
    asking = Thread(target=ask, daemon=True)
    asking.start()
    asking.join(TOTAL_TIMEOUT)
    if not done.done():
        raise _no_connection(f"its answer takes longer than {TOTAL_TIMEOUT:g} s", panel)
    try:
        return done.result()
    except HTTPError as error:
        with error:
            raise _refusal(error, url, node) from error
    except URLError as error:
        raise _no_connection(error.reason, panel) from error
    except (OSError, HTTPException, ValueError) as error:
        raise _no_connection(error, panel) from error


def _family_of_node(opener: OpenerDirector, request: Request) -> str:
    """Return the family of the Panel that describes a node so; empty if it is not known.

    Source: the nodes' tables; only Pterodactyl's have a location, and only Pelican's tags.
    """
    try:
        with opener.open(request, timeout=TIMEOUT) as answer:
            node = json.loads(answer.read(MAX_ANSWER))["attributes"]
            return PTERODACTYL if "location_id" in node else PELICAN if "tags" in node else ""
    except (OSError, HTTPException, ValueError, RecursionError, KeyError, TypeError):
        return ""


def _configuration(answer: IO[bytes], url: str) -> Json:
    body = answer.read(MAX_ANSWER + 1)
    advice = "see whether --panel-url is the Panel's own address"
    if len(body) > MAX_ANSWER:
        raise CtlError(f"the answer of {url} is larger than a configuration", advice)
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise CtlError(f"the answer of {url} is not JSON", advice) from error
    if not isinstance(found, dict):
        raise CtlError(f"the answer of {url} is not a configuration", advice)
    return found


def _refusal(error: HTTPError, url: str, node: str) -> CtlError:
    match error.code:
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            return CtlError(
                f"the Panel does not accept the token ({error.code})",
                "generate another on the node's Configuration tab; of an application API key it "
                "needs the permission to read nodes",
            )
        case HTTPStatus.NOT_FOUND:
            return CtlError(
                f"the Panel has no node {node} (404)",
                "the number is in the address of the node's page; or --panel-url is not the "
                "Panel's own address",
            )
        case code if code in range(300, 400):
            where = error.headers.get("Location", "elsewhere")
            return CtlError(f"{url} leads to {where}", "give that address as --panel-url")
        case code:
            return CtlError(f"the Panel answered {code}", "see the Panel's own log")


def _no_connection(reason: object, panel: str) -> CtlError:
    if isinstance(reason, ssl.SSLCertVerificationError):
        return CtlError(
            f"the certificate of {panel} is not valid: {reason.verify_message}",
            "correct it; for one that no authority has signed, --allow-insecure accepts any",
        )
    return CtlError(
        f"the Panel at {panel} does not answer: {reason}",
        "see whether --panel-url is right, and whether this machine can reach it",
    )


def from_join_data(text: str) -> Json:
    """Return the configuration that Calagopus' Panel prints: YAML in base64. Raises `CtlError`."""
    advice = "copy the whole command from the node's page again"
    try:
        found = read_yaml(base64.b64decode(text, validate=True).decode())
    except (ValueError, InvalidData) as error:  # of base64, of the encoding, or of YAML
        raise CtlError("the join data is damaged", advice) from error
    if not isinstance(found, dict):
        raise CtlError("the join data is not a configuration", advice)
    # Nothing else in it says whose it is.
    return {**found, "family": CALAGOPUS}


#: The account of the package's service.
SERVICE_USER = "_wingsd"
_SECRETS = ("token", "password")
_NOT_A_NUMBER = "the node's number is in the address of its page in the Panel, such as 1"


def _number(value: str) -> str:
    if not (value.isascii() and value.isdigit()):
        raise click.BadParameter(_NOT_A_NUMBER)
    return value


@click.command()
@click.option("-p", "--panel-url", type=node_url, metavar="URL", help="The Panel's address.")
@click.option("-t", "--token", metavar="TOKEN", help="A token for the Panel's application API.")
@click.option(
    "-n", "--node", metavar="NUMBER", type=_number, help="The node's number in the Panel."
)
@click.option(
    "-c",
    "--config-path",
    "path",
    type=click.Path(dir_okay=False, readable=False),
    metavar="FILE",
    help=f"The file to write. The default is the one that the daemon uses, or else {PLACES[0]}.",
)
@click.option("--override", is_flag=True, help="Do not ask before a file is changed.")
@click.option("--allow-insecure", is_flag=True, help="Accept any certificate of the Panel.")
@click.option(
    "--join-data",
    metavar="TEXT",
    help="Data printed by Calagopus' Panel, instead of URL and token.",
)
def configure(
    *,
    panel_url: str | None,
    token: str | None,
    node: str | None,
    path: str | None,
    override: bool,
    allow_insecure: bool,
    join_data: str | None,
) -> None:
    """Write the node's configuration, as the Panel has it.

    Takes the options of the command that the Panel prints on the node's page, and asks for those
    that are missing. A file that exists keeps its comments, and all keys that the Panel does not
    name.
    """
    if join_data is not None:
        found = from_join_data(join_data)
    else:
        panel_url = panel_url or click.prompt("Panel URL", value_proc=node_url)
        token = token or click.prompt("API token", hide_input=True)
        node = node or click.prompt("Node number", value_proc=_number)
        found = fetch(panel_url, token, node, allow_insecure=allow_insecure)
    path = path or next((place for place in PLACES if os.path.lexists(place)), PLACES[0])
    before = _read(path)
    try:
        text, changes = _written(path, before, found)
    except RecursionError as error:
        raise CtlError("the configuration is nested too deeply", _PANELS_FAULT) from error
    config, unknown = _checked(path, text)
    if not changes:
        show(f"{path} is as the Panel has it already.")
        return
    show(f"{path}:", facts((key, _shown(key, value)) for key, value in changes.items()))
    if before is not None and not override:
        click.confirm(f"Change {path}?", abort=True)
    _write(path, before, text)
    show(f"{path} is written.")
    _advise(config, unknown)


def _read(path: str) -> str | None:
    """Return the text of the file, None without one. Raises `CtlError`."""
    try:
        # As it is written: `replace_file` compares the bytes, with CRLF as well.
        return Path(path).read_bytes().decode()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise CtlError(f"{path} is not UTF-8 text", "correct it, or move it away") from error
    except OSError as error:
        raise _not_usable(path, "read", error) from error


def _written(
    path: str, before: str | None, found: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Return the text to write, and the values in it that are new, by their dotted paths."""
    changes = dict(_leaves(found))
    if before is None or not before.strip():
        return yaml.safe_dump(dict(found), sort_keys=False, allow_unicode=True), changes
    config, _ = _checked(path, before, "correct it, or move it away")
    written: Any = read_yaml(before)
    present = dict(_leaves(written))
    changes = {key: value for key, value in changes.items() if present.get(key) != value}
    text = _edited(path, before, changes)
    if changes.get("family", config.family) != config.family:
        # It has been run as one of another family: its directories stay where they are.
        after, _ = _checked(path, text)
        for key in differences(config.system, after.system, "system"):
            value = value_at(config, key)
            if key not in changes and isinstance(value, str):
                changes[key] = value
        text = _edited(path, before, changes)
    return text, changes


def _edited(path: str, text: str, changes: Mapping[str, Any]) -> str:
    try:
        return edited(text, changes)
    except InvalidData as error:
        raise CtlError(f"{path} cannot be changed: {error}", "move it away") from error


def _leaves(section: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for path, value in settings(section):
        if value is not None and not isinstance(value, Mapping):  # which is empty
            yield path, tuple(value) if isinstance(value, list) else value


def _checked(path: str, text: str, advice: str = "") -> tuple[Config, list[str]]:
    try:
        return parse(text, path)
    except ConfigError as error:
        first, *others = str(error).split("\n")
        raise CtlError("; ".join(others) or first, advice or _PANELS_FAULT) from error


_PANELS_FAULT = "this is what the Panel has; correct the node's settings there"


def _shown(key: str, value: object) -> str:
    if key.endswith(_SECRETS):
        return "(not shown)"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _write(path: str, before: str | None, text: str) -> None:
    # User and group of the service, when its account exists and this user may give it.
    owner: tuple[int, int] | None = None
    with suppress(KeyError):
        account = pwd.getpwnam(SERVICE_USER)
        owner = (account.pw_uid, account.pw_gid) if os.geteuid() == 0 else None
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        expected = None if before is None else before.encode()
        replace_file(path, text.encode(), expected=expected, owner=owner)
    except FileChanged as error:
        raise CtlError(f"{path} has been changed meanwhile", "run this again") from error
    except OSError as error:
        raise _not_usable(path, "written", error) from error


def _not_usable(path: str, verb: str, error: OSError) -> CtlError:
    is_denied = isinstance(error, PermissionError)
    advice = "run this as root" if is_denied else "or name another file with --config-path"
    return CtlError(f"{path} cannot be {verb}: {error.strerror or error}", advice)


def _advise(config: Config, unknown: list[str]) -> None:
    found = Finding()
    check_certificates(config, found)
    for line in (*found.errors, *found.warnings):
        show(f"warning: {plain(line)}")
    if unknown:
        show(f"warning: unknown keys, ignored: {', '.join(map(plain, unknown))}")
    has_unit = WINGSD_UNIT in systemd_units()
    restart = "systemctl restart wingsd" if has_unit else "start or restart wingsd"
    show(f"Next: {restart}, then wingsctl status")
