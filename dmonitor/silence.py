"""The verb `dmonitor silence`: touch the file of a silence, or remove it (rule R9).

What a file means is `config`'s; it is what an operator may touch himself.
"""

from __future__ import annotations

import datetime
import os
import re
import time
from collections.abc import Callable, Iterator

from dmonitor import config, log, names, report

_UNITS = {"m": 60, "min": 60, "h": 3600, "d": 86400}


class Refused(Exception):
    """What was asked for cannot be; the text says why."""


def say(directory: str, what: str, until: float | None) -> None:
    """Silence WHAT, a host or one test of it, until a time in seconds since the epoch, or until that is lifted."""
    host, name = _parts(what)
    of_host, path = f"{directory}/silence.d/{host}", f"{directory}/silence.d/{what}"
    os.umask(0o022)
    list(_remove(of_host, _has_ended))
    if os.path.isdir(path) or (name and os.path.isfile(of_host)):
        other = f"{host} is silenced as a whole already" if name else "tests of it are silenced already"
        raise Refused(f"{other}: `dmonitor silence {host} off` first")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "a", encoding="utf-8"):
        pass
    os.utime(path, None if until is None else (until, until))
    for problem in config.load(directory).problems:
        if problem.path == path:
            log.complain(str(problem))
    log.info("silenced", what=what, until=report.moment(until))


def lift(directory: str, what: str) -> list[str]:
    """End the silence of WHAT, and of all its tests; return the files that were removed."""
    _parts(what)
    removed = list(_remove(f"{directory}/silence.d/{what}", lambda _: True))
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
            at = datetime.datetime.combine(datetime.date.today(), datetime.time.fromisoformat(said.zfill(5)))
            at += datetime.timedelta(days=at.timestamp() <= now)
        else:
            at = datetime.datetime.fromisoformat(said)
        until = at.timestamp()
    except (ValueError, OverflowError):
        forms = "neither 2h, 30min or 1d, nor until 18:00 or 2026-12-24T18:00, nor off"
        raise Refused(f"'{names.printable(when)}' is {forms}") from None
    if not now < until < now + config.FAR:
        raise Refused(f"{said} is {'over' if until <= now else 'too far away'}")
    return until


def _parts(what: str) -> tuple[str, str]:
    """Return host and test that WHAT may name."""
    host, slash, name = what.partition("/")
    is_proper: Callable[[str], object] = names.is_node if host == names.NODE else names.is_test
    proper = names.is_subject(host) and (is_proper(name) if slash else True)
    if not proper or names.is_passed_over(host) or names.is_passed_over(name):
        raise Refused(f"'{names.printable(what)}' is neither HOST nor HOST/TEST")
    return host, name


def _remove(path: str, wanted: Callable[[str], bool]) -> Iterator[str]:
    """Remove the file of a silence, or those in a directory, that are WANTED away; yield each; no directory is left empty."""
    if os.path.isdir(path):
        for each in sorted(os.listdir(path)):
            yield from _remove(f"{path}/{each}", wanted)
    elif os.path.lexists(path) and wanted(path):
        os.unlink(path)
        yield path
        path = os.path.dirname(path)
    if os.path.basename(path) != "silence.d" and os.path.isdir(path) and not os.listdir(path):
        os.rmdir(path)


def _has_ended(path: str) -> bool:
    until = config.silent_until(os.stat(path)) if os.path.exists(path) else None
    return until is not None and until <= time.time()
