"""The promises hold in hundreds of histories; and the simulator finds decision code that is broken."""

from __future__ import annotations

import inspect
import itertools
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from dmonitor.config.silences import SilenceFile, Term
from dmonitor.core import refusals
from dmonitor.core.incident import owes
from dmonitor.core.model import Kind, Outcome, Rhythm, Test, node_test
from dmonitor.core.wants import Pattern, Wants

from . import hardships, histories, judges, mailbox, mutations, setups
from .by_hand import TEST, Script, states, told
from .history import History
from .judges import LIAR_LIMIT
from .liar import Lie
from .node import SimNode
from .setups import ADDRESSES
from .world import Look, World

# The kind of history in which a mutation is found, if not in calm ones, and how many seeds it may take.
FOUND_IN = {
    "forgets_told_on_restart": "rebooted",
    "takes_refusals_for_success": "late",
    "marks_told_before_sending": "late",
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
    **dict.fromkeys((mutation.__name__ for mutation in mutations.WOKEN), "prompt"),
    **dict.fromkeys((mutation.__name__ for mutation in mutations.REST), "seldom"),
    **dict.fromkeys((mutation.__name__ for mutation in mutations.LONG), "sluggish"),
    **dict.fromkeys((mutation.__name__ for mutation in mutations.QUIET), "quiet"),
    **dict.fromkeys((mutation.__name__ for mutation in mutations.HOOKED), "hooked"),
    **dict.fromkeys((mutation.__name__ for mutation in mutations.PLACES), "behind"),
    **dict.fromkeys((mutation.__name__ for mutation in mutations.CHOOSY), "choosy"),
    "wakes_who_knows_no_wake": "mixed",
    "counts_a_wake_as_a_round": "slow",
    "looks_as_often_as_it_is_woken": "woken",
}
FOUND_IN |= {mutation.__name__: "troubled" for mutation in mutations.TROUBLED}
SEEDS = 300
_ALL = (*mutations.EIGHT, *mutations.MORE, *mutations.BLIND, *mutations.LOOKS, *mutations.TRUE)
_EVERY = (
    *_ALL,
    *mutations.WOKEN,
    *mutations.REST,
    *mutations.LIAR,
    *mutations.LONG,
    *mutations.HOOKED,
    *mutations.PLACES,
    *mutations.QUIET,
    *mutations.CHOOSY,
    *mutations.TROUBLED,
)
# What these break is found by tests of their own.
COUNTED = (
    mutations.forgets_that_nobody_hears_it,
    mutations.takes_a_late_checker_for_a_good_one,
    mutations.does_not_count_sleep,
    mutations.tells_an_old_end_as_it_was,
    mutations.keeps_an_end_back_although_it_is_down_again,
    mutations.takes_a_changed_cron_for_a_dead_one,
    mutations.asks_a_node_about_itself,
    mutations.wakes_before_it_stores,
    mutations.closes_without_those_it_cannot_hear,
    mutations.closes_with_those_that_cannot_tell,
    mutations.waits_for_every_silent_site,
    mutations.forgets_that_it_was_well,
    mutations.forgets_the_name_before_it_was_united,
    mutations.blames_a_checker_whose_machine_was_off,
    mutations.drops_a_wake_that_comes_too_soon,
    mutations.waits_for_a_speaker_that_is_down,
    mutations.takes_a_wake_for_the_next_round,
    mutations.lets_rest_what_has_an_incident,
    mutations.lets_rest_what_fails,
    mutations.counts_old_refusals_for_ever,
    mutations.lets_an_alert_come_last,
    mutations.gives_up_before_it_has_looked_after,
    mutations.leaves_it_at_still_down,
    mutations.ends_all_turns_at_a_death,
    mutations.ends_all_turns_when_a_site_dies,
    mutations.tells_what_a_node_hands_over_that_is_late,
    mutations.forgets_a_tests_own_confirm,
    mutations.escalates_what_somebody_is_on,
    mutations.takes_a_hook_for_the_mail_system,
    *mutations.LIAR,
)


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("calm", 75),
        ("mixed", 20),
        ("prompt", 30),
        ("struck", 20),
        ("woken", 25),
        ("rebooted", 30),
        ("rough", 75),
        ("many", 20),
        ("lossy", 30),
        ("standing", 40),
        ("quiet", 30),
        ("blind", 70),
        ("late", 20),
        ("brief", 30),
        ("ghost", 30),
        ("slow", 40),
        ("sleep", 30),
        ("torn", 30),
        ("picky", 20),
        ("differing", 20),
        ("pair", 10),
        ("oneway", 25),
        ("swallow", 30),
        ("sluggish", 20),
        ("hooked", 20),
        ("behind", 30),
        ("restored", 30),
        ("edited", 30),
        ("site", 15),
        ("half", 25),
        ("days", 20),
        ("big", 1),
        ("confirm", 20),
        ("skewed", 30),
        ("noisy", 30),
        ("leaky", 20),
        ("settling", 25),
        ("choosy", 30),
        ("troubled", 30),
        ("liar", 1),
        ("seldom", 30),
    ],
    ids=lambda value: str(value),
)
def test_promises(kind: str, count: int) -> None:
    wrong = []
    for seed in range(count):
        wrong += [(seed, text) for text in histories.play(seed, kind).wrong]
    assert not wrong, f"tests/simulation/run.py {kind} SEED shows it: {wrong[:3]}"


@pytest.mark.parametrize("mutation", [m for m in _EVERY if m not in COUNTED])
def test_what_is_broken_on_purpose_is_found(
    mutation: Callable[[], AbstractContextManager[None]],
) -> None:
    kind = FOUND_IN.get(mutation.__name__, "calm")
    with mutation():
        wrong = (seed for seed in range(SEEDS) if histories.play(seed, kind).wrong)
        found = next(wrong, None)
    assert found is not None, f"not found in {SEEDS} {kind} histories"
    assert not histories.play(found, kind).wrong, "it is the mutation that is found"


@pytest.mark.parametrize("kind", ["confirm", "noisy", "leaky"])
def test_nothing_fails_by_chance_any_more_long_before_the_end(kind: str) -> None:
    """Otherwise an incident may have opened a moment before the end, by right."""
    setup, _ = histories.KINDS[kind]
    is_reached = False
    for seed in range(6):
        world = World(seed)
        failures, settle = setup(world)
        is_reached = is_reached or any(world.noise.values()) or world.loss > 0.0
        end = max(failure.ended for failure in failures) + settle
        world.run(end - hardships.SETTLED)
        assert not world.noise and not world.loss
    assert is_reached


def test_each_mutation_is_looked_for() -> None:
    made = set()
    for name, value in vars(mutations).items():
        if inspect.isgeneratorfunction(inspect.unwrap(value)):
            made.add(name)
    assert made == {mutation.__name__ for mutation in _EVERY}
    source = Path(__file__).read_text()
    for mutation in COUNTED:
        assert f"mutations.{mutation.__name__}()" in source, "a test of its own"


