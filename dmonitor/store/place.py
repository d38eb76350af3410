"""When in the minute this node's rounds begin, so that its peers look at other times (rule R10).

A round leaves it for the next one, in a file of its own: what waits has loaded nothing yet. If the
file is lost or odd, the round begins at once, which costs only seconds.
"""

from __future__ import annotations

import contextlib
import os

from dmonitor.base import regular

_NAME = "place"
_LONGEST = 59.9  # seconds
# Seconds by which rounds begin later than the one before, at most. A node counts as living for a
# minute more than its interval after its last round, and a round may take 55 s (R5, R10). If it
# began much later than usual, another node would speak while it hands over.
_STEP = 5.0


def read(directory: str) -> float:
    """Return the seconds after cron's start at which a round begins."""
    with contextlib.suppress(OSError, ValueError):
        with open(regular.open_file(f"{directory}/{_NAME}"), "rb") as file:
            seconds = float(file.read(16))
        if 0.0 <= seconds <= _LONGEST:
            return seconds
    return 0.0


def follow(last: float, seconds: float) -> float:
    """Return the place of the round after one at the place `last`, on the way to `seconds`."""
    return min(seconds, last + _STEP)


def write(directory: str, seconds: float) -> float:
    """Leave the place for the next round, on the way to `seconds`; return it.

    A full disk raises nothing.
    """
    last = read(directory)
    seconds = follow(last, seconds)
    if seconds == last:
        return last
    path = f"{directory}/{_NAME}"
    with contextlib.suppress(OSError):
        with open(regular.create(f"{path}.new"), "w") as file:
            file.write(f"{seconds:g}\n")
        os.replace(f"{path}.new", path)
    return read(directory)
