"""What a node takes in of what one peer states, and how long it keeps it (rules R4, R8).

Pure. A peer may be broken, or lie. So what it states of an incident is cut to what can be true, and
what it alone has stated, its hearsay, has a quota of bytes here. Who may be dead tomorrow has told
us of it, so hearsay that is open, or owes something, is kept; once it is over, it is forgotten.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from dmonitor.core import circles, codec
from dmonitor.core.incident import MINUTES_WINDOW, changed_at, granted, owes
from dmonitor.core.model import Circle, Incident, Judgement, Node

PEER_BYTES = 500_000  # of hearsay that is kept of one peer
# Of these for what is over and owes nothing, and for what the peer says that it has from others.
LESS_URGENT_BYTES = PEER_BYTES // 2
# Seconds for which hearsay that is over is kept. It is longer than the window in which an incident
# of the same test would get the same minute.
OVER_SECONDS = 1200.0
IDS_LIMIT = 32  # of one incident; more are not taken in
SILENCES_LIMIT = 500  # of one peer


class Bounds:
    """What this node knows at a moment, by which it bounds what a peer can state."""

    def __init__(
        self,
        nodes: Sequence[Node],
        peers: Collection[str],
        *,
        minute: int,
        quorum: int,
        now: float = 0.0,
        remind: float = 0.0,
        circles: Collection[str] = (),
    ) -> None:
        """Take the `nodes` of nodes.txt and the names of the others, which are its `peers`.

        `minute` is that of `now`, `quorum` is the one that holds, and `remind` is the seconds from
        one reminder to the next; 0 means that there are none. `circles` are those that are told
        later, by the alert.d of this node.
        """
        self.peers = peers
        self.sites = {node.site for node in nodes}
        self._nodes = len(nodes)
        self._quorum = quorum
        self._last_minute = minute + MINUTES_WINDOW
        self._now = now
        self._remind = remind
        self._circles = circles

    def evidence(self, opening: Judgement | None) -> Judgement | None:
        """Return evidence if it may be true.

        It has an answer of each node at most. By a smaller quorum it would keep its incident open
        (R4).
        """
        if opening is None or len(opening.answers) > self._nodes:
            return None
        return opening if self._quorum <= opening.quorum <= self._nodes else None

    def minute(self, named: int) -> int:
        """Return the minute that names an incident, or 0 if it is ahead of our clock."""
        return named if named <= self._last_minute else 0

    def reminded(self, incident: Incident, stated: int) -> int:
        """Return how many reminders of `incident` were told, which are no more than were due."""
        if not self._remind:
            return stated
        due = int(max(0.0, self._now - incident.began) // self._remind)
        return min(stated, due)

    def circles(self, incident: Incident, peer: str) -> tuple[Circle, ...]:
        """Return what the circles that this node knows were told of `incident`, as `peer` states.

        Each is known once. It is held here from now on.
        """
        found = {}
        for circle in incident.circles:
            if circle.name in self._circles:
                found[circle.name] = circle._replace(
                    since=self._now,
                    reminded=self.reminded(incident, circle.reminded),
                    void=circle.void and incident.closed is not None,
                    alert_stated_by=_stated_by(circle.alert, peer),
                    recovery_stated_by=_stated_by(circle.recovery, peer),
                )
        return tuple(sorted(found.values()))


def cut(stated: Incident, peer: str, bounds: Bounds) -> Incident:
    """Return what may be true of an incident that `peer` has `stated`.

    Only a site of one of the nodes can have failed. Only what is closed is void or overtaken. What
    this node alone decides, no peer can state.
    """
    source = stated.heard_from
    if source and source not in bounds.peers:
        source = peer  # it has this from us, it says, or from nobody: that is no word of its own
    is_closed = stated.closed is not None
    return stated._replace(
        ids=stated.ids[:IDS_LIMIT],
        failed=tuple((site, at) for site, at in stated.failed if site in bounds.sites),
        opening=bounds.evidence(stated.opening),
        minute=bounds.minute(stated.minute),
        reminded=bounds.reminded(stated, stated.reminded),
        void=stated.void and is_closed,
        overtaken=stated.overtaken and is_closed,
        heard_from=source,
        relayed_by="",
        alert_stated_by=_stated_by(stated.alert, peer),
        recovery_stated_by=_stated_by(stated.recovery, peer),
        closing=None,
        held=0.0,
        handing=float("-inf"),
        removed=False,
        silenced="",
        circles=bounds.circles(stated, peer),
        circle="",
    )


def _stated_by(teller: str, peer: str) -> str:
    """Return `peer` if it states that another node, the `teller`, has told something; else ''."""
    return "" if teller in ("", peer) else peer


def is_over(incident: Incident) -> bool:
    """Return whether an incident is closed, and nobody is owed anything about it."""
    return not incident.is_open and not owes(incident)


def size(incident: Incident) -> int:
    """Return how many bytes an incident takes in the state."""
    return len(codec.write(Incident, incident))


def is_old(incident: Incident, slowest: int, now: float) -> bool:
    """Return whether hearsay is over for so long that nobody needs it any more.

    `slowest` is the longest interval for which any node is waited, in minutes.
    """
    if not is_over(incident):
        return False
    changed = changed_at(incident)
    return changed is None or now - changed > granted(OVER_SECONDS, slowest)


def to_forget(incidents: Iterable[Incident], name: str, slowest: int, now: float) -> list[Incident]:
    """Return which of the `incidents`, all charged to one peer, are to be forgotten.

    What this node, `name`, has told somebody is a part of its history: it is forgotten only if
    the quota of the peer is used up, the oldest first.
    """
    forgotten = []
    kept_bytes = 0
    for incident in sorted(incidents, key=_urgency, reverse=True):
        has_told = any(name in (each.alert, each.recovery) for each in circles.views(incident))
        is_unneeded = not has_told and is_old(incident, slowest, now)
        with_it = kept_bytes + size(incident)
        if is_over(incident) and (is_unneeded or with_it > PEER_BYTES):
            forgotten.append(incident)
        else:
            kept_bytes = with_it
    return forgotten


def _urgency(incident: Incident) -> tuple[bool, float]:
    return not is_over(incident), changed_at(incident) or incident.began


def charged_to(incident: Incident) -> str:
    """Return whose quota the hearsay fills: that of the peer that has stated it here."""
    return incident.relayed_by or incident.heard_from


class Quotas:
    """How many bytes of hearsay this node has of each peer."""

    def __init__(self) -> None:
        self._used: dict[str, int] = {}  # by the name of the peer

    def count(self, incidents: Iterable[Incident]) -> None:
        """Count the hearsay among `incidents`."""
        for incident in incidents:
            if not incident.is_fact:
                self._add(charged_to(incident), size(incident))

    def has_room(self, incident: Incident) -> bool:
        """Return whether there is room for new hearsay; if there is, count it.

        What a peer says that it has from another node leaves room for what it has seen itself:
        the other one may lie.
        """
        limit = PEER_BYTES
        if incident.relayed_by or is_over(incident):
            limit = LESS_URGENT_BYTES
        bytes_wanted = size(incident)
        peer = charged_to(incident)
        if self._used.get(peer, 0) + bytes_wanted > limit:
            return False
        self._add(peer, bytes_wanted)
        return True

    def _add(self, peer: str, count: int) -> None:
        """Count so many bytes of hearsay of `peer`."""
        self._used[peer] = self._used.get(peer, 0) + count


class Source(NamedTuple):
    """Whose hearsay an incident is, and who has told of that; "" if nobody's, and nobody."""

    heard_from: str
    relayed_by: str = ""


def source_of(incident: Incident) -> Source:
    """Return whose hearsay `incident` is."""
    return Source(incident.heard_from, incident.relayed_by)


def unite_sources(
    ours: Sequence[Incident], heard: Incident, peer: str, machines: Mapping[str, str]
) -> Source:
    """Return whose hearsay an incident is that `ours` and `heard` are together.

    `peer` has stated `heard`. It is a fact if two nodes have stated it here, or this node has seen
    it. What is hearsay at the peer, too, is no second word for it. Nor is the word of a peer whose
    own relay is all that is known: it might have made up both. `machines` has the node id of each
    line of nodes.txt, as far as it is known: two lines that are one machine are one node.
    """
    if any(incident.is_fact for incident in ours):
        return Source("")
    stated_here = {incident.heard_from for incident in ours if not incident.relayed_by}
    if not heard.heard_from:
        stated_here.add(peer)
    if len({machines.get(name, name) for name in stated_here}) > 1:
        return Source("")
    for source in sorted(stated_here):
        return Source(source)
    return source_of(ours[0])