def _doubled_by_an_unreached_first(count: int) -> tuple[int, int]:
    """Return in how many histories of an unreached first node something is doubled, and how many there are."""
    played = [histories.play(seed, "standing") for seed in range(count)]
    unreached = [history for history in played if history.world.topology == "unreached"]
    return sum(history.doubled > 0 for history in unreached), len(unreached)


def test_a_first_node_that_cannot_be_reached_doubles_next_to_nothing() -> None:
    """It hears, and would mail all that the others mail. The clause of R5 that ranks it last prevents that."""
    doubled, played = _doubled_by_an_unreached_first(120)
    assert doubled <= played * 0.2  # some mail systems refuse at times, which doubles some
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
    script.cut_power_after_first_mail(2.5, until=1503.0)
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


def test_a_reminder_waits_until_its_node_has_looked() -> None:
    """The second node finds at 45,600 that a reminder is due; the first one comes when all is over."""
    script = Script((60, 600.0), (60, 2400.0))
    script.world.settings["remind"] = 43_230.0
    script.fail(500.0, 46_000.0)
    history = script.play(60_000.0)
    assert states(told(history)) == ["DOWN", "UP"]
    assert history.world.mails[-1].at < 47_410.0, "nor does it wait an hour for its own letter"
    assert not history.wrong


def test_a_reminder_is_handed_over_by_a_round_that_looks() -> None:
    script = Script((1, 0.0), (1, 20.0))
    script.world.settings["remind"] = 600.0
    script.fail(115.0, 1000.0)
    history = script.play(1400.0)
    assert told(history) == [("node1", state) for state in ("DOWN", "STILL DOWN", "UP")]
    assert 720.0 < history.world.mails[1].at < 790.0
    assert not history.wrong


def test_what_hangs_is_told_eighteen_seconds_after_its_round_began() -> None:
    """The looks of the first node take from 120 to 134, and those of the others from 124 to 138."""
    script = Script((1, 0.0), (1, 40.0), (1, 50.0))
    script.world.slow = 1.0
    script.fail(115.0, 600.0)
    history = script.play(1200.0)
    assert told(history) == [("node1", "DOWN"), ("node1", "UP")]
    assert 138.0 <= history.world.mails[0].at < 139.0
    assert not history.wrong


def _suspended() -> History:
    script = Script((1, 0.0), (1, 40.0), (1, 50.0))
    first, _, third = script.nodes
    script.world.slow = 1.0  # its own looks end at 134, and those of its peers at 138
    script.fail(115.0, 139.0)
    # It has one failing answer, and waits for another one until 149.
    script.at(125.0, script.world.link, first.name, third.name, False)
    script.at(400.0, script.world.link, first.name, third.name, True)
    script.at(147.0, script.world.suspend, first, 360.0)
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


def test_a_mail_that_sleeps_with_its_machine_is_followed_by_the_end() -> None:
    """A machine is suspended while its sendmail has the alert. Nothing takes that back."""
    script = Script((1, 0.0), (1, 20.0))
    world, first = script.world, script.nodes[0]
    world.mta = lambda node, address: (3.0, True)
    script.fail(100.0, 350.0)

    def suspend_while_it_hands_over() -> None:
        if None in first.handed.values():
            world.suspend(first, 400.0)
        else:
            world.after(0.5, suspend_while_it_hands_over)

    script.at(100.0, suspend_while_it_hands_over)
    history = script.play(1500.0)
    assert told(history) == [("node1", "DOWN"), ("node1", "UP")]
    assert history.watch is not None
    (alert, recovery) = [said for said in history.watch.said if said.test == TEST]
    assert alert.handed < 350.0 and alert.at > 500.0 and recovery.at - alert.at < 120.0
    assert not history.wrong


def test_nobody_tells_up_who_is_cut_off_from_those_that_see_it_fail() -> None:
    history = _cut_off()
    assert states(told(history)) == ["DOWN", "UP"]
    assert not history.wrong
    with mutations.closes_without_those_it_cannot_hear():
        assert "UP" in states(told(_cut_off()))[:-1]


def _back_after_four_minutes() -> History:
    script = Script((1, 0.0), (1, 1.0))
    script.fail(115.0, 200.0)
    script.fail(250.0, 2400.0)
    script.cut_power_after_first_mail(0.85, until=280.0)
    return script.play(3000.0)


def test_a_node_that_was_away_for_minutes_hides_no_new_failure() -> None:
    """The test was well in these minutes, so the told incident that it brings back is over."""
    history = _back_after_four_minutes()
    assert states(told(history)) == ["DOWN", "UP", "DOWN", "UP"]
    assert any("boots" in line for line in history.world.trace)
    with mutations.forgets_that_it_was_well():
        assert states(told(_back_after_four_minutes())) == ["DOWN", "UP"]


def _cron_of_five_minutes() -> History:
    """One of three nodes gets another cron, and a plugin hangs in its next round, 300 s after the last."""
    script = Script((1, 0.0), (1, 4.0), (1, 8.0))
    changed = script.nodes[0]
    script.at(310.0, setattr, changed, "interval", 5)
    script.world.slow = 1.0
    script.fail(655.0, 675.0, changed)
    return script.play(3000.0)


def test_a_cron_that_is_changed_to_five_minutes_mails_nothing() -> None:
    history = _cron_of_five_minutes()
    assert history.watch is not None and not history.watch.said
    assert not history.wrong
    with mutations.takes_a_changed_cron_for_a_dead_one():
        before = _cron_of_five_minutes()
        assert before.watch is not None and before.watch.said


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


def _unable_to_tell() -> History:
    """Two of three nodes see it fail, and the plugins of one of them break meanwhile."""
    script = Script((1, 0.0), (1, 20.0), (1, 40.0))
    _, second, third = script.nodes
    script.fail(100.0, 1500.0, second, third)
    script.at(300.0, script.world.unable.add, second.name)
    script.at(900.0, script.world.unable.clear)
    return script.play(2200.0)


def test_nobody_tells_up_while_a_site_that_saw_it_fail_cannot_tell() -> None:
    history = _unable_to_tell()
    assert any("sees=UNKNOWN" in line for line in history.world.trace)
    assert states(told(history)) == ["DOWN", "UP"]
    assert not history.wrong
    with mutations.closes_with_those_that_cannot_tell():
        broken = _unable_to_tell()
    assert "UP" in states(told(broken))[:-1]
    assert any("and it has failed since" in text for text in broken.wrong)


def test_nobody_asks_about_what_passes() -> None:
    """The two nodes that see it fail do not reach each other, and the third one reaches both."""
    script = Script((1, 0.0), (1, 20.0), (1, 40.0))
    first, second, _ = script.nodes
    script.fail(400.0, 1400.0, first, second)
    for up, at in ((False, 100.0), (True, 1200.0)):
        script.at(at, script.world.link, first.name, second.name, up)
        script.at(at, script.world.link, second.name, first.name, up)
    history = script.play(2200.0)
    assert states(told(history)) == ["DOWN", "UP"]
    assert history.watch is not None and history.watch.said[0].at > 1200.0
    assert not history.wrong


