"""Which tests rest in a round, and what is remembered of the last look at them (rules R1, R3)."""

from __future__ import annotations

from typing import Any

import pytest
from test_round import DOWN, NOW, TEST, UP, known, later, node_memory, play

from dmonitor.core import digest, rest
from dmonitor.core.model import (
    Confirming,
    LastLook,
    Node,
    Outcome,
    RehearsalFailure,
    Result,
    Rhythm,
    Test,
    TestState,
    Unanswered,
    Verdict,
)

HOUR = 3600.0
BEGAN = NOW - 2 * HOUR - 30.0  # when the present turn of the first node began
SIX_HOURS = Rhythm(6 * HOUR, fingerprint="00" * 8)


def look(ago: float, outcome: Outcome = Outcome.OK, fingerprint: str = "00" * 8) -> LastLook:
    return LastLook(NOW - ago, Result(outcome), fingerprint)


def rests(
    last: LastLook | None,
    *,
    rhythm: Rhythm = SIX_HOURS,
    verdict: Verdict = Verdict.UP,
    **facts: Any,
) -> bool:
    """Return whether the test rests in a round that begins at NOW, given the last look at it."""
    outcome = last.result.outcome if last else Outcome.OK
    played = play(
        UP,
        clock=later(5.0),
        rhythms={TEST: rhythm},
        test_states={TEST: TestState(verdict, outcome, 1.0, last)},
        **facts,
    )
    assert played.observed is not None
    return TEST in played.observed.resting


