"""The silences that hold for this node: its operator's, and those that its peers state (rule R9).

Pure. Who heeds a silence is decided in `situation`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dmonitor.core.hearsay import SILENCES_LIMIT
from dmonitor.core.model import Contact, Node, Silence, Test


def _subject(silence: Silence) -> tuple[str, str]:
    return silence.host, silence.name


class Silences:
    """The silences of the whole cluster, as far as this node has heard of them."""

    def __init__(
        self,
        configured: Sequence[Silence],
        remembered: Mapping[str, Sequence[Silence]],
        nodes: Iterable[Node],
    ) -> None:
        """Begin with what this node has configured, and with what its peers stated last.

        A node that is no longer in `nodes` silences nothing.
        """
        self._configured = configured
        self._stored = remembered
        listed = {node.name for node in nodes}
        self._by_peer = {name: silences for name, silences in remembered.items() if name in listed}

    def hear(self, contacts: Iterable[Contact]) -> list[tuple[str, Silence]]:
        """Replace the silences of each peer that was greeted by those that it states now.

        Return those of subjects that it had not silenced before, each with the peer's name.
        """
        new = []
        for contact in contacts:
            if not contact.statement:
                continue
            name = contact.node.name
            stated = contact.statement.silences[:SILENCES_LIMIT]
            before = {_subject(silence) for silence in self._by_peer.get(name, ())}
            new += [(name, each) for each in stated if _subject(each) not in before]
            self._by_peer[name] = stated
        return new

    def cover(self, test: Test, now: float) -> bool:
        """Return whether an operator of any node has silenced `test`."""
        if any(silence.covers(test, now) for silence in self._configured):
            return True
        return bool(self.peers_covering(test, now))

    def peers_covering(self, test: Test, now: float) -> list[str]:
        """Return the names of the peers that state a silence of `test`."""
        names = []
        for name, silences in self._by_peer.items():
            if any(silence.covers(test, now) for silence in silences):
                names.append(name)
        return names

    def why(self, test: Test, now: float, me: str) -> str:
        """Return which silence of `test` holds, for people; '' if none does. This node is `me`."""
        for node, silences in ((me, self._configured), *sorted(self._by_peer.items())):
            for silence in silences:
                if silence.covers(test, now):
                    return f"on {node}: {silence.reason}" if silence.reason else f"on {node}"
        return ""

    def take_changes(self) -> Mapping[str, Sequence[Silence]] | None:
        """Return the peers' silences to store, or None if they are stored already."""
        if self._by_peer == self._stored:
            return None
        self._stored = dict(self._by_peer)
        return self._stored
