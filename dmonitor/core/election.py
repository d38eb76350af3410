"""Choose the node that hands over the mails: the first of the living nodes (rule R5).

Pure. What this node states, what its peers state in their greetings, and `now` go in; the speaking
node, and why, comes out. No vote is taken: each node comes to the same answer by itself. Each
clause removes a run in which a mail was doubled or lost; doc/design.md tells of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from dmonitor.base import names
from dmonitor.core.incident import owed
from dmonitor.core.model import (
    HAND_OVER_LIMIT,
    Incident,
    NodeStatus,
    Refusals,
    Statement,
    Test,
    node_test,
)

# Seconds beyond its interval for which a node that has finished a round counts as living.
LIVING_GRACE = 60.0
# Seconds for which the others that come before a node are waited for, all together, once the turn
# of the first one is over: as long as it takes to be woken, to hand over and to be heard.
NEXT_TURN = 30.0
_MEASURED_ROUNDS = 5  # the last ones, from which an interval is measured


class Choice(NamedTuple):
    """Who speaks, and why."""

    speaker: NodeStatus | None  # None: no node does
    reason: str  # for people
    # Whether each node that may speak was refused: no mail system of theirs takes a mail now.
    all_refused: bool = False


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
    line: str = ""  # of nodes.txt at which it answers; "": it was not greeted
    # Since when it hands over incidents, by all of their ids.
    handing: Mapping[str, float] = MappingProxyType({})

    @property
    def name(self) -> str:
        """Its name for people: that of its line, and what it calls itself if that is another."""
        if self.line in ("", self.status.name):
            return self.status.name
        return f"{self.line}, which calls itself {self.status.name},"

    @property
    def test(self) -> Test:
        """The test that it is itself."""
        return node_test(self.line or self.status.name)


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


def interval_that_holds(own: int, stated: Iterable[int]) -> int:
    """Return the longest interval for which any node is waited: ours, or one that two peers state.

    One that is broken, or lies, must not be waited for for a day.
    """
    return max([own, *sorted(stated)[:-1]])


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
    me: NodeStatus,
    statements: Iterable[Statement],
    down: Collection[str] = (),
    unheard: Collection[str] | None = None,
    lines: Mapping[str, str] | None = None,
) -> list[Candidate]:
    """Return the peers that made the `statements` of this round, and those that they greeted.

    `down` are the names of the nodes that this round has concluded to be DOWN. `unheard` are those
    in nodes.txt that this round has not heard itself. A peer could make up any other one, so it is
    believed of these only; None means of all.
    `lines` has the line of nodes.txt at which each node id was greeted; None means that all names
    are as stated.
    """
    lines = lines or {}
    by_id: dict[str, Candidate] = {}
    relayed: list[Candidate] = []
    for statement in statements:
        node_id = statement.status.node_id
        by_id[node_id] = _greeted_candidate(me, statement, lines.get(node_id, ""))
        # It says so until it has finished its next round.
        relayed_for = living_limit(statement.status)
        for status in statement.heard:
            if unheard is not None and status.name not in unheard:
                continue
            is_down = status.name in down
            relayed.append(Candidate(status, relayed_for=relayed_for, is_down=is_down))
    # A peer speaks for itself; of the others the latest word counts.
    relayed.sort(key=lambda candidate: candidate.status.at, reverse=True)
    for candidate in relayed:
        by_id.setdefault(candidate.status.node_id, candidate)
    by_id.pop(me.node_id, None)
    return list(by_id.values())


def _greeted_candidate(me: NodeStatus, statement: Statement, line: str) -> Candidate:
    ids: set[str] = set()
    closed_ids: set[str] = set()
    handing: dict[str, float] = {}
    for incident in statement.incidents:
        ids.update(incident.ids)
        if incident.handing > float("-inf"):
            handing.update(dict.fromkeys(incident.ids, incident.handing))
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
        line=line,
        handing=handing,
    )


def choose(
    me: NodeStatus,
    peers: Sequence[Candidate],
    now: float,
    incident: Incident | None = None,
    *,
    due_since: float | None = None,
    refusals: Iterable[Refusals] = (),
    slowest: int = 1,
    down_since: float = float("-inf"),
) -> Choice:
    """Return who speaks for `incident`, which this node holds.

    Without an incident, return who would speak for one that every node has. What `incident` owes
    may be told since `due_since`; None means since this node holds it. `refusals` are those that
    this node knows of, its own included. `slowest` is the longest interval for which any node is
    waited. `down_since` is when a node was last found DOWN that still is.
    """
    reasons: dict[str, str] = {}  # by node: why it does not count, or does not come first
    order = _sort_out(peers, lambda peer: _why_not(peer, now, incident), reasons)
    order.sort(key=_rank_of)
    for peer in sorted(peers, key=_rank_of):
        if incident and _is_handing(peer, incident, now, slowest):
            return Choice(peer.status, f"{peer.name} hands it over")
    this_node = Candidate(me)
    why_silent = _why_silent(me, now)
    if why_silent:
        reasons[me.name] = why_silent
    elif _peers_come_first(order, now, incident):
        reasons[me.name] = "no peer greeted it"
        order.append(this_node)
    else:
        order.append(this_node)
        order.sort(key=_rank_of)
    if incident:
        turns = _Turns(incident, due_since, tuple(refusals), slowest, down_since)
        order = _pass_over(order, this_node, turns, now, reasons)
    for candidate in order[1:]:
        refused = candidate.status.refused
        if refused > order[0].status.refused:
            reasons[candidate.name] = f"was refused ({refused} in a row)"
    return _choice(order, reasons)


def _is_handing(peer: Candidate, incident: Incident, now: float, slowest: int) -> bool:
    """Return whether a peer hands over `incident`: its mail is perhaps taken already.

    `slowest` is the longest interval for which any node is waited. The peer was living when it
    began. It may have become too old since then, because it has missed a round; its mail goes on
    all the same.
    """
    since = _handing_since(peer, incident)
    return abs(now - since) < _handed_for(peer, slowest) and not _why_silent(peer.status, since)


def _handed_for(peer: Candidate, slowest: int) -> float:
    """Return for how many seconds a peer may hand over: its next round finds what came of it."""
    return HAND_OVER_LIMIT + _patience(peer, slowest)


def _handing_since(peer: Candidate, incident: Incident) -> float:
    """Return since when a peer hands over `incident`; -inf if it does not."""
    begun = [peer.handing[each] for each in incident.ids if each in peer.handing]
    return min(begun, default=float("-inf"))


def _rank_of(candidate: Candidate) -> tuple[bool, int, int, str, str]:
    return rank(candidate.status)


def _sort_out(
    peers: Iterable[Candidate], why_not: Callable[[Candidate], str], reasons: dict[str, str]
) -> list[Candidate]:
    """Return the `peers` for which `why_not` has no reason; add the others' to `reasons`."""
    left = []
    for peer in peers:
        reason = why_not(peer)
        if reason:
            reasons[peer.name] = reason
        else:
            left.append(peer)
    return left


