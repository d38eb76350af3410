"""The verb `dmonitor silence`: write the file of a silence, or remove it (rule R9).

An operator may write or remove the same file himself. What a file means is decided in `config`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from typing import NamedTuple

from dmonitor.base import log, names, user
from dmonitor.config.configuration import load_configuration
from dmonitor.config.files import read_statements
from dmonitor.config.problems import Problems
from dmonitor.config.silences import LONGEST_SILENCE, read_file, read_term
from dmonitor.config.tests import FOR_ALL
from dmonitor.config.times import read_duration, read_end
from dmonitor.operator import publish, report

_READ_AFTER = 600.0  # seconds after which a round has read a new file


class Refused(Exception):
    """The request cannot be met; the text says why."""


def say(directory: str, subject: str, line: str) -> None:
    """Silence `subject`, a host or one test of it, as `line` says; if it is empty, until lifted.

    A new end takes the place of the last one. All other lines are added to those that are there.
    Raise Refused if there is no such directory, or if a wider silence is in the way.
    """
    host, name = _host_and_test(subject)
    host_path = _host_path(directory, host, name)
    if not os.path.isdir(directory):
        raise Refused(f"there is no directory {directory}")
    os.umask(0o022)  # the rounds, which are not root's, read it
    _remove(host_path, only_ended=True)
    path = f"{host_path}/{name}" if name else host_path
    if not name and _is_directory(host_path):
        path = f"{host_path}/{FOR_ALL}"  # its tests have files there, which stay
    off = f"`dmonitor silence {host} off` first"
    if name and os.path.isfile(host_path):
        file = read_file(host_path, host, "", os.stat(host_path), Problems())
        if not file.only_acknowledges:
            raise Refused(f"{host} is silenced as a whole already: {off}")
        _make_directory(host_path)
    if os.path.isdir(path):
        raise Refused(f"{path} is a directory, and no file of a silence; remove it")
    if line and not _is_end(line) and os.path.isfile(path) and not os.path.getsize(path):
        raise Refused(f"{subject} is silenced until that is lifted: {off}")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    lines = [*_staying(path, line), line] if line else []
    publish.replace(path, "".join(f"{each}\n" for each in dict.fromkeys(lines)).encode())
    for problem in load_configuration(directory).problems:
        if problem.path == path:
            log.complain(str(problem))
    log.info("silenced", what=subject, line=line or None)


def _staying(path: str, new: str) -> list[str]:
    """Return the lines of the file at `path`, if it is there, that stay beside a `new` one.

    What is silenced until a time ends only by another such time: neither hours of each week nor an
    acknowledgement say that somebody is to be mailed before.
    """
    lines = read_statements(path, Problems(), optional=True)
    is_new_end = _is_end(new)
    staying = []
    for line in lines:
        if line.text.split()[0] == "every" or (_is_end(line.text) and not is_new_end):
            staying.append(line.text)
    return staying


def _is_end(text: str) -> bool:
    """Return whether a line names the time at which a silence ends."""
    word, *rest = text.split()
    return word == "until" and rest[:1] != ["up"]


def acknowledgement(node: str, words: Sequence[str]) -> str:
    """Return the line that says that somebody is on what is DOWN: who, on which node, and why."""
    who = os.environ.get("SUDO_USER") or user.name()
    line = f"until up by {who} on {node}"
    if text := " ".join(" ".join(words).split()):
        line += f": {text}"
    return names.escaped(line)


def lift(directory: str, subject: str) -> list[str]:
    """End the silence of `subject`, and of all its tests; return the files that were removed."""
    host, name = _host_and_test(subject)
    host_path = _host_path(directory, host, name)
    path = f"{host_path}/{name}" if name else host_path
    removed = _remove(path)
    if removed:
        log.info("silence-removed", what=subject)
    return removed


class Order(NamedTuple):
    """What an operator orders."""

    line: str  # for the silence's file; "": it lasts until it is lifted
    until: float | None = None  # when that ends, in seconds since the epoch; None: not then


def order(words: Sequence[str]) -> Order:
    """Return what `words` order, such as `2h moving`, `until 18:00` or `every sun 03:00-04:00`."""
    text = " ".join(words)
    words = text.removeprefix("for ").split()
    if not words:
        return Order("")
    if words[0] == "every" or words[:2] == ["until", "up"]:
        line = names.escaped(" ".join(words))
        try:
            read_term(line)
        except ValueError as error:
            raise Refused(str(error)) from None
        return Order(line)
    until, reason = _end(words, text)
    line = f"until {report.moment(until)} {names.escaped(' '.join(reason))}"
    return Order(line.strip(), until)


def _end(words: Sequence[str], text: str) -> tuple[float, Sequence[str]]:
    """Return the time that `words` begin with, in seconds since the epoch, and what follows it."""
    now = time.time()
    if words[0] != "until":
        for count in range(len(words), 0, -1):
            with contextlib.suppress(ValueError):
                return now + read_duration(" ".join(words[:count])), words[count:]
    else:
        words = words[1:]
    moment = "".join(words[:1])
    try:
        until, rest = read_end(words, now)
    except (ValueError, OverflowError):
        forms = (
            "neither 2h, 30min or 1h30m, nor until 18:00 or 2026-12-24T18:00, nor every sun"
            " 03:00-04:00, nor off"
        )
        raise Refused(f"'{names.printable(text)}' is {forms}") from None
    if until <= now:
        raise Refused(f"{moment} is over")
    if until >= now + LONGEST_SILENCE:
        raise Refused(f"{moment} is too far away; the end must be less than 28 years away")
    return until, rest


def _host_and_test(subject: str) -> tuple[str, str]:
    """Split `subject` into host and test, '' if it names no test; raise Refused."""
    host, slash, name = subject.removesuffix("/").partition("/")
    proper = names.is_subject(host) and not names.is_ignored_file(host)
    if slash:
        is_proper_name = names.is_node if host == names.NODE else names.is_test
        proper = proper and bool(is_proper_name(name)) and not names.is_ignored_file(name)
    if not proper:
        raise Refused(f"'{names.printable(subject)}' is neither HOST nor HOST/TEST")
    return host, name


def _host_path(directory: str, host: str, name: str) -> str:
    """Return the path of a host's silences; raise Refused if a test of it lies behind a link."""
    path = f"{directory}/silence.d/{host}"
    if name and os.path.islink(path):
        raise Refused(
            f"{path} is a link: `dmonitor silence {host} off` removes it, and leaves its target"
        )
    return path


