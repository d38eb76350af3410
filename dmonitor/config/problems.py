"""Collect and show what is wrong in the files that an operator touches.

A mistake is a value here, never an exception, so that one bad file costs no other its test or its
mail. The readers of the files add to Problems; the programs decide what to do with it.
"""

from __future__ import annotations

import enum
import errno
import os
from collections.abc import Iterable
from typing import NamedTuple

from dmonitor.base import log, names, user


class Severity(enum.Enum):
    """How bad a problem is."""

    ERROR = "error"  # something does not do what it was written for
    WARNING = "warning"  # something is only suspicious


class Problem(NamedTuple):
    """One mistake of the operator's."""

    severity: Severity
    path: str
    text: str  # what is wrong, and what to do about it
    line: int | None = None  # None if the mistake is not in one line

    def __str__(self) -> str:
        return f"{self.severity.value}: {self.statement}"

    @property
    def statement(self) -> str:
        """Where it is, and what is wrong there."""
        place = names.printable(self.path)
        if self.line:
            place += f":{self.line}"
        return f"{place}: {self.text}"


class Problems(list[Problem]):
    """The problems that were found, in this order."""

    def __init__(self, problems: Iterable[Problem] = ()) -> None:
        super().__init__(problems)
        # The paths that could not be read, or lead nowhere: tests, nodes or addresses may exist
        # there that were not found.
        self.unreadable: set[str] = set()

    def error(self, path: str, text: str, line: int | None = None) -> None:
        """Add an error in the file `path`."""
        self.append(Problem(Severity.ERROR, path, text, line))

    def warning(self, path: str, text: str, line: int | None = None) -> None:
        """Add a warning about the file `path`."""
        self.append(Problem(Severity.WARNING, path, text, line))

    def add_wrong_kind(self, path: str, text: str) -> None:
        """Add an error because `path` is not what it should be, or a link to nothing."""
        if os.path.islink(path) and not os.path.exists(path):
            text = f"is a dangling link to {names.printable(os.readlink(path))}; remove it"
        self.error(path, text)

    def add_unreadable(self, path: str, error: OSError) -> None:
        """Add an error because `path` cannot be read."""
        self.unreadable.add(path)
        text = error.strerror or str(error)
        if isinstance(error, FileNotFoundError) and os.path.islink(path):
            text = f"is a dangling link to {names.printable(os.readlink(path))}"
        elif error.errno == errno.EACCES:  # EPERM would be so for every user
            text += f" for user {user.name()}"
        self.error(path, text)


def errors(problems: Iterable[Problem]) -> tuple[str, ...]:
    """Return the statements of those of `problems` that are more than warnings."""
    return tuple(each.statement for each in problems if each.severity is Severity.ERROR)


def log_problems(problems: Iterable[Problem]) -> None:
    """Log each of `problems` as a warning."""
    for problem in problems:
        log.warning("misconfigured", path=problem.path, line=problem.line, reason=problem.text)


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """Return "; did you mean X?" for the closest of `candidates`, or "" if none is like `word`."""
    import difflib

    matches = difflib.get_close_matches(word, list(candidates), 1)
    if not matches:
        return ""
    return f"; did you mean {matches[0]}?"


def quoted(name: str) -> str:
    """Return `name` in quotes, safe to show."""
    return f"'{names.printable(name)}'"
