"""What a round concludes: the new states of the tests, and the incidents that open, close or flap.

Pure. The rules are those of `incident` (R4); this applies them to every test and logs what follows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from dmonitor.core import round_log
from dmonitor.core.incident import advance, flap, owed, remove
from dmonitor.core.model import Change, Incident, Judgement, Test, TestState
from dmonitor.core.situation import Situation


class Conclusions:
    """The conclusions of one round. Incidents go to the ledger of `situation`."""

    def __init__(
        self,
        situation: Situation,
        remembered: Mapping[Test, TestState],
        fresh_id: Callable[[], str],
    ) -> None:
        """Begin with the states of the tests after the last round.

        `fresh_id` returns an id for an incident that opens.
        """
        self._situation = situation
        self._ledger = situation.ledger
        self._note = situation.note
        self._remembered = remembered
        self._fresh_id = fresh_id
        # The states that are not what they were, and what has changed for the history.
        self.test_states: dict[Test, TestState] = {}
        self.changes: list[Change] = []
        # The tests that the operator removed.
        self.removed_tests: frozenset[Test] = frozenset()

    def conclude(
        self,
        judgements: Mapping[Test, Judgement],
        asked: Collection[Test],
        open_before: Mapping[Test, Incident],
    ) -> None:
        """Take every test one round further.

        `open_before` has the incidents that were open before the peers were heard.
        """
        now = self._situation.clock.now()
        for test, judgement in judgements.items():
            before = self._remembered.get(test, TestState(since=now))
            incident = self._ledger.open_for(test)
            closed_elsewhere = incident is None and test in open_before
            fresh_id = ""
            if test in asked and not closed_elsewhere:
                fresh_id = self._fresh_id()
            # Without the peers' answers an incident that was only heard of cannot be judged.
            judged_incident = None
            if test in asked:
                judged_incident = incident
            after, incident_after = advance(
                test,
                before,
                judged_incident,
                judgement,
                confirm=self._situation.config.confirm,
                now=now,
                fresh_id=fresh_id,
            )
            self._remember(Change(test, now, judgement), before, after)
            round_log.note_judgement(self._note, test, before, after, judgement)
            if closed_elsewhere:
                self._note_closed_elsewhere(open_before[test], judgement, test in asked)
            if incident_after is not None and incident_after != incident:
                self._ledger.put(incident_after)
                round_log.note_incident(self._note, incident, incident_after, judgement)

    def _remember(self, change: Change, before: TestState, after: TestState) -> None:
        """Keep the state of a test if it is new, and `change` for the history if it is one."""
        is_new = change.test not in self._remembered
        if is_new or after != before:
            self.test_states[change.test] = after
        has_moved = after.verdict is not before.verdict
        if is_new or has_moved or after.own_outcome is not before.own_outcome:
            self.changes.append(change)

    def _note_closed_elsewhere(
        self, incident: Incident, judgement: Judgement, was_asked: bool
    ) -> None:
        """Log that a peer has closed `incident`, and keep with it what this node sees now."""
        (closed,) = self._ledger.find(incident.ids[:1])
        if was_asked and not closed.closing:
            self._ledger.put(closed._replace(closing=judgement))
        self._note(
            "info", "incident-closed-elsewhere", test=str(incident.test), incident=incident.id
        )

    def close_removed(self) -> None:
        """End the incidents of the tests that the operator removed; nobody is mailed about them.

        A test that is missing because a file cannot be read is not removed.
        """
        if not self._situation.config.complete:
            return
        tests = self._situation.tests
        removed = set(self._remembered.keys() - tests)
        for incident in list(self._ledger):
            if incident.test in tests:
                continue
            if incident.is_open or owed(incident):
                removed.add(incident.test)
                self._ledger.put(remove(incident))
                self._note(
                    "info", "incident-removed", test=str(incident.test), incident=incident.id
                )
        for test in sorted(removed):
            self._note("info", "test-removed", test=str(test))
        self.removed_tests = frozenset(removed)

    def find_flapping(self, judgements: Mapping[Test, Judgement]) -> None:
        """Begin or end the flapping of each test that was judged in this round."""
        now = self._situation.clock.now()
        incidents_of: dict[Test, list[Incident]] = {}
        for incident in self._ledger:
            incidents_of.setdefault(incident.test, []).append(incident)
        for test, incidents in incidents_of.items():
            if test not in judgements:
                continue
            flapping = flap(test, incidents, judgements[test], now, self._fresh_id())
            if flapping is None:
                continue
            if flapping.is_open and not self._situation.config.flapping:
                continue  # the operator does not want to hear of it
            self._ledger.put(flapping)
            event = "flapping" if flapping.is_open else "steady"
            self._note("info", event, test=str(test), incident=flapping.id)
