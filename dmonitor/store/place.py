"""When in the minute this node's rounds begin, so that its peers look at other times (rule R10).

A round leaves it for the next one, in a file of its own: what waits has loaded nothing yet. If the
file is lost or odd, the round begins at once, which costs only seconds.
"""

from __future__ import annotations

import contextlib
import os

_NAME = "place"
_LONGEST = 59.9  # seconds


def read(directory: str) -> float:
    """Return the seconds after cron's start at which a round begins."""
    with contextlib.suppress(OSError, ValueError), open(f"{directory}/{_NAME}", "rb") as file:
        seconds = float(file.read(16))
        if 0.0 <= seconds <= _LONGEST:
            return seconds
    return 0.0


def write(directory: str, seconds: float) -> None:
    """Leave the place for the next round, if it is another one. A full disk raises nothing."""
    if seconds == read(directory):
        return
    path = f"{directory}/{_NAME}"
    with contextlib.suppress(OSError):
        with open(f"{path}.new", "w") as file:
            file.write(f"{seconds:g}\n")
        os.replace(f"{path}.new", path)
