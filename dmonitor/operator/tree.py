"""The files of a configuration as values: read from a tar, compared, and written to a tar.

Here is decided which of them are the same on all nodes, and what becomes of a node's own settings.
"""

from __future__ import annotations

import io
import os
import posixpath
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from dmonitor.base import names
from dmonitor.config.settings import PER_NODE
from dmonitor.config.tests import FOR_ALL

NODES = "nodes.txt"
HOSTS = "hosts.d"
ADDRESSES = "alert.d"
SETTINGS = "dmonitor.conf"
_SIZE_LIMIT = 100_000_000  # bytes of a tar that are read
_LINKS_FOLLOWED = 10  # in a row


class Entry(NamedTuple):
    """A file or a link; a directory is there if something is in it."""

    content: bytes = b""
    mode: int = 0o644  # permissions
    group: str = "root"
    target: str | None = None  # where it leads to; None: it is a file

    def is_like(self, other: Entry) -> bool:
        """Return whether both hold the same, for the same readers."""
        if self.target is not None or other.target is not None:
            return self.target == other.target
        is_for_all = bool(self.mode & other.mode & 0o004)
        has_same_readers = self.mode == other.mode and (is_for_all or self.group == other.group)
        return self.content == other.content and has_same_readers


Tree = Mapping[str, Entry]  # by the path below the directory of the configuration


class Difference(NamedTuple):
    """How one path is on another node, and how it is to be there."""

    path: str
    theirs: Entry | None  # None: it is not there
    ours: Entry | None  # None: it is to be removed

    @property
    def word(self) -> str:
        """What is to be done there."""
        if self.theirs is None:
            return "new"
        return "removed" if self.ours is None else "changed"


def read(content: bytes) -> dict[str, Entry]:
    """Return the files and links in a tar; raise tarfile.TarError if it is none."""
    tree: dict[str, Entry] = {}
    if not content:
        return tree
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
        for member in tar:
            path = posixpath.normpath(member.name)
            mode = member.mode & 0o777
            if member.issym():
                tree[path] = Entry(target=member.linkname)
            elif member.isfile() or member.islnk():
                file = tar.extractfile(member)
                if file is not None:
                    tree[path] = Entry(file.read(_SIZE_LIMIT), mode, member.gname)
    return tree


def read_directory(directory: str, paths: Iterable[str]) -> dict[str, Entry]:
    """Return the files and links at `paths` below `directory`; raise OSError."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in paths:
            if os.path.lexists(f"{directory}/{path}"):
                tar.add(f"{directory}/{path}", path)
    return read(buffer.getvalue())


def write(tree: Tree) -> bytes:
    """Return a tar with the files and links of `tree`, which belong to root."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, entry in tree.items():
            member = tarfile.TarInfo(path)
            member.uname = "root"
            member.gname = entry.group
            member.mode = entry.mode
            member.size = len(entry.content)
            if entry.target is not None:
                member.type = tarfile.SYMTYPE
                member.linkname = entry.target
            tar.addfile(member, io.BytesIO(entry.content))
    return buffer.getvalue()


# What is the same on all nodes.


def common(tree: Tree, directory: str) -> dict[str, Entry]:
    """Return what of `tree`, the configuration in `directory`, is to be the same on all nodes.

    These are the nodes, the tests and the addresses, and what in hosts.d and alert.d a link among
    them leads to.
    """
    chosen: dict[str, Entry] = {}
    for path, entry in tree.items():
        if _is_common(path):
            chosen[path] = entry
            for other in _led_to(tree, path, directory):
                chosen[other] = tree[other]
    return dict(sorted(chosen.items()))


def _is_common(path: str) -> bool:
    """Return whether a program reads what is at `path`, and on all nodes the same."""
    top, *parts = path.split("/")
    if any(map(_is_left_over, parts)):
        return False
    match [top, *parts]:
        case ["nodes.txt"]:
            return True
        case ["alert.d", name]:
            return names.is_address(name)
        case ["hosts.d", host]:  # a link, because a directory is no entry
            return names.is_host(host)
        case ["hosts.d", host, name]:
            return names.is_host(host) and (names.is_test(name) or name == FOR_ALL)
    return False


def _led_to(tree: Tree, path: str, directory: str) -> Iterator[str]:
    """Yield each path in `tree` that the entry at `path` leads to, if it is a link."""
    for _ in range(_LINKS_FOLLOWED):
        entry = tree.get(path)
        if entry is None or entry.target is None:
            return
        absolute = posixpath.join(directory, posixpath.dirname(path), entry.target)
        path = posixpath.relpath(posixpath.normpath(absolute), directory)
        if not path.startswith((f"{HOSTS}/", f"{ADDRESSES}/")):
            return
        if path in tree and path.isprintable():
            yield path
        for other in tree:
            name = posixpath.basename(other)
            is_below = other.startswith(f"{path}/") and other.isprintable()
            if is_below and not _is_left_over(name):
                yield other


def _is_left_over(name: str) -> bool:
    """Return whether a file of this name in the directory of a host is passed over."""
    return names.is_ignored_file(name) and name != FOR_ALL


# How they differ.


def differences(ours: Tree, theirs: Tree, directory: str) -> list[Difference]:
    """Return where their configuration is to be like ours and is not, by path."""
    wanted = common(ours, directory)
    there = common(theirs, directory)
    found = []
    for path in sorted({*wanted, *there}):
        mine = wanted.get(path)
        other = there.get(path) if mine is None else theirs.get(path)
        if mine is None or other is None or not mine.is_like(other):
            found.append(Difference(path, other, mine))
    settings = _difference_of_settings(ours.get(SETTINGS), theirs.get(SETTINGS))
    if settings is not None:
        found.append(settings)
    return found


def _difference_of_settings(ours: Entry | None, theirs: Entry | None) -> Difference | None:
    """Return how dmonitor.conf is to be changed there; None if all nodes' settings are alike.

    A node keeps the settings that are its own. Comments alone are no difference. A link is left to
    the operator who made it.
    """
    if any(entry is not None and entry.target is not None for entry in (ours, theirs)):
        return None
    our_lines = _lines(ours)
    their_lines = _lines(theirs)
    if _meaning(our_lines) == _meaning(their_lines):
        return None
    lines = [line for line in our_lines if _key(line) not in PER_NODE]
    lines += [line for line in their_lines if _key(line) in PER_NODE]
    text = "".join(f"{line}\n" for line in lines)
    like = ours or theirs or Entry()
    return Difference(SETTINGS, theirs, like._replace(content=text.encode("utf-8", "replace")))


def _lines(entry: Entry | None) -> list[str]:
    if entry is None:
        return []
    return entry.content.decode("utf-8", "replace").splitlines()


def _key(line: str) -> str:
    """Return the key of a line of dmonitor.conf; '' if it has none."""
    text = line.strip()
    if text.startswith(("#", ";")) or "=" not in text:
        return ""
    return text.partition("=")[0].strip()


def _meaning(lines: Iterable[str]) -> dict[str, str]:
    """Return the settings in `lines` that are the same on all nodes."""
    settings = {}
    for line in lines:
        key = _key(line)
        if key and key not in PER_NODE:
            settings[key] = line.partition("=")[2].strip()
    return settings
