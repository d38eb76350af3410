"""Keep the incidents that this node knows, and unite them with those that peers state (rule R4).

Pure. An incident is found by any of its ids, because nodes that meet unite their ids. When an
incident opens and closes, and what it owes, is for `incident` to say.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from dmonitor.core import circles, hearsay
from dmonitor.core.incident import LISTED_SECONDS, first_of_window, is_fresh, overtake, owed
from dmonitor.core.model import Circle, Incident, Kind, Test

# How often a recovery is told again, because a node has told the alert after it: no more than a few
# nodes can have done so, and a broken one could say so for ever.
AGAIN_LIMIT = 3

Recall = Callable[[Iterable[str]], Iterable[Incident]]


class Ledger:
    """The incidents that this node knows.

    `recall` finds incidents by id that were closed so long ago that they are not among `incidents`.
    """

    def __init__(
        self,
        incidents: Sequence[Incident],
        recall: Recall,
        slowest: int = 1,
        slowest_that_holds: int = 1,
    ) -> None:
        """Begin with `incidents`.

        `slowest` is the interval of the slowest node in minutes; `slowest_that_holds` is the
        longest for which any node is waited.
        """
        self._slowest = slowest
        self._slowest_that_holds = slowest_that_holds
        self.changed: dict[str, Incident] = {}  # those put since it was last emptied, by id
        # Which machine each line of nodes.txt is: a machine that has two lines has one word.
        self.machines: Mapping[str, str] = {}
        # The minute since the epoch of a time, by the wall clock.
        self.minute_of: Callable[[float], int] = _minute
        self._recall = recall
        self._by_id: dict[str, Incident] = {}  # each incident under all of its ids
        self._open: dict[tuple[Test, bool], Incident] = {}  # by test and whether it flaps
        # When a test was last found to be well, and the ids of the incident that ended then.
        self._ended: dict[tuple[Test, bool], tuple[float, tuple[str, ...]]] = {}
        self._ids_by_test: dict[Test, set[str]] = {}
        # The first ids of incidents, some of them replaced since, by the minute that names them.
        self._ids_by_minute: dict[tuple[Test, int], set[str]] = {}
        self._quotas = hearsay.Quotas()
        self._quotas.count(incidents)
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

    def all_of(self, test: Test) -> list[Incident]:
        """Return the incidents of `test`, each once."""
        return self.find(sorted(self._ids_by_test.get(test, ())))

    def put(self, incident: Incident) -> None:
        """Keep `incident` in place of all incidents that it shares an id with.

        Of an incident by the eyes of a circle, only what that was told is new.
        """
        if incident.circle:
            incident = circles.fold(self.find(incident.ids)[0], incident)
        for replaced in self.find(incident.ids):
            self.changed.pop(replaced.id, None)
        self._keep([incident])
        self.changed[incident.id] = incident

    def meet(self, heard: Incident, now: float, peer: str = "") -> bool:
        """Take in an incident that `peer` states: unite it with ours, hold it, or close ours.

        Return whether it told this node anything.

        A closed id never opens again, and closes the incidents that it is united with (R4). So the
        peer's incident, if it is open there and one of its ids is closed here, is not united with
        the open incident of the same test.

        A peer that was away may hold an incident that is over, and so may this node. It must not be
        taken for the one that is open now, because then nobody would be told of this one. So what
        nobody has seen fail lately is not united with another incident, nor taken in.
        """
        ours = self.find(heard.ids)
        earlier = _earlier_ones(ours)
        if earlier:
            ours = [incident for incident in ours if incident not in earlier]
            heard = _without_ids(heard, earlier)
        if not self._is_news(heard, ours, now, peer):
            return False
        overtaken = None
        if heard.is_open and not any(map(_has_ended, ours)):
            overtaken = self._add_open_for(heard, ours, now)
        united = self._take_in(heard, ours, now, peer)
        if united is None or united in ours:
            return False
        if overtaken:
            self.put(overtake(overtaken, now))
        self.put(united)
        return True

    def _is_news(self, heard: Incident, ours: Sequence[Incident], now: float, peer: str) -> bool:
        """Return whether `heard`, which shares ids with `ours`, may tell this node anything."""
        if not all(_is_same_subject(heard, incident) for incident in ours):
            return False  # a peer that states an id of ours for another test is mistaken
        if len(ours) == 1 and _is_known(heard, ours[0]):
            source = hearsay.unite_sources(ours, heard, peer, self.machines)
            is_second_word = source != hearsay.source_of(ours[0])
            return is_second_word or self._refreshes(heard, ours[0], now)
        if not ours and hearsay.is_old(heard, self._slowest_that_holds, now):
            return False
        if not heard.is_open or any(map(_has_ended, ours)):
            return True
        is_held = any(incident.is_open for incident in ours)
        return is_held or self.is_present(heard, now)

    def _take_in(
        self, heard: Incident, ours: Sequence[Incident], now: float, peer: str
    ) -> Incident | None:
        """Return what this node knows from now on; None if there is no room for another one."""
        if not ours:
            source = hearsay.Source(heard.heard_from or peer, peer if heard.heard_from else "")
        else:
            source = hearsay.unite_sources(ours, heard, peer, self.machines)
        if not self._may_be_its_name(heard, ours, now, is_fact=not source.heard_from):
            heard = heard._replace(minute=0)
        if ours:
            return _unite(ours, heard, now)._replace(**source._asdict())
        taken = heard._replace(held=now, **source._asdict())
        if not taken.heard_from or self._quotas.has_room(taken):
            return taken
        return None

    def _may_be_its_name(
        self, heard: Incident, ours: Sequence[Incident], now: float, *, is_fact: bool
    ) -> bool:
        """Return whether the minute of `heard` may name it, and no other incident of its test.

        A mailbox drops a mail that has the name of an earlier one. The last one that is over may
        have had another name than it has now, but none after the window in which it ended. One that
        is named by an old minute may be over for so long that the ledger does not have it. So an
        old minute is believed of two nodes only, and only of an incident that has no name here.
        """
        is_recent = heard.minute >= self.minute_of(now - LISTED_SECONDS)
        named = [incident for incident in ours if incident.minute]
        if not is_recent and (named or not is_fact):
            return False
        if named and all(map(hearsay.is_over, ours)):
            return False  # its mails have the name that it has
        ended, ids = self._ended.get((heard.test, bool(heard.flapping)), (float("-inf"), ()))
        if ended > float("-inf") and not any(set(ids) & set(incident.ids) for incident in ours):
            if heard.minute <= first_of_window(self.minute_of(ended)):
                return False
        return not self._is_named_like_another(heard, ours)

    def _is_named_like_another(self, heard: Incident, ours: Sequence[Incident]) -> bool:
        """Return whether its minute names another incident of its test than `ours`."""
        for incident_id in self._ids_by_minute.get((heard.test, heard.minute), ()):
            incident = self._by_id[incident_id]
            if incident.minute == heard.minute and incident not in ours:
                return True
        return False

    def is_present(self, incident: Incident, now: float) -> bool:
        """Return whether an open incident may still be going on.

        It was seen to fail lately, and its test was not seen to be well since then: no other
        incident of the test was closed after that.
        """
        if not is_fresh(incident, self._slowest, now):
            return False
        key = (incident.test, bool(incident.flapping))
        if key not in self._ended or incident.seen == float("-inf"):
            return True
        ended, ids = self._ended[key]
        return ended <= incident.seen or not set(ids).isdisjoint(incident.ids)

    def _refreshes(self, heard: Incident, ours: Incident, now: float) -> bool:
        """Return whether a peer has lately seen fail what this node has not, which was away."""
        if not ours.is_open or not heard.is_open:
            return False
        return is_fresh(heard, self._slowest, now) and not is_fresh(ours, self._slowest, now)

    def _add_open_for(self, heard: Incident, ours: list[Incident], now: float) -> Incident | None:
        """Add the incident that is open here for the same test to `ours`, if there is one.

        If that is over, because this node was away, return it: `heard` has overtaken it.
        """
        open_here = self.open_for(heard.test, flapping=bool(heard.flapping))
        if open_here is None or open_here in ours:
            return None
        if self.is_present(open_here, now):
            ours.append(open_here)
            return None
        return open_here if self.is_present(heard, now) else None

    def _keep(self, incidents: Iterable[Incident]) -> None:
        for incident in incidents:
            for incident_id in incident.ids:
                self._by_id[incident_id] = incident
            self._ids_by_test.setdefault(incident.test, set()).update(incident.ids)
            if incident.minute:
                name = (incident.test, incident.minute)
                self._ids_by_minute.setdefault(name, set()).add(incident.id)
            key = (incident.test, bool(incident.flapping))
            if incident.is_open:
                self._open[key] = incident
                continue
            if key in self._open and self._open[key].id in incident.ids:
                del self._open[key]
            if not incident.is_fact:
                continue  # a peer alone could say of any moment that the test was well
            if incident.closed is not None and not incident.overtaken:
                ended = (incident.closed, incident.ids)
                self._ended[key] = max(self._ended.get(key, ended), ended)


def _minute(at: float) -> int:
    return int(at // 60)


def _is_same_subject(one: Incident, other: Incident) -> bool:
    """Return whether both are about one test, and both or neither about its flapping."""
    return one.test == other.test and bool(one.flapping) == bool(other.flapping)


def _has_ended(incident: Incident) -> bool:
    """Return whether an incident is closed, and not only overtaken for a node that was away."""
    return incident.closed is not None and not incident.overtaken


def _earlier_ones(ours: Sequence[Incident]) -> list[Incident]:
    """Return which of `ours` were over before the last of them was seen to fail.

    That is none of the same incident, whatever a peer states. Otherwise an open one would be over,
    and told, by what this node knows of an old one.
    """
    facts = [incident for incident in ours if incident.is_fact]
    if not facts:
        return []
    last = max(facts, key=lambda incident: incident.seen)
    earlier = []
    for incident in ours:
        closed = incident.closed
        if closed is None or incident.overtaken or incident is last:
            continue
        if closed < last.seen:
            earlier.append(incident)
    return earlier


def _without_ids(heard: Incident, others: Iterable[Incident]) -> Incident:
    """Return `heard` without the ids of `others`."""
    ids = set(heard.ids).difference(*(incident.ids for incident in others))
    return heard._replace(ids=tuple(sorted(ids)))


def _is_known(heard: Incident, ours: Incident) -> bool:
    """Return whether `heard` tells nothing that `ours` does not tell."""
    if ours.removed or not set(ours.ids).issuperset(heard.ids):
        return False
    if ours.overtaken and not heard.overtaken:
        return False
    if heard.minute and heard.minute < ours.minute:
        return False
    our_circles = {circle.name: circle for circle in ours.circles}
    for circle in heard.circles:
        if circle.name not in our_circles:
            return False
        if not _is_telling_known(circle, our_circles[circle.name]):
            return False
    if not _is_telling_known(heard, ours):
        return False
    for heard_fact, our_fact in zip(_facts(heard), _facts(ours), strict=True):
        if heard_fact and not our_fact:
            return False
    return True


def _facts(incident: Incident) -> tuple[bool, ...]:
    return (
        incident.closed is not None,
        incident.overtaken,
        incident.opening is not None,
        incident.acknowledged is not None,
    )


def _is_telling_known(heard: Incident | Circle, ours: Incident | Circle) -> bool:
    """Return whether `heard` says nothing of what was told that `ours` does not say."""
    if heard.reminded > ours.reminded or heard.again > ours.again:
        return False
    if _is_alert_later(heard, ours):
        return False
    heard_facts = (heard.alert, heard.recovery, heard.ack, heard.void)
    our_facts = (ours.alert, ours.recovery, ours.ack, ours.void)
    return all(our or not new for new, our in zip(heard_facts, our_facts, strict=True))


def _unite(ours: Sequence[Incident], heard: Incident, now: float) -> Incident:
    """Return the one incident that `ours` and `heard` are together."""
    our_one = ours[0]._replace(test=heard.test, removed=False)
    owed_before = _all_owed(our_one)
    for incident in ours[1:]:
        our_one = _merge(our_one, incident)
    for view in list(circles.views(our_one)):
        before = [circles.view_for(incident, view.circle) for incident in ours]
        if _said_still_down(before) and view.again < AGAIN_LIMIT:
            # It counts as told now, so that the recovery that peers know is older than the alert.
            again = view.again + 1
            view = view._replace(recovery="", recovery_stated_by="", again=again, told_at=now)
            our_one = circles.fold(our_one, view)
    heard = _with_few_ids(heard, our_one)
    united = _merge(our_one, heard)._replace(held=our_one.held)
    if heard.ids == our_one.ids or heard.began < now - LISTED_SECONDS:
        # The peer states no id that is new, so its rounded beginning tells nothing. Or it could
        # have reminders mailed at any time: the next one is due some time after the beginning.
        united = united._replace(began=our_one.began)
    if _all_owed(united) != owed_before:
        united = united._replace(held=now)
    return united


def _all_owed(incident: Incident) -> list[tuple[Kind, ...]]:
    """Return what `incident` owes to each circle."""
    return [owed(view) for view in circles.views(incident)]


def _said_still_down(ours: Sequence[Incident]) -> bool:
    """Return whether this node has told the end of one of `ours` while another one was open.

    That mail said STILL DOWN. As they are one incident, no other mail would say that it is over.
    """
    for over in ours:
        if not over.recovery or over.recovery_stated_by:
            continue
        for other in ours:
            ended = float("inf") if other.closed is None else other.closed
            if not other.recovery and other.began <= over.told_at < ended:
                return True
    return False


def _merge(first: Incident, second: Incident) -> Incident:
    """Return `first` with all that `second` tells in addition.

    This node's own knowledge comes first, because the ages that peers state are rounded.
    """
    lasting = first
    if first.overtaken or (first.closed is None and not second.overtaken):
        lasting = second  # says whether it is open: a node that was away does not
    acknowledged = _first_acknowledged(first, second)
    return first._replace(
        **_merge_telling(first, second),
        circles=_merge_circles(first, second),
        acknowledged=acknowledged.acknowledged,
        acknowledgement=acknowledged.acknowledgement,
        ids=tuple(sorted({*first.ids, *second.ids})),
        began=min(first.began, second.began),
        minute=_first_minute(first.minute, second.minute),
        seen=max(first.seen, second.seen),
        opening=first.opening or second.opening,
        closed=lasting.closed,
        closing=first.closing or second.closing,
        flapping=max(first.flapping, second.flapping),
        overtaken=first.overtaken and second.overtaken,
        held=min(first.held, second.held),
    )


def _merge_telling(first: Incident | Circle, second: Incident | Circle) -> dict[str, Any]:
    """Return the fields of `first` that say what was told, with what `second` tells in addition."""
    recovery, recovery_stated_by = first.recovery, first.recovery_stated_by
    if not recovery:
        recovery, recovery_stated_by = second.recovery, second.recovery_stated_by
    again = max(first.again, second.again)
    for alerted, recovered in ((first, second), (second, first)):
        if _is_alert_later(alerted, recovered):
            if recovered.again < AGAIN_LIMIT:
                recovery = recovery_stated_by = ""
            again = max(alerted.again, min(recovered.again + 1, AGAIN_LIMIT))
    return {
        "alert": first.alert or second.alert,
        "alert_stated_by": first.alert_stated_by if first.alert else second.alert_stated_by,
        "recovery": recovery,
        "recovery_stated_by": recovery_stated_by,
        "ack": first.ack or second.ack,
        "again": again,
        "told_at": max(first.told_at, second.told_at),
        "reminded": max(first.reminded, second.reminded),
        "void": first.void or second.void,
    }


def _merge_circles(first: Incident, second: Incident) -> tuple[Circle, ...]:
    """Return what each circle was told of an incident that `first` and `second` are."""
    merged = {circle.name: circle for circle in first.circles}
    for circle in second.circles:
        if circle.name in merged:
            ours = merged[circle.name]
            circle = ours._replace(**_merge_telling(ours, circle))
        merged[circle.name] = circle
    return tuple(sorted(merged.values()))


def _first_acknowledged(first: Incident, second: Incident) -> Incident:
    """Return which of the two was acknowledged earlier; `first` if both were alike."""
    if second.acknowledged is None:
        return first
    if first.acknowledged is None:
        return second
    return second if second.acknowledged < first.acknowledged else first


def _with_few_ids(heard: Incident, ours: Incident) -> Incident:
    """Return `heard` with as many ids as `ours` has room for, and with those of `ours`."""
    new = sorted(set(heard.ids).difference(ours.ids))
    room = max(0, hearsay.IDS_LIMIT - len(ours.ids))
    return heard._replace(ids=tuple(sorted([*ours.ids, *new[:room]])))


def _is_alert_later(alerted: Incident | Circle, recovered: Incident | Circle) -> bool:
    """Return whether one node has told an alert after another one had told the recovery.

    They had not heard of each other. Whoever reads both believes that the test is down, so the
    recovery is owed again.
    """
    if alerted.recovery or not alerted.alert or not recovered.recovery:
        return False
    return recovered.told_at > float("-inf") and alerted.told_at > recovered.told_at


def _first_minute(one: int, other: int) -> int:
    """Return the smaller minute of two; 0 means that one is not known."""
    if not one or not other:
        return max(one, other)
    return min(one, other)
