"""What is wrong in the files that an operator touches, and in which line of which file."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import NamedTuple

from dmonitor.base import log, names, user


class Severity(enum.Enum):
    """An ERROR is something that does not do what it was written for; a WARNING is only suspicious."""

    ERROR = "error"
    WARNING = "warning"


class Problem(NamedTuple):
    """One mistake of the operator's: where it is, and what is wrong with it."""

    severity: Severity
    path: str
    text: str
    line: int | None = None

    def __str__(self) -> str:
        place = names.printable(self.path) + (f":{self.line}" if self.line else "")
        return f"{self.severity.value}: {place}: {self.text}"


class Problems(list[Problem]):
    """What was found, in order."""

    unreadable = False

    def error(self, path: str, text: str, line: int | None = None) -> None:
        self.append(Problem(Severity.ERROR, path, text, line))

    def warning(self, path: str, text: str, line: int | None = None) -> None:
        self.append(Problem(Severity.WARNING, path, text, line))

    def failed(self, path: str, error: OSError) -> None:
        self.unreadable = True
        who = f" for user {user.name()}" if isinstance(error, PermissionError) else ""
        self.error(path, (error.strerror or str(error)) + who)


def log_problems(problems: Iterable[Problem]) -> None:
    """Have syslog say what is wrong."""
    for problem in problems:
        log.warning("misconfigured", path=problem.path, line=problem.line, reason=problem.text)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean X?" for the closest known word, or nothing."""
    import difflib

    close = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""


def quoted(name: str) -> str:
    return f"'{names.printable(name)}'"
