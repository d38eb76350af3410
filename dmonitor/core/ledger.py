"""Keep the incidents that this node knows, and unite them with those that peers state (rule R4).

Pure. An incident is found by any of its ids, because nodes that meet unite their ids. When an
incident opens and closes, and what it owes, is for `incident` to say.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

from dmonitor.core.incident import owed
from dmonitor.core.model import Incident, Test

# A peer may make up any number of incidents and ids, so both are limited.
INCIDENTS_PER_TEST = 60  # if a node knows so many, open or closed lately, it takes in no other one
IDS_LIMIT = 256  # of one incident; if it would have more, it is not united

Recall = Callable[[Iterable[str]], Iterable[Incident]]


class Ledger:
    """The incidents that this node knows.

    `recall` finds incidents by id that were closed so long ago that they are not among `incidents`.
    """

    def __init__(self, incidents: Sequence[Incident], recall: Recall) -> None:
        self.changed: dict[str, Incident] = {}  # those put since it was last emptied, by id
        self._recall = recall
        self._by_id: dict[str, Incident] = {}  # each incident under all of its ids
        self._open: dict[tuple[Test, bool], Incident] = {}  # by test and whether it flaps
        self._count_by_test = collections.Counter(incident.test for incident in incidents)
        self._keep(incidents)

    def __iter__(self) -> Iterator[Incident]:
        incidents = {incident.id: incident for incident in self._by_id.values()}
        return iter(incidents.values())

    def find(self, ids: Collection[str]) -> list[Incident]:
        """Return the incidents that have one of `ids`, each once."""
        unknown = [incident_id for incident_id in ids if incident_id not in self._by_id]
        if unknown:
            self._keep(self._recall(unknown))
        found = {}
        for incident_id in ids:
            if incident_id in self._by_id:
                incident = self._by_id[incident_id]
                found[incident.id] = incident
        return list(found.values())

    def open_for(self, test: Test, *, flapping: bool = False) -> Incident | None:
        """Return the open incident of `test`, or its open flapping."""
        return self._open.get((test, flapping))

    def put(self, incident: Incident) -> None:
        """Keep `incident` in place of all incidents that it shares an id with."""
        for replaced in self.find(incident.ids):
            self.changed.pop(replaced.id, None)
        self._keep([incident])
        self.changed[incident.id] = incident

    def meet(self, heard: Incident, now: float) -> None:
        """Take in an incident that a peer states: unite it with ours, hold it, or close ours.

        A closed id never opens again, and closes the incidents that it is united with (R4). So the
        peer's incident, if it is open there and one of its ids is closed here, is not united with
        the open incident of the same test.
        """
        ours = self.find(heard.ids)
        if len(ours) == 1 and _is_known(heard, ours[0]):
            return
        if heard.is_open and all(incident.closed is None for incident in ours):
            open_here = self.open_for(heard.test, flapping=bool(heard.flapping))
            if open_here is not None and open_here not in ours:
                ours.append(open_here)
        if ours:
            united = _unite(ours, heard, now)
        elif self._count_by_test[heard.test] >= INCIDENTS_PER_TEST:
            return
        else:
            self._count_by_test[heard.test] += 1
            united = heard._replace(held=now)
        if united not in ours and len(united.ids) <= IDS_LIMIT:
            self.put(united)

    def _keep(self, incidents: Iterable[Incident]) -> None:
        for incident in incidents:
            for incident_id in incident.ids:
                self._by_id[incident_id] = incident
            key = (incident.test, bool(incident.flapping))
            if incident.is_open:
                self._open[key] = incident
            elif key in self._open and self._open[key].id in incident.ids:
                del self._open[key]


def _is_known(heard: Incident, ours: Incident) -> bool:
    """Return whether `heard` tells nothing that `ours` does not tell."""
    if ours.removed or not set(ours.ids).issuperset(heard.ids):
        return False
    if heard.reminded > ours.reminded:
        return False
    for heard_fact, our_fact in zip(_facts(heard), _facts(ours), strict=True):
        if heard_fact and not our_fact:
            return False
    return True


def _facts(incident: Incident) -> tuple[bool, ...]:
    return (
        incident.closed is not None,
        incident.alert != "",
        incident.recovery != "",
        incident.void,
        incident.opening is not None,
    )


def _unite(ours: Sequence[Incident], heard: Incident, now: float) -> Incident:
    """Return the one incident that `ours` and `heard` are together.

    What this node knows itself has precedence, because the ages that peers state are rounded.
    """
    every = [*ours, heard]
    our_ids = {incident_id for incident in ours for incident_id in incident.ids}
    # If the peer states no id that is new, its rounded beginning tells nothing.
    began_of = ours if our_ids.issuperset(heard.ids) else every
    united = Incident(
        ids=tuple(sorted(our_ids.union(heard.ids))),
        test=heard.test,
        began=min(incident.began for incident in began_of),
        opening=_first_known(every, "opening"),
        failed=ours[0].failed,
        closed=_first_known(every, "closed"),
        closing=_first_known(every, "closing"),
        flapping=max(incident.flapping for incident in every),
        alert=_first_known(every, "alert") or "",
        recovery=_first_known(every, "recovery") or "",
        reminded=max(incident.reminded for incident in every),
        void=any(incident.void for incident in every),
        held=min(incident.held for incident in ours),
    )
    owed_before = owed(ours[0]._replace(removed=False))
    if owed(united) != owed_before:
        return united._replace(held=now)
    return united


def _first_known(incidents: Iterable[Incident], field: str) -> Any:
    """Return the first value of `field` that is neither None nor empty; None if there is none."""
    for incident in incidents:
        value = getattr(incident, field)
        if value is not None and value != "":
            return value
    return None
