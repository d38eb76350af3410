"""Rule R4, as values: when an incident opens, what it remembers, whom it meets, when it closes, what it owes, what flaps."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Sequence
from typing import Any

import pytest

from dmonitor.core import hearsay, incident, verdict
from dmonitor.core.hearsay import IDS_LIMIT, Bounds
from dmonitor.core.ledger import AGAIN_LIMIT, Ledger
from dmonitor.core.model import (
    Answer,
    Confirming,
    Incident,
    Judgement,
    Kind,
    Node,
    Outcome,
    Result,
    Test,
    Verdict,
)

TEST = Test("www.example.com", "http")
OTHER = Test("www.example.com", "ssh")
OK, FAIL, UNKNOWN = Outcome.OK, Outcome.FAIL, Outcome.UNKNOWN


def judge(*seen: Outcome | None, incident_open: bool = False, quorum: int = 2) -> Judgement:
    """Return what is concluded where nodes a, b, c ... see SEEN; None is no answer."""
    answers = [
        Answer(Node(name, name), f"id-{name}", Result(outcome))
        if outcome
        else Answer(Node(name, name))
        for name, outcome in zip("abcdefg", seen, strict=False)
    ]
    return verdict.decide(answers[0], answers[1:], quorum, incident_open=incident_open)


def opened(*seen: Outcome | None, now: float = 1000.0, quorum: int = 2) -> Incident:
    """Return the incident that a round opens in which the nodes see SEEN."""
    judged = judge(*seen, quorum=quorum)
    assert judged.verdict is Verdict.DOWN
    confirming = incident.confirm_down(TEST, None, None, now)
    return incident.open_incident(confirming, judged, now=now, fresh_id="fresh", minute=7)


def look(before: Incident, *seen: Outcome | None, now: float, quorum: int = 2) -> Incident:
    """Take an open incident a round further in which the nodes see SEEN."""
    return incident.advance(before, judge(*seen, incident_open=True, quorum=quorum), now)


def closes(before: Incident, *seen: Outcome | None, now: float, quorum: int = 2) -> bool:
    return not look(before, *seen, now=now, quorum=quorum).is_open


OPENED = opened(FAIL, FAIL, OK)


def test_down_opens() -> None:
    assert OPENED.ids == ("fresh",) and OPENED.is_open and OPENED.opening
    assert (OPENED.test, OPENED.began, OPENED.held, OPENED.closed) == (TEST, 1000.0, 1000.0, None)
    assert (OPENED.seen, OPENED.minute) == (1000.0, 7)
    assert OPENED.failed == (("a", 1000.0), ("b", 1000.0))


def test_who_saw_it_fail_and_cannot_tell_any_more_has_not_seen_it_pass() -> None:
    """Its plugin or its configuration may be gone, or its resolver; c saw it pass all the time."""
    unknown = look(OPENED, UNKNOWN, FAIL, OK, now=1060.0)
    assert unknown.is_open and unknown.failed == (("a", 1000.0), ("b", 1060.0))
    assert not closes(unknown, UNKNOWN, UNKNOWN, OK, now=1120.0)
    assert closes(unknown, UNKNOWN, OK, OK, now=1120.0), "one site is no quorum"
    assert closes(unknown, OK, FAIL, OK, now=1120.0), "a has seen it pass"
    assert closes(unknown, UNKNOWN, FAIL, OK, now=1001.0 + incident.SILENT_SITE_GRACE)
    assert not closes(opened(FAIL, quorum=1), UNKNOWN, OK, now=1060.0, quorum=1)


def test_still_down_only_remembers_who_fails_and_when() -> None:
    failed = (("a", 1060.0), ("b", 1060.0), ("c", 1060.0))
    after = look(OPENED, FAIL, FAIL, FAIL, now=1060.0)
    assert after == OPENED._replace(failed=failed, seen=1060.0)


def test_recovery_closes() -> None:
    known = look(OPENED, OK, OK, OK, now=1060.0)
    assert (known.closed, known.held, known.began) == (1060.0, 1060.0, 1000.0)
    assert known.closing and known.closing.verdict is Verdict.UP


def test_one_lost_answer_is_no_recovery() -> None:
    """b failed when last heard, and is silent now: with a it still makes two."""
    known = look(OPENED, FAIL, None, OK, now=1060.0)
    assert known.is_open and known.failed == (("a", 1060.0), ("b", 1000.0))
    assert known.seen == 1000.0, "no quorum was heard to fail in this round"


def test_closing_needs_that_the_silent_ones_are_no_quorum() -> None:
    """A node that is cut off from both others does not close what they may see fail."""
    assert not closes(OPENED, OK, None, None, now=1060.0)
    assert not closes(OPENED, OK, None, None, now=1000.0 + 80_000.0), "however long that lasts"
    assert closes(OPENED, OK, OK, None, now=1060.0), "one silent site is no quorum"
    assert not closes(OPENED, UNKNOWN, None, OK, now=1060.0), "c never saw it fail"
    assert closes(OPENED, OK, None, UNKNOWN, now=1060.0), "UNKNOWN is an answer of c"
    pair = opened(FAIL, FAIL)
    assert closes(pair, OK, None, now=1060.0), "nor is the only peer"


def test_silent_sites_that_were_well_do_not_keep_it_open_for_those_who_hear_most() -> None:
    """Two of five nodes have been dead for weeks: everything that recovers is told all the same."""
    dead = opened(FAIL, FAIL, FAIL, None, None)
    assert closes(dead, OK, OK, OK, None, None, now=1060.0)
    half = opened(FAIL, FAIL, None, None)
    assert closes(half, OK, OK, None, None, now=1060.0), "they were dead before it opened"
    alive = opened(FAIL, FAIL, FAIL, OK, OK)
    assert not closes(alive, OK, OK, None, None, None, now=1060.0), "two of five are not most"
    only_heard_of = alive._replace(opening=None)
    assert not closes(only_heard_of, OK, OK, None, None, None, now=1060.0)


def test_while_one_site_fails_the_silent_ones_may_fail_too() -> None:
    """One link is down, and behind it a second site has begun to fail."""
    assert not closes(OPENED, OK, FAIL, None, now=1060.0)
    assert closes(OPENED, OK, FAIL, OK, now=1060.0)


def test_it_closes_by_the_smaller_quorum() -> None:
    """A peer with quorum = 3 is heard again, while two sites still fail."""
    assert not closes(OPENED, OK, FAIL, FAIL, now=1060.0, quorum=3)


def test_silent_sites_that_failed_when_last_heard_keep_it_open_for_a_day() -> None:
    both = opened(FAIL, FAIL, FAIL, OK, OK)
    fell_silent = look(both, OK, FAIL, FAIL, OK, OK, now=2000.0)
    for now, over in ((2060.0, False), (2000.0 + 86_399.0, False), (2000.0 + 86_400.0, True)):
        assert closes(fell_silent, OK, None, None, OK, OK, now=now) is over
    assert closes(fell_silent, OK, OK, None, OK, OK, now=2060.0), "one of them is heard, and well"


def test_a_quorum_of_one_takes_one_sites_word() -> None:
    alone = opened(FAIL, None, quorum=1)
    assert closes(alone, OK, None, now=1060.0, quorum=1)
    both = opened(FAIL, FAIL, quorum=1)
    assert not closes(both, OK, None, now=1060.0, quorum=1), "it failed when it was last heard"


def test_a_site_that_is_no_longer_in_nodes_txt_is_forgotten() -> None:
    three = opened(FAIL, FAIL, FAIL)
    assert look(three, OK, None, now=1060.0).failed == (("b", 1000.0),)
    assert closes(three, OK, None, now=1060.0)


def test_why_it_stays_open_is_known() -> None:
    def why(*seen: Outcome | None) -> str:
        return incident.why_open(OPENED, judge(*seen, incident_open=True))

    assert why(FAIL, FAIL, OK) == "failing"
    assert why(UNKNOWN, None, None) == "failing", "nobody passes"
    assert why(OK, None, None) == "silent"
    assert why(OK, OK, None) == ""


def test_nobody_passes_is_no_recovery() -> None:
    assert not closes(OPENED, UNKNOWN, None, None, now=9000.0)
    assert not closes(OPENED, UNKNOWN, UNKNOWN, UNKNOWN, now=9000.0)


def test_a_clock_set_back_makes_memory_no_longer_than_a_day() -> None:
    first = opened(FAIL, FAIL, FAIL, OK, OK, now=99_940.0)
    late = look(first, OK, FAIL, FAIL, OK, OK, now=100_000.0)
    after = look(late, OK, None, None, OK, OK, now=100.0)
    assert after.is_open
    assert not closes(after, OK, None, None, OK, OK, now=100.0 + 86_399.0)
    assert closes(after, OK, None, None, OK, OK, now=100.0 + 86_400.0)


def test_confirm_counts_on_from_whoever_counted_most() -> None:
    first = incident.confirm_down(TEST, None, None, 100.0)
    assert first == Confirming(TEST, 1, 100.0)
    assert incident.confirm_down(TEST, first, None, 160.0) == Confirming(TEST, 2, 100.0)
    heard = Confirming(TEST, 4, 90.0)
    assert incident.confirm_down(TEST, first, heard, 160.0) == Confirming(TEST, 5, 90.0)
    ahead = Confirming(TEST, 1, 161.0)
    assert incident.confirm_down(TEST, None, ahead, 160.0).since == 160.0, "ages are rounded"


def test_it_began_with_the_first_down_verdict() -> None:
    confirming = Confirming(TEST, 3, 880.0)
    known = incident.open_incident(
        confirming, judge(FAIL, FAIL), now=1000.0, fresh_id="fresh", minute=1
    )
    assert (known.began, known.held) == (880.0, 1000.0)


@pytest.mark.parametrize(
    ("minute", "taken", "named"),
    [
        (29_000_000, (), 29_000_000),
        (29_000_009, (), 29_000_000),
        (29_000_010, (), 29_000_010),
        (29_000_009, (29_000_000,), 29_000_001),
        (29_000_009, (28_999_990, 29_000_000, 29_000_001), 29_000_002),
        (29_000_020, (29_000_000,), 29_000_020),
        (5, (29_000_000,), 29_000_001),  # a clock that was set back
    ],
)
def test_nodes_that_have_not_heard_of_each_other_name_it_alike(
    minute: int, taken: tuple[int, ...], named: int
) -> None:
    """And no two incidents of a test are named alike."""
    assert incident.name_minute(minute, taken) == named


@pytest.mark.parametrize(
    ("minute", "ended", "named"),
    [
        (29_000_014, (29_000_009,), 29_000_010),
        (29_000_014, (29_000_010,), 29_000_011),  # a node may have opened it in this window
        (29_000_014, (28_999_000, 29_000_012), 29_000_011),
    ],
)
def test_an_incident_that_lasted_into_a_window_has_taken_its_first_minute(
    minute: int, ended: tuple[int, ...], named: int
) -> None:
    assert incident.name_minute(minute, (29_000_001,), ended) == named


def test_what_was_over_for_a_node_that_was_away_counts_from_when_it_was_seen() -> None:
    assert incident.last_known(incident.close(OPENED, 1300.0)) == 1300.0
    assert incident.last_known(incident.overtake(OPENED, 9000.0)) == 1000.0
    assert incident.last_known(incident.remove(OPENED)) == 1000.0
    assert incident.last_known(OPENED._replace(seen=float("-inf"))) is None


# Whom it meets.


def known(*ids: str, **facts: Any) -> Incident:
    """Return an open incident of TEST that began at 100 and is held since 200, with FACTS."""
    return Incident(**{"ids": ids, "test": TEST, "began": 100.0, "held": 200.0, **facts})


def met(
    ours: Sequence[Incident], *heard: Incident, past: Sequence[Incident] = (), now: float = 500.0
) -> Ledger:
    """Return the ledger of OURS after it has met what was HEARD; PAST is what it can recall."""
    ledger = Ledger(ours, lambda ids: [each for each in past if not set(ids).isdisjoint(each.ids)])
    for each in heard:
        ledger.meet(each, now)
    return ledger


def test_an_id_of_ours_that_a_peer_states_for_another_test_is_not_heard() -> None:
    """The open incident of the first test would have stood beside the united one, under stale ids."""
    ours = known("b", "c")
    for heard in (known("a", "b", test=OTHER), known("a", "b", flapping=7)):
        ledger = met([ours], heard)
        assert list(ledger) == [ours] and not ledger.changed
        assert ledger.open_for(TEST) == ours and ledger.open_for(OTHER) is None


def test_open_incidents_of_one_test_are_one() -> None:
    ledger = met(
        [known("b"), known("z", test=OTHER)], known("c", began=90.0), known("a", "d", began=150.0)
    )
    united = ledger.open_for(TEST)
    assert united and (united.ids, united.id, united.began) == (("a", "b", "c", "d"), "a", 90.0)
    assert [each.ids for each in ledger] == [united.ids, ("z",)]
    assert list(ledger.changed.values()) == [united]
    assert united.held == 200.0, "we have held what it owes since then"


def test_flapping_and_the_incident_itself_are_two() -> None:
    ledger = met([known("a")], known("f", flapping=7))
    assert {each.ids for each in ledger} == {("a",), ("f",)}
    ordinary = ledger.open_for(TEST)
    flapping = ledger.open_for(TEST, flapping=True)
    assert ordinary and ordinary.ids == ("a",)
    assert flapping and flapping.ids == ("f",)


def test_whatever_is_heard_is_held() -> None:
    """Open, closed and owing, or over: the node that knew it may be gone tomorrow."""
    for heard in (
        known("a"),
        known("a", closed=150.0),
        known("a", closed=150.0, alert="x", recovery="x"),
    ):
        (held,) = met([], heard)
        assert held == heard._replace(held=500.0)


def test_a_closed_id_closes_ours() -> None:
    ledger = met([known("a", "b", alert="me")], known("b", "c", closed=300.0))
    (closed,) = ledger
    assert (closed.ids, closed.closed, closed.alert) == (("a", "b", "c"), 300.0, "me")
    assert ledger.open_for(TEST) is None
    assert closed.held == 500.0, "it owes something else now"


def test_what_is_closed_is_not_met_by_test() -> None:
    """What a peer closed may be last time's, and ours goes on."""
    ledger = met([known("n")], known("a", closed=150.0, alert="x"))
    assert ledger.open_for(TEST) == known("n") and len(list(ledger)) == 2