def test_who_holds_it_open_asks_about_what_passes() -> None:
    """As above, but they are cut off when it has been told: the third node can still tell it."""
    script = Script((1, 0.0), (1, 20.0), (1, 40.0))
    first, second, _ = script.nodes
    script.fail(115.0, 1400.0, first, second)
    for up, at in ((False, 200.0), (True, 1200.0)):
        script.at(at, script.world.link, first.name, second.name, up)
        script.at(at, script.world.link, second.name, first.name, up)
    history = script.play(2200.0)
    assert states(told(history)) == ["DOWN", "UP"]
    assert history.watch is not None
    cut_off = [moment for moment in history.watch.moments if 200.0 < moment.at < 1200.0]
    assert cut_off and all(TEST in moment.tellable for moment in cut_off)
    assert not history.wrong


def _seen_by_the_second_node() -> float:
    """Return when it is told that the test fails; the speaker has looked before, and stays."""
    script = Script((1, 0.0), (1, 20.0), (1, 40.0))
    script.fail(125.0, 700.0)
    history = script.play(1200.0)
    assert told(history) == [("node1", "DOWN"), ("node1", "UP")] and not history.wrong
    assert history.watch is not None
    return history.watch.said[0].at


def test_what_the_speaker_is_woken_for_is_stored_before() -> None:
    at_once = _seen_by_the_second_node()
    assert at_once < 147.0
    with mutations.wakes_before_it_stores():
        assert _seen_by_the_second_node() > at_once + 4.0


def _first_node_is_off_for_minutes() -> float:
    """Return when it is told that it is back; it is on again at 800."""
    script = Script((1, 0.0), (1, 5.0), (1, 10.0))
    script.fail(60.0, 100.0)
    script.at(200.0, script.world.power_cut, script.nodes[0], 600.0)
    history = script.play(1500.0)
    assert history.watch is not None and not history.wrong
    about_it = [said for said in history.watch.said if said.test == node_test("node1")]
    assert [said.state for said in about_it] == ["DOWN", "UP"]
    return about_it[-1].at


def test_nobody_waits_for_a_node_to_tell_of_itself() -> None:
    assert _first_node_is_off_for_minutes() < 900.0
    with mutations.asks_a_node_about_itself():
        assert _first_node_is_off_for_minutes() > 900.0


def _away_until_it_is_down_again() -> History:
    """The first node owes one address the recovery, loses its power, and is back after the next alert."""
    script = Script((1, 0.0), (1, 5.0), (1, 10.0), addresses=2)
    first = script.nodes[0]
    script.fail(100.0, 400.0)
    script.fail(880.0, 1500.0)
    script.world.refuses = lambda node, address: (
        node is first and address == ADDRESSES[1] and 300.0 < script.world.now < 955.0
    )
    script.at(800.0, script.world.power_cut, first, 156.0)
    return script.play(2200.0)


def _down_again_at_once() -> History:
    """A test is well for some seconds, ten seconds after its alert."""
    script = Script((1, 0.0), (1, 15.0), (1, 30.0), (1, 45.0))
    script.fail(100.0, 115.0)
    script.fail(124.0, 600.0)
    return script.play(1200.0)


def test_who_hears_that_it_is_down_again_hears_in_the_same_mail_that_it_was_well() -> None:
    history = _down_again_at_once()
    assert states(told(history)) == ["DOWN", "UP"]
    assert history.watch is not None
    first, second, _ = [said for said in history.watch.said if said.test == TEST]
    assert second.kinds == {Kind.ALERT, Kind.RECOVERY} and second.at - first.at < 50.0
    assert not history.wrong
    with mutations.keeps_an_end_back_although_it_is_down_again():
        assert any("told again" in text for text in _down_again_at_once().wrong)


def test_a_late_recovery_is_not_told_while_it_is_down_again() -> None:
    history = _away_until_it_is_down_again()
    assert states(told(history)) == ["DOWN", "UP", "DOWN", "UP"]
    assert told(history, ADDRESSES[1]) == [
        ("node1", "DOWN"),
        ("node2", "DOWN"),
        ("node1", "STILL DOWN"),
        ("node1", "UP"),
    ]
    assert not history.wrong
    with mutations.tells_an_old_end_as_it_was():
        late = _away_until_it_is_down_again()
    assert "UP" in [state for _, state in told(late, ADDRESSES[1])[:-1]]


def test_a_late_recovery_goes_by_what_was_heard_when_its_round_began() -> None:
    """The second node boots a moment after it was asked. It would have made a quorum."""
    script = Script((1, 0.0), (1, 20.0), addresses=2)
    first, second = script.nodes
    script.fail(100.0, 300.0)
    script.fail(826.0, 1400.0)
    script.world.refuses = lambda node, address: (
        address == ADDRESSES[1] and 290.0 < script.world.now < 950.0
    )
    script.at(740.0, script.world.power_cut, second, 224.0)
    with mock.patch.object(refusals, "resting", lambda *_: {}):
        history = script.play(2200.0)
    late = [mail for mail in history.world.mails if mail.address == ADDRESSES[1]][1]
    assert 964.0 < late.at < 1000.0 and late.node == first.name
    assert states(told(history, ADDRESSES[1])) == ["DOWN", "UP", "DOWN", "UP"]
    assert not history.wrong


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
def test_the_quorum_and_confirm_of_two_nodes_hold(seeing: int) -> None:
    """Two failing sites are none where two nodes want three; and none opens what others close."""
    script = Script((1, 0.0), (1, 20.0), (1, 40.0))
    first, second, third = script.nodes
    first.quorum, second.quorum, third.quorum = 2, 3, 3
    first.confirm, second.confirm, third.confirm = 1, 2, 1
    script.fail(100.0, 700.0, *script.nodes[:seeing])
    history = script.play(1500.0)
    assert states(told(history)) == (["DOWN", "UP"] if seeing == 3 else [])
    assert len(told(history)) == 2 * (seeing == 3)
    assert not history.wrong


def _one_wants_more_than_there_are() -> History:
    """One of three wants three sites, as a broken one may; the two others see it fail, and want two."""
    script = Script((1, 0.0), (1, 20.0), (1, 40.0))
    first, second, third = script.nodes
    third.quorum, third.confirm = 3, 100
    script.fail(100.0, 700.0, first, second)
    return script.play(1500.0)


def test_one_node_alone_does_not_keep_the_others_from_alerting() -> None:
    history = _one_wants_more_than_there_are()
    assert states(told(history)) == ["DOWN", "UP"]
    assert not history.wrong
    with mutations.lets_one_node_decide_for_all():
        assert told(_one_wants_more_than_there_are()) == []


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


def test_the_confirm_of_a_test_comes_before_the_setting() -> None:
    """What only two rounds see is told by the setting, and not by the test's own number."""
    with mutations.forgets_a_tests_own_confirm():
        assert states(told(_two_rounds_fail())) == ["DOWN", "UP"]
    history = _two_rounds_fail()
    assert told(history) == []
    assert not history.wrong


