"""What a node finds out about itself: whether it is suspect, and what troubles it (rule R7).

Pure. What counts as a trouble is decided in `health`, and how long it must last in `complaints`;
this asks at the right moments, marks the votes of suspect nodes, logs, and complains.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping, Sequence
from typing import Any

from dmonitor.core import complaints, health, unanswered
from dmonitor.core.effects import Complain, Effect, Examine, Rehearse
from dmonitor.core.model import ROOT, Answer, Judgement, Rehearsal, Test, TestState, Trouble
from dmonitor.core.node_ids import NodeIds
from dmonitor.core.rehearsal import rehearse
from dmonitor.core.situation import Situation, Steps

EXAMINE_SECONDS = 600.0  # after which the programs are examined again, if nothing was wrong


class SelfCheck:
    """The self-check of one round."""

    def __init__(self, situation: Situation) -> None:
        self._situation = situation
        self._is_suspect = False

    def mark_suspects(self, judgements: Mapping[Test, Judgement]) -> Mapping[Test, Judgement]:
        """Return `judgements` with the answers of suspect nodes marked.

        A node is suspect if most of what it tests fails there alone. Each node finds that out for
        itself and states it as a trouble; the mark never changes a verdict.
        """
        suspects = set()
        for node_id, statement in self._situation.statements.items():
            if health.SUSPECT in statement.status.troubles:
                suspects.add(node_id)
        self._is_suspect = health.is_suspect(judgements)
        if self._is_suspect:
            suspects.add(self._situation.config.node_id)
        if not suspects:
            return judgements
        marked = {}
        for test, judgement in judgements.items():
            answers = tuple(_mark(answer, suspects) for answer in judgement.answers)
            marked[test] = judgement._replace(answers=answers)
        return marked

    def run(
        self,
        judgements: Mapping[Test, Judgement],
        test_states: Mapping[Test, TestState],
        unconfirmed_recoveries: Sequence[Test] = (),
        *,
        resting: Collection[Test] = (),
    ) -> Steps:
        """Rehearse, find what troubles this node, log what is new or over, complain of what is due.

        `judgements` are those of this round, and of the tests that are `resting` those that stand.
        `test_states` are the states of all tests after it, and `unconfirmed_recoveries` the tests
        that pass and whose incidents cannot close.
        """
        situation = self._situation
        rehearsals = yield Rehearse(situation.node_memory.rehearsal_failures)
        if situation.has_slept():
            return
        now = situation.clock.now()
        yield from self._examine(now)
        remembered = situation.node_memory
        rehearsed = {
            test: judgement
            for test, judgement in judgements.items()
            if test not in situation.config.rhythms
        }
        failures = rehearse(remembered.rehearsal_failures, rehearsals, rehearsed)
        no_daemon = _why_no_daemon(rehearsals, remembered.no_daemon)
        status = situation.status()
        node_ids = NodeIds(
            status.node_id, situation.contacts, judgements.values(), dict(remembered.known_ids)
        )
        view = health.HealthInput(
            me=situation.me,
            status=status,
            tests=situation.tests,
            judgements=judgements,
            test_states=test_states,
            contacts=situation.contacts,
            node_ids=node_ids,
            quorum=situation.quorum(),
            rehearsal_failures=failures,
            no_daemon=no_daemon,
            is_suspect=self._is_suspect,
            unconfirmed_recoveries=unconfirmed_recoveries,
            own_lines=situation.own_node_names(),
            diverted=situation.config.diverted,
            mistakes=self._mistakes(),
            complete=situation.config.complete,
            addresses=situation.config.addresses,
            refused=[
                each.address
                for each in (*remembered.refused_addresses, *remembered.trouble_refusals)
            ],
        )
        silent = unanswered.follow(remembered.unanswered, judgements, view.others, resting)
        view = view._replace(unanswered=silent)
        troubles = self._log_troubles(health.find(view, now), health.about(view), now)
        if situation.config.troubles == ROOT:
            troubles = yield from self._complain(troubles, now)
        listed = {node.name for node in situation.config.nodes}
        situation.node_memory = remembered._replace(
            troubles=tuple(troubles),
            rehearsal_failures=failures,
            no_daemon=no_daemon,
            unanswered=silent,
            known_ids=tuple(sorted(node_ids.learn(listed).items())),
        )

    def _complain(
        self, troubles: list[Trouble], now: float
    ) -> Generator[Effect, Any, list[Trouble]]:
        """Print all troubles for cron if one of them is due; return them as they are said."""
        serious = [trouble for trouble in troubles if _is_complained_of(trouble, now)]
        if not any(complaints.is_due(trouble, now) for trouble in serious):
            return troubles
        texts = "; ".join(trouble.text for trouble in serious)
        is_new = any(trouble.said == float("-inf") for trouble in serious)
        was_refused = yield Complain(f"{self._situation.me.name}: {texts}", is_new)
        if was_refused:
            return troubles
        return [_mark_said(trouble, serious, now) for trouble in troubles]

    def _examine(self, now: float) -> Steps:
        """Have the programs examined, and remember what is wrong with them.

        That takes long, so it is done in each round only as long as something is wrong.
        """
        memory = self._situation.node_memory
        if memory.mistakes or not 0.0 <= now - memory.examined < EXAMINE_SECONDS:
            found = yield Examine()
            mistakes = health.listed_mistakes(found)
            memory = memory._replace(mistakes=mistakes, examined=now)
            self._situation.node_memory = memory

    def _mistakes(self) -> str:
        """Return what is wrong in the files that this round has read, and with the programs."""
        read = health.listed_mistakes(self._situation.config.mistakes)
        texts = [read, self._situation.node_memory.mistakes]
        return "; ".join(text for text in texts if text)

    def _log_troubles(
        self, found: Mapping[str, str], about: Mapping[str, str], now: float
    ) -> list[Trouble]:
        """Log each trouble that is new or over; return all troubles as they are logged."""
        remembered = self._situation.node_memory.troubles
        before = {trouble.kind: trouble for trouble in remembered}
        troubles = []
        for trouble in complaints.follow(remembered, found, now, about):
            if trouble.ended == now:
                self._log_over(trouble, now)
            elif complaints.is_serious(trouble, now):
                trouble = self._log_lasting(trouble, before.get(trouble.kind), now)
            troubles.append(trouble)
        return troubles

    def _log_over(self, trouble: Trouble, now: float) -> None:
        clock = self._situation.clock
        self._situation.note(
            "warning",
            "trouble-over",
            kind=trouble.kind,
            since=clock.text(trouble.since),
            until=clock.text(now),
            seconds=round(now - trouble.since),
        )

    def _log_lasting(self, trouble: Trouble, before: Trouble | None, now: float) -> Trouble:
        """Log a trouble that is new, has a new text, or has lasted for another hour.

        Return it as it is logged.
        """
        is_warning = trouble.kind in complaints.WARNINGS
        is_due = complaints.is_due(trouble, now)
        is_news = before is not None and complaints.is_news(trouble, before)
        if is_due or is_news or not trouble.logged:
            self._situation.note(
                "warning" if is_warning else "critical",
                "trouble",
                kind=trouble.kind,
                text=trouble.text,
                since=self._situation.clock.text(trouble.since),
            )
        is_said_here = is_warning or self._situation.config.troubles != ROOT
        if is_said_here and is_due:
            trouble = trouble._replace(said=now)
        return trouble._replace(logged=True)


def _mark(answer: Answer, suspects: Collection[str]) -> Answer:
    if answer.node_id in suspects:
        return answer._replace(suspect=True)
    return answer


def _why_no_daemon(rehearsals: Sequence[Rehearsal], remembered: str) -> str:
    """Return why this node's daemon did not answer; empty if it did, as before if nobody asked."""
    reason = remembered
    for rehearsal in rehearsals:
        if not rehearsal.peer:
            reason = rehearsal.answer.reason
    return reason


def _is_complained_of(trouble: Trouble, now: float) -> bool:
    """Return whether `trouble` is one for people, and not only for the log."""
    return trouble.kind not in complaints.WARNINGS and complaints.is_serious(trouble, now)


def _mark_said(trouble: Trouble, said: Collection[Trouble], now: float) -> Trouble:
    if trouble in said:
        return trouble._replace(said=now)
    return trouble
