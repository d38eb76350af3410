"""What is played, and what came of it: the failures of tests, and the history of a virtual cluster."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from dmonitor.base import names
from dmonitor.core.model import Kind, Test

from .node import SimNode
from .world import World

if TYPE_CHECKING:
    from .mailbox import Watch

KINDS_TOLD = (Kind.ALERT, Kind.RECOVERY)


@dataclasses.dataclass(frozen=True)
class Failure:
    """A test fails from `began` until `ended` on the nodes named; on all without names."""

    test: Test
    began: float
    ended: float
    nodes: frozenset[str] = frozenset()

    def is_seen(self, at: float, test: Test, node: SimNode) -> bool:
        """Return whether `node` sees `test` fail at this time."""
        if self.test != test or not self.began <= at < self.ended:
            return False
        return not self.nodes or node.name in self.nodes


@dataclasses.dataclass
class History:
    """What was played, and what is wrong with it."""

    seed: int
    world: World
    failures: list[Failure]
    wrong: list[str]
    doubled: int = 0  # what was told twice, if that is counted
    # Seconds from a failure to its first mail.
    delays: list[float] = dataclasses.field(default_factory=list)
    watch: Watch | None = None  # for kinds that are judged by what each mailbox got

    def told(self) -> Counter[tuple[Test, str, Kind]]:
        """Return how often each address was told each kind of each test; flapping is not counted."""
        counts: Counter[tuple[Test, str, Kind]] = Counter()
        for mail in self.world.mails:
            for test, kind, _ in mail.told:
                counts[test, mail.address, kind] += 1
        return counts

    def times_told(self, test: Test, kind: Kind) -> list[float]:
        """Return when some address was told this kind of this test."""
        times = []
        for mail in self.world.mails:
            for told_test, told_kind, _ in mail.told:
                if (told_test, told_kind) == (test, kind):
                    times.append(mail.at)
        return times


def is_node(test: Test) -> bool:
    """Return whether a test is a node (R7)."""
    return test.host == names.NODE


def truth(failures: list[Failure]) -> Callable[[float, Test, SimNode], bool]:
    """Return how things really are: whether a test fails at a time, seen from a node."""

    def fails(at: float, test: Test, node: SimNode) -> bool:
        return any(failure.is_seen(at, test, node) for failure in failures)

    return fails
