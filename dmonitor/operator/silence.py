"""The verb `dmonitor silence`: touch the file of a silence, or remove it (rule R9).

What a file means is `config`'s; it is what an operator may touch himself.
"""

from __future__ import annotations

import datetime
import os
import re
import time
from collections.abc import Callable, Iterator

from dmonitor.base import log, names
from dmonitor.config.configuration import load_configuration
from dmonitor.config.silences import LONGEST_SILENCE, silent_until
from dmonitor.operator import report

_UNITS = {"m": 60, "min": 60, "h": 3600, "d": 86400}


class Refused(Exception):
    """What was asked for cannot be; the text says why."""


def say(directory: str, what: str, until: float | None) -> None:
    """Silence WHAT, a host or one test of it, until a time in seconds since the epoch, or until that is lifted."""
    host, name = _parts(what)
    of_host, path = _paths(directory, host, what)
    if not os.path.isdir(directory):
        raise Refused(f"there is no directory {directory}")
    os.umask(0o022)
    list(_remove(of_host, _has_ended))
    if os.path.isdir(path) or (name and os.path.isfile(of_host)):
        other = (
            f"{host} is silenced as a whole already" if name else "tests of it are silenced already"
        )
        raise Refused(f"{other}: `dmonitor silence {host} off` first")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.islink(path):
        os.unlink(path)  # what it leads to is something else
    with open(path, "a", encoding="utf-8"):
        pass
    os.utime(path, None if until is None else (until, until))
    for problem in load_configuration(directory).problems:
        if problem.path == path:
            log.complain(str(problem))
    log.info("silenced", what=what, until=report.moment(until))


def lift(directory: str, what: str) -> list[str]:
    """End the silence of WHAT, and of all its tests; return the files that were removed."""
    _, path = _paths(directory, _parts(what)[0], what)
    removed = list(_remove(path, lambda _: True))
    if removed:
        log.info("silence-removed", what=what)
    return removed


def end(when: str) -> float:
    """Return the time that WHEN says, `2h` or `until 18:00`, in seconds since the epoch."""
    now = time.time()
    if match := re.fullmatch(r"([1-9]\d{0,3})\s*(min|m|h|d)", when):
        return now + int(match[1]) * _UNITS[match[2]]
    said = when.removeprefix("until ").strip()
    try:
        if re.fullmatch(r"\d{1,2}:\d\d", said):
            at = datetime.datetime.combine(
                datetime.date.today(), datetime.time.fromisoformat(said.zfill(5))
            )
            at += datetime.timedelta(days=at.timestamp() <= now)
        else:
            at = datetime.datetime.fromisoformat(said)
        until = at.timestamp()
    except (ValueError, OverflowError):
        forms = "neither 2h, 30min or 1d, nor until 18:00 or 2026-12-24T18:00, nor off"
        raise Refused(f"'{names.printable(when)}' is {forms}") from None
    if not now < until < now + LONGEST_SILENCE:
        raise Refused(f"{said} is {'over' if until <= now else 'too far away'}")
    return until


def _parts(what: str) -> tuple[str, str]:
    """Return host and test that WHAT may name."""
    host, slash, name = what.partition("/")
    is_proper: Callable[[str], object] = names.is_node if host == names.NODE else names.is_test
    proper = names.is_subject(host) and (is_proper(name) if slash else True)
    if not proper or names.is_ignored_file(host) or names.is_ignored_file(name):
        raise Refused(f"'{names.printable(what)}' is neither HOST nor HOST/TEST")
    return host, name


def _paths(directory: str, host: str, what: str) -> tuple[str, str]:
    """Return where silences of HOST are, and that of WHAT, which is HOST or one of its tests."""
    of_host, path = f"{directory}/silence.d/{host}", f"{directory}/silence.d/{what}"
    if path != of_host and os.path.islink(of_host):
        raise Refused(
            f"{of_host} is a link: `dmonitor silence {host} off` removes it, and leaves what it leads to"
        )
    return of_host, path


def _remove(path: str, wanted: Callable[[str], bool]) -> Iterator[str]:
    """Remove the file of a silence, or those in the directory of a host, that are WANTED away; yield each.

    A link is removed for itself; no directory is left empty.
    """
    whole = _is_directory(path)
    place = path if whole else os.path.dirname(path)
    for file in [f"{path}/{each}" for each in sorted(os.listdir(path))] if whole else [path]:
        if os.path.lexists(file) and not _is_directory(file) and wanted(file):
            os.unlink(file)
            yield file
    if os.path.basename(place) != "silence.d" and _is_directory(place) and not os.listdir(place):
        os.rmdir(place)


def _is_directory(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def _has_ended(path: str) -> bool:
    until = silent_until(os.stat(path)) if os.path.isfile(path) else None
    return until is not None and until <= time.time()