@pytest.mark.parametrize("recalled", [False, True])
def test_a_closed_id_never_opens_again(recalled: bool) -> None:
    old = known("a", closed=300.0, alert="me", recovery="me")
    ledger = met([] if recalled else [old], known("a"), past=[old])
    assert (
        [each.closed for each in ledger] == [300.0]
        and ledger.open_for(TEST) is None
        and not ledger.changed
    )


def test_what_a_peer_still_holds_open_is_not_met_by_test_once_we_know_it_closed() -> None:
    """A 5-minute node with last time's incident, open and told: ours must not become told by it."""
    old = known("a", closed=300.0, alert="x", recovery="x")
    ledger = met([known("n", began=400.0)], known("a", alert="x"), past=[old])
    assert ledger.open_for(TEST) == known("n", began=400.0) and not ledger.changed
    ledger = met([known("n", began=400.0)], known("a", "b", alert="x"), past=[old])
    assert ledger.open_for(TEST) == known("n", began=400.0)
    assert [(each.ids, each.closed) for each in ledger.changed.values()] == [(("a", "b"), 300.0)], (
        "but b is known now"
    )


def test_two_of_ours_that_a_peer_knows_as_one_are_united() -> None:
    ledger = met(
        [known("a", closed=300.0), known("b", began=310.0)],
        known("a", "b", alert="x", closed=350.0),
    )
    (united,) = ledger
    assert (united.ids, united.alert) == (("a", "b"), "x") and not united.is_open


