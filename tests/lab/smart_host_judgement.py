"""What is demanded of the mails in `smart-host`, from what it recorded: pure."""

from __future__ import annotations

import email
import email.policy
import itertools
import json
import math
import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from common import Mail, Told, told_in

ADDRESSES = ("admin@example.com", "night@example.com")
SLOW, DOWN = KINDS = ("slow", "down")
# Seconds from an event, or from the smart host's return, to its mail: promise 4, what a busy machine
# adds, and the smart host's own slowness.
PROMPT = 100.0 + 60.0 + 20.0
RETURN = 60.0  # seconds from the smart host's return to the first mail
# Seconds for which a mail may say DOWN after the end: its round asked before it.
STALE = 60.0
_DOWN, _UP = "DOWN", "UP"
Event = dict[str, str | float]


@dataclass
class Incident:
    test: str
    began: float
    ended: float = math.inf


@dataclass(frozen=True)
class Attempt:
    """A hand-over by msmtp, when it had ended."""

    at: float
    node: str
    address: str
    outcome: str


@dataclass(frozen=True)
class Record:
    """What happened. All times are of the clock on the wall."""

    kind: str
    incidents: list[Incident]
    modes: list[tuple[float, str]]  # of the smart host, and since when
    events: list[Event]  # that the smart host noted
    attempts: list[Attempt]
    troubles: list[tuple[float, str, list[str]]]


@dataclass
class Verdict:
    """What is demanded, each with what is wrong; and what is worth knowing."""

    checks: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read(file: Path) -> Record:
    facts = json.loads(file.read_text())
    facts["incidents"] = [Incident(**each) for each in facts["incidents"]]
    facts["attempts"] = [Attempt(**each) for each in facts["attempts"]]
    return Record(**facts)


def judge(record: Record) -> Verdict:
    return _Judge(record).verdict()


@dataclass(frozen=True)
class _Window:
    """The time from an incident to the next one of its test."""

    incident: Incident
    until: float


