"""The life of an incident: when one opens, what it remembers, whom it meets, when it closes, what it owes (rule R4).

Pure: values in, values out; `now` is passed in. Which node tells what is owed is `speaking`'s.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from dmonitor.core.model import Incident, Judgement, Kind, Test, TestState, Verdict, Vote

SILENT_SITE_GRACE = 300.0  # seconds for which a site that failed when last heard still counts as failing while it is silent
LISTED_SECONDS = 3600.0  # seconds after its last change for which a closed incident is still listed, and counted for flapping
INCIDENTS_PER_TEST = 60  # incidents of one test, open or over lately, beyond which none is taken that was only heard of
IDS_LIMIT = (
    256  # of one incident; what would have more is not united, for a peer may make up any number
)
FLAPPING_CHANGES = 6  # changes of one test that are not yet flapping
FLAPPING_WINDOW = 1800.0  # seconds within which they are counted
FLAPPING_ENDS_AFTER = 900.0  # seconds without a change after which a test flaps no more


def advance(
    test: Test,
    before: TestState,
    incident: Incident | None,
    judgement: Judgement,
    *,
    confirm: int,
    now: float,
    fresh_id: str,
) -> tuple[TestState, Incident | None]:
    """Take TEST one round further: return its standing, and its incident if one is open or was until now.

    INCIDENT is the open one, or None; FRESH_ID names the one that may open, where it may. `confirm` rounds of DOWN in
    a row open one; it closes when fewer than a quorum of sites fail and somebody passes.
    """
    downs = min(before.downs + 1, confirm) if judgement.verdict is Verdict.DOWN else 0
    same = judgement.verdict is before.verdict
    own = judgement.answers[0].result
    standing = TestState(
        judgement.verdict,
        own.outcome if own else before.own_outcome,
        before.since if same else now,
        downs,
    )
    if incident is None:
        if downs < confirm or not fresh_id:
            return standing, None
        return standing, Incident(
            (fresh_id,), test, now, judgement, _remember((), judgement, now), held=now
        )
    incident = incident._replace(failed=_remember(incident.failed, judgement, now))
    if len(incident.failed) < judgement.quorum and judgement.nodes(Vote.PASSING):
        incident = close(incident, now, judgement)
    return standing, incident


def close(incident: Incident, now: float, closing: Judgement | None = None) -> Incident:
    return incident._replace(closed=now, closing=closing, held=now)


def remove(incident: Incident) -> Incident:
    """End the incident of a test that the operator took away here; nobody is mailed about it, and no peer is told."""
    return incident._replace(removed=True)


def _remember(
    failed: tuple[tuple[str, float], ...], judgement: Judgement, now: float
) -> tuple[tuple[str, float], ...]:
    """Return the sites that count as failing, each with the time it was last heard to fail.

    One lost answer is no recovery: a site that failed when last heard and is silent now counts for SILENT_SITE_GRACE more.
    """
    kept = {site: min(at, now) for site, at in failed if now - at < SILENT_SITE_GRACE}
    for site in {answer.node.site for answer in judgement.answers if answer.result is not None}:
        kept.pop(site, None)
    kept.update(dict.fromkeys(judgement.sites(Vote.FAILING), now))
    return tuple(sorted(kept.items()))


def changed_at(incident: Incident) -> float | None:
    """Return when a closed INCIDENT changed last: others may have to hear long after its end that it is told."""
    return (
        None if incident.closed is None or incident.removed else max(incident.closed, incident.held)
    )


def owed(incident: Incident) -> tuple[Kind, ...]:
    """Return what INCIDENT owes: its alert, its recovery, or both in one; a recovery only where the alert is told or owed."""
    if incident.removed or incident.recovery or (incident.void and not incident.alert):
        return ()
    return (() if incident.alert else (Kind.ALERT,)) + (
        () if incident.closed is None else (Kind.RECOVERY,)
    )


def told(
    incident: Incident, kinds: Iterable[Kind], by: str, now: float, remind: float = 0.0
) -> Incident:
    """Note that BY has handed KINDS over; every REMIND seconds there is a reminder."""
    facts: dict[str, Any] = {"held": now}
    if remind:
        facts["reminded"] = int((now - incident.began) // remind)
    facts |= {kind.value: by for kind in kinds if kind is not Kind.REMINDER}
    return incident._replace(**facts)


def is_reminder_due(incident: Incident, remind: float, now: float) -> bool:
    """Say whether an open incident whose alert is told has lasted another REMIND seconds; 0 is never."""
    waiting = bool(remind and incident.is_open and incident.alert and not incident.flapping)
    return waiting and now - incident.began >= (incident.reminded + 1) * remind


class Ledger:
    """The incidents that this node knows, by their ids; RECALL finds those that are long over. `changed` are those put."""

    def __init__(
        self, incidents: Sequence[Incident], recall: Callable[[Iterable[str]], Iterable[Incident]]
    ) -> None:
        self._by_id: dict[str, Incident] = {}
        self._open: dict[tuple[Test, bool], Incident] = {}
        self._recall = recall
        self.changed: dict[str, Incident] = {}
        self._held = collections.Counter(incident.test for incident in incidents)
        self._keep(incidents)

    def _keep(self, incidents: Iterable[Incident]) -> None:
        for incident in incidents:
            self._by_id |= dict.fromkeys(incident.ids, incident)
            subject = incident.test, bool(incident.flapping)
            if incident.is_open:
                self._open[subject] = incident
            elif subject in self._open and self._open[subject].id in incident.ids:
                del self._open[subject]

    def __iter__(self) -> Iterator[Incident]:
        return iter({incident.id: incident for incident in self._by_id.values()}.values())

    def find(self, ids: Iterable[str]) -> list[Incident]:
        """Return the incidents that have one of IDS_LIMIT."""
        unknown = [known for known in ids if known not in self._by_id]
        self._keep(self._recall(unknown) if unknown else ())
        return list(
            {
                self._by_id[known].id: self._by_id[known] for known in ids if known in self._by_id
            }.values()
        )

    def open_for(self, test: Test, *, flapping: bool = False) -> Incident | None:
        return self._open.get((test, flapping))

    def put(self, incident: Incident) -> None:
        """Keep INCIDENT in place of every one that it shares an id with."""
        for old in self.find(incident.ids):
            self.changed.pop(old.id, None)
        self._keep([incident])
        self.changed[incident.id] = incident

    def meet(self, heard: Incident, now: float) -> None:
        """Take in what a peer states of an incident: unite it with ours, hold it, or close ours.

        A closed id never opens again, and closes whatever it is united with; so what a peer still holds open is no
        longer met by test once we know one of its ids to be closed.
        """
        met = self.find(heard.ids)
        if len(met) == 1 and _is_known(met[0], heard):
            return
        if heard.is_open and all(mine.closed is None for mine in met):
            ours = self.open_for(heard.test, flapping=bool(heard.flapping))
            met += [ours] if ours and ours not in met else []
        if not met and self._held[heard.test] >= INCIDENTS_PER_TEST:
            return  # a peer may make up any number
        self._held[heard.test] += not met
        united = heard._replace(held=now) if not met else _unite(met, heard, now)
        if united not in met and len(united.ids) <= IDS_LIMIT:
            self.put(united)


def _is_known(mine: Incident, heard: Incident) -> bool:
    """Say whether HEARD tells nothing that MINE does not."""

    def facts(what: Incident) -> tuple[bool | int, ...]:
        return (
            what.closed is not None,
            bool(what.alert),
            bool(what.recovery),
            what.void,
            what.reminded,
            bool(what.opening),
        )

    known = all(ours >= theirs for ours, theirs in zip(facts(mine), facts(heard), strict=True))
    return known and not mine.removed and set(mine.ids).issuperset(heard.ids)


def _unite(ours: Sequence[Incident], heard: Incident, now: float) -> Incident:
    """Return the incident that OURS and HEARD are together; what we know ourselves comes first: ages on the wire are rounded."""
    known = [mine._replace(removed=False) for mine in ours]
    every = [*known, heard]
    ids = {each for mine in known for each in mine.ids}
    united = Incident(
        ids=tuple(sorted(ids.union(heard.ids))),
        test=heard.test,
        began=min(incident.began for incident in (known if ids.issuperset(heard.ids) else every)),
        opening=next((incident.opening for incident in every if incident.opening), None),
        failed=known[0].failed,
        closed=next((incident.closed for incident in every if incident.closed is not None), None),
        closing=next((incident.closing for incident in every if incident.closing), None),
        flapping=max(incident.flapping for incident in every),
        alert=next((incident.alert for incident in every if incident.alert), ""),
        recovery=next((incident.recovery for incident in every if incident.recovery), ""),
        reminded=max(incident.reminded for incident in every),
        void=any(incident.void for incident in every),
        held=min(incident.held for incident in known),
    )
    return united if owed(united) == owed(known[0]) else united._replace(held=now)


def flap(
    test: Test, incidents: Sequence[Incident], judgement: Judgement, now: float, fresh_id: str
) -> Incident | None:
    """Return the flapping that begins or ends now, given INCIDENTS of TEST, those that ended lately among them; or None.

    It begins with more than FLAPPING_CHANGES changes within FLAPPING_WINDOW, and ends once there was none for FLAPPING_ENDS_AFTER.
    """
    episodes = [incident for incident in incidents if incident.flapping]
    ended = max(
        (episode.closed for episode in episodes if episode.closed is not None),
        default=float("-inf"),
    )
    ordinary = [
        incident for incident in incidents if not incident.flapping and not incident.removed
    ]
    changes = [
        at
        for incident in ordinary
        for at in (incident.began, incident.closed)
        if at is not None and at > ended
    ]
    present = next((episode for episode in episodes if episode.is_open), None)
    if present:
        return (
            close(present, now, judgement)
            if now - max([*changes, present.began]) >= FLAPPING_ENDS_AFTER
            else None
        )
    recent = sum(now - at < FLAPPING_WINDOW for at in changes)
    return (
        Incident((fresh_id,), test, now, judgement, flapping=recent, held=now)
        if recent > FLAPPING_CHANGES
        else None
    )