def test_facts_are_united() -> None:
    evidence = judge(FAIL, FAIL)
    heard: dict[str, Any] = {
        "alert": "x",
        "recovery": "y",
        "void": True,
        "reminded": 3,
        "opening": evidence,
    }
    for key, value in heard.items():
        (united,) = met(
            [known("a")], known("a", began=99.9, failed=(("c", 240.0),), **{key: value})
        )
        assert united == known("a")._replace(held=united.held, **{key: value}), (
            "rounded ages and others' votes change nothing"
        )
    mine = known("a", alert="me", recovery="me", reminded=4, opening=judge(FAIL, FAIL, OK))
    (united,) = met([mine], known("a", **heard))
    assert united == mine._replace(void=True), "what we know ourselves comes first"


def test_rounded_ages_change_nothing() -> None:
    mine = known("a", "b", closed=300.04, failed=(("a", 250.01),), alert="x")
    assert not met(
        [mine], known("a", closed=300.0, began=99.9, failed=(("a", 250.0), ("c", 240.0)), alert="x")
    ).changed


def test_told_elsewhere_is_held_no_longer() -> None:
    """`held` is since when we have held what is owed now: from a peer's alert on, that is nothing."""
    (united,) = met([known("a")], known("a", alert="x"))
    assert (united.alert, united.held) == ("x", 500.0)


def test_a_removed_incident_is_met_as_if_it_had_not_been_closed() -> None:
    """It was closed for our own reasons; with the test back, what the peers still have open is the incident."""
    gone = incident.remove(known("a", alert="me"))
    assert (gone.removed, gone.is_open, incident.owed(gone)) == (True, False, ())
    (again,) = met([gone], known("a", alert="me"))
    assert again.is_open and not again.removed and again.alert == "me"
    ledger = met([gone], known("b"))
    other = ledger.open_for(TEST)
    assert other and other.ids == ("b",), "another one is another one"


def test_what_was_closed_before_it_was_removed_stays_closed() -> None:
    gone = incident.remove(known("a", closed=300.0, alert="me"))
    assert not [each for each in met([gone], known("a", alert="me")) if each.is_open]


def test_an_incident_has_no_endless_ids() -> None:
    """A peer can make up as many as it likes; ours stays what it was."""
    ledger = met([known("a")])
    for number in range(100):
        ids = tuple(sorted(["a", *(f"{number}-{each}" for each in range(60))]))
        ledger.meet(known(*ids), 200.0)
    united = ledger.open_for(TEST)
    assert united and "a" in united.ids and len(united.ids) == IDS_LIMIT


def test_find_and_put() -> None:
    past = known("p", "q", closed=1.0)
    ledger = met([known("a")], past=[past])
    assert ledger.find(["q", "a", "nobody"]) == [past, known("a")]
    ledger.put(known("a", "p", began=50.0))
    assert [each.ids for each in ledger if each.began == 50.0] == [("a", "p")]


def test_what_was_seen_before_the_test_was_well_is_over() -> None:
    """A node that was away for four minutes holds an incident whose test has been well since."""
    ghost = known("g", alert="x", seen=300.0)
    well = known("w", seen=290.0, closed=400.0, alert="y", recovery="y")
    assert list(met([well], ghost, now=500.0)) == [well]
    again = ghost._replace(seen=410.0)
    assert len(list(met([well], again, now=500.0))) == 2, "it was seen to fail after that"
    newer = known("n", began=480.0, seen=490.0)
    ledger = met([ghost, well], newer, now=500.0)
    assert [each.ids for each in ledger if each.is_open] == [("n",)]
    overtaken = well._replace(overtaken=True)
    assert len(list(met([overtaken], ghost, now=500.0))) == 2, "that says nothing of the test"


# What was told by nodes that did not hear each other.


def test_an_alert_after_the_recovery_makes_that_owed_again() -> None:
    """Else whoever reads both mails believes for ever that the test is down."""
    ended = known("a", closed=300.0, alert="b", recovery="b", told_at=310.0)
    alerted = known("a", alert="me", told_at=360.0)
    for ours, heard in ((alerted, ended), (ended, alerted)):
        (united,) = met([ours], heard)
        assert (united.recovery, united.again) == ("", 1) and united.closed == 300.0
        assert incident.owed(united) == (Kind.RECOVERY,)
        told = incident.told(united, [Kind.RECOVERY], "me", 600.0)
        (settled,) = met([told], ended)
        assert settled == told, "what was told before does not count any more"
        (peers,) = met([ended], told)
        assert (peers.recovery, peers.again) == ("b", 1), "the others hear that it is told"
        assert incident.owed(peers) == ()


