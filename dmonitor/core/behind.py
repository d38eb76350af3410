"""Tests that stand behind others: while a router is DOWN, what it leads to is not told (rule R9).

Pure. That is a silence which a test has by its place. The verdict, the incident and the history of
a test are as ever, and only the telling waits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dmonitor.core.incident import owed
from dmonitor.core.ledger import Ledger
from dmonitor.core.model import Hidden, Incident, Kind, Test

_NEXT_LOOK = 60.0  # seconds that a round may take, beside the interval until it begins


def is_hidden(
    incident: Incident, parents: Sequence[Test], ledger: Ledger, *, now: float, slowest: int
) -> bool:
    """Return whether nobody need be told of `incident`, because of what stands before its test.

    If its test stands behind several, each of these has to fail. What was told before is told to
    its end. The interval of the slowest node is `slowest` minutes.
    """
    if incident.flapping or not parents or Kind.ALERT not in owed(incident):
        return False
    at = now if incident.closed is None else incident.closed
    granted = _NEXT_LOOK + 60.0 * slowest
    return all(_hides(ledger.all_of(parent), incident, at, granted) for parent in parents)


def _hides(parents: Sequence[Incident], incident: Incident, at: float, granted: float) -> bool:
    """Return whether one of the incidents of what stands before it hides `incident`.

    `at` is its end, or now. What came back is tested by the same looks as what is behind it. So the
    next ones have to see that the test behind it still fails; for these so many seconds are
    `granted`. What is over when somebody looks again has not outlasted it, as far as anybody saw.
    One peer's word hides only what the same peer has stated.
    """
    for before in parents:
        if before.flapping or before.began > at:
            continue
        if before.heard_from not in ("", incident.heard_from):
            continue
        if before.closed is None:
            return True
        was_looked_at = incident.is_open and at - before.closed > granted
        if incident.seen <= before.closed and not was_looked_at:
            return True
    return False


def hidden_behind(
    tests: Mapping[Test, Sequence[Test]],
    told: set[Test],
    ledger: Ledger,
    *,
    now: float,
    slowest: int,
) -> dict[Test, Hidden]:
    """Return for each test that is `told` which tests were hidden behind it, if any."""
    found: dict[Test, Hidden] = {}
    for test, parents in tests.items():
        before = told.intersection(parents)
        if not before:
            continue
        incident = ledger.open_for(test)
        if incident and is_hidden(incident, parents, ledger, now=now, slowest=slowest):
            for parent in before:
                hidden = found.get(parent, Hidden())
                found[parent] = hidden._replace(down=(*hidden.down, test))
            continue
        for parent in before:
            since = _last_beginning(parent, ledger)
            if _came_back(test, parents, since, ledger, now=now, slowest=slowest):
                hidden = found.get(parent, Hidden())
                found[parent] = hidden._replace(up=(*hidden.up, test))
    return found


def _last_beginning(parent: Test, ledger: Ledger) -> float:
    """Return when the last incident of `parent` began, if it is over; else infinity."""
    if ledger.open_for(parent):
        return float("inf")
    began = [incident.began for incident in ledger.all_of(parent) if not incident.flapping]
    return max(began, default=float("inf"))


def _came_back(
    test: Test, parents: Sequence[Test], since: float, ledger: Ledger, *, now: float, slowest: int
) -> bool:
    """Return whether a failure of `test` that ended after `since` was hidden to its end."""
    for incident in ledger.all_of(test):
        if not incident.void or incident.closed is None or incident.closed < since:
            continue
        untold = incident._replace(void=False)  # that it owes nothing is what became of it
        if is_hidden(untold, parents, ledger, now=now, slowest=slowest):
            return True
    return False
