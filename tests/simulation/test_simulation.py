"""The promises hold in hundreds of histories; and the simulator finds decision code that is broken."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from . import histories, mutations
from .by_hand import Script, states, told
from .history import History
from .setups import ADDRESSES

# The kind of history in which a mutation is found, if not in calm ones, and how many seeds it may take.
FOUND_IN = {
    "forgets_told_on_restart": "rebooted",
    "mails_on_unconfirmed": "rough",
    "closes_on_one_lost_answer": "lossy",
    "waits_for_ever_for_who_does_not_list_it": "standing",
    "lists_what_is_over_by_its_end": "late",
    "looks_once": "noisy",
    "answers_after_one_look": "noisy",
    "takes_a_ghost_for_fresh": "ghost",
    "goes_on_with_what_is_over_elsewhere": "ghost",
    "grants_a_slow_node_no_more": "slow",
    "goes_by_its_own_quorum": "differing",
    "names_two_incidents_alike": "picky",
    "is_quiet_about_what_stays_down": "settling",
    **dict.fromkeys((mutation.__name__ for mutation in mutations.BLIND), "blind"),
}
SEEDS = 300
_ALL = (*mutations.EIGHT, *mutations.MORE, *mutations.BLIND, *mutations.LOOKS, *mutations.TRUE)
# What these break is found by tests of their own.
COUNTED = (
    mutations.forgets_that_nobody_hears_it,
    mutations.takes_a_late_checker_for_a_good_one,
    mutations.does_not_count_sleep,
    mutations.tells_an_old_end_as_it_was,
    mutations.closes_without_those_it_cannot_hear,
    mutations.waits_for_every_silent_site,
    mutations.forgets_that_it_was_well,
    mutations.forgets_the_name_before_it_was_united,
    mutations.blames_a_checker_whose_machine_was_off,
)


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
        ("ghost", 60),
        ("slow", 80),
        ("sleep", 60),
        ("torn", 60),
        ("picky", 40),
        ("differing", 40),
        ("pair", 10),
        ("oneway", 25),
        ("swallow", 30),
        ("restored", 30),
        ("edited", 30),
        ("site", 15),
        ("half", 25),
        ("days", 20),
        ("big", 1),
        ("confirm", 40),
        ("skewed", 30),
        ("noisy", 60),
        ("leaky", 40),
        ("settling", 25),
    ],
    ids=lambda value: str(value),
)
def test_promises(kind: str, count: int) -> None:
    wrong = []
    for seed in range(count):
        wrong += [(seed, text) for text in histories.play(seed, kind).wrong]
    assert not wrong, f"tests/simulation/run.py {kind} SEED shows it: {wrong[:3]}"


@pytest.mark.parametrize("mutation", [m for m in _ALL if m not in COUNTED])
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


# Histories that went wrong once, written by hand.


def test_a_failure_is_alerted_although_a_node_is_back_with_an_older_incident() -> None:
    script = Script((1, 0.0), (1, 1.0))
    script.fail(115.0, 600.0)
    script.fail(1500.0, 2400.0)
    script.cut_power_after_first_mail(0.3, until=1503.0)
    history = script.play(3000.0)
    # The second node, which had not heard of the first mail, repeats it.
    assert told(history)[:3] == [("node1", "DOWN"), ("node2", "DOWN"), ("node2", "UP")]
    assert any("boots" in line for line in history.world.trace)
    assert states(told(history)) == ["DOWN", "UP", "DOWN", "UP"]
    assert not history.wrong


def test_nodes_that_come_every_hour_or_two_tell_a_recovery_once() -> None:
    script = Script((60, 600.0), (120, 1800.0))
    script.fail(300.0, 8700.0)  # only the slow node's next round sees that it has ended
    history = script.play(6 * 3600.0)
    assert told(history) == [("node1", "DOWN"), ("node1", "UP")]
    assert not history.wrong


def _suspended() -> History:
    script = Script((1, 0.0), (1, 40.0), (1, 50.0))
    first, _, third = script.nodes
    script.world.slow = 1.0  # its own looks end at 142, and those of its peers at 152
    script.fail(115.0, 143.0)
    # It has one failing answer, and waits for another one until 155.
    script.at(125.0, script.world.link, first.name, third.name, False)
    script.at(400.0, script.world.link, first.name, third.name, True)
    script.at(153.0, script.world.suspend, first, 360.0)
    return script.play(1200.0)


def test_a_round_that_was_suspended_alerts_nobody() -> None:
    """What it saw before is no evidence after it."""
    history = _suspended()
    assert any("suspended" in line for line in history.world.trace)
    assert told(history) == []
    assert not history.wrong
    with mutations.does_not_count_sleep():
        assert told(_suspended()) != []


def _cut_off() -> History:
    script = Script((1, 0.0), (1, 20.0), (1, 40.0))
    first, second, third = script.nodes
    script.fail(100.0, 305.0, first)
    script.fail(100.0, 1500.0, second)
    script.fail(308.0, 1500.0, third)  # the first one never hears that
    for up, at in ((False, 300.0), (True, 1200.0)):
        for other in (second, third):
            script.at(at, script.world.link, first.name, other.name, up)
            script.at(at, script.world.link, other.name, first.name, up)
    return script.play(2200.0)


def test_nobody_tells_up_who_is_cut_off_from_those_that_see_it_fail() -> None:
    history = _cut_off()
    assert states(told(history)) == ["DOWN", "UP"]
    assert not history.wrong
    with mutations.closes_without_those_it_cannot_hear():
        assert "UP" in states(told(_cut_off()))[:-1]


def _back_after_four_minutes() -> History:
    script = Script((1, 0.0), (1, 1.0))
    script.fail(115.0, 200.0)
    script.fail(260.0, 2400.0)
    script.cut_power_after_first_mail(0.3, until=280.0)
    return script.play(3000.0)


def test_a_node_that_was_away_for_minutes_hides_no_new_failure() -> None:
    """The test was well in these minutes, so the told incident that it brings back is over."""
    history = _back_after_four_minutes()
    assert states(told(history)) == ["DOWN", "UP", "DOWN", "UP"]
    assert any("boots" in line for line in history.world.trace)
    with mutations.forgets_that_it_was_well():
        assert states(told(_back_after_four_minutes())) == ["DOWN", "UP"]


def _two_dead_of_four() -> History:
    script = Script((1, 0.0), (1, 20.0), (1, 30.0), (1, 40.0))
    for node in script.nodes[2:]:
        script.at(10.0, script.world.power_cut, node, 9000.0)
    script.fail(400.0, 700.0)
    script.fail(3000.0, 3600.0)
    return script.play(4000.0)


def test_two_dead_nodes_of_four_keep_nothing_open() -> None:
    assert states(told(_two_dead_of_four())) == ["DOWN", "UP", "DOWN", "UP"]
    with mutations.waits_for_every_silent_site():
        assert states(told(_two_dead_of_four())) == ["DOWN"]


def test_nobody_tells_up_while_a_site_begins_to_fail_behind_a_broken_link() -> None:
    script = Script((1, 0.0), (1, 20.0), (1, 40.0))
    first, second, third = script.nodes
    script.fail(100.0, 300.0, first)
    script.fail(100.0, 2000.0, second)
    script.fail(290.0, 2000.0, third)
    for up, at in ((False, 280.0), (True, 700.0)):
        script.at(at, script.world.link, first.name, third.name, up)
        script.at(at, script.world.link, third.name, first.name, up)
    history = script.play(2600.0)
    assert states(told(history)) == ["DOWN", "UP"]
    assert not history.wrong


def test_nobody_tells_up_while_those_that_see_it_fail_are_off() -> None:
    script = Script((1, 0.0), (1, 20.0), (1, 40.0))
    _, second, third = script.nodes
    script.fail(100.0, 1500.0, second, third)
    for node in (second, third):
        script.at(300.0, script.world.power_cut, node, 400.0)
    history = script.play(2200.0)
    assert states(told(history)) == ["DOWN", "UP"]
    assert not history.wrong


def _refused_until_it_is_down_again(refused: str) -> History:
    script = Script((1, 0.0), (1, 5.0), addresses=2)
    script.fail(100.0, 400.0)
    script.fail(902.0, 1500.0)
    script.world.refuses = lambda node, address: (
        address == refused and 300.0 < script.world.now < 905.0
    )
    return script.play(2200.0)


def test_a_late_recovery_is_not_told_while_it_is_down_again() -> None:
    """The second address is refused from the first recovery until the second alert."""
    refused = ADDRESSES[1]
    history = _refused_until_it_is_down_again(refused)
    assert states(told(history)) == ["DOWN", "UP", "DOWN", "UP"]
    for said in told(history, refused):
        assert said[1] in ("DOWN", "STILL DOWN") or said == told(history, refused)[-1]
    assert not history.wrong
    with mutations.tells_an_old_end_as_it_was():
        late = _refused_until_it_is_down_again(refused)
    assert "UP" in [state for _, state in told(late, refused)[:-1]]


def _opened_in_two_windows() -> History:
    """Two nodes open one incident, by their wall clocks on both sides of the tenth minute."""
    script = Script((1, 50.0), (1, 50.0))
    script.nodes[0].wall_skew = 12.0
    script.fail(545.0, 700.0)
    script.fail(1000.0, 1300.0)
    return script.play(1800.0)


def test_no_two_incidents_are_mailed_by_one_name() -> None:
    """The first node mails its own name of the incident, and then takes on the one of the other."""
    history = _opened_in_two_windows()
    minutes = {opened.minute % 100 for at, _, opened in history.world.opened if at < 700.0}
    assert minutes == {0, 10}
    assert [state for _, state in told(history)] == ["DOWN", "UP", "DOWN", "UP"]
    assert not history.wrong
    with mutations.forgets_the_name_before_it_was_united():
        assert any("not told" in text for text in _opened_in_two_windows().wrong)


@pytest.mark.parametrize("seeing", [2, 3])
def test_the_largest_quorum_and_confirm_hold(seeing: int) -> None:
    """Two failing sites are none where one node wants three; and none opens what others close."""
    script = Script((1, 0.0), (1, 20.0), (1, 40.0))
    first, second, third = script.nodes
    first.quorum, second.quorum, third.quorum = 2, 2, 3
    first.confirm, second.confirm, third.confirm = 1, 2, 1
    script.fail(100.0, 700.0, *script.nodes[:seeing])
    history = script.play(1500.0)
    assert states(told(history)) == (["DOWN", "UP"] if seeing == 3 else [])
    assert len(told(history)) == 2 * (seeing == 3)
    assert not history.wrong


def test_confirm_counts_the_rounds_of_all_nodes() -> None:
    """Three rounds that are 20 seconds apart are enough; they need not be of one node."""
    script = Script((1, 0.0), (1, 20.0), (1, 40.0))
    script.world.confirm = 3
    script.fail(105.0, 700.0)
    history = script.play(1500.0)
    assert [state for _, state in told(history)] == ["DOWN", "UP"]
    assert history.watch is not None
    assert history.watch.said[0].at < 200.0
    assert not history.wrong


def test_one_of_two_nodes_says_that_the_cron_of_the_other_one_is_dead() -> None:
    script = Script((5, 0.0), (5, 100.0))
    first, second = script.nodes
    script.fail(0.0, 0.0)
    script.at(650.0, setattr, second, "cron", False)
    history = script.play(650.0 + 37 * 60.0)
    assert [name for _, name, _ in history.world.complaints] == [first.name]


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


def test_a_daemon_goes_on_while_the_round_beside_it_is_killed() -> None:
    """It greets the third node, for the first one, from second 125 to 144."""
    script = Script((1, 0.0), (1, 20.0), (1, 40.0))
    _, second, third = script.nodes
    script.fail(0.0, 0.0)
    script.at(100.0, script.world.power_cut, third, 200.0)
    script.at(142.0, script.world.kill_round, second)
    history = script.play(900.0)
    assert any("round killed" in line for line in history.world.trace)
    assert second.visits
    assert None not in {visit.outcome for visit in second.visits.values()}


def test_nobody_tells_the_end_of_what_is_removed_everywhere() -> None:
    script = Script((1, 0.0), (1, 20.0), (1, 40.0))
    script.fail(100.0, 500.0)
    for node in script.nodes:
        script.at(300.0, setattr, node, "tests", frozenset())
        script.at(700.0, setattr, node, "tests", node.tests)
    history = script.play(1800.0)
    assert [state for _, state in told(history)] == ["DOWN"]
    assert not history.wrong


def _blackout() -> History:
    script = Script((1, 0.0), (1, 1.0), (1, 40.0))
    for node in script.nodes:
        script.at(300.0, script.world.power_cut, node, 1215.0)
    return script.play(2400.0)


def test_when_all_nodes_were_off_none_of_them_is_told_to_be_down() -> None:
    """Each is back before any other one has finished a round."""
    history = _blackout()
    assert sum("boots" in line for line in history.world.trace) == 3
    assert history.world.mails == []
    with mutations.blames_a_checker_whose_machine_was_off():
        assert _blackout().world.mails
