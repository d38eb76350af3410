"""What `mail/mail-matrix` takes for wrong: each fault that it is there to find makes a cell wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "mail"))

from judgement import ADDRESSES, CONDITIONS, Event, Result, Verdict, judge
from mail_systems import SYSTEMS

BEGAN, MENDED, RECOVERED = 1000.0, 1210.0, 2000.0
ONCALL, REFUSED = ADDRESSES


def taken(at: float, kind: str, address: str) -> Event:
    subject = f"{kind} target.test/flag"
    message_id = f"<{kind}@dmonitor.invalid>"
    return {
        "at": at,
        "event": "taken",
        "address": address,
        "message_id": message_id,
        "subject": subject,
    }


def good(condition: str) -> list[Event]:
    """Return the events of a cell in which all is as it should be."""
    mode = CONDITIONS[condition].mode
    alerts = BEGAN + 20.0
    events: list[Event] = [{"at": BEGAN + 1, "event": "connected", "mode": mode}]
    if mode == "down":
        events = [{"at": BEGAN, "event": "is down"}]
    if mode == "refusing":
        events += [{"at": BEGAN + 20, "event": "refused", "address": REFUSED}]
    if mode == "hanging":
        events += [{"at": BEGAN + 601, "event": "closed", "mode": mode, "after": 600.0}]
    if CONDITIONS[condition].minutes:
        alerts = MENDED + 20.0
    for address in ADDRESSES:
        at = BEGAN + 20.0 if mode == "refusing" and address == ONCALL else alerts
        events += [taken(at, "DOWN", address), taken(RECOVERED + 20, "UP", address)]
    return events


def verdict_of(condition: str, events: list[Event], *, queues: bool = False) -> Verdict:
    mended = MENDED if CONDITIONS[condition].minutes else None
    return judge(Result("msmtp", condition, events, BEGAN, mended, RECOVERED), queues=queues)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_good_cell(condition: str) -> None:
    verdict = verdict_of(condition, good(condition))
    assert verdict.wrong == []
    assert (verdict.arrived, verdict.due, verdict.doubled, verdict.lost) == (4, 4, 0, 0)


def test_a_mail_that_comes_twice_is_wrong() -> None:
    twice = [*good("slow reply"), taken(BEGAN + 80, "DOWN", ONCALL)]
    verdict = verdict_of("slow reply", twice)
    assert verdict.wrong == [f"DOWN to {ONCALL} came 2 times, under 1 Message-ID(s)"]
    assert verdict.doubled == 1


@pytest.mark.parametrize("kind", ["DOWN", "UP"])
def test_a_mail_that_never_comes_is_wrong(kind: str) -> None:
    events = [
        event
        for event in good("slow banner")
        if event["event"] != "taken"
        or event["address"] != ONCALL
        or not str(event["subject"]).startswith(kind)
    ]
    verdict = verdict_of("slow banner", events)
    assert verdict.wrong == [f"{kind} to {ONCALL} is lost"]
    assert verdict.lost == 1


def test_only_a_mail_system_that_queues_may_keep_a_refused_alert() -> None:
    events = [
        event
        for event in good("recipient refused")
        if event.get("address") != REFUSED or not str(event.get("subject")).startswith("DOWN")
    ]
    assert verdict_of("recipient refused", events, queues=True).wrong == []
    verdict = verdict_of("recipient refused", events)
    assert verdict.wrong == [f"DOWN to {REFUSED} is lost"]


def test_a_recovery_before_its_alert_is_wrong() -> None:
    events = [*good("up"), taken(BEGAN + 10, "UP", ONCALL)]
    assert f"UP came to {ONCALL} before DOWN" in verdict_of("up", events).wrong


def test_a_late_mail_is_wrong() -> None:
    events: list[Event] = [{**event, "at": float(event["at"]) + 300} for event in good("up")]
    verdict = verdict_of("up", events)
    assert verdict.wrong == ["an alert came 320 s late", "a recovery came 320 s late"]


def test_who_takes_mail_does_not_wait_for_who_refuses_it() -> None:
    events = good("recipient refused")
    for event in events:
        if event["event"] == "taken" and event["at"] == BEGAN + 20:
            event["at"] = MENDED + 20
    assert verdict_of("recipient refused", events).wrong == [
        f"the alert to {ONCALL} waited for the other address: 230 s"
    ]


def test_a_hand_over_that_is_cut_off_at_once_is_wrong() -> None:
    events: list[Event] = [
        *good("hanging"),
        {"at": BEGAN + 16, "event": "closed", "mode": "hanging", "after": 15.0},
    ]
    assert verdict_of("hanging", events).wrong == ["a hand-over was cut off after 15 s"]


@pytest.mark.parametrize("condition", [name for name in CONDITIONS if name != "own daemon off"])
def test_a_condition_that_was_not_met_is_wrong(condition: str) -> None:
    events = [event for event in good(condition) if event["event"] == "taken"]
    assert verdict_of(condition, events).wrong


def test_a_mail_that_is_taken_while_the_smart_host_is_down_is_wrong() -> None:
    events = [*good("smart host down"), taken(BEGAN + 60, "DOWN", ONCALL)]
    assert "the smart host was not down" in verdict_of("smart host down", events).wrong


def test_there_are_ten_mail_systems() -> None:
    assert len(SYSTEMS) == 10
