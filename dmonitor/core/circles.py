"""An incident by the eyes of a circle: the addresses that have the same HOURS and AFTER (rule R5).

Pure. Most addresses are told at once, and what they were told stands in the incident itself. The
others are told later, so the incident has for each of their circles what that was told. A *view* is
the incident with what one circle was told in the place of that. So the rules that decide who tells
what, and when, are the same for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dmonitor.core.model import Circle, Incident

# What stands in an incident for those who are told at once, and in a circle for the others.
_TOLD = tuple(field for field in Circle._fields if field not in ("name", "since"))


def views(incident: Incident) -> Iterator[Incident]:
    """Yield the incident by the eyes of those who are told at once, and then of each circle."""
    yield incident
    for circle in incident.circles:
        yield _view(incident, circle)


def view_for(incident: Incident, name: str) -> Incident:
    """Return the incident by the eyes of the circle `name`; unchanged if that is not to be told."""
    for circle in incident.circles:
        if circle.name == name:
            return _view(incident, circle)
    return incident


def _view(incident: Incident, circle: Circle) -> Incident:
    held = max(incident.held, circle.since)
    return incident._replace(circle=circle.name, held=held, **_told(circle))


def _told(by: Incident | Circle) -> dict[str, Any]:
    """Return the fields that say what was told."""
    return {field: getattr(by, field) for field in _TOLD}


def since(view: Incident) -> float | None:
    """Return since when the circle of `view` is to be told; None if that is told at once."""
    for circle in view.circles:
        if circle.name == view.circle:
            return circle.since
    return None


def fold(incident: Incident, view: Incident) -> Incident:
    """Return `incident` with what was told by `view`, which is made of it."""
    if not view.circle:
        return view
    found = [_fold(circle, view) for circle in incident.circles]
    return incident._replace(circles=tuple(found), held=max(incident.held, view.held))


def _fold(circle: Circle, view: Incident) -> Circle:
    if circle.name != view.circle:
        return circle
    return circle._replace(**_told(view))


def widen(incident: Incident, name: str, now: float) -> Incident:
    """Return `incident`, of which the circle `name` is to be told from `now` on."""
    return incident._replace(circles=tuple(sorted([*incident.circles, Circle(name, now)])))
