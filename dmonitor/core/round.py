"""A round as a script: observe, hear, conclude, store, tell, look at itself (rules R4 to R7, R9).

Pure: `run_round` is a generator. It yields what is to be done next, an Effect, and is sent what
came of that. The clock and the log are passed in. `driver` carries the effects out; the simulator
of tests/simulation does so in a virtual world.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from dmonitor.core import flakes, node_ids, result
from dmonitor.core.conclusions import Conclusions
from dmonitor.core.effects import (
    Effect,
    Memory,
    Observation,
    Observe,
    RoundClock,
    RoundConfig,
    RoundEnd,
    Save,
)
from dmonitor.core.model import Judgement, Notification, Test
from dmonitor.core.outbox import Outbox
from dmonitor.core.round_log import Note
from dmonitor.core.self_check import SelfCheck
from dmonitor.core.situation import Situation
from dmonitor.core.telling import Telling

RoundScript = Generator[Effect, Any, RoundEnd]


def run_round(
    config: RoundConfig, memory: Memory, clock: RoundClock, note: Note, fresh_id: Callable[[], str]
) -> RoundScript:
    """Take one round.

    A round that slept is not completed. It stores no memory of itself, so that it does not count as
    finished.
    """
    situation = Situation(config, memory, clock, note)
    situation.begin()
    conclusions = Conclusions(situation, memory.test_states, fresh_id)
    outbox = Outbox(memory.outbox, situation.audience)
    telling = Telling(situation, outbox, fresh_id)
    self_check = SelfCheck(situation)

    # Observe and hear.
    open_before = situation.open_incidents()
    resting = _resting_tests(situation, memory)
    observation: Observation = yield Observe(
        frozenset(open_before),
        tuple(situation.ledger),
        config.quorum,
        situation.sites,
        situation.stated_quorums,
        frozenset(memory.node.slow),
        resting,
        node_ids.owners(memory.node.known_ids),
    )
    if situation.has_slept():
        return _end_slept(situation)
    situation.recognise(observation)
    situation.hear(observation.contacts)

    # Conclude.
    judged = {
        test: judgement
        for test, judgement in observation.judgements.items()
        if test in situation.tests
    }
    judgements = self_check.mark_suspects(judged)
    conclusions.conclude(judgements, observation.asked, open_before)
    conclusions.close_removed()
    situation.settle_unwanted()
    conclusions.find_flapping(judgements)
    flakes.count(situation, observation.flakes)
    standing = _standing_judgements(situation, memory, resting)
    conclusions.note_standing(standing)
    all_judgements = {**judgements, **standing}
    slow = result.slow_tests(all_judgements)
    situation.node_memory = situation.node_memory._replace(slow=slow)
    renewed, recoveries = outbox.renew(situation.ledger.find, situation.names_at_work())
    dropped = _drop_removed(situation, outbox)
    situation.widen()

    # Store. A node that holds something untold stores itself too, although nothing has changed:
    # whether that can be stored decides who speaks.
    yield from situation.store(
        Save(
            node=situation.node_memory if situation.holds_untold() else None,
            test_states=conclusions.test_states,
            gone=conclusions.removed_tests,
            outbox=tuple(recoveries),
            settled=(*renewed, *dropped),
            changes=tuple(conclusions.changes),
        )
    )

    # Tell, then look at itself.
    yield from telling.run()
    telling.forget_refusals()
    test_states = {**memory.test_states, **conclusions.test_states}
    if not situation.has_slept():
        yield from self_check.run(
            all_judgements, test_states, conclusions.unconfirmed_recoveries, resting=resting
        )
    if situation.has_slept():
        return _end_slept(situation)
    yield from situation.store(Save(node=situation.finish()))
    return _end(situation, telling)._replace(able=situation.is_able())


def _resting_tests(situation: Situation, memory: Memory) -> frozenset[Test]:
    """Return the tests that rest in this round. What decides that is loaded only if some may."""
    if not situation.config.rhythms:
        return frozenset()
    from dmonitor.core import rest

    return rest.resting_tests(situation, memory.test_states)


def _standing_judgements(
    situation: Situation, memory: Memory, resting: frozenset[Test]
) -> dict[Test, Judgement]:
    """Return what stands of the tests that rest in this round."""
    if not resting:
        return {}
    from dmonitor.core import rest

    return rest.standing_judgements(situation, memory.test_states, resting)


def run_woken(
    config: RoundConfig, memory: Memory, clock: RoundClock, note: Note, fresh_id: Callable[[], str]
) -> RoundScript:
    """Tell what the peers hold, because one of them has woken this node (R5).

    It greets and tells as a round does, but once, and tests nothing. So it changes nothing of what
    this node states of its rounds.
    """
    situation = Situation(config, memory, clock, note)
    outbox = Outbox(memory.outbox, situation.audience)
    telling = Telling(situation, outbox, fresh_id)
    observation: Observation = yield Observe(
        frozenset(), tuple(situation.ledger), config.quorum, situation.sites
    )
    if situation.has_slept():
        return _end_slept(situation)
    situation.recognise(observation)
    situation.hear(observation.contacts)
    renewed, recoveries = outbox.renew(situation.ledger.find, situation.names_at_work())
    # Whether this can be stored decides who speaks, so its memory is stored as it is.
    yield from situation.store(
        Save(
            node=memory.node if situation.holds_untold() else None,
            outbox=tuple(recoveries),
            settled=tuple(renewed),
        )
    )
    yield from telling.run_once()
    return _end(situation, telling)


def _end(situation: Situation, telling: Telling) -> RoundEnd:
    """Return what this round leaves: a node that would speak stays, if it has peers."""
    stays = bool(situation.contacts) and not situation.config.once and situation.is_first()
    interval = situation.status().interval
    return RoundEnd(telling.all_taken, stays, situation.place(), interval)


def _end_slept(situation: Situation) -> RoundEnd:
    """Say that this round slept; return that it is not completed."""
    situation.note("warning", "round-slept", seconds=round(situation.clock.elapsed()))
    return RoundEnd(completed=False)


def _drop_removed(situation: Situation, outbox: Outbox) -> tuple[Notification, ...]:
    """Drop what is owed to a removed address, or about a removed test; log and return it.

    What is missing because a file cannot be read is not removed.
    """
    config = situation.config
    if not config.complete:
        return ()
    dropped = outbox.drop_removed(config.addresses, situation.tests)
    for notification in dropped:
        event = "owed-for-removed-test"
        if notification.address not in config.addresses:
            event = "address-removed"
        situation.note(
            "info",
            event,
            address=notification.address,
            test=str(notification.incident.test),
            kind=notification.kind.value,
        )
    return tuple(dropped)
