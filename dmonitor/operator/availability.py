"""What `dmonitor report` says of a month: how available each host and test was, as a quorum saw it.

Pure. Down is the time of the incidents that a quorum has opened. Unknown is the time in which this
node saw nothing or could not tell. It counts neither as up nor as down. `availability_text` shows
it; the module `report` has the facts of the other verbs.
"""

from __future__ import annotations

import bisect
import datetime
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from dmonitor.base import names
from dmonitor.core import absence
from dmonitor.core.incident import last_known
from dmonitor.core.model import Change, Incident, Test, Verdict
from dmonitor.operator.report import Facts, NodeReport, moment

LAST = "last"  # the month before this one
# With these verdicts this node does not know whether a quorum would see the test fail.
_UNDECIDED = (Verdict.UNKNOWN, Verdict.UNCONFIRMED)

Span = tuple[float, float]  # from and to, in seconds since the epoch


class NoMonth(Exception):
    """What was typed is no month that can be reported; the text says why."""


class Period(NamedTuple):
    """A month, or what of it is over."""

    month: str  # 2026-11
    since: float
    until: float


def period(text: str, now: float) -> Period:
    """Return the month that `text` names, `2026-11` or `last`; '' is this month. Raise NoMonth."""
    today = datetime.datetime.fromtimestamp(now)
    year, month = today.year, today.month
    named = re.fullmatch(r"(\d{4})-(\d\d)", text, re.ASCII)
    if named:
        year, month = int(named[1]), int(named[2])
    elif text == LAST:
        year, month = _month_after(year, month, -1)
    elif text:
        raise NoMonth(f"'{names.printable(text)}' is neither a month such as 2026-11 nor `last`")
    try:
        since = datetime.datetime(year, month, 1).timestamp()
        until = datetime.datetime(*_month_after(year, month, 1), 1).timestamp()
    except (ValueError, OverflowError, OSError):
        raise NoMonth(f"there is no month {text}") from None
    if since >= now:
        raise NoMonth(f"{text} has not begun yet")
    return Period(f"{year:04}-{month:02}", since, min(until, now))


def _month_after(year: int, month: int, months: int) -> tuple[int, int]:
    count = 12 * year + month - 1 + months
    return count // 12, count % 12 + 1


class _Record(NamedTuple):
    """What is known of a test, or of all tests of a host, in a period."""

    down: list[Span]
    unknown: list[Span]
    incidents: list[Incident]


def availability(
    view: NodeReport, incidents: Iterable[Incident], changes: Iterable[Change], of: Period
) -> Facts:
    """Return how available each host and test was in a period.

    `changes` are all that are known of each test, oldest first. Tests that are no longer configured
    are left out, because it is not known when they were removed.
    """
    absences = _absences(view, of)
    unseen = _within([*absences, _unrecorded(view, of)], of)
    records = _records(view, incidents, changes, unseen, of)
    seen = (of.until - of.since) - _total(unseen)
    return {
        "node": view.me,
        "month": of.month,
        "from": moment(of.since),
        "to": moment(of.until),
        "recorded_since": moment(view.node.present_since),
        "unrecorded_seconds": round(_total(_within([_unrecorded(view, of)], of))),
        "seen": seen / (of.until - of.since),
        "absences": [{"from": moment(each[0]), "to": moment(each[1])} for each in absences],
        "hosts": _hosts(records, of),
    }


def _records(
    view: NodeReport,
    incidents: Iterable[Incident],
    changes: Iterable[Change],
    unseen: Sequence[Span],
    of: Period,
) -> dict[Test, _Record]:
    """Return what is known of each test, those of nodes last."""
    changes_of: dict[Test, list[Change]] = {}
    for change in changes:
        changes_of.setdefault(change.test, []).append(change)
    incidents_of: dict[Test, list[Incident]] = {}
    for incident in incidents:
        if _counts(incident, of):
            incidents_of.setdefault(incident.test, []).append(incident)
    records = {}
    for test in sorted(view.tests, key=lambda test: (test.host == names.NODE, test)):
        known = incidents_of.get(test, [])
        records[test] = _record(known, changes_of.get(test, []), unseen, of)
    return records


DOWN_DAY, UP_DAY, UNKNOWN_DAY = "d", "u", "-"


class Days(NamedTuple):
    """How a test was in some days, of which the last one is today."""

    letters: str  # one for each day
    available: float | None  # the share of what was seen; None: nothing was
    down_seconds: float
    incidents: int


def days(
    view: NodeReport, incidents: Iterable[Incident], changes: Iterable[Change], count: int
) -> dict[Test, Days]:
    """Return how each test was in the last `count` days.

    A day in which it was down, however shortly, is a day down; one of which nothing is known is
    unknown.
    """
    bounds = _midnights(view.now, count)
    of = Period("", bounds[0], view.now)
    unseen = _within([*_absences(view, of), _unrecorded(view, of)], of)
    found = {}
    for test, record in _records(view, incidents, changes, unseen, of).items():
        down, unknown = _total(record.down), _total(record.unknown)
        seen = of.until - of.since - unknown
        available = (seen - down) / seen if seen > 0 else None
        letters = _letters(record, bounds)
        found[test] = Days(letters, available, down, len(record.incidents))
    return found


