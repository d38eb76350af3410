"""From this node's result and the peers' answers to a verdict (rules R2 and R3).

Pure. It counts votes and concludes; what follows from a verdict is `incident`'s.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from dmonitor.model import Answer, Judgement, Node, Verdict, Vote

# When one node is heard twice, what it says counts in this order: doubt never adds a failing vote.
_PRECEDENCE = {Vote.PASSING: 0, Vote.FAILING: 1, Vote.ABSTAIN: 2}


def must_ask(own: Answer, *, incident_open: bool) -> bool:
    """Say whether the peers have to be asked about a test: not while it passes here and no incident is open."""
    return incident_open or own.vote is not Vote.PASSING


def decide(own: Answer, answers: Iterable[Answer], quorum: int, *, incident_open: bool) -> Judgement:
    """Conclude from this node's OWN answer and its peers' ANSWERS, in whatever order they came.

    A vote belongs to a node id: a node listed twice votes once, and an answer with our own id is none.
    Failing votes are counted in distinct sites; sites where one node id answers are one.
    """
    every = (own, *answers)
    one_site = same_sites((answer.node_id, answer.node.site) for answer in every)
    counted = tuple(_placed(answer, one_site) for answer in (own, *_one_for_each_node(own, every[1:])))
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


def same_sites(places: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return for each site which it is, given PLACES, node ids and the sites they were heard at: a machine is in one of them."""
    sites: dict[str, set[str]] = {}
    for node_id, site in places:
        if node_id and site:
            sites.setdefault(node_id, set()).add(site)
    groups: list[set[str]] = []
    for some in sites.values():
        if len(some) > 1:
            groups = [group for group in groups if not group & some] + [some.union(*(group for group in groups if group & some))]
    return {site: min(group) for group in groups for site in group}


def _placed(answer: Answer, one_site: Mapping[str, str]) -> Answer:
    site = one_site.get(answer.node.site, answer.node.site)
    return answer if site == answer.node.site else dataclasses.replace(answer, node=Node(answer.node.name, site))


def _one_for_each_node(own: Answer, answers: Iterable[Answer]) -> list[Answer]:
    """Drop our own echo and all but one answer of every node id; silent lines of a node that was heard go too."""
    heard: dict[str, Answer] = {}
    for answer in sorted(answers, key=lambda a: (_PRECEDENCE[a.vote], a.node.site, a.node.name, a.seen, a.text)):
        if answer.node_id != own.node_id:
            heard.setdefault(answer.node_id or "silent " + answer.node.name, answer)
    return sorted(heard.values(), key=lambda answer: (answer.node.name, answer.node_id))
