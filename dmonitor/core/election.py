"""Choose the node that hands over the mails: the first of the living nodes (rule R5).

Pure. What this node states, what its peers state in their greetings, and `now` go in; the speaking
node, and why, comes out. No vote is taken: each node comes to the same answer by itself. Each
clause removes a run in which a mail was doubled or lost; doc/design.md tells of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from dmonitor.base import names
from dmonitor.core.incident import owed
from dmonitor.core.model import Incident, NodeStatus, Statement, Test, node_test

# Seconds beyond its interval for which a node that has finished a round counts as living.
LIVING_GRACE = 60.0
# Seconds in which a node is woken, hands over, is refused, and its peers hear of that.
REFUSAL_TAKES = 60.0
_MEASURED_ROUNDS = 5  # the last ones, from which an interval is measured


class Choice(NamedTuple):
    """Who speaks, and why."""

    speaker: NodeStatus | None  # None: no node does
    reason: str  # for people


class Candidate(NamedTuple):
    """A peer that may speak."""

    status: NodeStatus
    greeted: bool = False  # in this round; if not, a peer that was greeted told of it
    ids: frozenset[str] = frozenset()  # of the incidents that it lists
    tests: frozenset[Test] | None = None  # None: the same as ours, or not known
    hears_me: bool = False  # it greeted this node in its last round
    relayed_for: float = 0.0  # seconds for which the word of the peer that told of it counts
    closed_ids: frozenset[str] = frozenset()  # of the incidents that it lists as over
    is_down: bool = False  # this round has concluded that it is DOWN


def interval(begins: Sequence[float]) -> int:
    """Return the interval of a node's rounds in whole minutes: the median of the last few.

    `begins` has the seconds at which its rounds began, in order.
    """
    gaps = []
    for earlier, later in itertools.pairwise(begins[-_MEASURED_ROUNDS:]):
        gaps.append(later - earlier)
    if not gaps:
        return 1
    gaps.sort()
    median = gaps[(len(gaps) - 1) // 2]
    return max(1, round(median / 60))


def living_limit(status: NodeStatus) -> float:
    """Return how many seconds ago a living node's last round may have ended.

    It may also take so long to hear of an incident.
    """
    return status.interval * 60 + LIVING_GRACE


def is_at_work(status: NodeStatus) -> bool:
    """Return whether the last round of a node was recent when it stated this."""
    return status.at - status.finished <= living_limit(status)


def rank(status: NodeStatus) -> tuple[bool, int, int, str, str]:
    """Return the sort key of a living node; the node with the smallest one speaks.

    Nodes that cannot store what they told come last. Then the hand-overs that were refused in a row
    decide, then the interval, then the name.
    """
    return not status.stores, status.refused, status.interval, status.name, status.node_id


def candidates(
    me: NodeStatus, statements: Iterable[Statement], down: Collection[str] = ()
) -> list[Candidate]:
    """Return the peers that made the `statements` of this round, and those that they greeted.

    `down` are the names of the nodes that this round has concluded to be DOWN.
    """
    by_id: dict[str, Candidate] = {}
    relayed: list[Candidate] = []
    for statement in statements:
        node_id = statement.status.node_id
        by_id[node_id] = _greeted_candidate(me, statement)
        # It says so until it has finished its next round.
        relayed_for = living_limit(statement.status)
        for status in statement.heard:
            is_down = status.name in down
            relayed.append(Candidate(status, relayed_for=relayed_for, is_down=is_down))
    # A peer speaks for itself; of the others the latest word counts.
    relayed.sort(key=lambda candidate: candidate.status.at, reverse=True)
    for candidate in relayed:
        by_id.setdefault(candidate.status.node_id, candidate)
    by_id.pop(me.node_id, None)
    return list(by_id.values())


def _greeted_candidate(me: NodeStatus, statement: Statement) -> Candidate:
    ids: set[str] = set()
    closed_ids: set[str] = set()
    for incident in statement.incidents:
        ids.update(incident.ids)
        if incident.closed is not None:
            closed_ids.update(incident.ids)
    hears_me = any(status.node_id == me.node_id for status in statement.heard)
    return Candidate(
        statement.status,
        greeted=True,
        ids=frozenset(ids),
        closed_ids=frozenset(closed_ids),
        tests=statement.tests,
        hears_me=hears_me,
    )


def choose(
    me: NodeStatus,
    peers: Sequence[Candidate],
    now: float,
    incident: Incident | None = None,
    *,
    due_since: float | None = None,
) -> Choice:
    """Return who speaks for `incident`, which this node holds.

    Without an incident, return who would speak for one that every node has. What `incident` owes
    may be told since `due_since`; None means since this node holds it.
    """
    due_for = 0.0
    if incident and owed(incident):
        due_for = now - (incident.held if due_since is None else due_since)
    reasons: dict[str, str] = {}  # by node: why it does not count, or does not come first
    counting = _sort_out(peers, lambda peer: _why_not(peer, now, incident), reasons)
    # Who is only told of may be made up by who tells of it.
    greeted = [peer.status for peer in counting if peer.greeted]
    refused_for = REFUSAL_TAKES * sum(status.refused for status in (me, *greeted))
    living = _sort_out(
        counting, lambda peer: _why_not_trusted(peer, due_for - refused_for), reasons
    )
    order = sorted((peer.status for peer in living), key=rank)
    why_silent = _why_silent(me, now)
    if why_silent:
        reasons[me.name] = why_silent
    elif _peers_come_first(me, living, now, incident):
        reasons[me.name] = "no peer greeted it"
        order.append(me)
    else:
        order.append(me)
        order.sort(key=rank)
    for status in order[1:]:
        if status.refused > order[0].refused:
            reasons[status.name] = f"was refused ({status.refused} in a row)"
    return _choice(order, reasons)


def _sort_out(
    peers: Iterable[Candidate], why_not: Callable[[Candidate], str], reasons: dict[str, str]
) -> list[Candidate]:
    """Return the `peers` for which `why_not` has no reason; add the others' to `reasons`."""
    left = []
    for peer in peers:
        reason = why_not(peer)
        if reason:
            reasons[peer.status.name] = reason
        else:
            left.append(peer)
    return left


