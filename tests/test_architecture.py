"""The walls of the house: which room may know which."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import wingsd

HOME = Path(wingsd.__file__).parent

#: Bytes, values and rules: no reactor, no threads, no sockets, no clock, no engine.
PURE = [
    "archive.blocks",
    "archive.extension",
    "archive.headers",
    "archive.limits",
    "archive.listing",
    "archive.notes",
    "archive.pax",
    "archive.policy",
    "archive.span",
    "archive.tar",
    "byhand.description",
    "config",
    "config.api",
    "config.checks",
    "config.control",
    "config.differences",
    "config.docker",
    "config.metrics",
    "config.family",
    "config.file",
    "config.system",
    "config.unused",
    "config.units",
    "control.views",
    "eggfiles",
    "eggfiles.changes",
    "eggfiles.document",
    "eggfiles.encoded",
    "eggfiles.exchange",
    "eggfiles.forms",
    "eggfiles.ini_file",
    "eggfiles.json_file",
    "eggfiles.line_file",
    "eggfiles.lookups",
    "eggfiles.nested",
    "eggfiles.paths",
    "eggfiles.properties_file",
    "eggfiles.refused",
    "eggfiles.scalars",
    "eggfiles.substitution",
    "eggfiles.toml_file",
    "eggfiles.xml_file",
    "eggfiles.yaml_file",
    "environment.container",
    "environment.interface",
    "environment.network",
    "environment.pull",
    "environment.state",
    "environment.stats",
    "errors",
    "escaping",
    "eventnames",
    "journal.entries",
    "metrics.reasons",
    "servers.console",
    "servers.details",
    "servers.donelines",
    "servers.states",
    "servers.stopping",
    "servers.throttle",
    "transfers.extras",
    "transfers.formdata",
    "transfers.formparts",
    "transfers.lifecycle",
    "transfers.pool",
    "transfers.progress",
    "transfers.streamroll",
    "transfers.wording",
    "model",
    "observer",
    "origins",
    "privileges.rules",
    "quoting",
    "structure",
    "systemd.entries",
    "tokens",
    "web.answers",
    "web.bodies",
    "web.calls",
    "web.openapi",
    "web.openapi.document",
    "web.openapi.schemas",
    "web.openapi.words",
    "web.origins",
    "web.websocket.messages",
    "web.websocket.meter",
    "web.websocket.outbox",
    "web.websocket.session",
    "yamldata",
]
#: They block, in worker threads, and know nothing of the reactor.
BLOCKING = [
    "archive",
    "archive.compress",
    "archive.decompression",
    "archive.decompression.bzip2_format",
    "archive.decompression.gzip_format",
    "archive.decompression.lz4_format",
    "archive.decompression.skippable",
    "archive.decompression.streams",
    "archive.decompression.xz_format",
    "archive.decompression.zstd_format",
    "archive.compressors",
    "archive.directories",
    "descriptors",
    "diskadvice",
    "archive.extract",
    "archive.jointtree",
    "archive.latelinks",
    "archive.members",
    "archive.metadata",
    "archive.pack",
    "archive.removal",
    "archive.space",
    "archive.split",
    "archive.stages",
    "archive.symlinks",
    "archive.tree",
    "archive.walk",
    "eggfiles.child",
    "eggfiles.disk",
    "eggfiles.process",
    "eggfiles.rewriting",
    "environment.engine",
    "environment.information",
    "environment.mounts",
    "heap",
    "journal.store",
    "privileges",
    "privileges.survey",
    "keepalive",
    "servers.directories",
    "systemd.journald",
    "systemd.notify",
    "tcpinfo",
    "threads",
    "transfers.backups",
    "transfers.cargo",
    "transfers.incomingfile",
    "transfers.installlog",
    "transfers.localbackups",
    "transfers.order",
    "transfers.staging",
    "transfers.volume",
]
#: From the top down; a room may know those below it and, in its own storey, nobody.
STOREYS = [
    ["tap", "ctl"],
    ["supervision", "reload"],
    ["node"],
    ["parts"],
    ["control"],
    ["web"],
    ["metrics", "byhand"],
    ["transfers"],
    ["servers"],
    ["panel", "environment", "tls", "events", "journal", "logs"],
    ["pools"],
    ["bridge"],
    ["eggfiles"],
    ["archive", "tokens", "privileges"],
    ["model", "config"],
    ["structure", "yamldata", "systemd", "httpclient"],
    [
        "errors",
        "accepting",
        "clock",
        "descriptors",
        "diskadvice",
        "escaping",
        "eventnames",
        "heap",
        "keepalive",
        "observer",
        "origins",
        "quoting",
        "retryafter",
        "tcpinfo",
        "threads",
    ],
]
UNCLEAN = {"asyncio", "docker", "random", "select", "socket", "threading", "time", "twisted"}


def module_path(module: str) -> Path:
    path = HOME.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imports(path: Path) -> set[str]:
    """Return the full names of all modules that the file imports, wherever it does."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written out"
            above = node.module or ""
            found.add(above)
            found |= {name for a in node.names if is_module(name := f"{above}.{a.name}")}
    return found


def is_module(name: str) -> bool:
    """Return whether that is a module of wingsd, and not something in one."""
    top, _, module = name.partition(".")
    return top == HOME.name and module_path(module).exists()


def room(module: str) -> str:
    """Return the room that a module of wingsd is in."""
    return module.split(".")[1]


@pytest.mark.parametrize("module", PURE)
def test_the_pure_half_knows_nothing_of_the_world(module: str) -> None:
    assert not {name.split(".")[0] for name in imports(module_path(module))} & UNCLEAN


@pytest.mark.parametrize("module", PURE)
def test_the_pure_half_knows_only_itself(module: str) -> None:
    own = {name for name in imports(module_path(module)) if name.startswith("wingsd.")}
    assert own <= {f"wingsd.{name}" for name in PURE}


@pytest.mark.parametrize("module", BLOCKING)
def test_what_blocks_knows_nothing_of_the_reactor(module: str) -> None:
    assert not {name.split(".")[0] for name in imports(module_path(module))} & {"twisted", "treq"}


def test_imports_point_one_way() -> None:
    storey_of = {name: number for number, names in enumerate(STOREYS) for name in names}
    for path in sorted(HOME.rglob("*.py")):
        here = path.relative_to(HOME).with_suffix("").parts[0]
        if here in ("__init__", "testing"):
            continue
        for name in imports(path):
            if name.startswith("wingsd.") and room(name) != here:
                assert storey_of[room(name)] > storey_of[here], f"{path} imports {name}"


def test_only_the_bridge_touches_threads_on_the_reactors_side() -> None:
    words = ("deferToThread", "callFromThread", "callInThread", "ThreadPool")
    users = {
        path.relative_to(HOME).parts[0]
        for path in HOME.rglob("*.py")
        if any(word in path.read_text() for word in words)
    }
    assert users == {"bridge"}


def test_nothing_but_tests_knows_the_fakes() -> None:
    for path in HOME.rglob("*.py"):
        if "testing" not in path.parts:
            assert not [name for name in imports(path) if name.startswith("wingsd.testing")]
