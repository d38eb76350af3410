"""The words of the page: escaped text, states with their shapes, and times as a reader says them.

Pure: facts of `report` in, HTML out. What a colour says, a word and a shape say as well.
"""

from __future__ import annotations

import datetime
import html

from dmonitor.base import names
from dmonitor.operator import report
from dmonitor.operator.report import FLAPPING, Facts

_WHOLE = "%a %d %b %Y %H:%M:%S %z"
UNSTABLE = "unstable"  # how customers are told FLAPPING
BAD = ("DOWN", FLAPPING, UNSTABLE)


def escape(text: object) -> str:
    return html.escape(names.escaped(str(text)))


def cut(text: object, length: int) -> str:
    """Return as many of the first characters of a text as take no more than `length` escaped."""
    shown = ""
    for character in names.escaped(str(text)):
        longer = shown + html.escape(character)
        if len(longer) > length:
            break
        shown = longer
    return shown


def kind(state: str | None) -> str:
    """Return how a state looks: `down`, `up`, or `odd` for all that is neither."""
    if state in (*BAD, "FAIL", "TIMEOUT"):
        return "down"
    if state in ("UP", "OK"):
        return "up"
    return "odd"


def state(word: str | None, instead: str = "not tested yet") -> str:
    return f'<b class="{kind(word)}">{escape(word or instead)}</b>'


def state_of(test: Facts) -> str:
    """Return the state of a test as `dmonitor status` says it, too."""
    return f'<b class="{kind(test["state"])}">{escape(report.state_words(test))}</b>'


def seconds(moment: str) -> float:
    return datetime.datetime.fromisoformat(moment).timestamp()


def ago(moment: str, now: str) -> str:
    """Return how long ago a moment was, in one unit: `2 h ago`."""
    return f"{rough(seconds(now) - seconds(moment))} ago"


def rough(length: float) -> str:
    """Return a duration in one unit, as a reader says it: `2 h`."""
    return " ".join(names.span(length).split(" ")[:2])


def time(moment: str | None, now: str) -> str:
    """Return a time as short as it is clear at the time `now`; the whole of it is in its title.

    Without a time it is `never`.
    """
    if not moment:
        return "never"
    at = datetime.datetime.fromisoformat(moment)
    return f'<time datetime="{moment}" title="{at:{_WHOLE}}">{_short(at, now)}</time>'


def written_at(now: str) -> str:
    """Return when the page was written, with the day: nobody knows when it is read."""
    at = datetime.datetime.fromisoformat(now)
    return f'<time datetime="{now}" title="{at:{_WHOLE}}">{at:%a} {at.day} {at:%b %H:%M}</time>'


def _short(at: datetime.datetime, now: str) -> str:
    today = datetime.datetime.fromisoformat(now)
    days = (today.date() - at.date()).days
    if days == 0:
        return at.strftime("%H:%M")
    if 0 < days < 7:
        return at.strftime("%a %H:%M")
    if at.year == today.year:
        return f"{at.day} {at:%b %H:%M}"
    return f"{at.day} {at:%b %Y}"


def since(moment: str, now: str) -> str:
    """Return since when, and how long ago that was: `since 03:12, 2 h ago`."""
    return f"since {time(moment, now)}, {ago(moment, now)}"