def _choice(order: Sequence[NodeStatus], reasons: dict[str, str]) -> Choice:
    clauses = [f"{name} {reason}" for name, reason in sorted(reasons.items())]
    if not order:
        return Choice(None, "; ".join(["nobody speaks: no node is living", *clauses]))
    first = order[0]
    decision = f"{first.name} speaks: first of {len(order)} living"
    return Choice(first, "; ".join([decision, *clauses]))


def _peers_come_first(
    me: NodeStatus, living: Sequence[Candidate], now: float, incident: Incident | None
) -> bool:
    """Return whether all living peers come before this node.

    They do while an incident is young, if some of them answer this node and none of those greeted
    it in its last round: this node hears, but cannot be reached (R5).
    """
    is_young = False
    for peer in living:
        if not peer.greeted:
            continue
        if peer.hears_me:
            return False
        if incident is None or now - incident.held < living_limit(peer.status):
            is_young = True
    return is_young


def _why_not(peer: Candidate, now: float, incident: Incident | None) -> str:
    """Return why a peer does not count for `incident`, or ''."""
    # Its age at the time when it stated it counts: a round that it has finished since is not heard
    # of so soon.
    why_silent = _why_silent(peer.status, peer.status.at)
    if why_silent:
        return why_silent
    if not peer.greeted and now - peer.status.at > peer.relayed_for:
        return "not reached"
    if peer.is_down:
        return "is DOWN"
    if incident is None:
        return ""
    return _why_not_for(incident, peer, now)


def _why_not_for(incident: Incident, peer: Candidate, now: float) -> str:
    """Return why a living peer does not count for `incident`, or ''."""
    test = incident.test
    if test == node_test(peer.status.name):
        return "is the node that the incident is about"
    # Every node has the tests that the other nodes are.
    if peer.tests is not None and test.host != names.NODE and test not in peer.tests:
        return "lacks the test"
    had_time = now - incident.held >= living_limit(peer.status)
    if not had_time:
        return ""
    if peer.ids.isdisjoint(incident.ids):
        return "does not list it"
    if incident.closed is not None and peer.closed_ids.isdisjoint(incident.ids):
        return "does not list that it is over"
    return ""


def _why_not_trusted(peer: Candidate, due_for: float) -> str:
    """Return why a peer is not relied on to tell what it could tell for some seconds, or ''.

    It cannot while others come first, so the time in which nodes were refused is not counted.
    """
    if due_for >= living_limit(peer.status):
        return "has not told it"
    return ""


def _why_silent(status: NodeStatus, now: float) -> str:
    """Return why a node is not living by what it states, or ''."""
    if not status.speaks:
        return "has no address"
    age = now - status.finished
    if age <= living_limit(status):
        return ""
    if age == float("inf"):
        return "never finished a round"
    return f"stale {age / 60:.0f} min"