def test_an_alert_before_the_recovery_is_the_usual_case() -> None:
    ended = known("a", closed=300.0, alert="b", recovery="b", told_at=310.0)
    for told_at in (100.0, 310.0):
        alerted = known("a", alert="me", told_at=told_at)
        for ours, heard in ((alerted, ended), (ended, alerted)):
            (united,) = met([ours], heard)
            assert (united.recovery, united.again) == ("b", 0)
    before_an_upgrade = ended._replace(told_at=float("-inf"))
    (united,) = met([known("a", alert="me", told_at=360.0)], before_an_upgrade)
    assert united.recovery == "b"


# What is stale.


def test_what_nobody_has_seen_fail_lately_is_not_taken_in() -> None:
    """A node that was away holds what is long over: a ghost, which would pass for the next one."""
    ghost = known("g", alert="x", seen=100.0)
    assert not list(met([], ghost, now=500.0))
    assert list(met([], ghost._replace(seen=300.0), now=500.0)), "but what was seen lately is"
    ours = known("a", seen=490.0)
    assert list(met([ours], ghost, now=500.0)) == [ours]
    assert list(met([known("g", seen=490.0)], ghost, now=500.0)) == [
        known("g", seen=490.0, alert="x", held=500.0)
    ], "by its id it is known, and so is what was told of it"


def test_how_long_it_is_fresh_depends_on_the_slowest_node() -> None:
    stated = known("g", seen=1.0)
    assert incident.is_fresh(stated, 1, 301.0) and not incident.is_fresh(stated, 1, 301.1)
    assert incident.is_fresh(stated, 120, 21_601.0) and not incident.is_fresh(stated, 120, 21_602.0)
    assert incident.is_fresh(known("g"), 1, 1e9), "an old version does not say when"
    flaps = stated._replace(flapping=7)
    assert incident.is_fresh(flaps, 1, 901.0) and not incident.is_fresh(flaps, 1, 901.1)


def test_a_newer_incident_overtakes_what_this_node_held_while_it_was_away() -> None:
    stale, newer = known("a", alert="me", seen=100.0), known("n", began=480.0, seen=490.0)
    ledger = met([stale], newer)
    assert ledger.open_for(TEST) == newer._replace(held=500.0)
    (over,) = ledger.find(["a"])
    assert over.closed == 500.0 and over.overtaken and incident.owed(over) == ()
    assert set(ledger.changed) == {"a", "n"}


def test_what_one_node_takes_for_overtaken_goes_on_where_it_is_seen_to_fail() -> None:
    """Nodes that were torn apart meet: one has overtaken an id that another one has united."""
    over = incident.overtake(known("a", alert="me", seen=100.0), 400.0)
    present = known("a", "b", alert="x", seen=490.0)
    for ours, heard in ((over, present), (present, over)):
        (united,) = met([ours], heard)
        assert united.is_open and not united.overtaken and united.ids == ("a", "b")
        closed = incident.close(united, 600.0)
        assert incident.owed(closed) == (Kind.RECOVERY,)
    stale = known("a", "b", alert="x", seen=100.0)
    (still_over,) = met([over], stale)
    assert still_over == over, "its holder was away, too"


def test_a_node_that_was_away_hears_that_its_incident_goes_on() -> None:
    stale, fresh = known("a", seen=100.0), known("a", seen=490.0)
    (again,) = met([stale], fresh)
    assert again == fresh


# What it owes.


@pytest.mark.parametrize(
    ("closed", "alert", "recovery", "void"),
    list(itertools.product((None, 300.0), ("", "x"), ("", "y"), (False, True))),
)
def test_owed(closed: float | None, alert: str, recovery: str, void: bool) -> None:
    owes = {
        (None, "", "", False): (Kind.ALERT,),
        (300.0, "", "", False): (Kind.ALERT, Kind.RECOVERY),
        (300.0, "x", "", False): (Kind.RECOVERY,),
        (300.0, "x", "", True): (Kind.RECOVERY,),  # void where it was not known that it was told
    }
    what = known("a", closed=closed, alert=alert, recovery=recovery, void=void)
    assert incident.owed(what) == owes.get((closed, alert, recovery, void), ())
    assert incident.owed(what._replace(removed=True)) == ()
    assert incident.owed(what._replace(overtaken=True)) == ()


def test_told() -> None:
    alerted = incident.told(known("a"), [Kind.ALERT], "oslo", 700.0)
    assert alerted.told_at == 700.0
    assert (alerted.alert, alerted.recovery, alerted.held, alerted.reminded) == (
        "oslo",
        "",
        700.0,
        0,
    )
    both = incident.told(known("a", closed=600.0), [Kind.ALERT, Kind.RECOVERY], "oslo", 700.0)
    assert incident.owed(both) == () and (both.alert, both.recovery) == ("oslo", "oslo")
    reminded = incident.told(alerted, [Kind.REMINDER], "rome", 3700.0, remind=1800.0)
    assert (reminded.alert, reminded.reminded) == ("oslo", 2)


@pytest.mark.parametrize(("counted", "left"), [(7300, 2), (4, 2), (3, 3), (2, 2), (0, 0)])
def test_reminders_that_cannot_have_been_due_are_taken_back(counted: int, left: int) -> None:
    """A clock that was ahead has counted them. Nodes may differ by one."""
    lasting = known("i", alert="oslo", began=100.0, reminded=counted)
    assert incident.correct_reminded(lasting, 1800.0, 3800.0).reminded == left
    assert incident.correct_reminded(lasting, 0.0, 3800.0) == lasting


def test_reminders() -> None:
    told = known("a", alert="x")
    for what, remind, now, due in (
        (told, 1800.0, 1899.9, False),
        (told, 1800.0, 1900.0, True),
        (told, 0.0, 99_999.0, False),
        (told._replace(reminded=1), 1800.0, 3699.9, False),
        (told._replace(reminded=1), 1800.0, 3700.0, True),
        (known("a"), 1800.0, 1900.0, False),
        (told._replace(closed=1500.0), 1800.0, 1900.0, False),
        (told._replace(flapping=7), 1800.0, 1900.0, False),
    ):
        assert incident.is_reminder_due(what, remind, now) is due, (what, remind, now)
    late = incident.told(told, [Kind.ALERT], "x", 1950.0, remind=1800.0)
    assert not incident.is_reminder_due(late, 1800.0, 1951.0), (
        "an alert that comes late is not reminded of at once"
    )


# What flaps.

UP = judge(OK)


def changing(*times: float) -> list[Incident]:
    """Return the incidents that opened and closed at TIMES."""
    return [
        known(f"i{at}", began=at, closed=end)
        for at, end in itertools.zip_longest(times[::2], times[1::2])
    ]


