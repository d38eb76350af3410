"""Remember when this node has looked at nothing: it was off, or no round of it has ended.

Pure. No round decides anything by it. It is for the reports, in which nobody must take for UP what
nobody has seen.
"""

from __future__ import annotations

from dmonitor.core import election
from dmonitor.core.effects import NodeMemory
from dmonitor.core.incident import granted
from dmonitor.core.model import Absence

_UNNOTICED = 300.0  # seconds without a round that are no absence; or three intervals (R7)
_KEPT_SECONDS = 400 * 86400.0  # as long as the history
_KEPT = 200  # absences; if there are more, the oldest are dropped


def remember(memory: NodeMemory, now: float) -> NodeMemory:
    """Return `memory` with the absence that its last round has ended, which began at `now`."""
    if memory.present_since == float("-inf"):
        return memory._replace(present_since=now)
    absences = [each for each in memory.absences if each.until > now - _KEPT_SECONDS]
    # An absence is not to be taken for the interval of this node's rounds.
    absences += current(memory._replace(begins=memory.begins[:-1]), now)
    since = memory.present_since
    if len(absences) > _KEPT:
        since = absences[-_KEPT - 1].until
    return memory._replace(present_since=since, absences=tuple(absences[-_KEPT:]))


def current(memory: NodeMemory, now: float) -> list[Absence]:
    """Return the absence from the last round to `now`, if that is one."""
    limit = granted(_UNNOTICED, election.interval(memory.begins))
    if memory.finished == float("-inf") or now - memory.finished <= limit:
        return []
    return [Absence(memory.finished, now)]
