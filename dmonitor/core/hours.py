"""Hours that come again each week, in the time zone of this node, and how they are written."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from typing import NamedTuple

from dmonitor.base import names

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY = 1440  # minutes
_FORMS = "write 08:00-20:00, or 08:00-20:00 mon-fri"
_CLOCK = re.compile(r"(\d{1,2}):([0-5]\d)")


class Hours(NamedTuple):
    """From one time of day to another, on some days of the week."""

    begin: int  # minute of the day
    end: int  # minute of the day, at most 1440; before the beginning if it is on the next day
    days: tuple[int, ...]  # on which they begin; 0 is Monday

    def ends(self, now: float) -> float | None:
        """Return when the hours end that it is now; None if it is none of them.

        Both are in seconds since the epoch.
        """
        today = datetime.datetime.fromtimestamp(now).date()
        for date in (today - datetime.timedelta(days=1), today):
            if date.weekday() in self.days:
                length = (self.end - self.begin) % DAY or DAY
                if _at(date, self.begin) <= now < _at(date, self.begin + length):
                    return _at(date, self.begin + length)
        return None

    def next_beginning(self, now: float) -> float:
        """Return when they begin next, after `now`, in seconds since the epoch."""
        date = datetime.datetime.fromtimestamp(now).date()
        while date.weekday() not in self.days or _at(date, self.begin) <= now:
            date += datetime.timedelta(days=1)
        return _at(date, self.begin)


def read_hours(words: Sequence[str]) -> Hours:
    """Return the hours that `words` name: `08:00-20:00`, and days such as `mon-fri` or `sun`.

    Without days, these are the hours of each day. They may go on past midnight. Raise ValueError,
    which says what would be right.
    """
    spans = [word for word in words if ":" in word]
    if len(spans) != 1:
        raise ValueError(f"{_quoted(' '.join(words))} is no hours; {_FORMS}")
    begin, dash, end = spans[0].partition("-")
    if not dash:
        raise ValueError(f"{_quoted(spans[0])} is no hours; {_FORMS}")
    first, last = _minute(begin), _minute(end)
    if first in (DAY, last):
        raise ValueError(f"{_quoted(spans[0])} is no time at all; for all day, write 00:00-24:00")
    days = [day for word in words if word != spans[0] for day in _days(word)]
    return Hours(first, last, tuple(sorted(set(days))) or tuple(range(7)))


def split_hours(words: Sequence[str]) -> tuple[Hours, Sequence[str]]:
    """Return the hours at the beginning of `words`, and the words after them.

    Days may stand before the times of day or, if none does, after them. Raise ValueError as
    `read_hours` does.
    """
    spans = [number for number, word in enumerate(words) if ":" in word]
    end = spans[0] + 1 if spans else len(words)
    while spans[:1] == [0] and end < len(words) and _is_days(words[end]):
        end += 1
    return read_hours(words[:end]), words[end:]


def _is_days(word: str) -> bool:
    """Return whether `word` names days."""
    try:
        return bool(_days(word))
    except ValueError:
        return False


def _quoted(text: str) -> str:
    return f"'{names.printable(text)}'"


def _minute(text: str) -> int:
    """Return the minute of the day that `text` names, such as 1439 for `23:59`."""
    match = _CLOCK.fullmatch(text)
    if match:
        minute = 60 * int(match[1]) + int(match[2])
        if minute <= DAY:
            return minute
    raise ValueError(f"{_quoted(text)} is no time of day; write 00:00 to 24:00")


def _days(word: str) -> list[int]:
    """Return the days that `word` names, such as 0 to 4 for `mon-fri`."""
    first, dash, last = word.lower().partition("-")
    if not dash:
        last = first
    if first not in DAYS or last not in DAYS:
        forms = f"{', '.join(DAYS)}, or two of them such as mon-fri"
        raise ValueError(f"{_quoted(word)} is no day; write {forms}")
    begin = DAYS.index(first)
    count = (DAYS.index(last) - begin) % 7 + 1
    return [(begin + number) % 7 for number in range(count)]


def _at(date: datetime.date, minute: int) -> float:
    """Return when it is `minute` of `date`, which may be past its midnight.

    A minute that the clocks leave out comes an hour later; of one that comes twice, it is the
    first.
    """
    day, minute = divmod(minute, DAY)
    date += datetime.timedelta(days=day)
    clock = datetime.time(minute // 60, minute % 60)
    return datetime.datetime.combine(date, clock).timestamp()
