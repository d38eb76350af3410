"""Which rehearsals fail: questions about what passes here, asked for practice (rule R7).

Pure. `health` names those that have failed in several rounds running.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dmonitor.core.model import Judgement, Rehearsal, RehearsalFailure, Test, Vote, node_test
from dmonitor.core.unanswered import NAMED_AFTER


def rehearse(
    before: Sequence[RehearsalFailure],
    rehearsals: Iterable[Rehearsal],
    judgements: Mapping[Test, Judgement],
) -> tuple[RehearsalFailure, ...]:
    """Return the rehearsals that fail now.

    These are those of `before` that were not answered, and those whose answer is wrong. A failure
    is forgotten once its test does not pass here any more, or its peer is not well itself.
    """
    passing = set()
    for test, judgement in judgements.items():
        if judgement.answers[0].vote is Vote.PASSING:
            passing.add(str(test))
    failures = {}
    for failure in before:
        peer_is_well = not failure.peer or str(node_test(failure.peer)) in passing
        if failure.test in passing and peer_is_well:
            failures[failure.test, failure.peer] = failure
    for rehearsal in rehearsals:
        key = str(rehearsal.test), rehearsal.peer
        text = _rehearsal_fault(rehearsal)
        if text:
            rounds = failures[key].rounds + 1 if key in failures else 1
            failures[key] = RehearsalFailure(*key, rounds, text)
        elif rehearsal.answer.result:
            failures.pop(key, None)
    return tuple(failures.values())


def _rehearsal_fault(rehearsal: Rehearsal) -> str:
    """Return what is wrong with the answer to a rehearsal; '' if nothing is.

    A daemon of our own that does not answer is another trouble. What a peer sees fail is none.
    """
    test = rehearsal.test
    answer = rehearsal.answer
    if rehearsal.peer:
        if answer.vote is not Vote.ABSTAIN:
            return ""
        return f"{rehearsal.peer} cannot tell how {test} is: {answer.text}"
    if answer.result is None or answer.vote is Vote.PASSING:
        return ""
    return (
        f"asked about {test} in {NAMED_AFTER} rounds running, dmonitord on this node says"
        f" {answer.seen} ({answer.text}), and dmonitor-check sees OK:"
        " does one of them run confined, or as another user?"
    )
