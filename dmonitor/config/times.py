"""Read durations and moments, as an operator writes them anywhere.

Each function raises ValueError, which says what would be right. Times of day are those of this
node's time zone. Hours of the week are read by `core/hours`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dmonitor.base.names import printable

if TYPE_CHECKING:
    import datetime

_UNITS = {"m": 60, "min": 60, "h": 3600, "d": 86400}  # seconds
_PARTS = re.compile(r"(?:[1-9]\d{0,5} ?(?:min|m|h|d) ?)+")
_PART = re.compile(r"(\d+) ?(min|m|h|d)")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_CLOCK = re.compile(r"\d{1,2}:\d\d(?::\d\d)?")
_EARLY = re.compile(r"(?<=T)\d:")  # an hour of one digit, after a date


def read_duration(text: str) -> int:
    """Return the seconds of a duration such as `90min`, `6h` or `1h 30m`."""
    if not _PARTS.fullmatch(text):
        raise ValueError(f"'{printable(text)}' is no duration; {_nearest(text)}")
    return sum(int(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def _nearest(text: str) -> str:
    """Return what to write in place of `text`, which is no duration."""
    for guess in (f"{text}m", text.lstrip("-")):
        if _PARTS.fullmatch(guess):
            return f"did you mean {guess}? Write 30min, 6h, 1d or 1h30m"
    return "write 30min, 6h, 1d or 1h30m"


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

    if not is_clock(text):
        text = _EARLY.sub(lambda hour: f"0{hour[0]}", text)
        return _next(datetime.datetime.fromisoformat(text), now)
    clock = datetime.time.fromisoformat(text if text[2] == ":" else f"0{text}")
    today = datetime.datetime.fromtimestamp(now).date()
    moment = _next(datetime.datetime.combine(today, clock), now)
    if moment <= now:
        moment = _next(datetime.datetime.combine(today + datetime.timedelta(days=1), clock), now)
    return moment


def read_end(words: Sequence[str], now: float) -> tuple[float, Sequence[str]]:
    """Return when it is what `words` begin with, in seconds since the epoch, and what follows.

    A date and a time of day are one word, with a T between, or two.
    """
    moment, rest = "".join(words[:1]), words[1:]
    if rest and _DAY.fullmatch(moment) and _CLOCK.fullmatch(rest[0]):
        moment, rest = f"{moment}T{rest[0]}", rest[1:]
    return read_moment(moment, now), rest


def is_clock(word: str) -> bool:
    """Return whether `word` looks like a time of day, and names no date."""
    return _CLOCK.fullmatch(word) is not None


def _next(moment: datetime.datetime, now: float) -> float:
    """Return when it is `moment`: for the second time if that is twice and the first one is over.

    A local time comes twice when the clocks are set back.
    """
    first = moment.timestamp()
    if first > now:
        return first
    second = moment.replace(fold=1).timestamp()
    return second if second > now else first
