"""Which tests fail here, and greeted peers say nothing about, round after round (rule R7).

Pure. Who sits on the wire can let greetings pass, and cut off all answers about one test. `health`
says so once it has lasted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from dmonitor.base import names
from dmonitor.core.model import Contact, Judgement, Statement, Test, Unanswered, Verdict, Vote

# Rounds in a row in which a peer must not answer, or a rehearsal fail, before it is named.
NAMED_AFTER = 3
KEPT = 100  # tests about which greeted peers did not answer


def follow(
    before: Sequence[Unanswered],
    judgements: Mapping[Test, Judgement],
    contacts: Iterable[Contact],
    resting: Collection[Test] = (),
) -> tuple[Unanswered, ...]:
    """Return the tests that fail here, and about which peers that were greeted did not answer.

    A test that is DOWN does not count, because others have confirmed it. A peer that could not be
    greeted is another matter, and so is one that does not have the test. While nobody can say
    otherwise, a round counts whichever peers were greeted in it. A round in which a test is
    `resting` does not count, because nobody was asked.
    """
    statements = {contact.node.name: contact.statement for contact in contacts}
    last = {each.test: each for each in before}
    found = [each for each in before if each.test in resting]
    for test, judgement in judgements.items():
        if judgement.answers[0].vote is not Vote.FAILING or judgement.verdict is Verdict.DOWN:
            continue
        peers = _silent_peers(test, judgement, statements)
        if not peers:
            if test in last and _keeps_count(last[test], judgement, statements):
                found.append(last[test])
            continue
        rounds = 1
        if test in last:
            again = peers.intersection(last[test].peers)
            if again or judgement.verdict is Verdict.UNCONFIRMED:
                peers = again
                rounds = min(last[test].rounds + 1, NAMED_AFTER)
        found.append(Unanswered(test, tuple(sorted(peers)), rounds))
    found.sort(key=lambda each: -each.rounds)
    return tuple(found[:KEPT])


def _keeps_count(
    last: Unanswered, judgement: Judgement, statements: Mapping[str, Statement | None]
) -> bool:
    """Return whether a round in which no greeted peer was silent says nothing new.

    It does not if a peer that was silent before was not greeted now: who sits on the wire may cut
    that off as well.
    """
    for answer in judgement.answers[1:]:
        was_silent = not last.peers or answer.node.name in last.peers
        if was_silent and answer.result is None and not statements.get(answer.node.name):
            return True
    return False


def _silent_peers(
    test: Test, judgement: Judgement, statements: Mapping[str, Statement | None]
) -> set[str]:
    """Return the peers with `statements` that may have `test`, and did not answer about it."""
    peers = set()
    for answer in judgement.answers[1:]:  # the first one is this node's own
        statement = statements.get(answer.node.name)
        if answer.result is None and statement and _may_have(statement, test):
            peers.add(answer.node.name)
    return peers


def _may_have(statement: Statement, test: Test) -> bool:
    """Return whether a peer has `test`, as far as it is known."""
    return statement.tests is None or test.host == names.NODE or test in statement.tests
