"""Read silence.d: the silences and acknowledgements that an operator ordered (R9).

A file HOST, or HOST/.all, silences a host, and HOST/TEST a test of it. node/NAME silences what is
said about a node. An empty file lasts until it is removed; otherwise each line says when it holds,
and a line that is not understood silences nothing. Writing these files is the operator's command
`dmonitor silence`, not this module.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from dmonitor.base import names
from dmonitor.config.files import Entry, examine, read_statements, scan_directory
from dmonitor.config.problems import Problems, did_you_mean, quoted
from dmonitor.config.tests import A_HOST_NAME, FOR_ALL, Tests
from dmonitor.config.times import is_clock, read_end, read_moment
from dmonitor.core.model import Acknowledgement, Node, Silence

if TYPE_CHECKING:
    from dmonitor.core.hours import Hours

# Seconds that a silence may last: 28 years. It is less than `codec.AGE_LIMIT`, so that peers can
# be told its end.
LONGEST_SILENCE = 9e8
_AHEAD = 691_200.0  # seconds, 8 days: hours that go on for longer are stated to end then
_WRITE_END = "write until 2026-11-29T06:00"
_FORMS = "until 2026-11-29T06:00 REASON, until up REASON or every sun 03:00-04:00 REASON"


class Term(NamedTuple):
    """A line of a silence's file: when it holds. With neither an end nor hours, it is `until up`.

    Times are in seconds since the epoch.
    """

    until: float | None = None
    hours: Hours | None = None
    reason: str = ""

    @property
    def is_up(self) -> bool:
        """Whether this is an acknowledgement."""
        return self.until is None and self.hours is None

    def begins(self, now: float) -> float | None:
        """Return when its hours begin next; None if they are hours that hold `now`, or none."""
        if self.hours is None or self.hours.ends(now) is not None:
            return None
        return self.hours.next_beginning(now)

    def ends(self, now: float) -> float | None:
        """Return when the silence ends that holds `now`; None if none holds."""
        if self.hours:
            return self.hours.ends(now)
        if self.until is not None and self.until > now:
            return self.until
        return None


class SilenceFile(NamedTuple):
    """A file in silence.d."""

    path: str
    host: str
    name: str = ""  # of the test; "": all tests of the host
    written: float = 0.0  # in seconds since the epoch
    is_empty: bool = True  # no line says anything, so it lasts until it is removed
    terms: tuple[Term, ...] = ()  # the lines that were understood
    is_ahead: bool = False  # the time of the file is still to come

    @property
    def only_acknowledges(self) -> bool:
        """Whether it silences nothing, and only says that somebody is on what is DOWN."""
        return bool(self.terms) and all(term.is_up for term in self.terms)

    def silence(self, now: float) -> Silence | None:
        """Return the silence that holds `now`, to the end of the last of the lines that follow."""
        if self.is_empty:
            return Silence(self.host, self.name, since=self.written)
        for term in self.terms:
            until = term.ends(now)
            if until is not None:
                since = None if term.hours else self.written
                return Silence(self.host, self.name, self._end(until, now), term.reason, since)
        return None

    def _end(self, until: float, now: float) -> float:
        """Return when nothing holds any more, if something holds `until` then."""
        while until < now + _AHEAD:
            later = max((term.ends(until) or until for term in self.terms), default=until)
            if later <= until:
                break
            until = later
        return until

    def last_end(self) -> float | None:
        """Return the last end of those that its lines name; None if it may hold again."""
        ends = [term.until for term in self.terms if term.until is not None]
        return max(ends) if ends and len(ends) == len(self.terms) else None


class Planned(NamedTuple):
    """Hours in which a file will silence something."""

    begins: float  # in seconds since the epoch
    silence: Silence


def planned(files: Iterable[SilenceFile], now: float) -> list[Planned]:
    """Return the next hours of each line with hours, if they do not hold `now`."""
    found = []
    for file in files:
        for term in file.terms:
            begins = term.begins(now)
            if begins is not None:
                until = term.ends(begins)
                silence = Silence(file.host, file.name, until, term.reason)
                found.append(Planned(begins, silence))
    return found


def holding(files: Iterable[SilenceFile], now: float) -> list[Silence]:
    """Return the silences of `files` that hold `now`, in seconds since the epoch."""
    found = [file.silence(now) for file in files]
    return [silence for silence in found if silence]


def acknowledgements(files: Iterable[SilenceFile]) -> list[Acknowledgement]:
    """Return the acknowledgements in `files`."""
    found = []
    for file in files:
        for term in file.terms:
            if term.is_up:
                found.append(Acknowledgement(file.host, file.name, file.written, term.reason))
    return found


def read_term(text: str) -> Term:
    """Return what a line says; raise ValueError, which says what would be right."""
    word, *words = text.split()
    if word == "every":
        from dmonitor.core.hours import split_hours

        hours, rest = split_hours(words)
        return Term(hours=hours, reason=_reason(rest))
    if word == "until" and words:
        if words[0] == "up":
            return Term(reason=_reason(words[1:]))
        if words[0][:4].isdecimal():
            return _read_end(words)
        if is_clock(words[0]):
            raise ValueError(_without_date(words[0]))
    raise ValueError(f"'{names.printable(text)}' is no silence; write {_FORMS}")


def _read_end(words: Sequence[str]) -> Term:
    """Return what `until` says with a date, and perhaps a time of day in the next word."""
    try:
        until, rest = read_end(words, float("inf"))
    except (ValueError, OverflowError):
        raise ValueError(f"{quoted(words[0])} is no time; {_WRITE_END}") from None
    if until >= time.time() + LONGEST_SILENCE:
        text = "is too far away; the end must be less than 28 years away"
        raise ValueError(f"{quoted(words[0])} {text}")
    return Term(until, reason=_reason(rest))


def _without_date(clock: str) -> str:
    """Return what is wrong with an end that is a time of day, and what to write."""
    try:
        moment = read_moment(clock, time.time())
    except ValueError:
        return f"{quoted(clock)} is no time; {_WRITE_END}"
    dated = time.strftime("%Y-%m-%dT%H:%M", time.localtime(moment))
    return f"'{clock}' has no date, and this is read again tomorrow; write until {dated}"


def _reason(words: Sequence[str]) -> str:
    return names.printable(" ".join(words))


def read_file(
    path: str, host: str, name: str, status: os.stat_result, problems: Problems
) -> SilenceFile:
    """Return what the file at `path` says, which has `status`; its mistakes are `problems`."""
    terms = []
    lines = list(read_statements(path, problems)) if status.st_size else []
    for line in lines:
        try:
            terms.append(read_term(line.text))
        except ValueError as error:
            problems.error(path, f"{error}; this line silences nothing", line.number)
    # A file that was copied or set ahead was written when it came here.
    written = min(status.st_mtime, status.st_ctime)
    is_ahead = status.st_mtime > time.time()
    is_empty = not lines and path not in problems.unreadable
    return SilenceFile(path, host, name, written, is_empty, tuple(terms), is_ahead)


def load_silences(
    directory: str, problems: Problems, tests: Tests | None = None, nodes: Iterable[Node] = ()
) -> list[SilenceFile]:
    """Read silence.d in `directory`, which may be absent; a silence that ended is returned, too.

    A silence that fits none of `tests` and `nodes` is a warning. If the tests are not known, these
    are None.
    """
    targets = _targets(tests or {}, nodes)
    silences: list[SilenceFile] = []

    def add(entry: Entry, host: str, name: str, kind: str, known: Collection[str]) -> None:
        if not entry.is_file():
            problems.add_wrong_kind(entry.path, "is not a file; touch HOST or HOST/TEST")
            return
        if tests is not None and (name or host) not in known:
            hint = did_you_mean(name or host, known)
            problems.warning(entry.path, f"silences nothing: no such {kind}{hint}")
        try:
            status = os.stat(entry.path)
        except OSError:
            return  # it was removed a moment ago
        silences.append(read_file(entry.path, host, name, status, problems))

    path = f"{directory}/silence.d"
    for host in scan_directory(path, problems, names.is_subject, A_HOST_NAME, optional=True):
        if not host.is_directory():
            add(host, host.name, "", "host in hosts.d", targets)
            continue
        is_allowed = names.is_test
        kind = "test in hosts.d"
        if host.name == names.NODE:
            is_allowed = names.is_node
            kind = "node in nodes.txt"
        for_all = examine(f"{host.path}/{FOR_ALL}", problems)
        if for_all:
            add(for_all, host.name, "", "host in hosts.d", targets)
        for entry in scan_directory(host.path, problems, is_allowed, f"a {kind}", optional=True):
            add(entry, host.name, entry.name, kind, targets.get(host.name, ()))
    return silences


def _targets(tests: Tests, nodes: Iterable[Node]) -> dict[str, list[str]]:
    """Return the names of each host's tests; the nodes are the tests of the host NODE."""
    targets = {names.NODE: [node.name for node in nodes]}
    for test in tests:
        targets.setdefault(test.host, []).append(test.name)
    return targets
