"""The silences that hold for this node: its operator's, and those that its peers state (rule R9).

Pure. Who heeds a silence is decided in `situation`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dmonitor.core.hearsay import SILENCES_LIMIT
from dmonitor.core.model import Contact, Node, Silence, Test


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

    def hear(self, contacts: Iterable[Contact]) -> None:
        """Replace the silences of each peer that was greeted by those that it states now."""
        for contact in contacts:
            if contact.statement:
                self._by_peer[contact.node.name] = contact.statement.silences[:SILENCES_LIMIT]

    def cover(self, test: Test, now: float) -> bool:
        """Return whether an operator of any node has silenced `test`."""
        for silences in (self._configured, *self._by_peer.values()):
            if any(silence.covers(test, now) for silence in silences):
                return True
        return False

    def take_changes(self) -> Mapping[str, Sequence[Silence]] | None:
        """Return the peers' silences to store, or None if they are stored already."""
        if self._by_peer == self._stored:
            return None
        self._stored = dict(self._by_peer)
        return self._stored
