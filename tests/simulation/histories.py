"""Histories of a virtual cluster from seeds, and what must be true of each (promises 1 to 4).

A kind has a setup and a judge. All kinds but `blind` and `brief` have crons in and out of step, and slow
plugins and MTAs; several have clocks that differ, several tests, intervals of 1, 2 and 5 minutes.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from dmonitor.core import circles, incident
from dmonitor.core.wants import Audience

from . import hardships, judges, mailbox, setups
from .history import History, truth
from .node import SimNode
from .world import World

_OVERTIME = 3600.0  # seconds that an MTA may need more to take all that is owed

KINDS: dict[str, tuple[Callable[[World], setups.Setup], Callable[[History], None]]] = {
    "calm": (setups.calm, judges.calm),
    "mixed": (setups.mixed, judges.calm),
    "prompt": (setups.prompt, judges.prompt),
    "rebooted": (setups.rebooted, judges.calm),
    "rough": (setups.rough, judges.rough),
    "many": (setups.many, judges.rough),
    "lossy": (setups.lossy, judges.lossy),
    "standing": (setups.standing, judges.standing),
    "flapping": (setups.flapping, judges.flapping),
    "reminded": (setups.reminded, judges.reminded),
    "quiet": (setups.quiet, judges.quiet),
    "blind": (setups.blind, judges.blind),
    "brief": (setups.brief, judges.brief),
    "late": (setups.late, judges.late),
    "seldom": (setups.seldom, judges.seldom),
}
# What is judged by what the reader of each mailbox believes.
READ = {
    "ghost": hardships.ghost,
    "slow": hardships.slow,
    "sleep": hardships.sleep,
    "torn": hardships.torn,
    "picky": hardships.picky,
    "differing": hardships.differing,
    "oneway": hardships.oneway,
    "swallow": hardships.swallow,
    "restored": hardships.restored,
    "edited": hardships.edited,
    "site": hardships.site,
    "half": hardships.half,
    "days": hardships.days,
    "big": hardships.big,
    "confirm": hardships.confirm,
    "skewed": hardships.skewed,
    "noisy": hardships.noisy,
    "leaky": hardships.leaky,
    "settling": hardships.settling,
    "choosy": hardships.choosy,
}
KINDS.update({kind: (setup, mailbox.judge) for kind, setup in READ.items()})
WATCHED = (
    *READ,
    "pair",
    "woken",
    "liar",
    "struck",
    "rough",
    "many",
    "standing",
    "seldom",
    "sluggish",
    "hooked",
    "behind",
)
KINDS["sluggish"] = hardships.sluggish, judges.sluggish
KINDS["hooked"] = hardships.hooked, judges.hooked
KINDS["behind"] = hardships.behind, judges.behind
KINDS["pair"] = hardships.pair, judges.pair
KINDS["struck"] = setups.struck, judges.struck
KINDS["woken"] = hardships.woken, judges.woken
KINDS["liar"] = hardships.liar, judges.liar


def play(
    seed: int, kind: str, *, plan: random.Random | None = None, tracing: bool = False
) -> History:
    """Play the history of a seed; `kind` is a key of KINDS."""
    world = World(seed, plan)
    world.tracing = tracing
    setup, judge = KINDS[kind]
    failures, settle = setup(world)
    world.fails = truth(failures)
    world.begin()
    watching = mailbox.watch(world, failures) if kind in WATCHED else None
    end = max(failure.ended for failure in failures) + settle
    history = History(seed, world, failures, [], watch=watching)
    try:
        world.run(end)
        while world.now < end + _OVERTIME and any(_owes(world, node) for node in world.nodes):
            world.run(world.now + 60.0)
    except AssertionError as error:
        history.wrong.append(str(error))
    judge(history)
    return history


def _owes(world: World, node: SimNode) -> bool:
    """Return whether a node owes a notification to some address, which wants it."""
    audience = Audience(node.addresses, world.wants)
    for known in node.disk.incidents.values():
        for view in circles.views(known):
            if incident.owed(view) and audience.is_told(view):
                return True
    return bool(node.disk.outbox)
