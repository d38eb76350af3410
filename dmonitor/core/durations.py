"""How long looks take: the last look at each test, and the line of a day.

Pure. The line has the looks that passed, and a gap where none did: a refused connection takes no
time, and a TIMEOUT always the same. So what is usual is what a test takes while it is well.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dmonitor.core.codec import Time
from dmonitor.core.model import Outcome, Result, Test

SLOT = 300.0  # seconds that are one point of the line
SLOTS = 288  # points: 24 hours
_RECENT = 30  # looks of one slot that are kept; a round a minute makes 5


class Look(NamedTuple):
    """The last look of this node at a test, and what its line needs of the looks before it."""

    outcome: Outcome
    at: Time
    duration: float  # seconds
    runs: int = 1  # looks in all, this one too, since this machine was started
    recent: tuple[float, ...] = ()  # the durations of those that passed, in the slot that goes on


class LastLooks(NamedTuple):
    """The last look at each test, as of one slot."""

    slot: int
    looks: tuple[tuple[Test, Look], ...] = ()


class Times(NamedTuple):
    """How long the looks took that passed, in one slot or in several; in seconds."""

    median: float
    longest: float


def slot_of(at: float) -> int:
    """Return the number of the slot in which a time is, counted from the epoch."""
    return max(0, int(at // SLOT))


def looked(before: Look | None, result: Result, at: float) -> Look:
    """Return the look that had `result`, after the one `before`; both are in one slot."""
    runs, recent = (before.runs, before.recent) if before else (0, ())
    if result.outcome is Outcome.OK and len(recent) < _RECENT:
        recent = (*recent, round(result.duration, 4))
    return Look(result.outcome, at, round(result.duration, 4), runs + 1, recent)


def times(durations: Sequence[float]) -> Times | None:
    """Return the median and the maximum of some durations; None if there are none."""
    if not durations:
        return None
    return Times(_median(durations), max(durations))


class Trend(NamedTuple):
    """The line of a test: for each of the last SLOTS slots how long its looks took.

    The last one is the slot that ended last. 0 stands for a slot in which no look passed.
    """

    medians: Sequence[float]
    longest: Sequence[float]

    def usual(self) -> float | None:
        """Return how long a look takes that passes, in seconds; None if that is not known."""
        known = [median for median in self.medians if median]
        return _median(known) if known else None

    def points(self, count: int) -> list[Times | None]:
        """Return the line in `count` points, of as many slots each; None is a gap."""
        width = SLOTS // count
        found: list[Times | None] = []
        for first in range(0, SLOTS, width):
            medians = _known(self.medians[first : first + width])
            longest = _known(self.longest[first : first + width])
            whole = times(medians)
            found.append(whole and Times(whole.median, max(longest, default=whole.longest)))
        return found


def _median(durations: Sequence[float]) -> float:
    in_order = sorted(durations)
    middle = len(in_order) // 2
    if len(in_order) % 2:
        return in_order[middle]
    return (in_order[middle - 1] + in_order[middle]) / 2


def _known(durations: Iterable[float]) -> list[float]:
    return [duration for duration in durations if duration]