def _midnights(now: float, count: int) -> list[float]:
    """Return the beginnings of the last `count` days, and now."""
    today = datetime.datetime.fromtimestamp(now).date()
    days = [today - datetime.timedelta(days=ago) for ago in range(count - 1, -1, -1)]
    midnight = datetime.time()
    return [*(datetime.datetime.combine(day, midnight).timestamp() for day in days), now]


def _letters(record: _Record, bounds: Sequence[float]) -> str:
    letters = [UP_DAY] * (len(bounds) - 1)
    unknown = [0.0] * len(letters)
    for since, until in record.unknown:
        for index in _days_of(since, until, bounds):
            unknown[index] += min(until, bounds[index + 1]) - max(since, bounds[index])
    for index, seconds in enumerate(unknown):
        if seconds >= bounds[index + 1] - bounds[index] - 1.0:
            letters[index] = UNKNOWN_DAY
    for since, until in record.down:
        for index in _days_of(since, until, bounds):
            letters[index] = DOWN_DAY
    return "".join(letters)


def _days_of(since: float, until: float, bounds: Sequence[float]) -> range:
    """Return the indexes of the days with which a span overlaps."""
    first = bisect.bisect_right(bounds, since) - 1
    return range(max(0, first), min(bisect.bisect_left(bounds, until), len(bounds) - 1))


def _absences(view: NodeReport, of: Period) -> list[Span]:
    """Return when this node saw nothing."""
    absences = [*view.node.absences, *absence.current(view.node, view.now)]
    return _within([(each.since, each.until) for each in absences], of)


def _unrecorded(view: NodeReport, of: Period) -> Span:
    """Return in which time it is not known whether this node saw anything."""
    since = view.node.present_since
    return float("-inf"), of.until if since == float("-inf") else since


def _counts(incident: Incident, of: Period) -> bool:
    """Return whether `incident` was one of the period, and a quorum has seen it."""
    is_down = not incident.flapping and incident.is_fact and not incident.removed
    return is_down and incident.began < of.until and _end(incident, of) > of.since


def _end(incident: Incident, of: Period) -> float:
    """Return when an incident was over, or the end of the period if it was not by then."""
    if incident.closed is None:
        return of.until
    end = last_known(incident) if incident.overtaken else incident.closed
    return incident.began if end is None else end


def _record(
    incidents: list[Incident], changes: Sequence[Change], unseen: Sequence[Span], of: Period
) -> _Record:
    down = _within([(each.began, _end(each, of)) for each in incidents], of)
    unknown = _without(_within([*unseen, *_undecided(changes, of)], of), down)
    return _Record(down, unknown, incidents)


def _undecided(changes: Sequence[Change], of: Period) -> list[Span]:
    """Return when this node did not know how a test was, by all its `changes`."""
    first = changes[0].at if changes else of.until
    spans = [(float("-inf"), first)]
    ends = [*(each.at for each in changes[1:]), of.until]
    for change, end in zip(changes, ends, strict=False):
        if change.judgement.verdict in _UNDECIDED:
            spans.append((change.at, end))
    return spans


def _hosts(records: Mapping[Test, _Record], of: Period) -> list[Facts]:
    """Return what is said of each host and, within, of each of its tests.

    A host is up while all its tests are.
    """
    hosts: dict[str, list[Test]] = {}
    for test in records:
        hosts.setdefault(test.host, []).append(test)
    found = []
    for host, tests in hosts.items():
        down: list[Span] = []
        unknown: list[Span] = []
        incidents: list[Incident] = []
        for test in tests:
            down += records[test].down
            unknown += records[test].unknown
            incidents += records[test].incidents
        down = _within(down, of)
        record = _Record(down, _without(_within(unknown, of), down), incidents)
        each = [{"test": str(test), **_numbers(records[test], of)} for test in tests]
        found.append({"host": host, **_numbers(record, of), "tests": each})
    return found


def _numbers(record: _Record, of: Period) -> Facts:
    down, unknown = _total(record.down), _total(record.unknown)
    seen = (of.until - of.since) - unknown
    lengths = []
    for incident in record.incidents:
        if incident.closed is not None and _end(incident, of) <= of.until:
            lengths.append(_end(incident, of) - incident.began)
    untold = [each for each in record.incidents if each.void and not each.alert]
    return {
        "availability": (seen - down) / seen if seen > 0 else None,
        "seen": seen / (of.until - of.since),
        "down_seconds": round(down),
        "unknown_seconds": round(unknown),
        "incidents": len(record.incidents),
        "untold": len(untold),
        "recovered": len(lengths),
        "mean_recovery_seconds": round(sum(lengths) / len(lengths)) if lengths else None,
        "longest_recovery_seconds": round(max(lengths)) if lengths else None,
    }


# Spans of time.


def _within(spans: Iterable[Span], of: Period) -> list[Span]:
    """Return what of `spans` is within the period, in order, and without overlaps."""
    merged: list[Span] = []
    for since, until in sorted(spans):
        begin, end = max(since, of.since), min(until, of.until)
        if begin >= end:
            continue
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def _without(spans: Iterable[Span], holes: Iterable[Span]) -> list[Span]:
    """Return what of `spans` is in none of `holes`; both are in order, and without overlaps."""
    left = list(spans)
    for begin, end in holes:
        pieces: list[Span] = []
        for since, until in left:
            before, after = (since, min(until, begin)), (max(since, end), until)
            pieces += [piece for piece in (before, after) if piece[0] < piece[1]]
        left = pieces
    return left


def _total(spans: Iterable[Span]) -> float:
    return sum(until - since for since, until in spans)