def flap(incidents: Sequence[Incident], now: float, interval: int = 1) -> Incident | None:
    fresh = Incident(("fresh",), TEST, now, UP, held=now)
    return incident.flap(incidents, UP, interval=interval, now=now, open_now=lambda: fresh)


def test_seven_changes_in_half_an_hour_begin_it() -> None:
    seven = (100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 700.0)
    begun = flap(changing(*seven), 700.0)
    assert begun and (begun.ids, begun.flapping, begun.began, begun.is_open, begun.opening) == (
        ("fresh",),
        7,
        700.0,
        True,
        UP,
    )
    assert incident.owed(begun) == (Kind.ALERT,)
    assert flap(changing(*seven[1:]), 700.0) is None, "six are not"
    assert flap(changing(*seven), 1899.9) is not None
    assert flap(changing(*seven), 1900.0) is None, "the first is half an hour old"
    assert flap([*changing(*seven[1:]), incident.remove(known("r"))], 700.0) is None, (
        "the operator's doing is none"
    )


def test_a_quarter_of_an_hour_without_a_change_ends_it() -> None:
    episode = known("f", began=700.0, flapping=7, seen=700.0)
    times = (100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 700.0, 1000.0)
    assert flap([episode, *changing(*times)], 1899.9) == episode._replace(seen=1000.0)
    assert flap([episode._replace(seen=1000.0), *changing(*times)], 1899.9) is None
    ended = flap([episode, *changing(*times)], 1900.0)
    assert ended == episode._replace(closed=1900.0, closing=UP, held=1900.0, seen=1000.0)
    assert flap([episode], 1600.0), "without a change since it began, too"
    assert flap([episode], 1600.0, interval=30) is None, "a slow node has not looked three times"
    assert flap([episode], 700.0 + 5400.0, interval=30)


def test_it_ends_early_if_the_test_stays_down() -> None:
    """People must be told that a test is down for good, after three rounds of every node."""
    episode = known("f", began=700.0, flapping=7, seen=700.0)
    down = changing(100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 700.0)
    assert down[-1].is_open
    assert flap([episode, *down], 849.9) is None
    ended = flap([episode, *down], 850.0)
    assert ended and ended.closed == 850.0 and ended.seen == 700.0
    assert flap([episode, *down], 850.0, interval=2) is None
    up = changing(100.0, 200.0, 300.0, 400.0, 500.0, 600.0)
    assert flap([episode, *up], 850.0) is None, "it is up"


def test_it_does_not_begin_again_at_once() -> None:
    """The changes before its end are not counted twice."""
    over = known("f", began=700.0, closed=1000.0, flapping=7)
    before = (100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 700.0, 800.0)
    assert flap([over, *changing(*before)], 1001.0) is None
    assert (
        flap([over, *changing(*before, 1010.0, 1020.0, 1030.0, 1040.0, 1050.0, 1060.0)], 1060.0)
        is None
    )
    assert flap(
        [over, *changing(*before, 1010.0, 1020.0, 1030.0, 1040.0, 1050.0, 1060.0, 1070.0)], 1070.0
    )


def made_up(number: int, **facts: Any) -> Incident:
    """Return an incident that a liar states: it is over, and is as large as `cut` lets it be."""
    ids = tuple(f"{number:024x}{each:08x}" for each in range(IDS_LIMIT))
    return known(*ids, **{"closed": 400.0, "void": True, **facts})


def bytes_of(ledger: Ledger, peer: str) -> int:
    return sum(hearsay.size(incident) for incident in ledger if incident.heard_from == peer)


def test_news_of_many_incidents_of_one_test_costs_little() -> None:
    """A peer may state as many as its quota has room for, each with one more reminder each time."""
    many = []
    for number in range(2_000):
        ids = tuple(f"{number:06}{each:03}" for each in range(9))
        many.append(Incident(ids, TEST, 0.0, closed=500.0, heard_from="liar", minute=7))
    ledger = Ledger(many, lambda _: [])
    began = time.process_time()
    for made_up in many[:1_000]:
        ledger.meet(made_up._replace(heard_from="", reminded=1, minute=6), 600.0, "liar")
    assert time.process_time() - began < 1.0
    assert len(ledger.changed) == 1_000, "all of it was news"
    minutes = {united.minute for united in ledger.changed.values()}
    assert minutes == {6, 7}, "only one of them is named by the new minute"


def test_a_peer_that_makes_up_incidents_fills_its_own_quota_and_nobody_elses() -> None:
    ledger = Ledger([], lambda _: [])
    for number in range(2000):
        ledger.meet(made_up(number, test=(TEST, OTHER)[number % 2]), 500.0, "liar")
    assert 0.9 * hearsay.LESS_URGENT_BYTES < bytes_of(ledger, "liar") <= hearsay.LESS_URGENT_BYTES
    for number in range(2000):
        ledger.meet(made_up(5000 + number, closed=400.0, void=False), 500.0, "liar")
    assert 0.9 * hearsay.PEER_BYTES < bytes_of(ledger, "liar") <= hearsay.PEER_BYTES, (
        "what is owed has more room"
    )
    ledger.meet(known("honest", closed=400.0), 500.0, "oslo")
    (heard,) = ledger.find(["honest"])
    assert heard.heard_from == "oslo", "another peer is heard as ever"
    mine = Incident(("mine",), TEST, 400.0)
    ledger.put(mine)
    ledger.meet(Incident(("mine", "theirs"), TEST, 390.0, alert="oslo"), 500.0, "liar")
    (united,) = ledger.find(["theirs"])
    assert united.ids == ("mine", "theirs") and united.alert == "oslo" and not united.heard_from


def test_what_a_peer_says_that_it_has_from_others_fills_its_own_quota_and_only_half_of_it() -> None:
    ledger = Ledger([], lambda _: [])
    for number in range(2000):
        heard = made_up(number, void=False, heard_from=f"honest{number % 4}")
        ledger.meet(heard, 500.0, "liar")
    relayed = sum(map(hearsay.size, ledger))
    assert 0.9 * hearsay.LESS_URGENT_BYTES < relayed <= hearsay.LESS_URGENT_BYTES
    for number in range(2000, 4000):
        ledger.meet(made_up(number, void=False), 500.0, "liar")
    assert 0.9 * hearsay.PEER_BYTES < sum(map(hearsay.size, ledger)) <= hearsay.PEER_BYTES
    forgotten = hearsay.to_forget(ledger, "me", 1, 500.0)
    assert not forgotten, "as much is kept as is taken in"
    ledger.meet(known("true", closed=400.0), 500.0, "honest1")
    (heard,) = ledger.find(["true"])
    assert hearsay.charged_to(heard) == "honest1"