def _two_rounds_fail() -> History:
    script = Script((1, 0.0), (1, 20.0), (1, 40.0))
    script.world.confirmations[TEST] = 3
    script.fail(115.0, 145.0)
    return script.play(1000.0)


def test_one_of_two_nodes_says_that_the_cron_of_the_other_one_is_dead() -> None:
    script = Script((5, 0.0), (5, 100.0))
    first, second = script.nodes
    script.world.settings["troubles"] = "root"
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
    """Two or three nodes are enough to show what `lets_any_node_speak` breaks."""
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
            settings=settings(max_examples=300, deadline=None, database=None, derandomize=True),
        )
    assert last_wrong[-1] <= 3


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


# Places and wakes.


def _back_with_old_news() -> History:
    """The second node opens an incident, dies before anybody hears of it, and is back minutes later."""
    script = Script((1, 0.0), (1, 55.0), (1, 40.0))
    first, second, _ = script.nodes
    world = script.world
    _make_plugins_quick(world)
    script.fail(174.0, 179.0)

    def watch() -> None:
        if world.opened:
            world.power_cut(second, 120.0)
        else:
            world.after(0.005, watch)

    script.at(170.0, watch)
    # The first node's round hears of it at 300, and is over; the second one's asks at 355.
    script.at(340.0, world.wake, second, first)
    return script.play(900.0)


def _make_plugins_quick(world: World, slow: SimNode | None = None) -> None:
    """Let plugins take 0.1 s, but 9 s in the rounds of the node `slow` as long as they pass."""
    original = world.plugin

    def plugin(node: SimNode, test: Test, looker: str) -> tuple[float, Outcome]:
        _, outcome = original(node, test, looker)
        is_slow = node is slow and looker == "round" and outcome is Outcome.OK
        return (9.0 if is_slow else 0.1), outcome

    world.plugin = plugin  # type: ignore[method-assign]


def test_who_is_woken_tells_no_old_news() -> None:
    """The first node hears of it in a round, and asks about it in the next one; not when woken."""
    history = _back_with_old_news()
    trace = history.world.trace
    heard = [line for line in trace if "node1  incident-heard" in line]
    assert heard and any("node1  woken by" in line for line in trace)
    assert history.world.nodes[0].looks
    assert states(told(history)) == ["UP"], "that it was, and that it is over, comes in one mail"
    with mutations.takes_a_wake_for_the_next_round():
        assert states(told(_back_with_old_news()))[:1] == ["DOWN"]


def _woken_while_busy() -> float:
    """Return when it is mailed what a node finds while the first node's round is busy."""
    script = Script((1, 0.0), (1, 5.0))
    first, _ = script.nodes
    world = script.world
    script.fail(121.0, 300.0)
    _make_plugins_quick(world, first)
    history = script.play(600.0)
    assert states(told(history)) == ["DOWN", "UP"] and not history.wrong
    assert any(
        "woken by" in line and 127.0 < float(line.split()[0]) < 129.0 for line in world.trace
    )
    return history.world.mails[0].at


def test_a_wake_that_comes_while_a_round_runs_is_kept() -> None:
    assert _woken_while_busy() < 131.0
    with mutations.drops_a_wake_that_comes_too_soon():
        assert _woken_while_busy() > 134.0


def _delay_after_a_power_cut(count: int) -> float:
    """Return the mean of the seconds from a failure to its mail, if the speaker loses its power."""
    delays = []
    for seed in range(count):
        delays += histories.play(seed, "struck").delays
    assert len(delays) >= count * 0.9
    return sum(delays) / len(delays)


def test_a_speaker_that_is_found_down_is_not_waited_for() -> None:
    new = _delay_after_a_power_cut(25)
    with mutations.waits_for_a_speaker_that_is_down():
        assert _delay_after_a_power_cut(25) > new + 10.0


def test_a_node_of_an_earlier_version_does_not_wait_for_its_place() -> None:
    """Nor does it stay; the new ones wake each other, and only these."""
    script = Script((1, 0.0), (1, 0.0), (1, 0.0))
    script.world.places = "spread"
    old = script.nodes[0]
    old.is_old = True
    script.fail(100.0, 400.0)
    history = script.play(900.0)
    assert states(told(history)) == ["DOWN", "UP"] and not history.wrong
    assert [node.disk.place for node in script.nodes] == [0.0, 20.0, 40.0]
    assert not old.looks and not any("node1  woken" in line for line in script.world.trace)


def test_a_place_moves_slowly_so_that_nobody_speaks_for_a_node_that_is_late() -> None:
    """The speaker is at most a little later than a minute after its last round."""
    script = Script((1, 0.0), (1, 0.0), (1, 0.0))
    script.world.places = "fresh"
    begun: list[tuple[float, float]] = []
    for minute in range(12):
        script.at(60.0 * minute + 59.9, lambda: begun.append((script.world.now, third.disk.place)))
    third = script.nodes[2]
    script.fail(600.0, 600.0)
    script.play(720.0)
    places = [place for _, place in begun]
    assert places[0] == 5.0 and places[-1] == 40.0
    assert all(later - place in (0.0, 5.0) for place, later in itertools.pairwise(places))


def test_a_round_that_waits_for_its_place_when_a_history_begins_is_taken() -> None:
    """Its cron has started it ten seconds before. If it were missed, its node would soon be stale."""
    script = Script((1, 10.0), (1, 30.0), (1, 50.0))
    script.world.places = "spread"
    script.fail(0.0, 0.0)
    script.play(60.0)
    last = script.nodes[-1]
    assert last.disk.place == 40.0
    assert 30.0 < last.disk.node_memory.finished < 34.0


def test_a_reboot_between_two_rounds_takes_no_round_away() -> None:
    """Cron has started the round at 100, which waits for the end of another one that was woken."""
    script = Script((1, 40.0), (1, 50.0))
    first, _ = script.nodes
    script.fail(0.0, 0.0)
    script.at(99.0, setattr, first, "running", True)
    script.at(102.01, setattr, first, "running", False)
    script.at(102.02, setups.reboot_all, script.world)
    script.play(120.0)
    assert first.boots == 1
    assert 102.0 < first.disk.node_memory.finished < 110.0


def _late_with_a_mail_on_its_way() -> History:
    """A round is killed while its mail is on its way; the next one ends when its node is too old."""
    script = Script((1, 0.0), (1, 3.0))
    world, first = script.world, script.nodes[0]
    script.fail(100.0, 900.0)
    world.mta_lag = lambda node, address: 120.0 if node is first and world.now < 150.0 else 0.01

    def kill_while_it_hands_over() -> None:
        if None in first.handed.values():
            world.kill_round(first)
        else:
            world.after(0.2, kill_while_it_hands_over)

    script.at(100.0, kill_while_it_hands_over)
    return script.play(1500.0)


