"""Which tests rest in a round: their last results stand, and nobody looks at them (rules R1, R3).

Pure. A test with a Rhythm (EVERY) rests while it passes, until it is this node's turn. Each node
has turns of its own, so that some node looks at a test more often the more nodes there are. While
such a test does not pass, or has an incident, it rests from one try to the next (RETRY).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from dmonitor.core import election
from dmonitor.core.digest import digest
from dmonitor.core.model import (
    Answer,
    Judgement,
    LastLook,
    Node,
    Outcome,
    Rhythm,
    Test,
    TestState,
    Verdict,
)
from dmonitor.core.situation import Situation

_NO_STATE = TestState()


def resting_tests(situation: Situation, states: Mapping[Test, TestState]) -> frozenset[Test]:
    """Return the tests that rest in the round that begins; `states` are those of the last one."""
    rhythms = situation.config.rhythms
    if not rhythms:
        return frozenset()
    now = situation.asked_at
    interval = 60.0 * election.interval(situation.node_memory.begins)
    share = _share(situation.me.name, situation.config.nodes)
    with_incident = _tests_with_incident(situation)
    confirming = _tests_in_a_row(situation)
    resting = set()
    for test, rhythm in rhythms.items():
        state = states.get(test, _NO_STATE)
        look = state.look
        if look is None or look.at > now or look.fingerprint != rhythm.fingerprint:
            continue  # never looked at, or no longer the same test
        if test in confirming:
            continue
        if _passes(state, look) and test not in with_incident:
            rests = rhythm.every > interval and _is_same_turn(test, rhythm, share, look.at, now)
        else:
            rests = now - look.at < rhythm.retry - interval / 2
        if rests:
            resting.add(test)
    return frozenset(resting)


def _tests_with_incident(situation: Situation) -> set[Test]:
    """Return the tests that have an open incident, which this node has opened or heard of."""
    return {incident.test for incident in situation.ledger if incident.is_open}


def _tests_in_a_row(situation: Situation) -> set[Test]:
    """Return the tests that were DOWN in the last round, and must be so again (`confirm`)."""
    return set(situation.own_confirming)


def _passes(state: TestState, look: LastLook) -> bool:
    return state.verdict is Verdict.UP and look.result.outcome is Outcome.OK


def _is_same_turn(test: Test, rhythm: Rhythm, share: float, earlier: float, now: float) -> bool:
    """Return whether no turn of this node has begun since `earlier`.

    Turns are one `every` apart. Tests have theirs at different times, too.
    """
    phase = int(digest([test]), 16) / 16**16 + share
    return math.floor(earlier / rhythm.every - phase) == math.floor(now / rhythm.every - phase)


def _share(me: str, nodes: Iterable[Node]) -> float:
    """Return by which part of `every` this node's turns come after those of the first node.

    That is by its line in nodes.txt, whether or not the others live: turns do not move because a
    node dies.
    """
    listed = [node.name for node in nodes]
    if me not in listed:
        return 0.0
    return listed.index(me) / len(listed)


def standing_judgements(
    situation: Situation, states: Mapping[Test, TestState], resting: Iterable[Test]
) -> dict[Test, Judgement]:
    """Return what this node last concluded about each test that rests, with its own last result.

    Nobody was asked, so it is evidence of nothing new: no incident opens or closes by it.
    """
    now = situation.clock.now()
    judgements = {}
    for test in resting:
        state = states[test]
        if state.look is not None:
            age = max(0.0, now - state.look.at)
            own_answer = Answer(situation.me, situation.config.node_id, state.look.result, age)
            judgements[test] = Judgement(state.verdict, situation.config.quorum, (own_answer,))
    return judgements
