"""Stories: everything that one mail tells about one test, with the state that the test is in.

Pure. Several notifications may be owed about one test; they become one story. `mail_text` writes
it out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dmonitor.core.model import Incident, Kind, Notification, Test, Verdict

DOWN = "DOWN"
STILL_DOWN = "STILL DOWN"
FLAPPING = "FLAPPING"
STEADY = "STEADY"  # or STEADY and a verdict: STEADY DOWN
UP = "UP"
# The first words of the states, the most urgent first.
_ORDER = ("DOWN", "STILL", "FLAPPING", "STEADY", "UP")
_FIRST_THAT_IS_OVER = _ORDER.index("STEADY")


class Story(NamedTuple):
    """What is to be told about one test."""

    state: str
    main: Incident  # the incident that says how the test is
    others: Sequence[Incident]  # the other incidents, oldest first

    @property
    def test(self) -> Test:
        return self.main.test


def stories_of(notifications: Iterable[Notification]) -> list[Story]:
    """Return one story for each test that something is owed about, the most urgent first."""
    by_test: dict[Test, dict[str, Incident]] = {}
    in_order = sorted(notifications, key=lambda notification: notification.incident.began)
    for notification in in_order:
        incident = notification.incident
        by_test.setdefault(incident.test, {})[incident.id] = incident
    alerts = alerted(in_order)
    stories = [_story(list(incidents.values()), alerts) for incidents in by_test.values()]
    return sorted(stories, key=lambda story: (_rank(story.state), story.state, story.test))


def alerted(notifications: Iterable[Notification]) -> set[str]:
    """Return the ids of the incidents whose alert is owed."""
    alerts = [notification for notification in notifications if notification.kind is Kind.ALERT]
    return {notification.incident.id for notification in alerts}


def _story(incidents: Sequence[Incident], alerts: set[str]) -> Story:
    """Return the story of one test's incidents.

    The main one is open if any is, the most urgent first. If all are over, it ended last.
    """

    def urgency(incident: Incident) -> tuple[int, float]:
        rank = min(_rank(state_of(incident, alerts)), _FIRST_THAT_IS_OVER)
        return rank, -(incident.closed or incident.began)

    main = min(incidents, key=urgency)
    others = [incident for incident in incidents if incident is not main]
    return Story(state_of(main, alerts), main, others)


def _rank(state: str) -> int:
    return _ORDER.index(state.split()[0])


def state_of(incident: Incident, alerts: set[str]) -> str:
    """Return in a word or two how the test is, as far as this incident knows.

    `alerts` are the ids of the incidents whose alert is owed.
    """
    if incident.flapping:
        return _flapping_state(incident)
    if incident.closed is not None:
        return UP
    if incident.id in alerts:
        return DOWN
    return STILL_DOWN


def _flapping_state(incident: Incident) -> str:
    if incident.closed is None:
        return FLAPPING
    if incident.closing is None:
        return STEADY
    verdict = incident.closing.verdict
    if verdict is Verdict.LOCAL:  # a quorum does not see it fail
        verdict = Verdict.UP
    return f"{STEADY} {verdict.value}"