def test_nobody_tells_what_a_node_hands_over_that_has_missed_a_round() -> None:
    history = _late_with_a_mail_on_its_way()
    assert told(history) == [("node1", "DOWN"), ("node1", "UP")]
    assert any("round killed" in line for line in history.world.trace)
    assert not history.wrong
    with mutations.tells_what_a_node_hands_over_that_is_late():
        assert ("node2", "DOWN") in told(_late_with_a_mail_on_its_way())


def _between_two_rounds_of_three_minutes() -> History:
    """The other node's round comes when the ten minutes are over, and before the teller's next one."""
    script = Script((3, 0.0), (3, 75.0))
    world, first = script.world, script.nodes[0]
    script.fail(340.0, 1800.0)
    world.mta_lag = lambda node, address: 590.0 if node is first and world.now < 500.0 else 0.01
    return script.play(3000.0)


def test_nobody_tells_what_a_node_has_handed_over_and_not_looked_after_yet() -> None:
    history = _between_two_rounds_of_three_minutes()
    assert told(history) == [("node1", "DOWN"), ("node1", "UP")]
    assert any("node1 hands it over" in line for line in history.world.trace)
    assert not history.wrong
    with mutations.gives_up_before_it_has_looked_after():
        assert ("node2", "DOWN") in told(_between_two_rounds_of_three_minutes())


def _dead_with_a_mail_on_its_way() -> History:
    """The speaker dies minutes after it began to hand over; the others' mails take a minute."""
    script = Script((1, 0.0), (1, 20.0), (1, 24.0))
    world, first = script.world, script.nodes[0]
    script.fail(100.0, 1200.0)
    world.mta = lambda node, address: (0.1 if node is first else 60.0, True)
    world.mta_lag = lambda node, address: 550.0 if node is first and world.now < 500.0 else 0.01
    script.at(310.0, world.power_cut, first, 1500.0)
    return script.play(3000.0)


def test_the_turns_of_the_others_begin_when_the_speaker_is_found_down() -> None:
    history = _dead_with_a_mail_on_its_way()
    alerted = [name for name, state in told(history) if state == "DOWN"]
    assert alerted == ["node1", "node2"], "nobody knows whether the first mail has left"
    assert not history.wrong
    with mutations.ends_all_turns_at_a_death():
        broken = [name for name, state in told(_dead_with_a_mail_on_its_way()) if state == "DOWN"]
    assert broken == ["node1", "node2", "node3"]


def _speaker_dies_with_its_site() -> History:
    """The speaker mails, and dies with the other node of its site; the two that are left are one."""
    script = Script((1, 0.0), (1, 4.0), (1, 23.0), (1, 23.5))
    for node in script.nodes:
        node.site = "here" if node.name in ("node1", "node2") else "there"
    script.fail(50.0, 900.0)
    script.cut_power_after_first_mail(0.5, until=1200.0)
    script.at(65.0, script.world.power_cut, script.nodes[1], 1200.0)
    return script.play(3000.0)


def test_the_turns_of_the_others_begin_when_a_whole_site_falls_silent() -> None:
    history = _speaker_dies_with_its_site()
    alerted = [name for name, state in told(history) if state == "DOWN"]
    assert alerted == ["node1", "node3"], "nobody has heard that it was told"
    assert not history.wrong
    with mutations.ends_all_turns_when_a_site_dies():
        broken = [name for name, state in told(_speaker_dies_with_its_site()) if state == "DOWN"]
    assert broken == ["node1", "node3", "node4"]


def _told_to_one_address_and_on_its_way_to_the_other() -> History:
    """Two halves of a cluster mail the same; one of them mails one address after the recovery."""
    script = Script((1, 0.0), (1, 10.0), (1, 20.0), (1, 30.0), addresses=2)
    world, third = script.world, script.nodes[2]

    def mta(node: SimNode, address: str) -> tuple[float, bool]:
        is_slow = node is third and address == ADDRESSES[1] and world.now < 300.0
        return 200.0 if is_slow else 0.1, True

    world.mta = mta
    script.fail(100.0, 180.0)
    for up, at in ((False, 100.0), (True, 180.0)):
        script.at(at, lambda up: hardships._split(world, frozenset({"node1", "node2"}), up=up), up)
    return script.play(1200.0)


def test_who_gets_the_alert_last_gets_the_recovery_again() -> None:
    history = _told_to_one_address_and_on_its_way_to_the_other()
    late = told(history, ADDRESSES[1])
    assert ("node3", "DOWN") in late[2:], "after a recovery"
    assert late[-1][1] == "UP"
    history.wrong.clear()  # for the mailboxes' judge no mail system is so slow
    judges.rough(history)
    assert not history.wrong
    with mutations.lets_an_alert_come_last():
        broken = _told_to_one_address_and_on_its_way_to_the_other()
    assert told(broken, ADDRESSES[1])[-1] == ("node3", "DOWN")


def _united_after_one_end_was_told() -> History:
    """The end of one incident is told while another one of the test is open; then they are one.

    Two parts of a cluster open one each. The first node hears that the other part's is over, and is
    woken to tell it. The last node was off, and unites both: it reaches the second node only.
    """
    script = Script((1, 0.0), (1, 38.0), (1, 20.0), (1, 25.0), (1, 5.0))
    world, (first, second, third, fourth, last) = script.world, script.nodes
    script.fail(110.0, 400.0)
    world.refuses = lambda node, address: node not in (first, second) and 390.0 < world.now < 1000.0
    script.at(125.0, lambda: hardships._split(world, frozenset({"node1", "node2"}), up=False))
    script.at(390.0, world.power_cut, last, 149.0)

    def mend(nodes: Sequence[SimNode]) -> None:
        for one, other in itertools.permutations(nodes, 2):
            world.link(one.name, other.name, True)

    def leave_one_link() -> None:
        for other in (first, third, fourth):
            world.link(other.name, last.name, False)
            world.link(last.name, other.name, False)

    script.at(535.0, leave_one_link)
    script.at(547.0, mend, (first, second, third, fourth))
    script.at(539.0, mend, (second, last))
    script.at(800.0, mend, script.nodes)
    return script.play(1800.0)


def test_an_end_that_said_still_down_is_told_again_if_both_are_one_incident() -> None:
    history = _united_after_one_end_was_told()
    assert [state for _, state in told(history)] == ["DOWN", "DOWN", "STILL DOWN", "UP"]
    assert not history.wrong
    with mutations.leaves_it_at_still_down():
        broken = _united_after_one_end_was_told()
    assert [state for _, state in told(broken)] == ["DOWN", "DOWN", "STILL DOWN"]


def _refused_by_all_and_later_by_the_first() -> History:
    script = Script((1, 0.0), (1, 20.0), (1, 40.0))
    script.fail(100.0, 900.0)
    script.fail(2000.0, 2400.0)
    first: list[str] = []  # who has told something first, so that its refusals are forgotten
    script.world.mailed.append(lambda mail: first.append(mail.node))
    script.world.refuses = lambda node, address: (
        90.0 < script.world.now < 820.0 or (script.world.now > 1500.0 and node.name == first[0])
    )
    return script.play(2600.0)


