"""Other monitors from Debian's packages, unpacked into a directory: nothing is installed, configured or started here."""

from __future__ import annotations

import os
import re
from pathlib import Path

from frame import HERE, Failed, progress, run

CACHE = HERE / ".peers"


class Unpacked:
    """A package, with the libraries that it needs and that this machine lacks."""

    def __init__(self, package: str, scratch: Path) -> None:
        self.package, self.root = package, scratch / package
        self.root.mkdir()
        cache = _cache(scratch)
        for archive in [_fetch(name, cache) for name in (package, *_missing_libraries(package))]:
            if archive.name.startswith(f"{package}_"):
                self.version = run(["dpkg-deb", "-f", str(archive), "Version"]).strip()
            run(["dpkg", "-x", str(archive), str(self.root)])

    def file(self, pattern: str) -> Path:
        """Return the one file of the packages whose path matches `pattern`."""
        found = sorted(self.root.glob(pattern))
        if not found:
            raise Failed(f"{self.package} has no {pattern}")
        return found[0]

    def libraries(self) -> str:
        return ":".join(map(str, self.root.glob("usr/lib/*-linux-*")))


def loader(program: Path) -> str:
    """Return the dynamic loader that `program` asks for."""
    found = re.search(rb"/lib[\w/.-]*/ld[\w.-]*\.so[.\d]*\0", program.read_bytes()[:8192])
    if not found:
        raise Failed(f"{program.name} names no loader")
    return found[0][:-1].decode()


def _cache(scratch: Path) -> Path:
    """Return where packages are kept: next to this file, or in `scratch` if that is not writable."""
    try:
        CACHE.mkdir(exist_ok=True)
    except OSError:
        pass
    cache = CACHE if os.access(CACHE, os.W_OK) else scratch / "packages"
    cache.mkdir(exist_ok=True)
    return cache


def _missing_libraries(package: str) -> list[str]:
    """Return the libraries that apt would install with `package`."""
    command = ["apt-get", "install", "--simulate", "-qq", "--no-install-recommends", package]
    try:
        plan = run(command)
    except Failed:
        if os.geteuid():
            raise
        run(["apt-get", "update", "-qq"])  # a machine that has not looked yet
        plan = run(command)
    return [
        name for name in re.findall(r"^Inst (\S+)", plan, re.MULTILINE) if name.startswith("lib")
    ]


def _fetch(package: str, cache: Path) -> Path:
    """Return the archive of `package`, of the version that apt would take."""
    policy = run(["apt-cache", "policy", package])
    version = re.search(r"Candidate: (\S+)", policy)
    if not version:
        raise Failed(f"apt knows no {package}")
    pattern = f"{package}_{version[1].replace(':', '%3a')}_*.deb"
    if not list(cache.glob(pattern)):
        progress(f"fetching {package} {version[1]}")
        run(["apt-get", "download", "-qq", f"{package}={version[1]}"], cwd=cache)
    found = list(cache.glob(pattern))
    if not found:
        raise Failed(f"apt-get download did not bring {pattern}")
    return found[0]
