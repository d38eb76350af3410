"""Read the lines of a file and the entries of a directory; what cannot be read is a problem."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from dmonitor.base import names
from dmonitor.config.problems import Problems, quoted

FILE_LIMIT = 1_000_000  # bytes of a configuration file that are read


def read_lines(path: str, problems: Problems, *, optional: bool = False) -> list[str]:
    """Return the lines of a text file; one that is unreadable, or absent and not OPTIONAL, is a problem, and has none."""
    try:
        with open(
            path, "rb", buffering=0
        ) as file:  # most are empty, and a text file takes three times as long to open
            return file.read(FILE_LIMIT).decode("utf-8", "replace").splitlines()
    except OSError as error:
        if not (optional and isinstance(error, FileNotFoundError)):
            problems.failed(path, error)
        return []


class Entry(NamedTuple):
    """What is in a directory: its name and path, its mode, links followed, and the size of a file in bytes.

    Of a dangling link the mode is 0, of a directory it has the type alone.
    """

    name: str
    path: str
    mode: int
    size: int = 0


def scan_directory(
    directory: str,
    problems: Problems,
    is_proper: Callable[[str], object],
    what: str,
    *,
    optional: bool = False,
) -> Iterator[Entry]:
    """Yield what is in DIRECTORY and counts, in order.

    A name that is not IS_PROPER is a problem, for it is not WHAT; so is what cannot be looked at, and a directory that is absent
    and not OPTIONAL.
    """
    listed: list[os.DirEntry[str]] = []
    try:
        with os.scandir(directory) as found:
            listed = sorted(
                (each for each in found if not names.is_ignored_file(each.name)),
                key=lambda each: each.name,
            )
    except OSError as error:
        if not (optional and isinstance(error, FileNotFoundError)):
            problems.failed(directory, error)
    for each in listed:
        try:
            if not is_proper(each.name):
                problems.error(each.path, f"{quoted(each.name)} is not {what}")
            elif each.is_dir(follow_symlinks=False):  # known without another look
                yield Entry(each.name, each.path, stat.S_IFDIR)
            else:
                status = os.stat(each.path)
                yield Entry(each.name, each.path, status.st_mode, status.st_size)
        except FileNotFoundError:
            if os.path.lexists(each.path):
                yield Entry(each.name, each.path, 0)
        except OSError as error:
            problems.failed(each.path, error)
