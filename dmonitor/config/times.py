"""Read durations and moments, as an operator writes them anywhere.

Each function raises ValueError, which says what would be right. Times of day are those of this
node's time zone. Hours of the week are read by `core/hours`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import datetime

_UNITS = {"m": 60, "min": 60, "h": 3600, "d": 86400}  # seconds
_PARTS = re.compile(r"(?:[1-9]\d{0,5} ?(?:min|m|h|d) ?)+")
_PART = re.compile(r"(\d+) ?(min|m|h|d)")
_CLOCK = re.compile(r"\d{1,2}:\d\d")


def read_duration(text: str) -> int:
    """Return the seconds of a duration such as `90min`, `6h` or `1h 30m`."""
    if not _PARTS.fullmatch(text):
        raise ValueError("not a time such as 30min, 6h, 1d or 1h30m")
    return sum(int(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def duration(shortest: str, longest: str) -> Callable[[str], int]:
    """Return a function that reads a duration within these limits, and returns seconds."""
    low, high = read_duration(shortest), read_duration(longest)

    def read(text: str) -> int:
        with contextlib.suppress(ValueError):
            seconds = read_duration(text)
            if low <= seconds <= high:
                return seconds
        raise ValueError(f"not a time from {shortest} to {longest}, such as 6h or 1h30m")

    return read


def read_moment(text: str, now: float) -> float:
    """Return when it is `text`, such as 18:00 or 2026-12-24T18:00, in seconds since the epoch.

    A time of day is the next one after `now`, which is in seconds since the epoch, too.
    """
    import datetime

    if not _CLOCK.fullmatch(text):
        return _next(datetime.datetime.fromisoformat(text), now)
    clock = datetime.time.fromisoformat(text.zfill(5))
    today = datetime.datetime.fromtimestamp(now).date()
    moment = _next(datetime.datetime.combine(today, clock), now)
    if moment <= now:
        moment = _next(datetime.datetime.combine(today + datetime.timedelta(days=1), clock), now)
    return moment


def _next(moment: datetime.datetime, now: float) -> float:
    """Return when it is `moment`: for the second time if that is twice and the first one is over.

    A local time comes twice when the clocks are set back.
    """
    first = moment.timestamp()
    if first > now:
        return first
    second = moment.replace(fold=1).timestamp()
    return second if second > now else first