def test_the_quota_counts_what_is_in_the_state() -> None:
    before = [made_up(number, heard_from="liar", held=450.0) for number in range(2000)]
    ledger = Ledger(before, lambda _: [])
    ledger.meet(made_up(5000), 500.0, "liar")
    assert not ledger.find(made_up(5000).ids)


def test_whose_hearsay_an_incident_is() -> None:
    """Two that have seen it, or this node itself, make it a fact; who repeats hearsay does not."""
    ledger = met([])
    ledger.meet(known("a"), 500.0, "oslo")
    assert ledger.find(["a"])[0].heard_from == "oslo"
    ledger.changed.clear()
    ledger.meet(known("a"), 500.0, "oslo")
    ledger.meet(known("a", heard_from="oslo"), 500.0, "rome")
    assert ledger.find(["a"])[0].heard_from == "oslo" and not ledger.changed
    ledger.meet(known("a"), 500.0, "rome")
    assert ledger.find(["a"])[0].heard_from == "" and ledger.changed
    relayed = met([])
    relayed.meet(known("c", heard_from="liar"), 500.0, "oslo")
    relayed.meet(known("c"), 500.0, "liar")
    assert relayed.find(["c"])[0].heard_from == "liar", "oslo has it from the liar"
    liar = met([])
    liar.meet(known("d", heard_from="oslo"), 500.0, "liar")
    assert hearsay.source_of(liar.find(["d"])[0]) == ("oslo", "liar")
    liar.meet(known("d"), 500.0, "liar")
    assert hearsay.source_of(liar.find(["d"])[0]) == ("liar", ""), "it is one witness, not two"
    liar.meet(known("d", heard_from="oslo"), 500.0, "liar")
    assert hearsay.source_of(liar.find(["d"])[0]) == ("liar", "")
    liar.meet(known("d"), 500.0, "oslo")
    assert hearsay.source_of(liar.find(["d"])[0]) == ("", "")
    alone = known("b", heard_from="oslo")
    passing = look(alone, OK, OK, OK, now=600.0)
    assert passing.closed and passing.heard_from == "oslo"
    assert look(alone, FAIL, FAIL, OK, now=600.0).heard_from == ""


def test_what_a_peer_states_is_cut_to_what_can_be_true() -> None:
    nodes = [Node("a", "a"), Node("b", "east")]
    bounds = Bounds(nodes, {"b"}, minute=100, quorum=2)
    answers = (Answer(nodes[0]), Answer(nodes[1]))
    opening = Judgement(Verdict.DOWN, 2, answers)
    stated = known(
        *(f"{number:08}" for number in range(60)),
        opening=opening,
        closing=opening,
        removed=True,
        failed=(("a", 1.0), ("b", 1.0), ("east", 1.0)),
        minute=111,
    )
    taken = hearsay.cut(stated, "b", bounds)
    assert len(taken.ids) == IDS_LIMIT and taken.failed == (("a", 1.0), ("east", 1.0))
    assert taken.opening == opening and not taken.closing and not taken.removed
    assert (taken.held, taken.minute) == (0.0, 0)
    sources = {}
    for name in ("a", "b", "nobody"):
        said = stated._replace(heard_from=name)
        sources[name] = hearsay.cut(said, "b", bounds).heard_from
    assert sources == {"a": "b", "b": "b", "nobody": "b"}, "we are a, and b passes it on"
    assert hearsay.cut(stated, "b", Bounds(nodes, {"b"}, minute=101, quorum=2)).minute == 111
    for improper in (
        opening._replace(quorum=0),
        opening._replace(quorum=3),
        opening._replace(answers=answers * 2),
    ):
        liar_states = stated._replace(opening=improper)
        assert hearsay.cut(liar_states, "b", bounds).opening is None


def test_hearsay_that_is_over_is_forgotten() -> None:
    over = made_up(1, heard_from="liar", held=400.0)
    owing = known("b", heard_from="liar", closed=400.0)
    told = over._replace(ids=("c",), recovery="me")
    going_on = known("d", heard_from="liar")
    heard = [over, owing, told, going_on]
    late = 400.0 + hearsay.OVER_SECONDS
    assert hearsay.to_forget(heard, "me", 1, late) == []
    assert hearsay.to_forget(heard, "me", 1, late + 1.0) == [over]
    assert hearsay.to_forget(heard, "me", 60, late + 1.0) == [], "a slow node may need it"
    assert not met([], over._replace(heard_from=""), now=late + 1.0).changed, "it is no news then"
    many = [made_up(n, heard_from="liar", recovery="me", held=400.0 + n) for n in range(1000)]
    forgotten = hearsay.to_forget([going_on, *many], "me", 1, late)
    assert forgotten and max(each.held for each in forgotten) < 1399.0
    kept = [each for each in (going_on, *many) if each not in forgotten]
    assert going_on in kept and sum(map(hearsay.size, kept)) <= hearsay.PEER_BYTES


def test_what_a_peer_says_has_ended_does_not_make_ours_old_news() -> None:
    """Else a made-up incident that has ended just now would have ours taken for overtaken."""
    ours = known("ours", began=400.0, seen=480.0)
    ledger = met([ours])
    ledger.meet(known("made-up", began=490.0, closed=499.0, void=True), 500.0, "liar")
    assert ledger.find(["made-up"]), "it was taken in"
    ledger.meet(known("newer", began=499.0), 500.0, "liar")
    united = ledger.open_for(TEST)
    assert united and united.ids == ("newer", "ours") and not united.overtaken
    told = met([ours, known("past", began=300.0, closed=490.0, seen=480.0)])
    assert not told.is_present(ours, 500.0), "what this node knows to have ended counts"


def test_who_said_that_another_node_has_told_is_remembered() -> None:
    """A liar may say it of an honest node; `dmonitor why` and the page name who has said it."""
    nodes = [Node(name, name) for name in "abc"]
    ledger = met([known("x")])
    for peer in "bc":
        stated = known("x", alert="c", alert_stated_by="a")
        heard = hearsay.cut(stated, peer, Bounds(nodes, {"b", "c"}, minute=100, quorum=2))
        assert heard.alert_stated_by == ("b" if peer == "b" else "")
        ledger.meet(heard, 500.0, peer)
    (ours,) = ledger
    assert (ours.alert, ours.alert_stated_by) == ("c", "b")
    ledger.meet(known("x", closed=450.0, alert="c", recovery="b"), 500.0, "b")
    (ours,) = ledger
    assert (ours.alert_stated_by, ours.recovery, ours.recovery_stated_by) == ("b", "b", "")


def test_only_what_is_closed_is_void_or_overtaken() -> None:
    """Else an open incident that nobody is told of would stand for the next failure."""
    nodes = [Node("a", "a"), Node("b", "b")]
    for closed in (None, 400.0):
        stated = known("x", closed=closed, void=True, overtaken=True)
        taken = hearsay.cut(stated, "b", Bounds(nodes, {"b"}, minute=100, quorum=2))
        assert taken.void is taken.overtaken is (closed is not None)