class _Judge:
    def __init__(self, record: Record) -> None:
        self.record = record
        self.began = min((each.began for each in record.incidents), default=0.0)
        self.came = [
            event
            for event in record.events
            if event["event"] == "taken"
            and event["address"] in ADDRESSES
            and not str(event["subject"]).startswith("TEST ")
        ]
        self.came.sort(key=lambda event: float(event["at"]))
        self.told = [
            (str(event["address"]), told) for event in self.came for told in told_in(_mail(event))
        ]
        self.away, self.back = math.inf, math.inf
        if record.kind == DOWN:
            self.away, self.back = _absence(record)

    def verdict(self) -> Verdict:
        verdict = Verdict(notes=list(self._story()))
        checks = verdict.checks
        checks["each address was told each incident and its end once, in order"] = list(
            self._not_once()
        )
        checks["no mail came twice to one address"] = list(self._doubles())
        checks["what was told was so"] = list(self._untrue())
        checks["all was told in time"] = list(self._late())
        if self.record.kind == DOWN:
            checks[f"the first mail came within {RETURN:g} s of the return"] = list(
                self._late_return()
            )
            checks[f"so it would have, whenever the return had been: tried every {RETURN:g} s"] = (
                list(self._long_waits())
            )
        checks["the story was met"] = list(self._unmet())
        verdict.notes += self._figures()
        return verdict

    # What is demanded.

    def _not_once(self) -> Iterator[str]:
        for address in ADDRESSES:
            for window in self._windows():
                test = window.incident.test
                states = [told.state for told in self._told_in(window, address)]
                if states != self._due(window):
                    yield (
                        f"{address} about the incident of {test} at {self._at(window.incident.began)}:"
                        f" {', '.join(states) or 'nothing'}"
                        f" instead of {', '.join(self._due(window)) or 'nothing'}"
                    )

    def _due(self, window: _Window) -> list[str]:
        """Return the states that each address is to be told in this window.

        What has begun and ended while the smart host was away is told by one mail, which says UP.
        """
        incident = window.incident
        due = []
        if not self._is_absence(incident.began, incident.ended):
            due.append(_DOWN)
        if not self._is_absence(incident.ended, window.until):
            due.append(_UP)
        return due

    def _is_absence(self, began: float, ended: float) -> bool:
        return self.away <= began and ended <= self.back

    def _doubles(self) -> Iterator[str]:
        counts = Counter((event["address"], event["message_id"]) for event in self.came)
        for (address, message_id), count in counts.items():
            if count > 1:
                yield f"{message_id} came {count} times to {address}"

    def _untrue(self) -> Iterator[str]:
        for address, told in self.told:
            if not any(self._is_in(told, window) for window in self._windows()):
                yield f"{self._at(told.came)} {told.state} {told.test} to {address}: nothing was there"
        for address in ADDRESSES:
            for window in self._windows():
                incident = window.incident
                for told in self._told_in(window, address):
                    is_over = told.came > incident.ended
                    was_over = told.came > incident.ended + STALE
                    if was_over if told.state == _DOWN else not is_over:
                        yield f"{self._at(told.came)} {told.state} {told.test} to {address}"

    def _late(self) -> Iterator[str]:
        for what, delay in self._delays():
            if delay > PROMPT:
                yield f"{what} came after {delay:.0f} s"

    def _late_return(self) -> Iterator[str]:
        after = self._first_after_return()
        if after > RETURN:
            yield f"it came after {after:.1f} s"

    def _long_waits(self) -> Iterator[str]:
        for before, after in itertools.pairwise(self._refused()):
            if after.at - before.at > RETURN:
                yield f"not from {self._at(before.at)} to {self._at(after.at)}"

    def _unmet(self) -> Iterator[str]:
        """See that the smart host was as it should be, and that there was something to tell."""
        if not self.record.incidents:
            yield "nothing failed"
        met = Counter(event.get("mode") for event in self.record.events)
        for _, mode in self.record.modes:
            if mode.startswith("slow") and not met[mode]:
                yield f"no mail met the smart host while it was {mode}"
        if self.record.kind == SLOW:
            return
        kinds = Counter(self._kind(each) for each in self.record.incidents)
        for kind in ("before and during", "during", "during and after"):
            if not kinds[kind]:
                yield f"no incident was {kind} the absence"
        if any(self.away < float(event["at"]) < self.back for event in self.came):
            yield "a mail was taken while the smart host was away"
        if not self._refused():
            yield "no mail was refused"

    def _kind(self, incident: Incident) -> str:
        if incident.began < self.away and self.away < incident.ended < self.back:
            return "before and during"
        if self._is_absence(incident.began, incident.ended):
            return "during"
        if self.away < incident.began < self.back < incident.ended:
            return "during and after"
        return "before or after"

    # What is looked at for that.

    def _windows(self) -> Iterator[_Window]:
        by_test: dict[str, list[Incident]] = {}
        for incident in self.record.incidents:
            by_test.setdefault(incident.test, []).append(incident)
        for incidents in by_test.values():
            for incident, following in itertools.zip_longest(incidents, incidents[1:]):
                yield _Window(incident, following.began if following else math.inf)

    def _told_in(self, window: _Window, address: str) -> list[Told]:
        return [told for to, told in self.told if to == address and self._is_in(told, window)]

    def _is_in(self, told: Told, window: _Window) -> bool:
        incident = window.incident
        return told.test == incident.test and incident.began <= told.came < window.until

    def _delays(self) -> Iterator[tuple[str, float]]:
        """Return what was told first, and how long after it was so, or could be told again."""
        for address in ADDRESSES:
            for window in self._windows():
                incident = window.incident
                first = {told.state: told for told in reversed(self._told_in(window, address))}
                for told in first.values():
                    at = incident.began if told.state == _DOWN else incident.ended
                    if self.away < at < self.back:
                        at = self.back
                    yield f"{told.state} {told.test} to {address}", told.came - at

    def _first_after_return(self) -> float:
        after = [float(event["at"]) for event in self.came if float(event["at"]) >= self.back]
        return min(after, default=math.inf) - self.back

    def _refused(self) -> list[Attempt]:
        return [
            each
            for each in self.record.attempts
            if each.address in ADDRESSES and self.away < each.at < self.back
        ]

    # What is worth knowing.

    def _story(self) -> Iterator[str]:
        lines = [(at, f"the smart host is {mode}") for at, mode in self.record.modes]
        for incident in self.record.incidents:
            lines.append((incident.began, f"{incident.test} fails"))
            lines.append((incident.ended, f"{incident.test} passes"))
        for event in self.came:
            sender = _mail(event).message["From"]
            what = f"    to {event['address']}: {event['subject']}, from {sender}"
            lines.append((float(event["at"]), what))
        for at, line in sorted(lines):
            yield f"{self._at(at)} {line}"

    def _at(self, moment: float) -> str:
        minutes, seconds = divmod(moment - self.began, 60)
        return f"{minutes:4.0f}:{seconds:04.1f}"

    def _figures(self) -> Iterator[str]:
        delays = [delay for _, delay in self._delays()]
        yield (
            f"{len(self.record.incidents)} incidents, {len(self.came)} mails, {len(self.told)} words;"
            f" delay: median {statistics.median(delays or [math.nan]):.1f} s,"
            f" worst {max(delays, default=math.nan):.1f} s"
        )
        if self.record.kind != DOWN:
            return
        refused = self._refused()
        gaps = [after.at - before.at for before, after in itertools.pairwise(refused)]
        by_node = dict(Counter(each.node for each in refused))
        yield (
            f"{len(refused)} mails were refused in {(self.back - self.away) / 60:.0f} minutes: {by_node};"
            f" the longest time without one: {max(gaps, default=math.nan):.1f} s"
        )
        yield f"the first mail came {self._first_after_return():.1f} s after the return"


def _absence(record: Record) -> tuple[float, float]:
    """Return when the smart host stopped listening, and when it did so again."""
    away = [float(event["at"]) for event in record.events if event["event"] == "is down"]
    back = [float(event["at"]) for event in record.events if event["event"] == "listens"]
    return away[-1], back[-1]


def _mail(event: Event) -> Mail:
    message = email.message_from_string(str(event["content"]), policy=email.policy.default)
    return Mail(float(event["at"]), message)
