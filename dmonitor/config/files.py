"""Read the lines of a configuration file and the entries of a configuration directory.

What cannot be read becomes a problem. The meaning of lines and entries is known to the modules of
the files.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from dmonitor.base import names
from dmonitor.config.problems import Problems, quoted

FILE_LIMIT = 1_000_000  # bytes of a configuration file that are read


def read_lines(path: str, problems: Problems, *, optional: bool = False) -> list[str]:
    """Return the lines of the text file `path`; none, and a problem, if it cannot be read.

    An `optional` file may be absent.
    """
    try:
        # Unbuffered and binary: most files are empty, and a text file takes three times as long to
        # open.
        with open(path, "rb", buffering=0) as file:
            content = file.read(FILE_LIMIT)
    except OSError as error:
        if not (optional and is_absent(path, error)):
            problems.add_unreadable(path, error)
        return []
    return content.decode("utf-8", "replace").splitlines()


def is_absent(path: str, error: OSError) -> bool:
    """Return whether `error` says that nothing is at `path`, not even a link that leads nowhere.

    Who made such a link wanted a file to be read, so its defaults must not stand in for it.
    """
    return isinstance(error, FileNotFoundError) and not os.path.islink(path)


class Line(NamedTuple):
    """A line of a configuration file that says something."""

    number: int  # from 1
    text: str  # without surrounding space


def read_statements(
    path: str, problems: Problems, *, comment_marks: str = "#", optional: bool = False
) -> Iterator[Line]:
    """Yield the lines of `path` that are neither empty nor a comment.

    A comment begins with one of the characters in `comment_marks`.
    """
    for number, line in enumerate(read_lines(path, problems, optional=optional), 1):
        text = line.strip()
        if text and text[0] not in comment_marks:
            yield Line(number, text)


def read_head(path: str, problems: Problems, mark: str) -> Iterator[Line]:
    """Yield what stands after `mark` in the comments at the head of the program `path`.

    The head ends with the first line that is neither empty nor a comment. A program that is no text
    has none.
    """
    for number, line in enumerate(read_lines(path, problems), 1):
        text = line.strip()
        if text and not text.startswith("#"):
            return
        if text.startswith(mark):
            yield Line(number, text.removeprefix(mark).strip())


class Assignment(NamedTuple):
    """A line KEY=VALUE, or a line that should have been one."""

    number: int  # of the line, from 1
    text: str  # the whole line
    key: str
    value: str | None  # None if there is no equals sign


def assignment_of(line: Line) -> Assignment:
    """Return `line` as KEY=VALUE, without space around the equals sign."""
    key, equals_sign, value = line.text.partition("=")
    if equals_sign:
        return Assignment(line.number, line.text, key.strip(), value.strip())
    return Assignment(line.number, line.text, line.text, None)


def read_assignments(
    path: str, problems: Problems, *, comment_marks: str = "#", optional: bool = False
) -> Iterator[Assignment]:
    """Yield the lines of `path` that are neither empty nor a comment, as KEY=VALUE."""
    lines = read_statements(path, problems, comment_marks=comment_marks, optional=optional)
    return map(assignment_of, lines)


class Entry(NamedTuple):
    """An entry of a directory."""

    name: str
    path: str
    mode: int  # as in os.stat, links followed; only the type for a directory; 0 for a dangling link
    size: int = 0  # bytes of a file

    def is_file(self) -> bool:
        """Return whether this is a file, or a link to one."""
        return stat.S_ISREG(self.mode)

    def is_directory(self) -> bool:
        """Return whether this is a directory, or a link to one."""
        return stat.S_ISDIR(self.mode)

    def is_dangling(self) -> bool:
        """Return whether this is a link to a file that does not exist."""
        return self.mode == 0


def scan_directory(
    directory: str,
    problems: Problems,
    is_allowed: Callable[[str], bool],
    allowed: str,
    *,
    optional: bool = False,
) -> Iterator[Entry]:
    """Yield the entries of `directory` by name, without files that an editor left behind.

    A name that is not allowed is a problem: it is not `allowed`, such as "a host name". An entry or
    a directory that cannot be read is one, too. An `optional` directory may be absent.
    """
    for item in _list_directory(directory, problems, optional):
        if is_allowed(item.name):
            entry = _examine(item, problems)
            if entry is not None:
                yield entry
        else:
            problems.error(item.path, f"{quoted(item.name)} is not {allowed}")


def _list_directory(directory: str, problems: Problems, optional: bool) -> list[os.DirEntry[str]]:
    items = []
    try:
        with os.scandir(directory) as iterator:
            for item in iterator:
                if not names.is_ignored_file(item.name):
                    items.append(item)
    except OSError as error:
        if not (optional and is_absent(directory, error)):
            problems.add_unreadable(directory, error)
        return []
    items.sort(key=lambda item: item.name)
    return items


def _examine(item: os.DirEntry[str], problems: Problems) -> Entry | None:
    """Return the entry for `item`; None if it was removed meanwhile or cannot be read."""
    try:
        if item.is_dir(follow_symlinks=False):  # the listing knows this without a system call
            return Entry(item.name, item.path, stat.S_IFDIR)
    except OSError as error:
        problems.add_unreadable(item.path, error)
        return None
    return examine(item.path, problems)


def examine(path: str, problems: Problems) -> Entry | None:
    """Return the entry at `path`; None if there is none, or if it cannot be read."""
    name = os.path.basename(path)
    try:
        status = os.stat(path)
    except FileNotFoundError:
        if os.path.lexists(path):
            return Entry(name, path, mode=0)
        return None
    except OSError as error:
        problems.add_unreadable(path, error)
        return None
    return Entry(name, path, status.st_mode, status.st_size)