def test_what_a_peer_says_that_it_has_from_us_is_no_word_of_its_own() -> None:
    """A liar tells a peer that it has from us what it tells us itself: that would be two words."""
    nodes = [Node(name, name) for name in ("me", "peer", "liar")]
    ledger = met([])
    for name, source in (("liar", ""), ("peer", "me"), ("peer", "nobody")):
        stated = known("x", heard_from=source)
        heard = hearsay.cut(stated, name, Bounds(nodes, {"peer", "liar"}, minute=100, quorum=2))
        ledger.meet(heard, 500.0, name)
        (taken,) = ledger
        assert hearsay.source_of(taken) == ("liar", "")
    ledger.meet(
        hearsay.cut(known("x"), "peer", Bounds(nodes, {"peer", "liar"}, minute=100, quorum=2)),
        500.0,
        "peer",
    )
    (taken,) = ledger
    assert hearsay.source_of(taken) == ("", "")


@pytest.mark.parametrize("seed", range(20))
def test_what_one_node_has_made_up_becomes_a_fact_nowhere(seed: int) -> None:
    """It tells each of the others, also under the names of others; they tell it to each other."""
    chance = random.Random(seed)
    names = ["a", "b", "c", "liar"]
    nodes = [Node(name, name) for name in names]
    bounds = {name: Bounds(nodes, {*names} - {name}, minute=100, quorum=2) for name in names}
    ledgers = {name: met([]) for name in names[:3]}
    ledgers["a"].put(known("true", test=Test("www.example.com", "true")))
    for _ in range(200):
        name, peer = chance.sample(names, 2)
        if name == "liar":
            continue
        stated = [known("x", seen=500.0, heard_from=chance.choice(["", "nobody", *names]))]
        if peer != "liar":
            stated = list(ledgers[peer])
        for each in stated:
            ledgers[name].meet(hearsay.cut(each, peer, bounds[name]), 500.0, peer)
    for name, ledger in ledgers.items():
        (made_up_one,) = ledger.find(["x"])
        assert not made_up_one.is_fact, (name, made_up_one)
        (true,) = ledger.find(["true"])
        assert true.heard_from == ("" if name == "a" else "a"), "its word does not come back"
    forgetful = met([])
    for peer in ("b", "c"):
        (theirs,) = ledgers[peer].find(["true"])
        forgetful.meet(hearsay.cut(theirs, peer, bounds["a"]), 500.0, peer)
    (again,) = forgetful
    assert hearsay.source_of(again) == ("b", "b"), "two say that they have it from this node"


def test_evidence_by_a_smaller_quorum_keeps_nothing_open() -> None:
    """One vote, that of the peer that made it up, would keep it open for ever."""
    claimed = known("x", opening=judge(FAIL, OK, OK, quorum=1)._replace(verdict=Verdict.DOWN))
    nodes = [Node(name, name) for name in "abc"]
    assert claimed.opening and claimed.opening.quorum == 1
    of_two, of_one = (Bounds(nodes, {"b"}, minute=100, quorum=quorum) for quorum in (2, 1))
    taken = hearsay.cut(claimed, "b", of_two)
    after = look(taken._replace(heard_from="b"), OK, OK, FAIL, now=600.0)
    assert after.closed == 600.0
    assert hearsay.cut(claimed, "b", of_one).opening == claimed.opening


def test_that_a_test_flaps_is_believed_if_this_node_has_counted_as_much() -> None:
    claimed = known("f", began=700.0, flapping=7, seen=700.0, heard_from="liar")
    few = changing(100.0, 200.0, 300.0, 400.0, 500.0, 600.0)
    assert flap([claimed, *few], 701.0) is None
    believed = flap([claimed, *few, *changing(650.0)], 701.0)
    assert believed and believed.heard_from == "" and believed.flapping == 7
    assert believed.is_open


def test_a_peer_cannot_say_that_flapping_goes_on() -> None:
    episode = known("f", began=700.0, flapping=7, seen=2000.0)
    changes = changing(100.0, 200.0, 300.0, 400.0, 500.0, 600.0)
    ended = flap([episode, *changes], 700.0 + incident.FLAPPING_ENDS_AFTER)
    assert ended and ended.closed and ended.seen == 700.0


def test_what_one_peer_alone_states_makes_no_flapping() -> None:
    changes = changing(100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 700.0)
    assert flap(changes, 701.0)
    assert flap([each._replace(heard_from="liar") for each in changes], 701.0) is None


def test_a_peer_cannot_give_an_incident_the_name_of_an_earlier_one() -> None:
    """Its mail would have that one's Message-ID, and a mailbox would drop it."""
    earlier = known("a", closed=300.0, alert="me", recovery="me", minute=7)
    ours = known("b", began=400.0, minute=9)
    ledger = met([earlier, ours], known("b", "c", minute=7))
    united = ledger.open_for(TEST)
    assert united and united.ids == ("b", "c") and united.minute == 9
    united = met([earlier, ours], known("b", "c", minute=8)).open_for(TEST)
    assert united and united.minute == 8