def test_old_refusals_do_not_count_when_only_one_node_is_refused() -> None:
    history = _refused_by_all_and_later_by_the_first()
    assert not history.wrong
    assert [state for _, state in told(history)] == ["DOWN", "UP", "DOWN", "UP"]
    down = [said.at for said in history.watch.said if said.state == "DOWN"] if history.watch else []
    assert 820.0 < down[0] < 900.0 and 2000.0 < down[1] < 2100.0, down
    assert told(history)[2][0] != told(history)[0][0]
    with mutations.counts_old_refusals_for_ever():
        later = _refused_by_all_and_later_by_the_first()
        down = [said.at for said in later.watch.said if said.state == "DOWN"] if later.watch else []
        assert down[1:] == [] or down[1] > 2100.0


def test_who_was_refused_waits_for_the_nodes_that_come_after_it() -> None:
    """Four mail systems stand, one after the other, and the last one takes 14 seconds."""
    script = Script((1, 0.0), (1, 12.0), (1, 24.0), (1, 36.0), (1, 48.0))
    world, last = script.world, script.nodes[-1]

    def seconds(node: SimNode) -> float:
        return 14.9 if node is last or world.now < 235.0 else 1.0

    world.mta = lambda node, address: (seconds(node), True)
    world.refuses = lambda node, address: node is not last and world.now < 235.0
    script.fail(115.0, 600.0)
    script.play(1200.0)
    assert any("node5 speaks" in line and "node4 was refused" in line for line in world.trace), (
        "all others were refused"
    )
    alerts = [mail.node for mail in world.mails if mail.at < 400.0]
    assert alerts == ["node5"]
    assert world.mails[0].at > 240.0, "node1 has held it for two minutes"


def _hook_while_all_mail_systems_refuse() -> tuple[History, list[float]]:
    """Return how long after each change of the test a hook is told."""
    script = Script((1, 0.0), (1, 20.0), (1, 40.0))
    world = script.world
    for node in script.nodes:
        node.addresses = (ADDRESSES[0], hardships.HOOKS[0])
    world.refuses = lambda node, address: address not in hardships.HOOKS and world.now < 1500.0
    changes = (100.0, 400.0, 700.0, 1000.0)
    script.fail(*changes[:2])
    script.fail(*changes[2:])
    history = script.play(4000.0)
    told_at = [mail.at for mail in world.mails if mail.address == hardships.HOOKS[0]]
    return history, [at - change for at, change in zip(told_at, changes, strict=True)]


def test_a_hook_is_told_although_all_mail_systems_refuse_and_at_once_the_next_time() -> None:
    history, delays = _hook_while_all_mail_systems_refuse()
    assert delays[0] < 100.0 and max(delays[1:]) < 30.0, "each node has been refused before"
    mailed = [mail.at for mail in history.world.mails if mail.address == ADDRESSES[0]]
    assert mailed and min(mailed) >= 1500.0
    assert history.told()[TEST, ADDRESSES[0], Kind.RECOVERY] == 2, "of each incident"
    with mutations.takes_a_hook_for_the_mail_system():
        _, delays = _hook_while_all_mail_systems_refuse()
    assert max(delays[1:]) > 60.0


# A node that has the key, and lies.


def _first_node_lists_and_never_mails(*, answer: Outcome | None) -> History:
    script = Script((1, 0.0), (1, 20.0), (1, 40.0))
    first, second, third = script.nodes
    first.lie = Lie(answer=answer)
    script.fail(115.0, 1200.0, second, third)
    return script.play(2400.0)


@pytest.mark.parametrize("answer", [Outcome.OK, Outcome.FAIL, None])
def test_a_first_node_that_lists_it_and_never_mails_is_not_waited_for(
    answer: Outcome | None,
) -> None:
    history = _first_node_lists_and_never_mails(answer=answer)
    first, lie = history.world.nodes[0], history.world.nodes[0].lie
    assert lie and lie.listings, "it has listed what the honest nodes hold"
    assert all(mail.node != first.name for mail in history.world.mails)
    assert states(told(history)) == ["DOWN", "UP"]
    down, up = [at for at, belief in _beliefs(history) if belief in ("DOWN", "UP")][1:3]
    assert down - 115.0 <= LIAR_LIMIT
    assert up - 1200.0 <= LIAR_LIMIT
    with mutations.waits_for_who_lists_it():
        assert told(_first_node_lists_and_never_mails(answer=answer)) == []


def _claims_rounds_of_a_day_when_others_were_refused() -> History:
    """The mail systems of the honest nodes are away for minutes, and then a test fails again."""
    script = Script((1, 0.0), (1, 20.0), (1, 40.0))
    first, second, third = script.nodes
    first.lie = lie = Lie(lists=False, interval=1440)
    script.world.refuses = lambda node, address: script.world.now < 280.0
    script.at(280.0, setattr, lie, "lists", True)
    script.fail(115.0, 1000.0, second, third)
    script.fail(2000.0, 3000.0, second, third)
    return script.play(4000.0)


def test_who_claims_rounds_of_a_day_is_not_waited_for_although_the_others_were_refused() -> None:
    history = _claims_rounds_of_a_day_when_others_were_refused()
    first, *honest = history.world.nodes
    assert first.lie and first.lie.listings, "it has listed what the honest nodes hold"
    refused = [node.disk.node_memory.refused_at for node in honest]
    assert min(refused) > float("-inf"), "they came after it"
    assert states(told(history)) == ["DOWN", "UP", "DOWN", "UP"]
    beliefs = [at for at, belief in _beliefs(history) if belief in ("DOWN", "UP")]
    for at, ought in zip(beliefs[1:], (280.0, 1000.0, 2000.0, 3000.0), strict=True):
        assert at - ought <= LIAR_LIMIT
    with mutations.waits_for_as_long_as_one_node_claims():
        assert told(_claims_rounds_of_a_day_when_others_were_refused()) == []


def _says_that_it_was_told_just_now() -> History:
    script = Script((1, 0.0), (1, 20.0), (1, 40.0))
    first, second, third = script.nodes
    first.lie = Lie(reminds=True)
    script.fail(115.0, 1200.0, second, third)
    return script.play(2400.0)


def test_who_says_again_and_again_that_it_was_told_just_now_holds_no_recovery_back() -> None:
    history = _says_that_it_was_told_just_now()
    lie = history.world.nodes[0].lie
    assert lie and lie.reminders > 5
    assert states(told(history)) == ["DOWN", "UP"]
    up = _beliefs(history)[-1][0]
    assert up - 1200.0 <= LIAR_LIMIT
    with mutations.waits_whenever_something_is_said_to_be_told():
        assert states(told(_says_that_it_was_told_just_now())) == ["DOWN"]


