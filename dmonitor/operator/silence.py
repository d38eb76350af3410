"""The verb `dmonitor silence`: touch the file of a silence, or remove it (rule R9).

An operator may touch or remove the same file himself. What a file means is decided in `config`.
"""

from __future__ import annotations

import contextlib
import os
import time

from dmonitor.base import log, names
from dmonitor.config.configuration import load_configuration
from dmonitor.config.silences import LONGEST_SILENCE, silent_until
from dmonitor.config.times import read_duration, read_moment
from dmonitor.operator import report


class Refused(Exception):
    """The request cannot be met; the text says why."""


def say(directory: str, subject: str, until: float | None) -> None:
    """Silence `subject`, a host or one test of it.

    `until` is in seconds since the epoch; None: until the silence is lifted. Raise Refused if
    there is no such directory, or if a wider or narrower silence is in the way.
    """
    host, name = _host_and_test(subject)
    host_path = _host_path(directory, host, name)
    path = f"{host_path}/{name}" if name else host_path
    if not os.path.isdir(directory):
        raise Refused(f"there is no directory {directory}")
    os.umask(0o022)
    _remove(host_path, only_ended=True)
    off = f"`dmonitor silence {host} off` first"
    if name and os.path.isfile(host_path):
        raise Refused(f"{host} is silenced as a whole already: {off}")
    if os.path.isdir(path):
        raise Refused(f"tests of {host} are silenced already: {off}")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.islink(path):
        os.unlink(path)  # its target is something else
    with open(path, "a", encoding="utf-8"):
        pass
    os.utime(path, None if until is None else (until, until))
    for problem in load_configuration(directory).problems:
        if problem.path == path:
            log.complain(str(problem))
    log.info("silenced", what=subject, until=report.moment(until))


def lift(directory: str, subject: str) -> list[str]:
    """End the silence of `subject`, and of all its tests; return the files that were removed."""
    host, name = _host_and_test(subject)
    host_path = _host_path(directory, host, name)
    path = f"{host_path}/{name}" if name else host_path
    removed = _remove(path)
    if removed:
        log.info("silence-removed", what=subject)
    return removed


def end(when: str) -> float:
    """Return the time that `when` names, `2h` or `until 18:00`, in seconds since the epoch."""
    now = time.time()
    text = when.removeprefix("until ").strip()
    try:
        if text == when:
            with contextlib.suppress(ValueError):
                return now + read_duration(when)
        until = read_moment(text, now)
    except (ValueError, OverflowError):
        forms = "neither 2h, 30min or 1d, nor until 18:00 or 2026-12-24T18:00, nor off"
        raise Refused(f"'{names.printable(when)}' is {forms}") from None
    if until <= now:
        raise Refused(f"{text} is over")
    if until >= now + LONGEST_SILENCE:
        raise Refused(f"{text} is too far away; the end must be less than 28 years away")
    return until


def _host_and_test(subject: str) -> tuple[str, str]:
    """Split `subject` into host and test, '' if it names no test; raise Refused."""
    host, slash, name = subject.partition("/")
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


def _has_ended(path: str) -> bool:
    """Return whether the silence of this file had an end, which is over."""
    if not os.path.isfile(path):
        return False
    until = silent_until(os.stat(path))
    return until is not None and until <= time.time()
