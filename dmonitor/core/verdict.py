"""Conclude a verdict from this node's own answer and those of its peers (rules R2 and R3).

Pure. This module counts votes and concludes. What follows from a verdict is for `incident` to say.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType

from dmonitor.core.model import Answer, Contact, Judgement, Node, Verdict, Vote

# If one node is heard twice, the answer that comes first here counts: doubt adds no failing vote.
_PRECEDENCE = {Vote.PASSING: 0, Vote.FAILING: 1, Vote.ABSTAIN: 2}
_NO_OWNERS: Mapping[str, str] = MappingProxyType({})


def must_ask(own_answer: Answer, *, incident_open: bool) -> bool:
    """Return whether the peers have to be asked about a test.

    They need not be asked while the test passes here and no incident is open (R3).
    """
    return incident_open or own_answer.vote is not Vote.PASSING


def quorum_that_holds(
    own: int, remembered: Mapping[str, int], contacts: Iterable[Contact], sites: int
) -> int:
    """Return the quorum that holds for all nodes (R3).

    `own` is this node's; `remembered` has what peers have stated before, by name. No peer's counts
    for more than there are `sites`, because then nothing could ever be DOWN.
    """
    stated = dict(remembered)
    for contact in contacts:
        if contact.statement:
            stated[contact.node.name] = contact.statement.status.quorum
    return setting_that_holds(own, [min(quorum, sites) for quorum in stated.values()])


def setting_that_holds(own: int, stated: Iterable[int]) -> int:
    """Return which of some nodes' numbers holds for all: the second largest; of two, the larger.

    While nodes differ, none of them may open what another one would not. But one node that is
    broken must not keep all others from ever alerting. A number of 0 was not stated.
    """
    numbers = sorted([own, *filter(None, stated)], reverse=True)
    if len(numbers) < 3:
        return numbers[0]
    return numbers[1]


def decide(
    own_answer: Answer,
    answers: Iterable[Answer],
    quorum: int,
    *,
    incident_open: bool,
    owners: Mapping[str, str] = _NO_OWNERS,
) -> Judgement:
    """Return the verdict on this node's `own_answer` and its peers' `answers`, with the evidence.

    The order of `answers` does not matter. A vote belongs to a node id (R2): a node that is listed
    twice votes once, and an answer with our own id is no second vote. Failing votes are counted in
    distinct sites; a node that is heard at several sites votes at one of them. `owners` has the
    line of nodes.txt that had a node id for itself, by the id: if it answers, no other line has its
    vote.
    """
    peer_answers = _with_own_ids(answers, owners)
    asking = must_ask(own_answer, incident_open=incident_open)
    if not asking and not peer_answers:  # most tests in most rounds
        return Judgement(Verdict.UP, quorum, (own_answer,))
    counted = _count_each_node_once(own_answer, peer_answers)
    if not asking:
        return Judgement(Verdict.UP, quorum, counted)
    return Judgement(_conclude(own_answer.vote, counted, quorum), quorum, counted)


def _conclude(own_vote: Vote, counted: Sequence[Answer], quorum: int) -> Verdict:
    """Return the verdict on a test about which the peers had to be asked (R3)."""
    failing = set()
    somebody_passes = False
    for answer in counted:
        if answer.vote is Vote.PASSING:
            somebody_passes = True
        elif answer.vote is Vote.FAILING and answer.node.site:
            failing.add(answer.node.site)
    if len(failing) >= quorum:
        return Verdict.DOWN
    if own_vote is Vote.FAILING:
        return Verdict.LOCAL if somebody_passes else Verdict.UNCONFIRMED
    if own_vote is Vote.ABSTAIN and not somebody_passes:
        return Verdict.UNKNOWN
    return Verdict.UP


def _with_own_ids(answers: Iterable[Answer], owners: Mapping[str, str]) -> list[Answer]:
    """Return `answers`, without the id and the vote of each that states the id of another line.

    If the owner of the id is not heard, nothing tells it from a node that moved to that line.
    """
    heard = list(answers)
    names = {(answer.node_id, answer.node.name) for answer in heard}
    believed = []
    for answer in heard:
        owner = owners.get(answer.node_id, answer.node.name)
        if owner != answer.node.name and (answer.node_id, owner) in names:
            answer = Answer(answer.node, reason=f"it has the node id of {owner}")
        believed.append(answer)
    return believed


def _count_each_node_once(own_answer: Answer, answers: Sequence[Answer]) -> tuple[Answer, ...]:
    """Return our own answer and one answer of each other node, each at the site where it votes."""
    counted = [own_answer, *_one_for_each_node(own_answer, answers)]
    voters = {answer.node_id for answer in counted if answer.vote is Vote.FAILING}
    heard = [(answer.node_id, answer.node.site) for answer in (own_answer, *answers)]
    sites = voting_sites(heard, voters)
    at_their_sites = []
    for answer in counted:
        site = sites.get(answer.node_id, answer.node.site)
        if site != answer.node.site:
            answer = answer._replace(node=Node(answer.node.name, site))
        at_their_sites.append(answer)
    return tuple(at_their_sites)


def voting_sites(heard: Iterable[tuple[str, str]], voters: Collection[str]) -> dict[str, str]:
    """Return the site at which each of `voters` votes, by node id.

    `heard` has a pair of node id and site for each line of nodes.txt at which a node was heard. A
    machine is in one place: a node that is heard at several sites votes at one that has a vote
    already, if there is such a site.
    """
    sites_of: dict[str, set[str]] = {}
    for node_id, site in heard:
        if node_id in voters and site:
            sites_of.setdefault(node_id, set()).add(site)
    # A node that is heard at one site has no choice, so it comes first.
    order = sorted(sites_of, key=lambda node_id: (len(sites_of[node_id]), node_id))
    chosen: dict[str, str] = {}
    for node_id in order:
        sites = sites_of[node_id]
        already_voting = sites.intersection(chosen.values())
        chosen[node_id] = min(already_voting or sites)
    return chosen


def _one_for_each_node(own_answer: Answer, answers: Iterable[Answer]) -> list[Answer]:
    """Return one answer of each node id other than our own.

    A line of nodes.txt that stated no id has an answer of its own.
    """
    by_node: dict[str, Answer] = {}
    for answer in sorted(answers, key=_precedence):
        if answer.node_id == own_answer.node_id:
            continue
        key = answer.node_id or f"silent {answer.node.name}"
        by_node.setdefault(key, answer)
    return sorted(by_node.values(), key=lambda answer: (answer.node.name, answer.node_id))


def _precedence(answer: Answer) -> tuple[int, str, str, str, str]:
    """Return the sort key of an answer: if a node has several, the smallest one counts."""
    precedence = _PRECEDENCE[answer.vote]
    return precedence, answer.node.site, answer.node.name, answer.seen, answer.text