def _choice(order: Sequence[Candidate], reasons: dict[str, str]) -> Choice:
    clauses = [f"{name} {reason}" for name, reason in sorted(reasons.items())]
    if not order:
        return Choice(None, "; ".join(["nobody speaks: no node is living", *clauses]))
    first = order[0]
    decision = f"{first.name} speaks: first of {len(order)} living"
    all_refused = _are_all_refused(order)
    if all_refused:
        clauses.insert(0, "each of them was refused")
    return Choice(first.status, "; ".join([decision, *clauses]), all_refused)


def _are_all_refused(order: Iterable[Candidate]) -> bool:
    """Return whether the last hand-over of each node that may speak was refused."""
    return all(candidate.status.refused for candidate in order)


def _peers_come_first(peers: Sequence[Candidate], now: float, incident: Incident | None) -> bool:
    """Return whether all `peers` that count come before this node.

    They do while an incident is young, if some of them answer this node and none of those greeted
    it in its last round: this node hears, but cannot be reached (R5). They still have no more than
    their turns.
    """
    is_young = False
    for peer in peers:
        if not peer.greeted:
            continue
        is_young_for_it = incident is None or now - incident.held < living_limit(peer.status)
        if incident and not is_young_for_it and _why_unheard(peer, incident):
            continue
        if peer.hears_me:
            return False
        is_young = is_young or is_young_for_it
    return is_young


