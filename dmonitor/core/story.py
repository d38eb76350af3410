"""Stories: everything that one mail tells about one test, with the state that the test is in.

Pure. Several notifications may be owed about one test; they become one story. `mail_text` writes
it out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from dmonitor.base import names
from dmonitor.core.model import Incident, Kind, Notification, Test, Verdict

DOWN = "DOWN"
STILL_DOWN = "STILL DOWN"
ACK = "ACK"  # it is DOWN, and an operator has acknowledged that
FLAPPING = "FLAPPING"
STEADY = "STEADY"  # or STEADY and a verdict: STEADY DOWN
UP = "UP"
OVER = "OVER"  # of an incident that does not say how the test is now
# The first words of the states, the most urgent first.
_ORDER = ("DOWN", "STILL", "ACK", "FLAPPING", "STEADY", "UP")
_FIRST_THAT_IS_OVER = _ORDER.index("STEADY")


class Story(NamedTuple):
    """What is to be told about one test."""

    state: str
    main: Incident  # the incident that says how the test is
    others: Sequence[Incident]  # the other incidents, oldest first
    is_down: bool = False  # an ordinary incident of the test is open, however it flaps

    @property
    def test(self) -> Test:
        return self.main.test

    @property
    def incidents(self) -> list[Incident]:
        """All incidents: the one that says how the test is, and then the others."""
        return [self.main, *self.others]

    @property
    def is_after_flapping(self) -> bool:
        """Whether the test is said to be DOWN, and flapped until then."""
        if self.state != DOWN:
            return False
        ends = [incident.closed for incident in self.others if incident.flapping]
        return any(end is not None and end >= self.main.began for end in ends)


def is_node(test: Test) -> bool:
    """Return whether `test` is a node itself and not a test of a host (R7)."""
    return test.host == names.NODE


def stories_of(
    notifications: Iterable[Notification], latest: Iterable[Incident] = ()
) -> list[Story]:
    """Return one story for each test that something is owed about, the most urgent first.

    `latest` are the open incidents of these tests. If all that is owed about a test is over, and
    the test has failed again, its story is that it fails: a late mail must not say that it is UP.
    """
    by_test: dict[Test, dict[str, Incident]] = {}
    told = list(notifications)
    for notification in told:
        incident = notification.incident
        by_test.setdefault(incident.test, {})[incident.id] = incident
    known = [*(notification.incident for notification in told), *latest]
    down = {incident.test for incident in known if incident.is_open and not incident.flapping}
    over = {test for test, incidents in by_test.items() if _are_over(incidents.values())}
    for incident in known:
        if incident.test in over:
            by_test[incident.test][incident.id] = incident
    alerts = alerted(told)
    stories = []
    for test, incidents in by_test.items():
        story = _story(incidents.values(), alerts)
        stories.append(story._replace(is_down=test in down))
    return sorted(stories, key=_urgency)


def _are_over(incidents: Iterable[Incident]) -> bool:
    return all(incident.closed is not None for incident in incidents)


def _urgency(story: Story) -> tuple[bool, int, str, bool, Test]:
    """Return the sort key of a story: what is DOWN comes first, and nodes come after the hosts."""
    is_well = DOWN not in story.state.split()
    return is_well, _rank(story.state), story.state, is_node(story.test), story.test


def alerted(notifications: Iterable[Notification]) -> dict[str, str]:
    """Return the states of the incidents that are told to be DOWN or acknowledged, by their ids."""
    states = {}
    for notification in notifications:
        if notification.kind is Kind.ALERT:
            states[notification.incident.id] = DOWN
        elif notification.kind is Kind.ACK:
            states.setdefault(notification.incident.id, ACK)
    return states


def _story(incidents: Iterable[Incident], alerts: Mapping[str, str]) -> Story:
    """Return the story of one test's incidents.

    The main one is open if any is, the most urgent first. If all are over, it ended last.
    """

    def urgency(incident: Incident) -> tuple[int, float]:
        rank = min(_rank(state_of(incident, alerts)), _FIRST_THAT_IS_OVER)
        return rank, -(incident.closed or incident.began)

    in_order = sorted(incidents, key=lambda incident: incident.began)
    main = min(in_order, key=urgency)
    others = [incident for incident in in_order if incident is not main]
    return Story(state_of(main, alerts), main, others)


def _rank(state: str) -> int:
    return _ORDER.index(state.split()[0])


def state_of(incident: Incident, alerts: Mapping[str, str]) -> str:
    """Return in a word or two how the test is, as far as this incident knows.

    `alerts` has the states of those that are told to be DOWN or acknowledged, by their ids.
    """
    if incident.flapping:
        return _flapping_state(incident)
    if incident.closed is not None:
        return UP
    return alerts.get(incident.id, STILL_DOWN)


def states_of(story: Story, alerts: Mapping[str, str]) -> list[str]:
    """Return a state for each of the story's incidents, in the order of `Story.incidents`.

    Only the first one says how the test is. What is over must not be taken for that.
    """
    states = [story.state]
    for incident in story.others:
        if incident.closed is None:
            states.append(state_of(incident, alerts))
        elif incident.flapping:
            states.append(STEADY)
        else:
            states.append(OVER)
    return states


def _flapping_state(incident: Incident) -> str:
    if incident.closed is None:
        return FLAPPING
    if incident.closing is None:
        return STEADY
    verdict = incident.closing.verdict
    if verdict is Verdict.LOCAL:  # a quorum does not see it fail
        verdict = Verdict.UP
    return f"{STEADY} {verdict.value}"