def test_no_old_minute_is_believed_of_one_peer() -> None:
    """The incident that it names was over so long ago that this node has not loaded it."""
    minute = 29_000_600

    def ledger_of(*ours: Incident) -> Ledger:
        ledger = Ledger(ours, lambda _: [])
        ledger.minute_of = lambda at: minute + int((at - 500.0) // 60)
        return ledger

    ours = known("b", began=400.0, minute=minute, seen=400.0)
    for ids in ("b", "bc"):
        for stated, taken in ((minute - 61, minute), (minute - 60, minute - 60)):
            ledger = ledger_of(ours)
            ledger.meet(known(*ids, seen=500.0, minute=stated), 500.0, "liar")
            united = ledger.open_for(TEST)
            assert united and (united.ids, united.minute) == (tuple(ids), taken)

    ledger = ledger_of()
    for peer, taken in (("liar", 0), ("liar", 0), ("peer", minute - 61)):
        ledger.meet(known("c", seen=500.0, minute=minute - 61), 500.0, peer)
        found = ledger.open_for(TEST)
        assert found and found.minute == taken, "two have stated one that has lasted"
    ledger.meet(known("d", test=OTHER, seen=500.0, minute=minute - 60), 500.0, "liar")
    found = ledger.open_for(OTHER)
    assert found and found.minute == minute - 60


def test_a_peer_alone_has_no_reminders_mailed() -> None:
    """It states in each round that the incident began earlier, and has one more id."""
    remind, now = 3600.0, 100_000.0
    ours = known("b", began=now, seen=now, alert="me", told_at=now)
    ledger = Ledger([ours], lambda _: [])
    reminded = 0
    for number in range(60):
        now += 60.0
        open_here = ledger.open_for(TEST)
        assert open_here
        stated = known(f"made-up-{number:02}", began=open_here.began - remind, seen=now)
        assert ledger.meet(stated, now, "liar")
        open_here = ledger.open_for(TEST)
        assert open_here and len(open_here.ids) == min(number + 2, IDS_LIMIT)
        if incident.is_reminder_due(open_here, remind, now):
            reminded += 1
            ledger.put(incident.told(open_here, [Kind.REMINDER], "me", now, remind))
    assert reminded == 1, "an hour has passed"


def test_a_new_incident_is_not_named_like_an_earlier_one_of_its_test() -> None:
    """Two nodes opened one each, in the same window, and heard nothing of each other."""
    earlier = known("a", closed=300.0, alert="me", recovery="me", minute=7)
    ledger = met([earlier], known("b", began=400.0, seen=450.0, minute=7))
    taken = ledger.open_for(TEST)
    assert taken and taken.minute == 0


def test_a_peer_cannot_unite_an_incident_with_one_that_was_over_before() -> None:
    """It would be over and told, by what this node itself knows of the other one."""
    earlier = known("a", closed=300.0, alert="me", recovery="me")
    heard_of = earlier._replace(heard_from="liar")
    ours = known("b", began=400.0, seen=400.0)
    for before in (earlier, heard_of):
        ledger = met([before, ours], known("a", "b", seen=450.0))
        assert ledger.find("ab") == [before, ours]
        assert incident.owed(ours) == (Kind.ALERT,)
        ledger = met([before, ours], known("a", "b", closed=450.0, alert="me"))
        assert ledger.find(["a"]) == [before], "that it is over is believed, as its own word"
        (closed,) = ledger.find(["b"])
        assert (closed.ids, closed.closed, closed.recovery) == (("b",), 450.0, "")
    ledger = met([earlier, ours._replace(seen=250.0)], known("a", "b", seen=450.0))
    assert ledger.open_for(TEST) is None, "this node has not seen it fail since"
    over = known("c", began=50.0, closed=90.0, seen=80.0, alert="me", recovery="me")
    ledger = met([over, earlier._replace(seen=200.0)], known("a", "c", closed=95.0, void=True))
    assert [each.ids for each in ledger] == [("c",), ("a",)], "nor what was over both times"


def test_an_incident_that_is_over_keeps_its_name() -> None:
    """Otherwise a peer could give that one another name, and then a new one its name."""
    over = known("a", closed=300.0, alert="me", recovery="me", minute=7)
    ledger = met([over], known("a", closed=300.0, void=True, minute=6))
    (kept,) = ledger
    assert kept.void and kept.minute == 7, "it was heard"
    owing = over._replace(recovery="")
    ledger = met([owing], known("a", closed=300.0, minute=6))
    (kept,) = ledger
    assert kept.minute == 6
    over = over._replace(closed=700.0)
    for minute, taken in ((10, 0), (11, 11)):
        ledger = met([over], known("b", began=800.0, seen=800.0, minute=minute), now=800.0)
        opened_later = ledger.open_for(TEST)
        assert opened_later and opened_later.minute == taken, "it has lasted into these ten minutes"


@pytest.mark.parametrize("seed", range(200))
def test_what_one_peer_states_at_random_spoils_no_incident(seed: int) -> None:
    """It says of none that it is over, told or flapping; nothing else may keep this one's alert back."""
    chance = random.Random(seed)
    now, day = 10_000_000.0, 86_400.0
    names = ["recent"]
    recent = known("recent", began=now - 1500.0, closed=now - 1200.0, seen=now - 1260.0)
    named = incident.first_of_window(int((now - 1500.0) // 60))
    past = [recent._replace(alert="me", recovery="me", minute=named)]
    for age in (day, 2 * day):
        names.append(f"past-{age:.0f}")
        over = recent._replace(ids=(names[-1],), began=now - age, seen=now - age + 40.0)
        named = incident.first_of_window(int((now - age) // 60))
        over = over._replace(closed=now - age + 90.0, minute=named)
        past.append(over._replace(alert="me", recovery="me"))
    minutes = [each.minute for each in past]
    ledger = Ledger(past[:1], lambda ids: [each for each in past if set(ids) & set(each.ids)])
    nodes = [Node(name, name) for name in ("me", "peer", "liar")]
    opens = chance.randint(0, 4)
    earliest = now
    for turn in range(20):
        now += chance.choice((1.0, 10.0, 60.0))
        minute = int(now // 60)
        if turn == opens:
            ours = ledger.open_for(TEST)
            earliest = min(now, ours.began if ours else now) - 3700.0
            if ours is None:
                taken = [each.minute for each in ledger.all_of(TEST)]
                named = incident.name_minute(minute, taken)
                ours = known("ours", began=now, held=now, minute=named)
                names.append("ours")
            ledger.put(ours._replace(seen=now, heard_from="", relayed_by=""))
        elif turn > opens:
            (ours,) = [ledger.open_for(TEST)]
            assert ours
            ledger.put(ours._replace(seen=now))
        made_up = [f"made-up-{chance.randint(0, 50)}" for _ in range(3)]
        stated = Incident(
            tuple(sorted(set(chance.sample(names + made_up, chance.randint(1, 4))))),
            TEST,
            now - chance.choice((0.0, 30.0, 3000.0, 7200.0, 2 * day, 1e8)),
            seen=now - chance.choice((0.0, 5.0, 100.0, day)),
            minute=chance.choice((0, *minutes, minute, minute - chance.randint(0, 80))),
            told_at=chance.choice((now, float("-inf"))),
            reminded=chance.randint(0, 3),
            again=chance.randint(0, 5),
            heard_from=chance.choice(("", "peer", "x")),
        )
        bounds = Bounds(nodes, {"peer", "liar"}, minute=minute, quorum=2, now=now, remind=3600.0)
        ledger.meet(hearsay.cut(stated, "liar", bounds), now, "liar")
        if turn >= opens:
            ours = ledger.open_for(TEST)
            assert ours and ours.is_fact and incident.owed(ours) == (Kind.ALERT,)
            assert ours.minute not in minutes and ours.began >= earliest


def test_a_recovery_is_told_again_a_few_times_at_most() -> None:
    """A broken node could say for ever that it has told the alert after it."""
    ledger = met([known("a", closed=300.0, alert="me", recovery="me", told_at=310.0)])
    for number in range(20):
        ledger.meet(known("a", closed=300.0, alert="liar", told_at=400.0 + number), 500.0)
        (ours,) = ledger.find(["a"])
        if not ours.recovery:
            ledger.put(ours._replace(recovery="me", told_at=400.5 + number))
    assert ours.recovery == "me" and ours.again == AGAIN_LIMIT
