"""The package as a file: the one that is installed, and others made of it."""

from __future__ import annotations

from pathlib import Path

from machine import run

__all__ = ["install", "installed_again", "with_version"]


async def installed_again(directory: Path) -> Path:
    """Return the installed package, packed again."""
    await run("sh", "-c", 'cd "$1" && dpkg-repack wingsd', "sh", str(directory))
    (package,) = directory.glob("wingsd_*.deb")
    return package


async def with_version(package: Path, version: str) -> Path:
    """Return a package like it with another version."""
    tree, made = package.parent / "tree", package.with_name(f"wingsd_{version}.deb")
    await run("dpkg-deb", "--raw-extract", str(package), str(tree))
    control = tree / "DEBIAN/control"
    lines = control.read_text().splitlines()
    lines = [f"Version: {version}" if line.startswith("Version:") else line for line in lines]
    control.write_text("\n".join(lines) + "\n")
    await run("dpkg-deb", "--build", "--root-owner-group", str(tree), str(made))
    return made


async def install(package: Path) -> str:
    """Have apt install it as an operator does, be it newer or older."""
    command = ("apt-get", "--yes", "--no-install-recommends", "--allow-downgrades", "install")
    return await run(*command, str(package), env={"DEBIAN_FRONTEND": "noninteractive"})
