"""From this node's result and the peers' answers to a verdict (rules R2 and R3).

Pure. It counts votes and concludes; what follows from a verdict is `incident`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from dmonitor.core.model import Answer, Judgement, Node, Verdict, Vote

# When one node is heard twice, what it says counts in this order: doubt never adds a failing vote.
_PRECEDENCE = {Vote.PASSING: 0, Vote.FAILING: 1, Vote.ABSTAIN: 2}


def must_ask(own: Answer, *, incident_open: bool) -> bool:
    """Say whether the peers have to be asked about a test: not while it passes here and no incident is open."""
    return incident_open or own.vote is not Vote.PASSING


def decide(
    own: Answer, answers: Iterable[Answer], quorum: int, *, incident_open: bool
) -> Judgement:
    """Conclude from this node's OWN answer and its peers' ANSWERS, in whatever order they came.

    A vote belongs to a node id: a node listed twice votes once, and an answer with our own id is none.
    Failing votes are counted in distinct sites; one that is heard at several is at one of them.
    """
    every = (own, *answers)
    if len(every) == 1 and not must_ask(
        own, incident_open=incident_open
    ):  # most tests in most rounds
        return Judgement(Verdict.UP, quorum, every)
    counted = (own, *_one_for_each_node(own, every[1:]))
    voters = {answer.node_id for answer in counted if answer.vote is Vote.FAILING}
    placed = voting_sites(((answer.node_id, answer.node.site) for answer in every), voters)
    counted = tuple(_at(answer, placed.get(answer.node_id, answer.node.site)) for answer in counted)
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


def voting_sites(heard: Iterable[tuple[str, str]], voters: Collection[str]) -> dict[str, str]:
    """Return at which site each of VOTERS counts, by node ids, given all that were HEARD and where.

    A machine is in one place: of several sites at which one id is heard it counts for one that has a vote already.
    """
    sites: dict[str, set[str]] = {}
    for node_id, site in heard:
        if node_id in voters and site:
            sites.setdefault(node_id, set()).add(site)
    placed: dict[str, str] = {}
    for node_id, some in sorted(sites.items(), key=lambda pair: (len(pair[1]), pair[0])):
        placed[node_id] = min(some & set(placed.values()) or some)
    return placed


def _at(answer: Answer, site: str) -> Answer:
    return (
        answer if site == answer.node.site else answer._replace(node=Node(answer.node.name, site))
    )


def _one_for_each_node(own: Answer, answers: Iterable[Answer]) -> list[Answer]:
    """Drop our own echo and all but one answer of every node id; silent lines of a node that was heard go too."""
    heard: dict[str, Answer] = {}
    for answer in sorted(
        answers, key=lambda a: (_PRECEDENCE[a.vote], a.node.site, a.node.name, a.seen, a.text)
    ):
        if answer.node_id != own.node_id:
            heard.setdefault(answer.node_id or "silent " + answer.node.name, answer)
    return sorted(heard.values(), key=lambda answer: (answer.node.name, answer.node_id))
