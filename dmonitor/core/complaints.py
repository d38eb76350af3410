"""When a trouble of this node is said: logged, printed, said again, said to be over (rule R7).

Pure. `health` finds which troubles there are; this remembers them from round to round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dmonitor.core import health
from dmonitor.core.model import NodeStatus, Trouble, TroubleName

REPEAT_SECONDS = 3600.0  # after which a trouble that lasts is said again
WARNINGS = ("drift", "long-local")  # a warning in the log and no more, because nobody is blind
# Seconds that a trouble must last before it is said. A plugin that died once is no trouble, nor a
# daemon that is being restarted, a network that came back in the middle of a round, or a
# configuration that is being copied from node to node.
QUIET_AT_FIRST = {
    health.SUSPECT: 45.0,
    health.MISCONFIGURED: 300.0,
    "listed-twice": 300.0,
    "untestable": 300.0,
    "no-daemon": 300.0,
    "unanswered": 300.0,
    "no-peers": 300.0,
    "no-address": 300.0,
    "not-stored": 300.0,
    "peer-not-stored": 300.0,
    "mail-refused": 300.0,
    "address-refused": 300.0,
    # Not whole 5 minutes: with rounds of 5 minutes, the second one has to say it.
    "stale-peer": 240.0,
    "settings-differ": 300.0,
    "unconfirmed-recovery": 300.0,
    "unconfirmable": 300.0,
    "drift": 300.0,
}

PEERS_QUIET_AT_FIRST = 300.0  # the same for whatever a peer states that cannot tell it
# A node with one of these can tell nobody, or only again and again: its peers tell it.
MUTE = frozenset({"mail-refused", "no-address", "not-stored"})
# What several nodes find alike: one of them tells it. `cloned-id` is not left to another node,
# which may be the one that has taken the id.
SHARED = frozenset({"stale-peer", "settings-differ", "unconfirmed-recovery"})
# What nodes find of a peer that states it itself: it is told as that peer's trouble.
TOLD_OF_PEERS = frozenset({"peer-not-stored"})

_NOTHING: Mapping[str, str] = {}


def follow(
    before: Sequence[Trouble],
    texts: Mapping[str, str],
    now: float,
    about: Mapping[str, str] = _NOTHING,
) -> tuple[Trouble, ...]:
    """Return the troubles to remember: those that are over, and those that there are.

    `texts` and what they are `about` are by kind.

    A trouble that is over is remembered if it was logged and ends now, because its end must be
    logged, or if it was said within the hour, because it must not be said again so soon.
    """
    remembered = []
    last = {trouble.kind: trouble for trouble in before}
    for trouble in before:
        if trouble.kind in texts:
            continue
        if trouble.ended is None and trouble.logged:
            remembered.append(trouble._replace(ended=now))
        elif trouble.ended is not None and now - trouble.said < REPEAT_SECONDS:
            remembered.append(trouble)
    for kind, text in texts.items():
        trouble = last.get(kind, Trouble(kind, text, now))
        if trouble.ended is not None:  # it is back
            trouble = Trouble(kind, text, now, trouble.said)
        remembered.append(trouble._replace(text=text, about=about.get(kind, "")))
    return tuple(remembered)


def is_news(trouble: Trouble, before: Trouble) -> bool:
    """Return whether `trouble` differs from what it was `before` by more than its reason."""
    return (trouble.about or trouble.text) != (before.about or before.text)


def is_serious(trouble: Trouble, now: float) -> bool:
    """Return whether a trouble is there and has lasted long enough to be said."""
    if trouble.ended is not None:
        return False
    return now - trouble.since >= QUIET_AT_FIRST.get(trouble.kind, 0.0)


def is_mute(status: NodeStatus) -> bool:
    """Return whether a node states that it can tell nobody what troubles it."""
    return not status.stores or not MUTE.isdisjoint(status.troubles)


def quiet_at_first(name: TroubleName) -> float:
    """Return how many seconds a trouble must last before it is told."""
    if name.node:
        return PEERS_QUIET_AT_FIRST
    return QUIET_AT_FIRST.get(name.kind, 0.0)


def is_due(trouble: Trouble, now: float) -> bool:
    """Return whether people have to be told of a trouble now."""
    return is_serious(trouble, now) and now - trouble.said >= REPEAT_SECONDS
