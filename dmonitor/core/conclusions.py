"""What a round concludes: the new states of the tests, and the incidents that open, close or flap.

Pure. The rules are those of `incident` (R4); this applies them to every test and logs what follows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping

from dmonitor.core import round_log
from dmonitor.core.incident import (
    advance,
    confirm_down,
    flap,
    last_known,
    name_minute,
    open_incident,
    overtake,
    owes,
    remove,
    why_open,
)
from dmonitor.core.model import (
    Change,
    Confirming,
    Incident,
    Judgement,
    LastLook,
    Statement,
    Test,
    TestState,
    Verdict,
    Vote,
)
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
        self._now = situation.clock.now()
        self._confirming: list[Confirming] = []
        # The tests that pass here and whose incident cannot close, because too many are silent.
        self.unconfirmed_recoveries: list[Test] = []
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
        """Take every test that was looked at one round further; the others stay as they are.

        `open_before` has the incidents that were open before the peers were heard.
        """
        for test, judgement in judgements.items():
            before = self._remembered.get(test, TestState(since=self._now))
            look = self._look_at(test, judgement)
            after = _next_state(before, judgement, self._now, look)
            self._remember(Change(test, self._now, judgement), before, after)
            self._situation.note_unconfirmed(test, after)
            round_log.note_judgement(self._note, test, before, after, judgement)
            if judgement.verdict is Verdict.DOWN:
                self._situation.down_now[test] = self._now
            incident = self._ledger.open_for(test)
            if incident is None and test in open_before:
                # Nothing opens now: what this round has seen may be what has just closed.
                self._note_closed_elsewhere(open_before[test], judgement, test in asked)
                continue
            # Without the peers' answers an incident that was only heard of cannot be judged.
            if test in asked:
                self._conclude_asked(test, incident, judgement)
        node_memory = self._situation.node_memory
        confirming = tuple(sorted(self._confirming))
        self._situation.node_memory = node_memory._replace(confirming=confirming)

    def _look_at(self, test: Test, judgement: Judgement) -> LastLook | None:
        """Return what to remember of this look, if the next round may do without one."""
        rhythm = self._situation.config.rhythms.get(test)
        own_result = judgement.answers[0].result
        if rhythm is None or own_result is None:
            return None
        return LastLook(self._situation.asked_at, own_result, rhythm.fingerprint)

    def _remember(self, change: Change, before: TestState, after: TestState) -> None:
        """Keep the state of a test if it is new, and `change` for the history if it is one."""
        is_new = change.test not in self._remembered
        if is_new or after != before:
            self.test_states[change.test] = after
        has_moved = after.verdict is not before.verdict
        if is_new or has_moved or after.own_outcome is not before.own_outcome:
            self.changes.append(change)

    def _conclude_asked(self, test: Test, incident: Incident | None, judgement: Judgement) -> None:
        """Continue the open `incident` of a test that the peers were asked about, or open one."""
        if incident and judgement.verdict is Verdict.DOWN and self._is_over_elsewhere(incident):
            self._ledger.put(overtake(incident, self._now))
            self._note("info", "incident-overtaken", test=str(test), incident=incident.id)
            incident = None
        if incident:
            if why_open(incident, judgement) == "silent":
                self.unconfirmed_recoveries.append(test)
            self._put(incident, advance(incident, judgement, self._now), judgement)
        elif judgement.verdict is Verdict.DOWN:
            self._confirm(test, judgement)

    def _put(self, before: Incident | None, after: Incident, judgement: Judgement) -> None:
        """Keep an incident if it has changed, and log that it has opened or closed."""
        if after != before:
            self._ledger.put(after)
            round_log.note_incident(self._note, before, after, judgement)

    def _confirm(self, test: Test, judgement: Judgement) -> None:
        """Count a DOWN verdict; open an incident if `confirm` nodes' rounds have come to one."""
        own = self._situation.own_confirming.get(test)
        heard = self._situation.heard_confirming(test)
        confirming = confirm_down(test, own, heard, self._now)
        if confirming.downs < self._situation.confirm(test):
            self._confirming.append(confirming)
            return
        self._put(None, self._open(confirming, judgement), judgement)

    def _open(self, confirming: Confirming, judgement: Judgement) -> Incident:
        """Return an incident that opens now, named by a minute that no earlier one has."""
        clock = self._situation.clock
        earlier = self._ledger.all_of(confirming.test)
        taken = [incident.minute for incident in earlier]
        ends = [last_known(incident) for incident in earlier]
        ended = [clock.minute(at) for at in ends if at is not None]
        return open_incident(
            confirming,
            judgement,
            now=self._now,
            fresh_id=self._fresh_id(),
            minute=name_minute(clock.minute(self._now), taken, ended),
        )

    def _is_over_elsewhere(self, incident: Incident) -> bool:
        """Return whether this node was away, and a peer that was not does not hold `incident`.

        Then the test was well meanwhile, and what this node sees fail now is new.
        """
        situation = self._situation
        if self._ledger.is_present(incident, self._now):
            return False
        peers = situation.living_peers(incident.test)
        return bool(peers) and not any(_holds(statement, incident) for statement in peers)

    def note_standing(self, standing: Mapping[Test, Judgement]) -> None:
        """Note which of the tests that rest passed at the last look, and have an open incident."""
        for test, judgement in standing.items():
            if judgement.answers[0].vote is Vote.PASSING and self._ledger.open_for(test):
                self.unconfirmed_recoveries.append(test)

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
            if incident.is_open or owes(incident):
                removed.add(incident.test)
                self._ledger.put(remove(incident))
                self._note(
                    "info", "incident-removed", test=str(incident.test), incident=incident.id
                )
        for test in sorted(removed):
            self._note("info", "test-removed", test=str(test))
        self.removed_tests = frozenset(removed)

    def find_flapping(self, judgements: Mapping[Test, Judgement]) -> None:
        """Begin, continue or end the flapping of each test that was judged in this round."""
        situation = self._situation
        interval = situation.node_memory.interval_that_holds()
        incidents_of: dict[Test, list[Incident]] = {}
        for incident in self._ledger:
            incidents_of.setdefault(incident.test, []).append(incident)
        for test, incidents in incidents_of.items():
            if test not in judgements:
                continue
            began = Confirming(test, 1, self._now)
            flapping = flap(
                incidents,
                judgements[test],
                interval=interval,
                now=self._now,
                open_now=functools.partial(self._open, began, judgements[test]),
            )
            if flapping is None:
                continue
            is_new = flapping.is_open and self._ledger.open_for(test, flapping=True) is None
            if is_new and not situation.config.flapping:
                continue  # the operator does not want to hear of it
            self._ledger.put(flapping)
            if is_new or not flapping.is_open:
                event = "flapping" if is_new else "steady"
                self._note("info", event, test=str(test), incident=flapping.id)


def _next_state(
    before: TestState, judgement: Judgement, now: float, look: LastLook | None
) -> TestState:
    """Return the state of a test after a round with `judgement`."""
    own_result = judgement.answers[0].result
    return TestState(
        judgement.verdict,
        before.own_outcome if own_result is None else own_result.outcome,
        before.since if judgement.verdict is before.verdict else now,
        look,
    )


def _holds(statement: Statement, incident: Incident) -> bool:
    """Return whether a peer states that it holds `incident`, and that it is open."""
    for stated in statement.incidents:
        if stated.is_open and not set(stated.ids).isdisjoint(incident.ids):
            return True
    return False
