"""The promises hold in hundreds of histories; and the simulator finds decision code that is broken."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from . import histories, mutations

# The kind of history in which a mutation is found, if not in calm ones, and how many seeds it may take.
FOUND_IN = {
    "forgets_told_on_restart": "rebooted",
    "mails_on_unconfirmed": "rough",
    "closes_on_one_lost_answer": "lossy",
    "waits_for_ever_for_who_does_not_list_it": "standing",
    "lists_what_is_over_by_its_end": "late",
    **dict.fromkeys((mutation.__name__ for mutation in mutations.BLIND), "blind"),
}
SEEDS = 300
# What these break is counted, by tests of their own.
COUNTED = (mutations.forgets_that_nobody_hears_it, mutations.takes_a_late_checker_for_a_good_one)


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("calm", 150),
        ("rebooted", 60),
        ("rough", 150),
        ("many", 40),
        ("lossy", 60),
        ("standing", 80),
        ("blind", 140),
        ("late", 20),
        ("brief", 60),
    ],
    ids=lambda value: str(value),
)
def test_promises(kind: str, count: int) -> None:
    wrong = []
    for seed in range(count):
        wrong += [(seed, text) for text in histories.play(seed, kind).wrong]
    assert not wrong, f"tests/simulation/run.py {kind} SEED shows it: {wrong[:3]}"


@pytest.mark.parametrize(
    "mutation",
    [m for m in (*mutations.EIGHT, *mutations.MORE, *mutations.BLIND) if m not in COUNTED],
)
def test_what_is_broken_on_purpose_is_found(
    mutation: Callable[[], AbstractContextManager[None]],
) -> None:
    kind = FOUND_IN.get(mutation.__name__, "calm")
    with mutation():
        assert any(histories.play(seed, kind).wrong for seed in range(SEEDS)), (
            f"not found in {SEEDS} {kind} histories"
        )


def _doubled_by_an_unreached_first(count: int) -> tuple[int, int]:
    """Return in how many histories of an unreached first node something is doubled, and how many there are."""
    played = [histories.play(seed, "standing") for seed in range(count)]
    unreached = [history for history in played if history.world.topology == "unreached"]
    return sum(history.doubled > 0 for history in unreached), len(unreached)


def test_a_first_node_that_cannot_be_reached_doubles_next_to_nothing() -> None:
    """It hears, and would mail all that the others mail. The clause of R5 that ranks it last prevents that."""
    doubled, played = _doubled_by_an_unreached_first(80)
    assert doubled <= played * 0.1
    with mutations.forgets_that_nobody_hears_it():
        doubled, played = _doubled_by_an_unreached_first(80)
    assert doubled >= played * 0.5


def test_a_node_that_was_off_for_minutes_is_not_mailed_twice() -> None:
    """It comes back with an old round, and must not pass before its first new one."""

    def doubled(count: int) -> int:
        return sum(histories.play(seed, "brief").doubled for seed in range(count))

    assert doubled(100) <= 3
    with mutations.takes_a_late_checker_for_a_good_one():
        assert doubled(100) >= 15


def test_the_same_seed_gives_the_same_trace() -> None:
    first, again, other = (
        histories.play(seed, "rough", tracing=True).world.trace for seed in (7, 7, 8)
    )
    assert first == again != other
    assert any("handed" in line or "MTA took" in line for line in first)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink],
)
@given(st.randoms(use_true_random=False), st.integers(0, 10_000))
def test_promises_of_what_hypothesis_sets_up(plan: random.Random, seed: int) -> None:
    assert not histories.play(seed, "rough", plan=plan).wrong


def test_hypothesis_shrinks_a_counterexample() -> None:
    """Two nodes are enough to show what `lets_any_node_speak` breaks, so two are left."""
    last_wrong = []

    def is_wrong(plan: random.Random) -> bool:
        history = histories.play(1, "calm", plan=plan)
        if history.wrong:
            last_wrong.append(len(history.world.nodes))
        return bool(history.wrong)

    with mutations.lets_any_node_speak():
        find(
            st.randoms(use_true_random=False),
            is_wrong,
            settings=settings(max_examples=300, deadline=None, database=None),
        )
    assert last_wrong[-1] == 2