@pytest.fixture(autouse=True)
def _turn_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a turn of six hours have begun at BEGAN, whatever the test is called."""
    phase = (BEGAN / (6 * HOUR)) % 1.0
    monkeypatch.setattr(rest, "digest", lambda _: f"{int(phase * 16**16):016x}")


def test_what_passed_in_this_turn_rests_and_what_passed_in_the_last_one_does_not() -> None:
    assert rests(look(60.0)) and rests(look(1.9 * HOUR))
    assert not rests(look(2.1 * HOUR)) and not rests(look(8.1 * HOUR)) and not rests(look(8000.0))


def test_what_was_never_looked_at_does_not_rest() -> None:
    assert not rests(None)


def test_a_look_in_the_future_is_none() -> None:
    """The state was restored, or a clock without a battery was set back."""
    assert not rests(look(-60.0)) and not rests(look(-1e6))


def test_what_is_not_the_same_any_more_does_not_rest() -> None:
    assert not rests(look(HOUR, fingerprint="11" * 8))


@pytest.mark.parametrize("outcome", [Outcome.FAIL, Outcome.TIMEOUT, Outcome.UNKNOWN])
def test_what_did_not_pass_does_not_rest(outcome: Outcome) -> None:
    assert not rests(look(60.0, outcome))


def test_what_others_see_fail_does_not_rest() -> None:
    assert not rests(look(60.0), verdict=Verdict.DOWN)


@pytest.mark.parametrize("facts", [{}, {"heard_from": "peer"}, {"flapping": 7}])
def test_what_has_an_open_incident_does_not_rest(facts: dict[str, Any]) -> None:
    assert not rests(look(60.0), incidents=[known("a", **facts)])
    over = known("a", closed=NOW - 90.0, alert="me", recovery="me", **facts)
    assert rests(look(60.0), incidents=[over])


@pytest.mark.parametrize(("every", "wanted"), [(120.0, False), (HOUR * 6, True)])
def test_an_every_of_one_interval_is_each_round(every: float, wanted: bool) -> None:
    begins = tuple(NOW - 120.0 * ago for ago in (4, 3, 2, 1))
    rhythm = SIX_HOURS._replace(every=every)
    assert rests(look(1.0), rhythm=rhythm, remembered=node_memory(begins=begins)) is wanted


@pytest.mark.parametrize(
    ("ago", "wanted"), [(60.0, True), (240.0, True), (299.0, False), (301.0, False)]
)
def test_what_fails_rests_until_its_retry(ago: float, wanted: bool) -> None:
    """A round that begins a moment too soon is the right one: rounds are not on the second."""
    patient = SIX_HOURS._replace(retry=300.0)
    assert rests(look(ago, Outcome.FAIL), rhythm=patient, verdict=Verdict.LOCAL) is wanted
    assert rests(look(ago, Outcome.UNKNOWN), rhythm=patient, verdict=Verdict.UNKNOWN) is wanted
    assert rests(look(ago), rhythm=patient, incidents=[known("a")]) is wanted


def test_what_is_confirming_is_looked_at_in_the_next_round() -> None:
    patient = SIX_HOURS._replace(retry=300.0)
    last = look(60.0, Outcome.FAIL)
    remembered = node_memory(confirming=(Confirming(TEST, 1, NOW - 60.0),))
    assert not rests(last, rhythm=patient, verdict=Verdict.DOWN, remembered=remembered)
    assert rests(last, rhythm=patient, verdict=Verdict.DOWN)


def test_each_node_has_its_turns_at_another_time() -> None:
    """A third of six hours after the first of three nodes it is the turn of the second one."""
    nodes = tuple(Node(name, name) for name in ("oslo", "paris", "rome"))
    assert rests(look(HOUR), remembered=node_memory(name="oslo"), nodes=nodes)
    assert not rests(look(60.0), remembered=node_memory(name="paris"), nodes=nodes)
    assert rests(look(60.0), remembered=node_memory(name="rome"), nodes=nodes)
    assert not rests(look(2.1 * HOUR), remembered=node_memory(name="unlisted"), nodes=nodes)


def test_hundreds_of_tests_have_their_turns_at_different_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rest, "digest", digest.digest)
    minutes = []
    for number in range(360):
        test = Test(f"host{number}", "cert")
        turns = [
            minute
            for minute in range(360)
            if not rest._is_same_turn(
                test, SIX_HOURS, 0.0, NOW + 60.0 * minute, NOW + 60.0 * minute + 60.0
            )
        ]
        assert len(turns) == 1
        minutes += turns
    assert max(map(minutes.count, minutes)) < 10


def test_the_look_is_remembered_and_what_rests_stays_as_it_is() -> None:
    played = play(UP, rhythms={TEST: SIX_HOURS}, test_states={}, seconds=0.5)
    (stored,) = [save.test_states[TEST] for save in played.saves if save.test_states]
    assert stored.look == LastLook(NOW, Result(Outcome.OK, "", 0.5), "00" * 8)
    quiet = play(
        None,
        rhythms={TEST: SIX_HOURS},
        tests=frozenset([TEST]),
        test_states={TEST: stored._replace(look=look(60.0))},
    )
    assert quiet.observed is not None and quiet.observed.resting == {TEST}
    assert not any(save.test_states or save.changes for save in quiet.saves)


def test_without_every_no_look_is_remembered() -> None:
    played = play(UP, test_states={TEST: TestState(Verdict.UP, Outcome.OK, 1.0, look(60.0))})
    (stored,) = [save.test_states[TEST] for save in played.saves if save.test_states]
    assert stored.look is None


def test_what_rests_and_fails_is_neither_asked_about_nor_judged_anew() -> None:
    """Its row of verdicts, its trouble and its incident go on with the next look."""
    patient = SIX_HOURS._replace(retry=600.0)
    test_state = TestState(Verdict.LOCAL, Outcome.FAIL, 1.0, look(60.0, Outcome.FAIL))
    unanswered = (Unanswered(TEST, ("peer",), 3),)
    played = play(
        None,
        rhythms={TEST: patient},
        tests=frozenset([TEST]),
        test_states={TEST: test_state},
        remembered=node_memory(unanswered=unanswered),
    )
    assert played.observed is not None and played.observed.resting == {TEST}
    assert played.node_memory().unanswered == unanswered
    assert not any(save.test_states or save.changes for save in played.saves)


def test_what_rests_and_is_unknown_stays_a_trouble() -> None:
    patient = SIX_HOURS._replace(retry=600.0)
    state = TestState(Verdict.UNKNOWN, Outcome.UNKNOWN, 1.0, look(60.0, Outcome.UNKNOWN))
    played = play(None, rhythms={TEST: patient}, tests=frozenset([TEST]), test_states={TEST: state})
    assert [
        trouble.kind for trouble in played.node_memory().troubles if trouble.kind == "untestable"
    ]


def test_a_rehearsal_that_failed_is_forgotten_when_its_test_gets_an_every() -> None:
    """Nobody rehearses with it any more, so nobody could find that it is well again."""
    failure = RehearsalFailure(str(TEST), "", 2, "says FAIL")
    remembered = node_memory(rehearsal_failures=(failure,))
    kept = play(UP, remembered=remembered)
    assert kept.node_memory().rehearsal_failures == (failure,)
    forgotten = play(UP, remembered=remembered, rhythms={TEST: SIX_HOURS})
    assert forgotten.node_memory().rehearsal_failures == ()


def test_what_passes_and_rests_although_its_incident_is_open_is_an_unconfirmed_recovery() -> None:
    patient = SIX_HOURS._replace(retry=600.0)
    played = play(
        None,
        rhythms={TEST: patient},
        tests=frozenset([TEST]),
        incidents=[known("a", alert="me")],
        test_states={TEST: TestState(Verdict.UP, Outcome.OK, 1.0, look(60.0))},
    )
    kinds = [trouble.kind for trouble in played.node_memory().troubles]
    assert "unconfirmed-recovery" in kinds


def test_a_row_of_down_verdicts_needs_no_rest() -> None:
    played = play(DOWN, rhythms={TEST: SIX_HOURS}, confirm=2)
    assert [each.test for each in played.node_memory().confirming] == [TEST]