def _remove(path: str, *, only_ended: bool = False) -> list[str]:
    """Remove the file of a silence, or all files in the directory of a host; return their paths.

    A link is removed for itself. A directory that is empty afterwards is removed too.
    """
    files = [path]
    directory = os.path.dirname(path)
    if _is_directory(path):
        files = [f"{path}/{name}" for name in sorted(os.listdir(path))]
        directory = path
    removed = []
    for file in files:
        if not os.path.lexists(file) or _is_directory(file):
            continue
        if only_ended and not _has_ended(file):
            continue
        os.unlink(file)
        removed.append(file)
    is_host = os.path.basename(directory) != "silence.d"
    if is_host and _is_directory(directory) and not os.listdir(directory):
        os.rmdir(directory)
    return removed


def _is_directory(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def _make_directory(host_path: str) -> None:
    """Turn the file of a host into a directory that holds it, so that tests may have theirs."""
    directory, host = os.path.split(host_path)
    draft = f"{directory}/.{host}"
    os.rename(host_path, draft)
    os.mkdir(host_path)
    os.rename(draft, f"{host_path}/{FOR_ALL}")


def _has_ended(path: str) -> bool:
    """Return whether the silence of this file had an end, which is over.

    So has an acknowledgement that a round has read long ago: the incident has it.
    """
    if not os.path.isfile(path):
        return False
    file = read_file(path, "", "", os.stat(path), Problems())
    if file.only_acknowledges:
        return file.written < time.time() - _READ_AFTER
    end = file.last_end()
    return end is not None and end <= time.time()