def _flaps_while_rounds_of_a_day_are_claimed() -> History:
    """A test changes every two minutes, and then it is DOWN for good."""
    script = Script((1, 0.0), (1, 20.0), (1, 40.0))
    first, second, third = script.nodes
    first.lie = Lie(interval=1440)
    script.world.settings = {"flapping": True}
    for number in range(4):
        at = 115.0 + 240.0 * number
        script.fail(at, at + 120.0, second, third)
    script.fail(1075.0, 9000.0, second, third)
    return script.play(3000.0)


def test_who_claims_rounds_of_a_day_makes_no_flapping_last() -> None:
    history = _flaps_while_rounds_of_a_day_are_claimed()
    lie = history.world.nodes[0].lie
    assert lie and lie.listings
    *_, flapping, last = states(told(history))
    assert (flapping, last) == ("FLAPPING", "DOWN")
    down = _beliefs(history)[-1][0]
    assert down - 1075.0 <= 3 * 60.0 + LIAR_LIMIT, "it ends after three rounds of DOWN"
    with mutations.waits_for_as_long_as_one_node_claims():
        assert states(told(_flaps_while_rounds_of_a_day_are_claimed()))[-1] == "FLAPPING"


def _beliefs(history: History) -> list[tuple[float, str]]:
    """Return what the reader believes of the test, from when on."""
    return mailbox.read_all(history, ADDRESSES[0])[Test("host0", "ssh")].beliefs


def _closed_by_the_liar_alone() -> History:
    """A liar states void incidents of the last minutes, and then the test really fails."""
    script = Script((1, 0.0), (1, 20.0), (1, 40.0))
    first, second, third = script.nodes
    first.lie = Lie(lists=False, floods=((60.0, 1200.0, 6, 900.0),))
    script.world.settings = {"flapping": True}
    script.fail(600.0, 1500.0, second, third)
    return script.play(4000.0)


def test_what_one_peer_alone_states_is_no_flapping() -> None:
    history = _closed_by_the_liar_alone()
    lie = history.world.nodes[0].lie
    assert lie and lie.stated
    assert states(told(history)) == ["DOWN", "UP"]
    with mutations.takes_hearsay_for_fact():
        assert "FLAPPING" in states(told(_closed_by_the_liar_alone()))
    with mutations.takes_the_relay_for_a_witness():
        assert "FLAPPING" in states(told(_closed_by_the_liar_alone()))


# Tests that rest (EVERY).

_DAY = 86400.0


def _seldom(every: float, *, retry: float = 0.0) -> Script:
    """Return three nodes that look at the test once in `every` seconds while it passes."""
    script = Script((1, 0.0), (1, 20.0), (1, 40.0))
    script.world.rhythms[TEST] = Rhythm(every, retry)
    return script


def _count(script: Script, began: float, ended: float) -> int:
    """Return how often the test was run, by whomever, as the server counts it."""
    return sum(began <= look.at < ended for look in script.world.looks)


def test_three_nodes_look_twelve_times_a_day() -> None:
    """With EVERY=6h; on the first day once more each, because what is new is looked at at once."""
    script = _seldom(6 * 3600.0)
    script.fail(0.0, 0.0)
    history = script.play(2 * _DAY)
    assert _count(script, 0.0, 60.0) == 3
    assert _count(script, 0.0, _DAY) <= 15
    assert _count(script, _DAY, 2 * _DAY) == 12
    assert not history.world.mails


def test_what_fails_is_looked_at_in_each_round_until_it_is_over_and_rests_again() -> None:
    script = _seldom(6 * 3600.0)
    script.fail(_DAY, _DAY + 4 * 3600.0)
    history = script.play(2 * _DAY)
    first = min(look.at for look in history.world.looks if look.fails)
    assert first < _DAY + 2 * 3600.0 + 120.0, "their turns are spread"
    assert history.watch is not None
    down, up = (said.at for said in history.watch.said)
    assert down < first + 60.0, "one look by one node is enough for all to be asked"
    assert _DAY + 4 * 3600.0 < up < _DAY + 4 * 3600.0 + 100.0
    assert states(told(history)) == ["DOWN", "UP"]
    over = _DAY + 4 * 3600.0 + 180.0
    assert _count(script, first, over) > 3 * 120, "each minute by each node"
    assert _count(script, _DAY, first) + _count(script, over, 2 * _DAY) <= 12


@pytest.mark.parametrize("refused_until", [0.0, 5500.0])
def test_a_mail_is_late_as_long_as_it_is_refused(refused_until: float) -> None:
    """The judge of `seldom` counts from the moment at which a mail system takes it again."""
    script = _seldom(1800.0)
    script.world.refuses = lambda node, address: script.world.now < refused_until
    script.fail(4000.0, 7000.0)
    history = script.play(9000.0)
    history.wrong.clear()  # for the mailboxes' judge nobody looks late
    judges.seldom(history)
    assert not history.wrong
    (told_at,) = history.times_told(TEST, Kind.ALERT)
    assert told_at > refused_until
    late = history.world.mails[0]._replace(at=max(told_at, refused_until) + 150.0)
    history.world.mails[0] = late
    judges.seldom(history)
    assert any("was seen to fail at" in text for text in history.wrong), "late all the same"


@pytest.mark.parametrize("kind", ["confirm", "noisy"])
def test_looks_that_fail_by_chance_end_long_before_the_history(kind: str) -> None:
    """Otherwise an incident that has just been opened by chance is open in the end."""
    for seed in range(6):
        world = World(seed)
        setup, _ = histories.KINDS[kind]
        failures, settle = setup(world)
        if not world.noise[hardships.TEST]:
            continue
        world.run(failures[-1].ended + settle - hardships.SETTLED)
        assert not world.noise
        return
    raise AssertionError("no history has noise")


def test_who_cannot_close_an_incident_may_look_in_each_round() -> None:
    """The judge of `seldom` counts a node's looks again when it has heard enough to close it."""
    every, ended, mended, again = 900.0, 6000.0, 14000.0, 20000.0
    script = _seldom(every)
    world, (lonely, *others) = script.world, script.nodes

    def link(up: bool) -> None:
        for other in others:
            world.link(lonely.name, other.name, up)

    script.fail(3000.0, ended)
    script.fail(again, again + 2 * every)
    script.at(ended - 100.0, link, False)
    script.at(mended, link, True)
    history = script.play(again + 3 * every)

    def count(began: float, ended: float) -> int:
        return sum(began <= look.at < ended and look.node == lonely.name for look in world.looks)

    assert count(ended, mended) > 100, "it sees that it passes, and cannot close it"
    assert count(mended + 200.0, again) < 10
    history.wrong.clear()  # what is told of nodes is not the subject
    judges.seldom(history)
    assert not [text for text in history.wrong if "looked at" in text]
    rounds = itertools.takewhile(lambda at: at < again, itertools.count(mended + 300.0, 60.0))
    world.looks += [Look(at, "round", lonely.name, TEST, fails=False) for at in rounds]
    judges.seldom(history)
    assert [text for text in history.wrong if f"{lonely.name} looked at {TEST}" in text]


