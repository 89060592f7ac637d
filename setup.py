"""The build: what wingsd is made of and what it needs."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

# The lower bounds are what Debian 13 carries; nothing newer may be needed.
REQUIRES = [
    "attrs >= 25.3",
    "autobahn >= 23.1",
    "cattrs >= 24.1",
    "click >= 8.1",
    "docker >= 7.1",
    "google-re2 >= 1.1",
    "h11 >= 0.14",
    "hyperlink >= 21.0",
    "isal >= 1.7",
    "javaproperties >= 0.8.2",
    "lxml >= 5.4",
    "lz4 >= 4.4",
    "multipart >= 1.2",
    "prometheus-client >= 0.21",
    "pyjwt >= 2.10",
    "pyyaml >= 6.0",
    "rich >= 13.9",
    "ruamel.yaml >= 0.18.10",
    "tomlkit >= 0.13.2",
    "treq >= 24.9",
    "twisted[tls] >= 24.11",
    "txaio >= 23.1",  # which event loop autobahn, the WebSocket, stands on
    "zstandard >= 0.23",
]

TEST = [
    "hypothesis >= 6.130",
    "pytest >= 8.3",
    "pytest-twisted >= 1.14",
    "pytest-xdist >= 3.6",
    "requests >= 2.32",
    "schemathesis >= 4.10",
    "trustme >= 1.2",
]

FUZZ = [
    "atheris >= 3.0",
]

BENCH = [
    "matplotlib >= 3.10",
]

DOCS = [
    "furo >= 2024.8.6",
    "myst-parser >= 4.0",
    "sphinx >= 8.1",
]

LINT = [
    "import-linter >= 2.1",
    "mypy",
    "mypy-zope",
    "ruff",
    "towncrier",
    "types-docker",
    "types-pyyaml",
    "types-requests",
]

setup(
    name="wingsd",
    version="0.1.0.dev0",
    description="A game server node daemon that moves whole servers, streaming and safely",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">= 3.11",
    # "twisted.plugins" is listed by hand: it is a namespace of Twisted's own, and
    # find_packages() must not see (and claim) anything else below twisted/.
    packages=[*find_packages(include=["wingsd", "wingsd.*"]), "twisted.plugins"],
    entry_points={"console_scripts": ["wingsctl = wingsd.cli.__main__:main"]},
    package_data={"wingsd": ["py.typed"]},
    install_requires=REQUIRES,
    extras_require={"test": TEST, "fuzz": FUZZ, "bench": BENCH, "docs": DOCS, "lint": LINT},
    zip_safe=False,
)
