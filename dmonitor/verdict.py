"""From this node's result and the peers' answers to a verdict (rules R2 and R3).

Pure. It counts votes and concludes; what follows from a verdict is `incident`'s.
"""

from __future__ import annotations

from collections.abc import Iterable

from dmonitor.model import Answer, Judgement, Verdict, Vote

# When one node is heard twice, what it says counts in this order: doubt never adds a failing vote.
_PRECEDENCE = {Vote.PASSING: 0, Vote.FAILING: 1, Vote.ABSTAIN: 2}


def must_ask(own: Answer, *, incident_open: bool) -> bool:
    """Say whether the peers have to be asked about a test: not while it passes here and no incident is open."""
    return incident_open or own.vote is not Vote.PASSING


def decide(own: Answer, answers: Iterable[Answer], quorum: int, *, incident_open: bool) -> Judgement:
    """Conclude from this node's OWN answer and its peers' ANSWERS, in whatever order they came.

    A vote belongs to a node id: a node listed twice votes once, and an answer with our own id is none.
    Failing votes are counted in distinct sites.
    """
    counted = (own, *_one_for_each_node(own, answers))
    votes = [answer.vote for answer in counted]
    failing = Judgement(Verdict.UNKNOWN, quorum, counted).sites(Vote.FAILING)
    if not must_ask(own, incident_open=incident_open):
        verdict = Verdict.UP
    elif len(failing) >= quorum:
        verdict = Verdict.DOWN
    elif own.vote is Vote.FAILING:
        verdict = Verdict.LOCAL if Vote.PASSING in votes else Verdict.UNCONFIRMED
    elif own.vote is Vote.ABSTAIN and Vote.PASSING not in votes:
        verdict = Verdict.UNKNOWN
    else:
        verdict = Verdict.UP
    return Judgement(verdict, quorum, counted)


def _one_for_each_node(own: Answer, answers: Iterable[Answer]) -> list[Answer]:
    """Drop our own echo and all but one answer of every node id; silent lines of a node that was heard go too."""
    heard: dict[str, Answer] = {}
    for answer in sorted(answers, key=lambda a: (_PRECEDENCE[a.vote], a.node.site, a.node.name, a.seen, a.text)):
        if answer.node_id != own.node_id:
            heard.setdefault(answer.node_id or "silent " + answer.node.name, answer)
    return sorted(heard.values(), key=lambda answer: (answer.node.name, answer.node_id))
