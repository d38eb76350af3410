"""The life of an incident: when one opens, what it remembers, when it closes (rule R4).

Pure: the state of one test and a judgement in, a step out; `now` is passed in. Storing the step is `state`'s,
telling it `notifier`'s. Which node speaks for an incident (rule R5) is not decided here.
"""

from __future__ import annotations

import dataclasses

from dmonitor.model import Incident, Judgement, Kind, Standing, Test, Verdict, Vote

MEMORY = 300.0  # seconds for which a site that failed when last heard still counts as failing while it is silent


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """What one round makes of one test: its standing, its incident if one is or was open, and what that owes."""

    test: Test
    standing: Standing
    incident: Incident | None = None
    owes: Kind | None = None
    changed: bool = False  # the standing is not what it was


def advance(
    test: Test, before: Standing, incident: Incident | None, judgement: Judgement, *, confirm: int, now: float, fresh_id: str
) -> Step:
    """Take TEST one round further.

    INCIDENT is the open one, or None; FRESH_ID names the incident that may open. `confirm` rounds of DOWN in a
    row open one; it closes when fewer than a quorum of sites fail and somebody passes.
    """
    downs = min(before.downs + 1, confirm) if judgement.verdict is Verdict.DOWN else 0
    same = judgement.verdict is before.verdict
    own = judgement.answers[0].result
    standing = Standing(judgement.verdict, own.outcome if own else before.own, before.since if same else now, downs)
    changed = standing != before
    if incident is None:
        if downs < confirm:
            return Step(test, standing, changed=changed)
        opened = Incident(fresh_id, test, now, judgement, _remember((), judgement, now))
        return Step(test, standing, opened, Kind.ALERT, changed=True)
    failed = _remember(incident.failed, judgement, now)
    if len(failed) < judgement.quorum and judgement.nodes(Vote.PASSING):
        closed = dataclasses.replace(incident, failed=failed, closed=now, closing=judgement)
        return Step(test, standing, closed, Kind.RECOVERY, changed=True)
    return Step(test, standing, dataclasses.replace(incident, failed=failed), changed=changed)


def remove(incident: Incident, now: float) -> Incident:
    """Close the incident of a test that the operator took away; nobody is mailed about it."""
    return dataclasses.replace(incident, closed=now, removed=True)


def _remember(failed: tuple[tuple[str, float], ...], judgement: Judgement, now: float) -> tuple[tuple[str, float], ...]:
    """Return the sites that count as failing, each with the time it was last heard to fail.

    One lost answer is no recovery: a site that failed when last heard and is silent now counts for MEMORY more.
    A time in the future (the clock was set back) starts anew at `now`.
    """
    kept = {site: min(at, now) for site, at in failed if now - at < MEMORY}
    for site in {answer.node.site for answer in judgement.answers if answer.result is not None}:
        kept.pop(site, None)
    kept.update(dict.fromkeys(judgement.sites(Vote.FAILING), now))
    return tuple(sorted(kept.items()))
