"""Rule R4, as far as one node goes: when an incident opens, what it remembers, when it closes."""

from __future__ import annotations

from dmonitor import incident, verdict
from dmonitor.incident import Step
from dmonitor.model import Answer, Incident, Kind, Node, Outcome, Result, Standing, Test, Verdict

TEST = Test("www.example.com", "http")
OK, FAIL, UNKNOWN = Outcome.OK, Outcome.FAIL, Outcome.UNKNOWN


def look(before: Standing, opened: Incident | None, *seen: Outcome | None, now: float, confirm: int = 1) -> Step:
    """Take a round in which this node and its peers see SEEN; None is no answer."""
    answers = [
        Answer(Node(name, name), f"id-{name}", Result(outcome)) if outcome else Answer(Node(name, name))
        for name, outcome in zip("abc", seen, strict=False)
    ]
    judged = verdict.decide(answers[0], answers[1:], 2, incident_open=opened is not None)
    return incident.advance(TEST, before, opened, judged, confirm=confirm, now=now, fresh_id="fresh")


def opened_at(now: float = 1000.0) -> Step:
    return look(Standing(), None, FAIL, FAIL, OK, now=now)


def test_down_opens_and_owes_an_alert() -> None:
    step = opened_at()
    assert step.incident and step.incident.id == "fresh" and step.incident.began == 1000.0 and step.incident.closed is None
    assert step.owes is Kind.ALERT
    assert step.incident.failed == (("a", 1000.0), ("b", 1000.0))
    assert step.standing.verdict is Verdict.DOWN and step.standing.since == 1000.0


def test_still_down_owes_nothing() -> None:
    step = look(opened_at().standing, opened_at().incident, FAIL, FAIL, FAIL, now=1060.0)
    assert step.owes is None
    assert step.incident and step.incident.closed is None and step.incident.began == 1000.0
    assert not step.changed


def test_local_and_unconfirmed_open_nothing() -> None:
    assert look(Standing(), None, FAIL, OK, None, now=1.0).incident is None
    assert look(Standing(), None, FAIL, None, None, now=1.0).incident is None


def test_recovery_closes_and_owes() -> None:
    step = look(opened_at().standing, opened_at().incident, OK, OK, OK, now=1060.0)
    assert step.owes is Kind.RECOVERY
    assert step.incident and step.incident.closed == 1060.0 and step.incident.closing
    assert step.standing.verdict is Verdict.UP


def test_one_lost_answer_is_no_recovery() -> None:
    """b failed when last heard, and is silent now: with a it still makes two."""
    step = look(opened_at().standing, opened_at().incident, FAIL, None, OK, now=1060.0)
    assert step.owes is None and step.incident and step.incident.closed is None
    assert step.incident.failed == (("a", 1060.0), ("b", 1000.0))


def test_two_lost_answers_are_no_recovery_either_for_five_minutes() -> None:
    before = opened_at()
    for now, closes in ((1060.0, False), (1299.0, False), (1300.0, True)):
        step = look(before.standing, before.incident, None or UNKNOWN, None, OK, now=now)
        # a says UNKNOWN, which is an answer: only b is remembered, and that is less than the quorum
        assert (step.owes is Kind.RECOVERY) or not closes
    quiet = Standing(Verdict.DOWN, FAIL, 1000.0, 1)
    assert before.incident
    three = look(quiet, before.incident, FAIL, FAIL, FAIL, now=1000.0).incident
    assert look(quiet, three, OK, None, None, now=1299.0).owes is None
    assert look(quiet, three, OK, None, None, now=1300.0).owes is Kind.RECOVERY


def test_nobody_passes_is_no_recovery() -> None:
    before = opened_at()
    assert look(before.standing, before.incident, UNKNOWN, None, None, now=9000.0).owes is None


def test_a_clock_set_back_makes_memory_no_longer_than_five_minutes() -> None:
    before = look(Standing(), None, FAIL, FAIL, FAIL, now=10_000.0)
    step = look(before.standing, before.incident, OK, None, None, now=100.0)
    assert step.owes is None and step.incident
    assert look(step.standing, step.incident, OK, None, None, now=399.0).owes is None
    assert look(step.standing, step.incident, OK, None, None, now=400.0).owes is Kind.RECOVERY


def test_confirm_asks_for_rounds_in_a_row() -> None:
    first = look(Standing(), None, FAIL, FAIL, now=0.0, confirm=3)
    second = look(first.standing, None, FAIL, FAIL, now=60.0, confirm=3)
    assert (first.incident, second.incident) == (None, None)
    assert look(second.standing, None, FAIL, FAIL, now=120.0, confirm=3).owes is Kind.ALERT
    interrupted = look(second.standing, None, FAIL, OK, now=120.0, confirm=3)
    assert look(interrupted.standing, None, FAIL, FAIL, now=180.0, confirm=3).incident is None


def test_a_quiet_round_changes_nothing() -> None:
    step = look(Standing(), None, OK, now=5.0)
    assert not step.changed and step.standing == Standing()


def test_what_this_node_cannot_tell_is_a_change() -> None:
    """Peers pass, so the verdict is UP as before; that our own plugin is broken must not be silent."""
    step = look(Standing(), None, UNKNOWN, OK, now=5.0)
    assert step.changed and step.standing.verdict is Verdict.UP and step.standing.own is UNKNOWN


def test_a_removed_test_closes_its_incident() -> None:
    before = opened_at().incident
    assert before
    gone = incident.remove(before, 1030.0)
    assert gone.removed and gone.closed == 1030.0 and gone.closing is None
