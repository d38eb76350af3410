"""How long looks take, in two files beside the database, which only rounds write.

The last look at each test is in the run directory, a tmpfs, because it changes in each round. The
line of a day is in the state directory, and is written once in five minutes. Either file is
replaced whole, so a reader never sees half of one. Nothing depends on them: a file that is lost or
odd, or a full disk, costs the line and no alert.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from dmonitor.base import log, regular
from dmonitor.core import codec
from dmonitor.core.durations import (
    SLOT,
    SLOTS,
    LastLooks,
    Look,
    Times,
    Trend,
    looked,
    slot_of,
    times,
)
from dmonitor.core.model import Result, Test

LAST_LOOKS = "last-looks"  # in the run directory
DURATIONS = "durations"  # in the state directory
_BYTES = 100_000_000  # that are read of either file; 1,000 tests take 1.2 MB
_UNIT = 0.0005  # seconds that are 1 in the line; 0 stands for no look that passed
_LARGEST = 65535  # of a number in the line: 32 seconds
_VERSION = 1
_Slot = Mapping[Test, Times]


class Ended(NamedTuple):
    """What is to go into the line: a slot that has ended."""

    slot: int
    times: _Slot


class _Line(NamedTuple):
    """What DURATIONS holds: numbers of _UNIT, first all medians of a test, then its maxima."""

    slot: int  # the last one in it
    numbers: Mapping[Test, tuple[int, ...]]


_NO_LINE = _Line(0, {})


# The last looks.


def keep(
    run_dir: str | None, results: Mapping[Test, Result], tests: Collection[Test], now: float
) -> Ended | None:
    """Keep the `results` of a round, and forget what is none of the `tests`.

    Return the slot before, if this round is the first one of another. A result that took no time is
    no look: the plugin was not started.
    """
    if not run_dir or not os.path.isdir(run_dir):
        return None
    slot = slot_of(now)
    before = _read_last(run_dir)
    known = {test: look for test, look in before.looks if test in tests}
    ended = None
    if before.slot != slot:
        ended = Ended(before.slot, _times_of(known)) if before.slot else None
        known = {test: look._replace(recent=()) for test, look in known.items()}
    for test, result in results.items():
        if result.duration > 0:
            known[test] = looked(known.get(test), result, now)
    kept = LastLooks(slot, tuple(known.items()))
    try:
        _replace(f"{run_dir}/{LAST_LOOKS}", codec.write(LastLooks, kept).encode(), sync=False)
    except OSError as error:
        log.warning("last-looks-not-kept", reason=str(error))
    return ended


def _times_of(looks: Mapping[Test, Look]) -> _Slot:
    found = {}
    for test, look in looks.items():
        of_test = times(look.recent)
        if of_test:
            found[test] = of_test
    return found


def _read_last(run_dir: str, ahead: float = 0.0) -> LastLooks:
    """Return the last looks, with `ahead` seconds added to their times; none if there is no file.

    A file that cannot be used is named in the log.
    """
    path = f"{run_dir}/{LAST_LOOKS}"
    try:
        kept: LastLooks = codec.read(
            LastLooks, _read(path), lambda at: at + ahead, limit=codec.TIME_LIMIT
        )
        return kept
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        log.warning("last-looks-unusable", path=path, reason=f"{error}; they begin anew")
    return LastLooks(0)


def last_looks(run_dir: str | None, ahead: float) -> dict[Test, Look]:
    """Return the last look at each test, with `ahead` seconds added to its time."""
    return dict(_read_last(run_dir, ahead).looks) if run_dir else {}


# The line.


def add(directory: str, ended: Ended, tests: Collection[Test], now: float) -> None:
    """Add the slot that has `ended` to the line, which is of the `tests` only.

    What cannot be read is replaced. Whatever goes wrong is logged, and costs the line only.
    """
    path = f"{directory}/{DURATIONS}"
    try:
        line = _read_line(path)
    except FileNotFoundError:
        line = _NO_LINE
    except (OSError, ValueError) as error:
        log.warning("durations-unusable", path=path, reason=f"{error}; the line begins anew")
        line = _NO_LINE
    last = slot_of(now) - 1
    if not last - SLOTS < ended.slot <= last:
        return  # it is older than the line, or the clock went back
    numbers = {}
    for test, known in _moved(line, last).items():
        if test in tests and any(known):
            numbers[test] = known
    index = ended.slot - last + SLOTS - 1
    for test, found in ended.times.items():
        of_test = list(numbers.get(test, _EMPTY))
        of_test[index], of_test[SLOTS + index] = _number(found.median), _number(found.longest)
        numbers[test] = tuple(of_test)
    try:
        _replace(path, _packed(_Line(last, numbers)), sync=True)
    except OSError as error:
        log.warning("durations-not-stored", reason=f"{error}; this costs only the line of a day")


_EMPTY = (0,) * (2 * SLOTS)


def trends(directory: str, now: float) -> dict[Test, Trend]:
    """Return the line of each test up to `now`; none of a file that cannot be used.

    The rounds say so in the log, and replace it.
    """
    try:
        line = _read_line(f"{directory}/{DURATIONS}")
    except (OSError, ValueError):
        return {}
    found = {}
    for test, numbers in _moved(line, slot_of(now) - 1).items():
        seconds = [number * _UNIT for number in numbers]
        found[test] = Trend(seconds[:SLOTS], seconds[SLOTS:])
    return found


def usual(directory: str, wanted: Collection[Test], now: float) -> dict[Test, float]:
    """Return how long a look at each of the `wanted` tests usually takes, in seconds."""
    found = {}
    for test, trend in trends(directory, now).items():
        seconds = trend.usual() if test in wanted else None
        if seconds is not None:
            found[test] = seconds
    return found


def _number(seconds: float) -> int:
    return min(max(1, round(seconds / _UNIT)), _LARGEST)


def _moved(line: _Line, last: int) -> dict[Test, tuple[int, ...]]:
    """Return the numbers of a line that ends with the slot `last`.

    If the clock went back, what is after that is left out.
    """
    by = last - line.slot
    return {test: _moved_by(numbers, by) for test, numbers in line.numbers.items()}


def _moved_by(numbers: Sequence[int], by: int) -> tuple[int, ...]:
    medians, longest = numbers[:SLOTS], numbers[SLOTS:]
    gap = (0,) * min(abs(by), SLOTS)
    if by >= 0:
        return (*medians[by:], *gap, *longest[by:], *gap)
    return (*gap, *medians[:by], *gap, *longest[:by])


def _packed(line: _Line) -> bytes:
    """Return the content of a file: a line of JSON, then two bytes for each number."""
    head = {"version": _VERSION, "slot": line.slot, "seconds": SLOT, "tests": list(line.numbers)}
    numbers = [number for of_test in line.numbers.values() for number in of_test]
    return json.dumps(head).encode() + b"\n" + struct.pack(f"<{len(numbers)}H", *numbers)


def _read_line(path: str) -> _Line:
    """Return what is in DURATIONS; raise OSError or ValueError if it cannot be used."""
    head, _, body = _read(path).partition(b"\n")
    facts = codec.parse(head)
    if not isinstance(facts, dict) or facts.get("version") != _VERSION:
        raise ValueError("it is not of this version")
    tests: tuple[Test, ...] = codec.load(tuple[tuple[str, str], ...], facts.get("tests"))
    slot: int = codec.load(int, facts.get("slot"))
    if len(body) != 4 * SLOTS * len(tests):
        raise ValueError("it is not whole")
    width = 2 * SLOTS
    every = struct.unpack(f"<{width * len(tests)}H", body)
    numbers = {}
    for index, names in enumerate(tests):
        numbers[Test(*names)] = every[width * index : width * (index + 1)]
    return _Line(slot, numbers)


# Files.


def _read(path: str) -> bytes:
    with open(regular.open_file(path), "rb") as file:
        return file.read(_BYTES)


def _replace(path: str, content: bytes, *, sync: bool) -> None:
    """Put a file with this content in the place of `path`; raise OSError, and leave no draft."""
    draft = f"{path}.new"
    try:
        with open(regular.create(draft), "wb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise
