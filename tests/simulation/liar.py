"""A virtual node that has the key, and lies (promise 9).

It takes no rounds and mails nothing. What it states and answers is made up here. It says nothing false
of what is told, closed or silenced, because no counting helps against that (doc/security.md).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from dmonitor.core.model import Incident, NodeStatus, Outcome, Statement, Test

from .node import SimNode

if TYPE_CHECKING:
    from .world import World

FLOOD_IDS = 8  # ids of each incident that is made up
_BATCH_SECONDS = 600.0  # for which a flood has the same incidents
_FINISHED_SECONDS = 5.0  # ago it says that its last round has ended


@dataclasses.dataclass
class Lie:
    """What a node lies about."""

    answer: Outcome | None = Outcome.OK  # what it answers to each question; None: nothing
    lists: bool = True  # it says that it can mail, and lists what honest nodes list
    interval: int = 1  # minutes between its rounds, as it says
    reminds: bool = False  # it says in each statement that what is told was told again just now
    # From when to when it states so many incidents of each test, void and closed, and of what age.
    floods: tuple[tuple[float, float, int, float], ...] = ()
    # When it begins to state for a minute that a test is open.
    claims: tuple[tuple[float, Test], ...] = ()
    stated: int = 0  # incidents that it has made up and stated
    listings: int = 0  # statements in which it has listed an open incident of an honest node
    reminders: int = 0  # of incidents that were over, which it has made up and stated
    _batches: dict[int, tuple[Incident, ...]] = dataclasses.field(default_factory=dict)

    def status(self, status: NodeStatus) -> NodeStatus:
        """Return what it states of itself: a node that is in good order."""
        finished = status.at - _FINISHED_SECONDS
        return status._replace(
            finished=finished, interval=self.interval, rounds=6, refused=0, speaks=self.lists
        )

    def statement(self, world: World, node: SimNode, statement: Statement) -> Statement:
        """Return what it states, at the time of `world`; all clocks must show that."""
        peers = [peer for peer in world.nodes if peer is not node]
        incidents: list[Incident] = []
        if self.lists:
            incidents = self._list(world, peers)
        for number, (began, ended, count, age) in enumerate(self.floods):
            if began <= world.now < ended:
                key = number * 1000 + int((world.now - began) / _BATCH_SECONDS)
                incidents += self._batch(world, node, key, count, age)
        for number, (began, test) in enumerate(self.claims):
            if began <= world.now < began + 60.0:
                incidents.append(_claim(world, test, f"{number:08}", began))
                self.stated += 1
        heard = tuple(world.status(peer) for peer in peers if peer.up)
        return statement._replace(heard=heard, incidents=tuple(incidents), confirming=())

    def _list(self, world: World, peers: list[SimNode]) -> list[Incident]:
        """Return what the peers list, once each."""
        found: dict[str, Incident] = {}
        for peer in peers:
            for incident in peer.disk.listed_incidents(world.now):
                copy = incident._replace(opening=None, closing=None, failed=(), held=0.0)
                if not incident.void:
                    found.setdefault(incident.id, copy)
        self.listings += any(incident.is_open for incident in found.values())
        if self.reminds:
            return [self._remind(world, incident) for incident in found.values()]
        return list(found.values())

    def _remind(self, world: World, incident: Incident) -> Incident:
        if not incident.alert:
            return incident
        self.reminders += incident.closed is not None
        return incident._replace(told_at=world.now, reminded=incident.reminded + 1)

    def _batch(
        self, world: World, node: SimNode, key: int, count: int, age: float
    ) -> tuple[Incident, ...]:
        if key not in self._batches:
            now = world.now
            made_up = []
            for test in sorted(node.tests):
                for number in range(count):
                    ids = [world.fresh_id() for _ in range(FLOOD_IDS)]
                    at = now - age * (number + 1) / count
                    incident = Incident(tuple(sorted(ids)), test, at - 60.0, closed=at, void=True)
                    made_up.append(incident)
            self._batches[key] = tuple(made_up)
        self.stated += len(self._batches[key])
        return self._batches[key]


def _claim(world: World, test: Test, name: str, began: float) -> Incident:
    """Return an open incident that nobody but the liar has seen."""
    return Incident((f"c1a1{name}",), test, began, seen=world.now, minute=0)
