"""Which troubles this node tells for peers that cannot, and which it leaves to another node (R7).

Pure. A peer states in its greeting what troubles it. If its mail system refuses, say, it cannot
tell that, nor anything else. Of the nodes that hear it, the one that would speak tells it: no vote
is taken, so after a change of speakers it may be told again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from dmonitor.core import election
from dmonitor.core.complaints import SHARED, TOLD_OF_PEERS, WARNINGS, is_mute
from dmonitor.core.model import NodeStatus, TroubleName
from dmonitor.core.situation import Situation
from dmonitor.core.trouble_text import HEADLINES


class PeerTroubles(NamedTuple):
    """The troubles that peers state."""

    there: Mapping[TroubleName, str]  # with their texts
    told_here: frozenset[TroubleName]  # those of them that this node tells for its peers
    unheard: frozenset[str]  # the lines of nodes.txt of which nobody knows now how they are


def find(situation: Situation) -> PeerTroubles:
    """Return what this round has heard of the troubles of peers."""
    heard = set()
    there: dict[TroubleName, str] = {}
    told_here: set[TroubleName] = set()
    for contact in situation.contacts:
        statement = contact.statement
        if statement is None or contact.node_id == situation.config.node_id:
            continue
        if not election.is_at_work(statement.status):
            continue
        node = contact.node.name
        heard.add(node)
        stated = {TroubleName(kind, node): kind for kind in _stated(statement.status)}
        for name, kind in stated.items():
            there[name] = f"{HEADLINES[kind]}, says {node}, which cannot mail that itself"
        if is_mute(statement.status) and _is_first(
            situation, _hears(situation, statement.status.node_id)
        ):
            told_here.update(stated)
    listed = {node.name for node in situation.config.nodes}
    return PeerTroubles(there, frozenset(told_here), frozenset(listed - heard))


def tells_shared(situation: Situation, kind: str) -> bool:
    """Return whether this node tells a trouble of its own.

    It leaves one that several nodes have alike to the first of those that state it.
    """
    if kind not in SHARED:
        return True
    return _is_first(situation, lambda status: kind in status.troubles)


def _stated(status: NodeStatus) -> list[str]:
    """Return the kinds of troubles that a peer states, as far as they would be told of it."""
    kinds = set(status.troubles)
    if not status.stores:
        kinds.add("not-stored")
    kinds -= {*WARNINGS, *SHARED, *TOLD_OF_PEERS}
    return sorted(kinds.intersection(HEADLINES))


def _hears(situation: Situation, subject: str) -> Callable[[NodeStatus], bool]:
    """Return whether a node hears the one with the id `subject`, as far as is known here."""

    def hears(status: NodeStatus) -> bool:
        statement = situation.statements.get(status.node_id)
        if status.node_id == subject:
            return False
        if statement is None:
            return True  # another peer tells of it
        return any(each.node_id == subject for each in statement.heard)

    return hears


def _is_first(situation: Situation, counts: Callable[[NodeStatus], bool]) -> bool:
    """Return whether this node is the first of the living nodes that count, and can tell."""
    me = situation.status()
    if not _can_tell(me):
        return False
    peers = []
    for candidate in situation.candidates():
        if _can_tell(candidate.status) and counts(candidate.status):
            peers.append(candidate)
    return election.choose(me, peers, situation.clock.now()).speaker == me


def _can_tell(status: NodeStatus) -> bool:
    return status.speaks and not is_mute(status)
