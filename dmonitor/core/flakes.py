"""Count flakes: first looks that failed, and that a second look did not confirm (rule R1).

Pure. A flake is no vote and no result. It is logged and counted, because many of them say that a
network, a host or a plugin is bad.
"""

from __future__ import annotations

from collections.abc import Mapping

from dmonitor.core.model import Flake, Result, Test
from dmonitor.core.result import event_facts
from dmonitor.core.situation import Situation


def count(situation: Situation, seen: Mapping[Test, Result]) -> None:
    """Log the flakes that this round has `seen`, and have the node remember their number.

    Those of tests that the operator removed are forgotten. A test that is missing because a file
    cannot be read is not removed.
    """
    config = situation.config
    now = situation.clock.now()
    flakes: dict[Test, Flake] = {}
    for flake in situation.node_memory.flakes:
        if flake.test in situation.tests or not config.complete:
            flakes[flake.test] = flake
    for test, first in seen.items():
        before = flakes.get(test, Flake(test, 0, now))
        text = first.text or first.outcome.value
        flakes[test] = Flake(test, before.total + 1, now, text)
        situation.note("info", "flake", **event_facts(test, first))
    ordered = tuple(flakes[test] for test in sorted(flakes))
    situation.node_memory = situation.node_memory._replace(flakes=ordered)
