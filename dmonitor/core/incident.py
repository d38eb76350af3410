"""Decide when an incident opens and closes, what it remembers, and what it owes (rule R4).

Pure: values in, values out; `now` is passed in. `ledger` keeps the incidents and unites them when
nodes meet. `election` chooses the node that tells what is owed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from dmonitor.core.model import Incident, Judgement, Kind, Test, TestState, Verdict, Vote

# Seconds for which a site that failed when it was last heard, and is silent now, counts as failing.
SILENT_SITE_GRACE = 300.0
# Seconds after its last change for which a closed incident is listed, and counted for flapping.
LISTED_SECONDS = 3600.0
FLAPPING_CHANGES = 6  # so many changes of one test are not flapping yet
FLAPPING_WINDOW = 1800.0  # seconds within which changes are counted
FLAPPING_ENDS_AFTER = 900.0  # seconds without a change

Failed = tuple[tuple[str, float], ...]  # sites, each with the time it was last heard to fail


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
    """Take `test` one round further; return its new state and its incident.

    `incident` is the open one, or None. The incident that is returned is open, or has just been
    closed; None means that there is none. `confirm` DOWN verdicts in a row open one. `fresh_id` is
    its id; if that is "", none opens.
    """
    state = _next_state(before, judgement, confirm, now)
    if incident is not None:
        return state, _continue(incident, judgement, now)
    if state.downs < confirm or not fresh_id:
        return state, None
    failed = _failed_sites((), judgement, now)
    return state, Incident((fresh_id,), test, now, judgement, failed, held=now)


def _next_state(before: TestState, judgement: Judgement, confirm: int, now: float) -> TestState:
    verdict = judgement.verdict
    own_result = judgement.answers[0].result
    state = before._replace(verdict=verdict, downs=0)
    if verdict is Verdict.DOWN:
        state = state._replace(downs=min(before.downs + 1, confirm))
    if verdict is not before.verdict:
        state = state._replace(since=now)
    if own_result is not None:
        state = state._replace(own_outcome=own_result.outcome)
    return state


def _continue(incident: Incident, judgement: Judgement, now: float) -> Incident:
    """Return the open `incident` after one more round: still open, or closed.

    It closes if fewer than a quorum of sites fail and somebody passes (R4).
    """
    incident = incident._replace(failed=_failed_sites(incident.failed, judgement, now))
    if len(incident.failed) >= judgement.quorum:
        return incident
    if not judgement.nodes(Vote.PASSING):
        return incident
    return close(incident, now, judgement)


def close(incident: Incident, now: float, closing: Judgement | None = None) -> Incident:
    """Return `incident` as closed at the time `now`, with the judgement that closed it if known."""
    return incident._replace(closed=now, closing=closing, held=now)


def remove(incident: Incident) -> Incident:
    """Return the `incident` of a test that the operator removed here.

    It is not mailed, and no peer hears of its end (R4).
    """
    return incident._replace(removed=True)


def _failed_sites(before: Failed, judgement: Judgement, now: float) -> Failed:
    """Return the sites that count as failing now, given those that counted `before`.

    One lost answer is no recovery (R4): a site that failed when it was last heard and is silent now
    counts for SILENT_SITE_GRACE seconds more.
    """
    failed: dict[str, float] = {}
    for site, at in before:
        if now - at < SILENT_SITE_GRACE:
            failed[site] = min(at, now)  # after a reboot our clock may be behind
    for answer in judgement.answers:
        if answer.result is not None:
            failed.pop(answer.node.site, None)
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

    A recovery is owed only if the alert is told or is owed too (R4).
    """
    if incident.removed or incident.recovery:
        return ()
    if incident.void and not incident.alert:
        return ()
    kinds = []
    if not incident.alert:
        kinds.append(Kind.ALERT)
    if incident.closed is not None:
        kinds.append(Kind.RECOVERY)
    return tuple(kinds)


def told(
    incident: Incident, kinds: Collection[Kind], node: str, now: float, remind: float = 0.0
) -> Incident:
    """Return `incident` after `node` has handed over the notifications `kinds`.

    `remind` is the seconds from one reminder to the next; 0 means that there are none.
    """
    incident = incident._replace(held=now)
    if remind:
        incident = incident._replace(reminded=int((now - incident.began) // remind))
    if Kind.ALERT in kinds:
        incident = incident._replace(alert=node)
    if Kind.RECOVERY in kinds:
        incident = incident._replace(recovery=node)
    return incident


def is_reminder_due(incident: Incident, remind: float, now: float) -> bool:
    """Return whether an open incident whose alert is told has lasted another `remind` seconds.

    If `remind` is 0, no reminder is ever due. Flapping has none.
    """
    if not remind or not incident.is_open:
        return False
    if not incident.alert or incident.flapping:
        return False
    return now - incident.began >= (incident.reminded + 1) * remind


# Flapping.


def flap(
    test: Test, incidents: Sequence[Incident], judgement: Judgement, now: float, fresh_id: str
) -> Incident | None:
    """Return the flapping of `test` that begins or ends now, or None.

    `incidents` are those of the test, and include those that ended lately. Flapping begins with
    more than FLAPPING_CHANGES changes within FLAPPING_WINDOW seconds. It ends when there was no
    change for FLAPPING_ENDS_AFTER seconds.
    """
    episodes = [incident for incident in incidents if incident.flapping]
    changes = _changes_after(_last_end(episodes), incidents)
    for episode in episodes:
        if episode.is_open:
            last_change = max([episode.began, *changes])
            if now - last_change < FLAPPING_ENDS_AFTER:
                return None
            return close(episode, now, judgement)
    recent = [at for at in changes if now - at < FLAPPING_WINDOW]
    if len(recent) <= FLAPPING_CHANGES:
        return None
    return Incident((fresh_id,), test, now, judgement, flapping=len(recent), held=now)


def _last_end(episodes: Sequence[Incident]) -> float:
    """Return when the last of the episodes of flapping ended: minus infinity if none did."""
    ends = [episode.closed for episode in episodes if episode.closed is not None]
    return max(ends, default=float("-inf"))


def _changes_after(end: float, incidents: Sequence[Incident]) -> list[float]:
    """Return when a test changed after `end`: its ordinary incidents opened and closed then."""
    changes = []
    for incident in incidents:
        if incident.flapping or incident.removed:
            continue
        changes.append(incident.began)
        if incident.closed is not None:
            changes.append(incident.closed)
    return [at for at in changes if at > end]
