"""Decide when an incident opens and closes, what it remembers, and what it owes (rule R4).

Pure: values in, values out; `now` is passed in. `ledger` keeps the incidents and unites them when
nodes meet. `election` chooses the node that tells what is owed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from dmonitor.core import circles
from dmonitor.core.model import Confirming, Incident, Judgement, Kind, Test, Verdict, Vote

# Seconds for which a site counts as failing that failed when it was last heard, and is silent now.
SILENT_SITE_GRACE = 86400.0
# Seconds after its last change for which a closed incident is listed, and counted for flapping.
LISTED_SECONDS = 3600.0
# Seconds for which an incident is fresh after a quorum was last seen to fail.
FRESH_SECONDS = 300.0
# What holds for some seconds holds for so many rounds of the slowest node at least.
ROUNDS_GRANTED = 3
# Minutes that nodes may be apart and still call an incident the same: see `name_minute`.
MINUTES_WINDOW = 10
FLAPPING_CHANGES = 6  # so many changes of one test are not flapping yet
FLAPPING_WINDOW = 1800.0  # seconds within which changes are counted
FLAPPING_ENDS_AFTER = 900.0  # seconds without a change
ROUND_JITTER = 30.0  # seconds by which the third round may come early

Failed = tuple[tuple[str, float], ...]  # sites, each with the time it was last heard to fail


def granted(seconds: float, slowest: int) -> float:
    """Return for how many seconds something holds, if the slowest node has this interval.

    `slowest` is in minutes. A node must not miss what is listed only between two of its rounds.
    """
    return max(seconds, ROUNDS_GRANTED * slowest * 60.0)


# When it opens.


def confirm_down(
    test: Test, own: Confirming | None, heard: Confirming | None, now: float
) -> Confirming:
    """Return how often in a row `test` was concluded DOWN, with this round, and since when.

    `own` is from this node's last round, `heard` from the peer that counted most.
    """
    earlier = [confirming for confirming in (own, heard) if confirming]
    downs = max((confirming.downs for confirming in earlier), default=0)
    since = min((confirming.since for confirming in earlier), default=now)
    return Confirming(test, downs + 1, min(since, now))


def open_incident(
    confirming: Confirming, judgement: Judgement, *, now: float, fresh_id: str, minute: int
) -> Incident:
    """Return the incident that opens now; it began with the first DOWN verdict."""
    return Incident(
        ids=(fresh_id,),
        test=confirming.test,
        began=confirming.since,
        opening=judgement,
        minute=minute,
        seen=now,
        failed=_failed_sites((), judgement, now),
        held=now,
    )


def name_minute(minute: int, taken: Collection[int], ended: Collection[int] = ()) -> int:
    """Return the minute by which all nodes name an incident that opens in `minute` (R5).

    Two nodes that have not heard of each other open it in different minutes, and yet their mails
    must have the same Message-ID. So it is the first one of its window that is not `taken` by an
    earlier incident of the test: a mail of another incident must never look like a double. If an
    earlier one `ended` in this window, a node may have opened it there, and mailed it by the name
    that it had before it was united with an older one.
    """
    first = first_of_window(minute)
    if any(end >= first for end in ended):
        first += 1
    return max([first - 1, *taken]) + 1


def first_of_window(minute: int) -> int:
    """Return the first minute of the window that has `minute`."""
    return minute - minute % MINUTES_WINDOW


def last_known(incident: Incident) -> float | None:
    """Return when an incident that is over was open last, as far as this node knows; or None."""
    at = incident.closed
    if at is None or incident.overtaken:
        at = incident.seen
    return None if at == float("-inf") else at


# While it is open, and when it closes.


def advance(incident: Incident, judgement: Judgement, now: float) -> Incident:
    """Return the open `incident` after one more round: still open, or closed.

    It closes if somebody passes, and those that fail and those that are silent are fewer sites than
    a quorum (R4).
    """
    incident = incident._replace(failed=_failed_sites(incident.failed, judgement, now))
    if judgement.verdict is Verdict.DOWN:
        incident = incident._replace(seen=now, heard_from="", relayed_by="")
    if why_open(incident, judgement):
        return incident
    return close(incident, now, judgement)


def why_open(incident: Incident, judgement: Judgement) -> str:
    """Return why an incident cannot close with `judgement`: 'failing' or 'silent'; else ''."""
    failing = judgement.sites(Vote.FAILING)
    quorum = judgement.quorum
    if incident.opening:  # nodes may differ, or the setting has changed
        quorum = min(quorum, incident.opening.quorum)
    if len(failing) >= quorum or not judgement.nodes(Vote.PASSING):
        return "failing"
    if len(failing | _silent_sites_that_count(incident, judgement)) >= quorum:
        return "silent"
    return ""


def _silent_sites_that_count(incident: Incident, judgement: Judgement) -> set[str]:
    """Return the silent sites that may see the test fail.

    Those that were silent already when it opened do not count: nodes that have been dead for weeks
    must not keep every incident open. A node that hears most sites, and none that fails, knows what
    most of them see. So of the silent ones only those count that failed when they were last heard.
    The same holds if one site is a quorum, because then one site's word is enough. Otherwise all
    count, because this node may be cut off from those that see it fail. A site that failed and
    cannot tell now (UNKNOWN) is like one that is silent: it has not seen the test pass.
    """
    heard = _heard_sites(judgement)
    heard -= _undecided_sites(judgement).intersection(dict(incident.failed))
    everywhere = {answer.node.site for answer in judgement.answers} - {""}
    silent = everywhere - heard
    failed = silent.intersection(dict(incident.failed))
    hears_most = 2 * len(heard) > len(everywhere) and not judgement.sites(Vote.FAILING)
    if hears_most or judgement.quorum < 2:
        return failed
    if incident.opening is None:
        return silent
    return failed | silent.intersection(_heard_sites(incident.opening))


def _undecided_sites(judgement: Judgement) -> set[str]:
    """Return the sites that cast no vote: they are silent, or cannot tell."""
    sites = {answer.node.site for answer in judgement.answers} - {""}
    return sites - judgement.sites(Vote.FAILING) - judgement.sites(Vote.PASSING)


def _heard_sites(judgement: Judgement) -> set[str]:
    """Return the sites of which a node has answered, whatever it sees."""
    heard = {answer.node.site for answer in judgement.answers if answer.result is not None}
    return heard - {""}


def close(incident: Incident, now: float, closing: Judgement | None = None) -> Incident:
    """Return `incident` as closed at the time `now`, with the judgement that closed it if known."""
    return incident._replace(closed=now, closing=closing, held=now)


def remove(incident: Incident) -> Incident:
    """Return the `incident` of a test that the operator removed here.

    It is not mailed, and no peer hears of its end (R4).
    """
    return incident._replace(removed=True)


def overtake(incident: Incident, now: float) -> Incident:
    """Return `incident` as over, because a newer one of its test is open; nobody is told of it."""
    return close(incident, now)._replace(overtaken=True)


def is_fresh(incident: Incident, slowest: int, now: float) -> bool:
    """Return whether an open incident was lately seen to fail, by whoever holds it.

    Its holder may have been away. Then it does not know whether the test was well meanwhile. An
    incident from before 0.2, or of a node with that version, does not say when it was seen.
    """
    if incident.seen == float("-inf"):
        return True
    limit = FLAPPING_ENDS_AFTER if incident.flapping else FRESH_SECONDS
    return now - incident.seen <= granted(limit, slowest)


def surely_open(incidents: Iterable[Incident]) -> frozenset[Test]:
    """Return the tests that have an open incident which is no word of one peer."""
    tests = set()
    for incident in incidents:
        if incident.is_open and incident.is_fact and not incident.flapping:
            tests.add(incident.test)
    return frozenset(tests)


def _failed_sites(before: Failed, judgement: Judgement, now: float) -> Failed:
    """Return the sites that failed when they were last heard, given those `before`.

    One lost answer is no recovery (R4), nor is a node that cannot tell any more. A site that is no
    longer in nodes.txt is forgotten.
    """
    undecided = _undecided_sites(judgement)
    failed: dict[str, float] = {}
    for site, at in before:
        if site in undecided and now - at < SILENT_SITE_GRACE:
            failed[site] = min(at, now)  # after a reboot our clock may be behind
    for site in judgement.sites(Vote.FAILING):
        failed[site] = now
    return tuple(sorted(failed.items()))


def changed_at(incident: Incident) -> float | None:
    """Return when a closed incident changed last, or None if it is open or removed.

    Peers may have to hear that it is told long after its end.
    """
    if incident.closed is None or incident.removed:
        return None
    return max(incident.closed, incident.held)


def owed(incident: Incident) -> tuple[Kind, ...]:
    """Return the notifications that `incident` owes: its alert, its recovery, both or none.

    A recovery is owed only if the alert is told or is owed too (R4). Who was told is told while it
    is open that somebody is on it; an alert that is not told yet says that itself (R9).
    """
    if incident.removed or incident.recovery or incident.overtaken:
        return ()
    if incident.void and not incident.alert:
        return ()
    kinds = []
    if not incident.alert:
        kinds.append(Kind.ALERT)
    if incident.closed is not None:
        kinds.append(Kind.RECOVERY)
    elif incident.alert and incident.acknowledged is not None and not incident.ack:
        kinds.append(Kind.ACK)
    return tuple(kinds)


def owes(incident: Incident) -> bool:
    """Return whether `incident` owes a notification to some circle."""
    return any(map(owed, circles.views(incident)))


def is_untold(incident: Incident, kind: Kind, remind: float, now: float) -> bool:
    """Return whether nobody was told this of `incident` yet, owed or not.

    `remind` is the seconds from one reminder to the next, and `now` is when it is handed over.
    """
    if kind is Kind.ALERT:
        return not incident.alert
    if kind is Kind.RECOVERY:
        return not incident.recovery
    if kind is Kind.ACK:
        return not incident.ack
    return is_reminder_due(incident, remind, now)


def told(
    incident: Incident, kinds: Collection[Kind], node: str, now: float, remind: float = 0.0
) -> Incident:
    """Return `incident` after `node` has handed over the notifications `kinds`.

    `remind` is the seconds from one reminder to the next; 0 means that there are none.
    """
    incident = incident._replace(held=now, told_at=now)
    if remind:
        incident = incident._replace(reminded=int((now - incident.began) // remind))
    if Kind.ALERT in kinds:
        incident = incident._replace(alert=node, alert_stated_by="")
    if Kind.ACK in kinds:
        incident = incident._replace(ack=node)
    if Kind.RECOVERY in kinds:
        incident = incident._replace(recovery=node, recovery_stated_by="")
    return incident


def is_reminder_due(incident: Incident, remind: float, now: float) -> bool:
    """Return whether an open incident whose alert is told has lasted another `remind` seconds.

    If `remind` is 0, no reminder is ever due. Flapping has none, nor has what an operator has
    acknowledged (R9).
    """
    if not remind or not incident.is_open:
        return False
    if not incident.alert or incident.flapping or incident.acknowledged is not None:
        return False
    return now - incident.began >= (incident.reminded + 1) * remind


def correct_reminded(incident: Incident, remind: float, now: float) -> Incident:
    """Return `incident` with no more reminders than can have been due.

    A clock that was ahead has counted more, and until they were due there would be no other one.
    One more may be counted, because nodes differ by a moment in when it began.
    """
    if not remind:
        return incident
    possible = max(0, int((now - incident.began) // remind))
    if incident.reminded <= possible + 1:
        return incident
    return incident._replace(reminded=possible)


# Flapping.


def flap(
    incidents: Sequence[Incident],
    judgement: Judgement,
    *,
    interval: int,
    now: float,
    open_now: Callable[[], Incident],
) -> Incident | None:
    """Return the flapping of a test that begins, changes or ends now, or None.

    `incidents` are all of the test, and include those that ended lately; `interval` is the longest
    for which any node is waited, in minutes. Flapping begins with more than FLAPPING_CHANGES
    changes within FLAPPING_WINDOW seconds; `open_now` opens an incident for it. It ends when there
    was no change for FLAPPING_ENDS_AFTER seconds, or when the test has been DOWN for some rounds:
    then people must be told. When its last change was, and how long a round is, no peer can say. If
    only a peer has stated that the test flaps, this node has to count as many changes to believe
    it.
    """
    episodes = [incident for incident in incidents if incident.flapping]
    changes = _changes_after(_last_end(episodes), incidents)
    recent = [at for at in changes if now - at < FLAPPING_WINDOW]
    is_counted = len(recent) > FLAPPING_CHANGES
    for episode in episodes:
        if episode.is_open:
            last_change = max([episode.began, *changes])
            if not episode.is_fact:  # this node may have missed changes
                last_change = max(last_change, episode.seen)
            is_down = _is_down(incidents)
            if _is_steady(now - last_change, interval, is_down=is_down):
                return close(episode, now, judgement)._replace(seen=last_change)
            return _go_on(episode, last_change, is_counted=is_counted)
    if not is_counted:
        return None
    return open_now()._replace(flapping=len(recent), seen=max(recent))


def _is_steady(quiet: float, interval: int, *, is_down: bool) -> bool:
    """Return whether a test that flapped does not any more, `quiet` seconds after its last change.

    `interval` is the longest for which any node is waited, in minutes.
    """
    if is_down and quiet >= granted(0.0, interval) - ROUND_JITTER:
        return True
    return quiet >= granted(FLAPPING_ENDS_AFTER, interval)


def _go_on(episode: Incident, last_change: float, *, is_counted: bool) -> Incident | None:
    """Return the flapping that goes on, or None if nothing has changed.

    Peers must not take it for over while the test goes on changing.
    """
    after = episode._replace(seen=max(episode.seen, last_change))
    if is_counted:
        after = after._replace(heard_from="", relayed_by="")
    return after if after != episode else None


def _is_down(incidents: Sequence[Incident]) -> bool:
    """Return whether one of a test's ordinary incidents is open."""
    return any(incident.is_open and not incident.flapping for incident in incidents)


def _last_end(episodes: Sequence[Incident]) -> float:
    """Return when the last of the episodes of flapping ended: minus infinity if none did."""
    ends = [episode.closed for episode in episodes if episode.closed is not None]
    return max(ends, default=float("-inf"))


def _changes_after(end: float, incidents: Sequence[Incident]) -> list[float]:
    """Return when a test changed after `end`: its ordinary incidents opened and closed then.

    What one peer alone has stated is no change.
    """
    changes = []
    for incident in incidents:
        if incident.flapping or incident.removed or not incident.is_fact:
            continue
        changes.append(incident.began)
        if incident.closed is not None:
            changes.append(incident.closed)
    return [at for at in changes if at > end]
