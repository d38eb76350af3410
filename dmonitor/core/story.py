"""Make one story of all that is owed about a test, and the subject of a mail of all stories.

Pure. A story says how a test is now, and which incidents tell so. `mail_body` puts it into words.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dmonitor.base import names
from dmonitor.core.incident import FLAPPING_WINDOW
from dmonitor.core.model import Incident, Judgement, Kind, Notification, Test, Verdict, Vote

# The first words of the states, the most urgent first.
_URGENCY = ("DOWN", "STILL", "FLAPPING", "STEADY", "UP")
_OVER = _URGENCY.index("STEADY")  # from here on, the incident is over
_TESTS_IN_SUBJECT = 40  # characters that the names of one host's tests may take there


class Story(NamedTuple):
    """What there is to tell about one test."""

    # DOWN, STILL DOWN, FLAPPING, UP; or STEADY, with the verdict after it if that is known.
    state: str
    main: Incident  # the one that says so
    others: Sequence[Incident]  # in the order in which they began

    @property
    def test(self) -> Test:
        return self.main.test

    @property
    def incidents(self) -> list[Incident]:
        return [self.main, *self.others]


def make_stories(notifications: Sequence[Notification]) -> list[Story]:
    """Return one story for each test of `notifications`, the most urgent first."""
    alerted = ids_alerted(notifications)
    by_test: dict[Test, dict[str, Incident]] = {}
    for notification in sorted(notifications, key=lambda notification: notification.incident.began):
        incident = notification.incident
        by_test.setdefault(incident.test, {})[incident.id] = incident
    stories = [_make_story(list(by_id.values()), alerted) for by_id in by_test.values()]
    stories.sort(key=lambda story: (_urgency(story.state), story.state, story.test))
    return stories


def ids_alerted(notifications: Iterable[Notification]) -> set[str]:
    """Return the ids of the incidents whose alert is among `notifications`."""
    ids = set()
    for notification in notifications:
        if notification.kind is Kind.ALERT:
            ids.add(notification.incident.id)
    return ids


def _make_story(incidents: Sequence[Incident], alerted: set[str]) -> Story:
    # An open incident outdoes one that is over. Of the open ones the most urgent counts, of those
    # that are over the one that ended last.
    def order(incident: Incident) -> tuple[int, float]:
        urgency = _urgency(state_of(incident, alerted))
        return min(urgency, _OVER), -end_of(incident)

    main = min(incidents, key=order)
    others = [incident for incident in incidents if incident is not main]
    return Story(state_of(main, alerted), main, others)


def _urgency(state: str) -> int:
    return _URGENCY.index(state.split()[0])


def state_of(incident: Incident, alerted: set[str]) -> str:
    """Return how the test of `incident` is, in one word or two, as far as `incident` tells.

    `alerted` has the ids of the incidents whose alert is owed.
    """
    if incident.flapping:
        return _state_of_flapping(incident)
    if incident.closed is not None:
        return "UP"
    if incident.id in alerted:
        return "DOWN"
    return "STILL DOWN"


def _state_of_flapping(incident: Incident) -> str:
    if incident.closed is None:
        return "FLAPPING"
    if incident.closing is None:
        return "STEADY"
    verdict = incident.closing.verdict
    if verdict is Verdict.LOCAL:
        return "STEADY UP"
    return f"STEADY {verdict.value}"


def end_of(incident: Incident) -> float:
    """Return when `incident` was closed, or when it began if it is open."""
    return incident.closed or incident.began


def lasted(incident: Incident) -> str:
    """Return how long `incident` lasted, in words."""
    return names.span(end_of(incident) - incident.began)


def changes_of(incident: Incident) -> str:
    """Return the changes that were counted when a test began to flap, in words."""
    return f"{incident.flapping} changes in {names.span(FLAPPING_WINDOW)}"


# The subject.


def subject_of(stories: Sequence[Story], now: float) -> str:
    """Return the subject of a mail that tells `stories`: a headline for each state."""
    by_state: dict[str, list[Story]] = {}
    for story in stories:
        by_state.setdefault(story.state, []).append(story)
    headlines = []
    for state, stories_of_state in by_state.items():
        if len(stories_of_state) == 1:
            headlines.append(_headline(stories_of_state[0], now))
        else:
            headlines.append(f"{state} {_count(stories_of_state)}")
    return ", ".join(headlines)


def _headline(story: Story, now: float) -> str:
    incident = story.main
    word, _, verdict = story.state.partition(" ")
    if word == "UP":
        return f"UP {story.test} (was DOWN {lasted(incident)})"
    if word == "FLAPPING":
        return f"FLAPPING {story.test} ({changes_of(incident)})"
    if word == "STEADY":
        headline = f"STEADY {story.test}"
        if verdict:
            headline += f": {verdict}"
        return headline
    headline = f"{story.state} {story.test}"
    if incident.opening:
        headline += f" ({_share(incident.opening)})"
    if word == "STILL":
        headline += f" for {names.span(now - incident.began)}"
    return headline


def _share(judgement: Judgement) -> str:
    """Return how many of the nodes voted failing, in words."""
    failing = judgement.nodes(Vote.FAILING)
    return f"{len(failing)} of {len(judgement.answers)} nodes"


def _count(stories: Sequence[Story]) -> str:
    hosts = {story.test.host for story in stories}
    if len(hosts) > 1:
        return f"{len(stories)} tests on {len(hosts)} hosts"
    count = f"{len(stories)} tests on {hosts.pop()}"
    tests = ", ".join(story.test.name for story in stories)
    if len(tests) <= _TESTS_IN_SUBJECT:
        count += f": {tests}"
    return count


def choose_detailed(stories: Sequence[Story], limit: int) -> list[Story]:
    """Return at most `limit` of `stories`: each host has its turn before any has a second one."""
    turns: collections.Counter[str] = collections.Counter()
    order = []
    for position, story in enumerate(stories):
        order.append((turns[story.test.host], position))
        turns[story.test.host] += 1
    order.sort()
    chosen = sorted(position for _, position in order[:limit])
    return [stories[position] for position in chosen]