def test_the_end_is_told_by_those_who_have_only_heard_that_it_is_down() -> None:
    """The only node that has looked by itself dies, long before the turns of the others."""
    assert _recovery_without_its_witness() < 150.0
    with mutations.lets_rest_what_has_an_incident():
        assert _recovery_without_its_witness() > 300.0


def _first_to_look(began: float, every: float) -> Look:
    """Return the first look of a round at a failure that all nodes see."""
    script = _seldom(every)
    script.fail(began, began + every)
    looks = script.play(began + every / 3 + 120.0).world.looks
    return next(look for look in looks if look.fails and look.looker == "round")


def _recovery_without_its_witness() -> float:
    """Return the seconds from the end of a failure to its mail."""
    every, began = 3600.0, 5000.0
    first = _first_to_look(began, every)
    script = _seldom(every)
    ended = first.at + 600.0
    script.fail(began, ended)
    (witness,) = [node for node in script.nodes if node.name == first.node]
    script.at(first.at + 30.0, script.world.power_cut, witness, 3000.0)
    history = script.play(ended + 2000.0)
    assert states(told(history)) == ["DOWN", "UP"]
    assert history.watch is not None
    return history.watch.said[-1].at - ended


def test_what_fails_for_one_node_alone_does_not_rest() -> None:
    """It is looked at in each round, and told as soon as others see it fail, too."""
    assert _alert_after_others_see_it() < 130.0
    with mutations.lets_rest_what_fails():
        assert _alert_after_others_see_it() > 300.0


def _alert_after_others_see_it() -> float:
    """Return the seconds from when all see a failure, which one has seen before, to its mail."""
    every, began = 3600.0, 5000.0
    first = _first_to_look(began, every)
    script = _seldom(every)
    (witness,) = [node for node in script.nodes if node.name == first.node]
    script.fail(began, began + every, witness)
    script.fail(first.at + 300.0, began + every)
    history = script.play(began + every)
    assert history.watch is not None
    return history.watch.said[0].at - first.at - 300.0


def test_nodes_that_were_off_or_asleep_look_when_they_are_back_if_a_turn_has_passed() -> None:
    script = _seldom(3600.0)
    script.fail(0.0, 0.0)
    first, second, third = script.nodes
    script.at(7200.0, script.world.power_cut, first, 5000.0)
    script.at(7200.0, script.world.suspend, second, 5000.0)
    script.at(7200.0, script.world.power_cut, third, 30.0)
    history = script.play(7200.0 + 5000.0 + 150.0)
    for node in (first, second):
        looks = [look.at for look in history.world.looks if look.node == node.name]
        assert sum(at >= 7200.0 + 5000.0 for at in looks) == 1, (node.name, looks)
    looks = [look.at for look in history.world.looks if look.node == third.name]
    assert not any(7200.0 < at < 7320.0 for at in looks), "a reboot forgets no look"


def test_a_clock_that_was_set_costs_one_look() -> None:
    """A reboot begins with the wall clock: then the last look may be in the future, or long ago."""
    for jump in (-7200.0, 7200.0):
        script = _seldom(6 * 3600.0)
        script.fail(0.0, 0.0)
        node = script.nodes[0]

        def reboot(node: SimNode = node, jump: float = jump, script: Script = script) -> None:
            script.world.power_cut(node, 30.0)
            node.offset += jump

        script.at(40000.0, reboot)
        history = script.play(40000.0 + 3 * 3600.0)
        looks = [look.at for look in history.world.looks if look.node == node.name]
        assert 1 <= sum(at > 40000.0 for at in looks) <= 2, (jump, looks)


def test_retry_is_the_time_from_one_look_at_what_fails_to_the_next() -> None:
    script = _seldom(3600.0, retry=300.0)
    script.fail(8000.0, 12000.0)
    history = script.play(20000.0)
    for node in script.nodes:
        looks = []
        for look in history.world.looks:
            if look.node == node.name and look.looker == "round" and look.fails:
                looks.append(look.at)
        firsts = [at for at, before in zip(looks[1:], looks, strict=False) if at - before > 30.0]
        gaps = [later - at for at, later in itertools.pairwise(firsts)]
        assert len(gaps) > 5 and min(gaps) > 239.0 and max(gaps) < 361.0, gaps
    assert states(told(history)) == ["DOWN", "UP"]
    assert history.watch is not None and history.watch.said[-1].at < 12000.0 + 300.0 + 100.0


# What addresses want.

LATE = ADDRESSES[1]


def _escalated(script: Script, after: float) -> None:
    """Let the second address be told what lasts for `after` seconds."""
    script.world.wants[LATE] = Wants(after=after)


def test_an_escalation_is_told_by_another_node_if_the_speaker_is_dead_by_then() -> None:
    script = Script((1, 0.0), (1, 20.0), (1, 40.0), addresses=2)
    _escalated(script, 400.0)
    script.fail(70.0, 900.0)
    script.cut_power_after_first_mail(60.0, until=1300.0)
    history = script.play(2200.0)
    assert not history.wrong
    assert [node for node, state in told(history) if state == "DOWN"] == ["node1"]
    assert told(history, LATE) == [("node2", "DOWN"), ("node2", "UP")]


def test_the_end_goes_to_who_was_told_of_it_also_if_that_node_is_dead_by_then() -> None:
    script = Script((1, 0.0), (1, 20.0), (1, 40.0), addresses=2)
    _escalated(script, 300.0)
    script.fail(70.0, 900.0)
    script.at(600.0, script.world.power_cut, script.nodes[0], 700.0)
    history = script.play(2200.0)
    assert not history.wrong
    assert told(history, LATE) == [("node1", "DOWN"), ("node2", "UP")]


def _acknowledged_at(script: Script, at: float) -> None:
    file = SilenceFile("silence.d/host0", "host0", "", at, False, (Term(reason="jo"),))
    script.at(at, lambda: setattr(script.nodes[2], "files", (file,)))


def _told_while_acknowledged() -> list[tuple[str, str]]:
    script = Script((1, 0.0), (1, 20.0), (1, 40.0), addresses=2)
    _escalated(script, 400.0)
    script.fail(70.0, 900.0)
    _acknowledged_at(script, 200.0)
    history = script.play(1500.0)
    assert states(told(history)) == ["DOWN", "ACK", "UP"]
    return told(history, LATE)


def test_what_somebody_is_on_is_not_escalated() -> None:
    assert not _told_while_acknowledged()
    with mutations.escalates_what_somebody_is_on():
        assert states(_told_while_acknowledged()) == ["DOWN", "UP"]


def test_what_nobody_wants_is_not_owed_and_keeps_nobody_waiting() -> None:
    script = Script((1, 0.0), (1, 20.0))
    script.world.wants[ADDRESSES[0]] = Wants(never=(Pattern("host0", "NOT"),))
    script.fail(70.0, 400.0)
    history = script.play(6000.0)
    assert not history.wrong
    assert len(script.world.opened) == 1 and not script.world.mails
    for node in script.nodes:
        assert not any(map(owes, node.disk.incidents.values())), "it is settled after an hour"
        assert node.disk.node_memory.refused == 0