class _Turns(NamedTuple):
    """What decides how long each node is waited for that comes first for an incident."""

    incident: Incident
    due_since: float | None
    refusals: tuple[Refusals, ...]
    slowest: int  # the longest interval for which any node is waited
    down_since: float  # when a node was last found DOWN that still is


def _pass_over(
    order: Sequence[Candidate],
    this_node: Candidate,
    turns: _Turns,
    now: float,
    reasons: dict[str, str],
) -> list[Candidate]:
    """Return the rest of the `order`, from that node on whose turn it is.

    Add to `reasons` why the turn of those before it is over. A turn lasts for the interval of its
    node and a minute, from when nodes before it were refused, were found DOWN, or have handed over
    for too long. If all were over at once, each node would speak. So the others have NEXT_TURN at
    least, once that of the first one is over.
    """
    incident = turns.incident
    due = incident.held if turns.due_since is None else turns.due_since
    next_ends = float("-inf")
    given_up = {}
    for peer in order:
        since = _handing_since(peer, incident)
        if float("-inf") < since < now:
            given_up[peer.status.node_id] = since + _handed_for(peer, turns.slowest)
    for place, peer in enumerate(order):
        if peer is this_node:
            return list(order[place:])
        patience = _patience(peer, turns.slowest)
        others = [at for node_id, at in given_up.items() if node_id != peer.status.node_id]
        refused = _refused_before(peer.status, turns.refusals)
        began = max(due, refused, turns.down_since, *others)
        ends = max(began + patience, next_ends)
        why = _why_unheard(peer, incident)
        if why:
            ends = incident.held + patience
        elif owed(incident):
            why = "has not told it"
        if not why or now < ends:
            return list(order[place:])
        reasons[peer.name] = why
        if place == 0:
            next_ends = ends + NEXT_TURN
    return []


def _patience(peer: Candidate, slowest: int) -> float:
    """Return for how many seconds a peer is waited.

    `slowest` is the longest interval for which any node is waited.
    """
    return living_limit(peer.status._replace(interval=min(peer.status.interval, slowest)))


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
    test = incident.test
    if test == peer.test:
        return "is the node that the incident is about"
    # Every node has the tests that the other nodes are.
    if peer.tests is not None and test.host != names.NODE and test not in peer.tests:
        return "lacks the test"
    return ""


def _why_unheard(peer: Candidate, incident: Incident) -> str:
    """Return why a peer seems not to have heard of `incident`, or of its end; or ''."""
    if peer.ids.isdisjoint(incident.ids):
        return "does not list it"
    if incident.closed is not None and peer.closed_ids.isdisjoint(incident.ids):
        return "does not list that it is over"
    return ""


def _refused_before(status: NodeStatus, refusals: Iterable[Refusals]) -> float:
    """Return when a node was last refused that came before another one, which has this `status`.

    What that one states of its own refusals does not count: who lies could be refused again and
    again.
    """
    at = float("-inf")
    for each in refusals:
        came_before = each.refused - 1 <= status.refused
        if each.node_id != status.node_id and came_before:
            at = max(at, each.since)
    return at


def _why_silent(status: NodeStatus, now: float) -> str:
    """Return why a node is not living by what it states, or ''."""
    age = now - status.finished
    if age == float("inf"):
        return "never finished a round"  # whether it has an address is known only after one
    if not status.speaks:
        return "has no address"
    if age <= living_limit(status):
        return ""
    return f"stale {age / 60:.0f} min"
