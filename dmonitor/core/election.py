"""Who speaks: the first of the living nodes hands over every mail, the others record (rule R5).

Pure: what this node states, what its peers' greetings state, and `now` in; who speaks, and why, out. Each clause
removes a run in which a mail was doubled or lost; doc/design.md tells them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dmonitor.base import names
from dmonitor.core.model import Incident, NodeStatus, Statement, Test, node_test

LIVING_GRACE = (
    60.0  # seconds over its interval for which a node that finished a round counts as living
)
RELAYED_SECONDS = 120.0  # seconds for which a peer's word that it greeted another node counts
_MEASURED = 5  # rounds from which an interval is measured


class Choice(NamedTuple):
    """Who speaks, None for nobody; `reason` is for a person."""

    speaker: NodeStatus | None
    reason: str


def interval(begins: Sequence[float]) -> int:
    """Return the interval of rounds that began at BEGINS, oldest first, in whole minutes: the median of the last few."""
    gaps = sorted(later - earlier for earlier, later in itertools.pairwise(begins[-_MEASURED:]))
    return max(1, round(gaps[(len(gaps) - 1) // 2] / 60)) if gaps else 1


def living_limit(status: NodeStatus) -> float:
    """Return seconds that a node's last finished round may be old, and that it may take to hear of an incident."""
    return status.interval * 60 + LIVING_GRACE


def rank(status: NodeStatus) -> tuple[bool, int, int, str, str]:
    """Return what orders the living: whose MTA refuses comes later, and whose rounds are rare; then by name."""
    return not status.stores, status.refused, status.interval, status.name, status.node_id


class Candidate(NamedTuple):
    """A peer that may speak: greeted in this round, or known from one that was; `tests` is None where it has ours.

    `ids` are those of the incidents it lists; `hears_me`, whether it greeted this node in its last round.
    """

    status: NodeStatus
    greeted: bool = False
    ids: frozenset[str] = frozenset()
    tests: frozenset[Test] | None = None
    hears_me: bool = False


def candidates(me: NodeStatus, statements: Iterable[Statement]) -> list[Candidate]:
    """Return the peers that STATEMENTS, those of this round, tell of."""
    found: dict[str, Candidate] = {}
    relayed: list[NodeStatus] = []
    for statement in statements:
        ids = frozenset(known for incident in statement.incidents for known in incident.ids)
        hears_me = any(other.node_id == me.node_id for other in statement.heard)
        found[statement.status.node_id] = Candidate(
            statement.status, True, ids, statement.tests, hears_me
        )
        relayed += statement.heard
    for other in sorted(relayed, key=lambda other: -other.at):
        found.setdefault(other.node_id, Candidate(other))
    found.pop(me.node_id, None)
    return list(found.values())


def choose(
    me: NodeStatus, peers: Sequence[Candidate], now: float, incident: Incident | None = None
) -> Choice:
    """Say who speaks for INCIDENT, which this node holds; without one, who would speak for what everybody has."""
    out = {peer.status.name: why for peer in peers if (why := _why_not(peer, now, incident))}
    living = [peer for peer in peers if not _why_not(peer, now, incident)]
    order = [peer.status for peer in living]
    mine = _why_silent(me, now)
    if mine:
        out[me.name] = mine
    else:
        order.append(me)
    order.sort(key=rank)
    if not mine and _come_before(me, living, now, incident):
        order.remove(me)
        order.append(me)
        out[me.name] = "no peer greeted it"
    out |= {
        other.name: f"was refused ({other.refused} in a row)"
        for other in order[1:]
        if other.refused > order[0].refused
    }
    reason = (
        f"{order[0].name} speaks: first of {len(order)} living"
        if order
        else "nobody speaks: no node is living"
    )
    return Choice(
        order[0] if order else None,
        "; ".join([reason, *(f"{name} {why}" for name, why in sorted(out.items()))]),
    )


def _come_before(
    me: NodeStatus, living: Sequence[Candidate], now: float, incident: Incident | None
) -> bool:
    """Say whether the peers come before this node, which hears them and cannot be reached; while an incident is young."""
    answering = [peer for peer in living if peer.greeted]
    young = any(
        incident is None or now - incident.held < living_limit(peer.status) for peer in answering
    )
    return young and not any(peer.hears_me for peer in answering)


def _why_not(peer: Candidate, now: float, incident: Incident | None) -> str:
    """Return why a peer does not count for INCIDENT; nothing if it does."""
    # What it stated when it was greeted counts: a round that it has finished since is not heard of so soon.
    why = _why_silent(peer.status, peer.status.at)
    if not why and not peer.greeted and now - peer.status.at > RELAYED_SECONDS:
        why = "not reached"
    if why or incident is None:
        return why
    if incident.test == node_test(peer.status.name):
        return "is what it is about"
    if (
        peer.tests is not None
        and incident.test not in peer.tests
        and incident.test.host != names.NODE
    ):
        return "lacks the test"
    if now - incident.held >= living_limit(peer.status) and peer.ids.isdisjoint(incident.ids):
        return "does not list it"
    return ""


def _why_silent(status: NodeStatus, now: float) -> str:
    """Return why a node is not living by what it states; nothing if it is."""
    if not status.speaks:
        return "has no address"
    age = now - status.finished
    if age > living_limit(status):
        return "never finished a round" if age == float("inf") else f"stale {age / 60:.0f} min"
    return ""
