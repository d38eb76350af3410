"""What `lab/smart-host` takes for wrong: each fault that it is there to find makes it fail."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "lab"))

from smart_host_judgement import ADDRESSES, DOWN, SLOW, Attempt, Event, Incident, Record, judge

ADMIN, NIGHT = ADDRESSES
BEFORE, STAYS, GONE = "h1/tcp:3001", "h1/tcp:3002", "h2/tcp:3003"
AWAY, BACK = 1200.0, 8400.0
ONCE = "each address was told each incident and its end once, in order"
TWICE, TRUE, PROMPT = (
    "no mail came twice to one address",
    "what was told was so",
    "all was told in time",
)
RETURN, TRIED, MET = (
    "the first mail came within 60 s of the return",
    "so it would have, whenever the return had been: tried every 60 s",
    "the story was met",
)


def mail(at: float, state: str, test: str, address: str, began: float) -> Event:
    """Return that the smart host took this mail, about the incident that began then."""
    message_id = f"<{state}-{test}-{began:g}-{address}>"
    subject = f"{state} {test} (3 of 3 nodes)"
    sender = "dmonitor on node1 <dmonitor@node1.lab>"
    content = f"From: {sender}\nSubject: {subject}\nMessage-ID: {message_id}\n\nSee there.\n"
    return {
        "at": at,
        "event": "taken",
        "address": address,
        "subject": subject,
        "message_id": message_id,
        "content": content,
    }


def mails(at: float, state: str, test: str, began: float) -> list[Event]:
    return [mail(at, state, test, address, began) for address in ADDRESSES]


def slow() -> Record:
    """Return an hour in which all is as it should be: two incidents of one test."""
    incidents = [Incident(GONE, 1000.0, 1240.0), Incident(GONE, 1600.0, 1900.0)]
    events: list[Event] = [{"at": 1040.0, "event": "connected", "mode": "slow-banner"}]
    events += [{"at": 1640.0, "event": "connected", "mode": "slow-reply"}]
    for incident in incidents:
        events += mails(incident.began + 60, "DOWN", GONE, incident.began)
        events += mails(incident.ended + 60, "UP", GONE, incident.began)
    modes = [(990.0, "slow-banner"), (1500.0, "slow-reply"), (2200.0, "up")]
    return Record(SLOW, incidents, modes, events, [], [])


def down() -> Record:
    """Return two hours of absence, in which all is as it should be."""
    incidents = [
        Incident(BEFORE, 1000.0, 5000.0),
        Incident(STAYS, 2000.0, 8700.0),
        Incident(GONE, 2600.0, 2900.0),
        Incident(GONE, 6000.0, 6300.0),
    ]
    events: list[Event] = [{"at": 900.0, "event": "listens"}, {"at": AWAY, "event": "is down"}]
    events += mails(1060.0, "DOWN", BEFORE, 1000.0)
    events += [{"at": BACK, "event": "listens"}]
    events += mails(BACK + 50, "UP", BEFORE, 1000.0)
    events += mails(BACK + 50, "DOWN", STAYS, 2000.0)
    events += mails(BACK + 50, "UP", GONE, 6000.0)
    events += mails(8760.0, "UP", STAYS, 2000.0)
    attempts = [
        Attempt(float(at), "node1", address, "EX_TEMPFAIL")
        for at in range(2060, int(BACK), 60)
        for address in ADDRESSES
    ]
    return Record(DOWN, incidents, [(AWAY, "down"), (BACK, "up")], events, attempts, [])


def wrong(record: Record) -> dict[str, list[str]]:
    return {what: found for what, found in judge(record).checks.items() if found}


def without(record: Record, state: str, test: str) -> Record:
    """Return `record` without the mails that tell this to ADMIN."""
    events = [
        event
        for event in record.events
        if event.get("address") != ADMIN or not str(event["subject"]).startswith(f"{state} {test} ")
    ]
    assert len(events) < len(record.events)
    return dataclasses.replace(record, events=events)


def with_mail(record: Record, event: Event) -> Record:
    return dataclasses.replace(record, events=[*record.events, event])


@pytest.mark.parametrize("record", [slow(), down()])
def test_a_good_record(record: Record) -> None:
    assert wrong(record) == {}
    assert len(judge(record).checks) == (7 if record.kind == DOWN else 5)


def test_a_mail_that_comes_again() -> None:
    again = with_mail(slow(), mail(1100.0, "DOWN", GONE, ADMIN, 1000.0))
    found = wrong(again)
    assert set(found) == {ONCE, TWICE}
    assert len(found[ONCE]) == len(found[TWICE]) == 1


def test_a_word_that_comes_again_under_another_message_id() -> None:
    assert set(wrong(with_mail(slow(), mail(1100.0, "DOWN", GONE, ADMIN, 999.0)))) == {ONCE}


@pytest.mark.parametrize("state", ["DOWN", "UP"])
def test_a_mail_that_never_comes(state: str) -> None:
    found = wrong(without(slow(), state, GONE))
    assert set(found) == {ONCE}
    assert len(found[ONCE]) == 2


def test_a_recovery_before_its_alert() -> None:
    record = without(slow(), "DOWN", GONE)
    record = with_mail(record, mail(1305.0, "DOWN", GONE, ADMIN, 1000.0))
    record = with_mail(record, mail(1660.0, "DOWN", GONE, ADMIN, 1600.0))
    assert ONCE in wrong(record)


def test_an_alert_of_what_is_over() -> None:
    record = without(down(), "UP", GONE)
    record = with_mail(record, mail(BACK + 50, "DOWN", GONE, ADMIN, 2600.0))
    assert set(wrong(record)) == {ONCE, TRUE}


def test_a_recovery_of_what_still_fails() -> None:
    record = without(down(), "UP", STAYS)
    record = with_mail(record, mail(BACK + 50, "UP", STAYS, ADMIN, 2000.0))
    assert set(wrong(record)) == {TRUE}


@pytest.mark.parametrize(("at", "test"), [(999.0, GONE), (1100.0, "node/node2")])
def test_a_mail_about_what_was_well(at: float, test: str) -> None:
    assert set(wrong(with_mail(slow(), mail(at, "DOWN", test, ADMIN, at)))) == {TRUE}


def test_a_late_mail() -> None:
    record = without(slow(), "DOWN", GONE)
    record = with_mail(record, mail(1195.0, "DOWN", GONE, ADMIN, 1000.0))
    record = with_mail(record, mail(1660.0, "DOWN", GONE, ADMIN, 1600.0))
    assert set(wrong(record)) == {PROMPT}


def test_a_first_mail_that_comes_late_after_the_return() -> None:
    record = down()
    for event in record.events:
        if event["at"] == BACK + 50:
            event["at"] = BACK + 61
    assert set(wrong(record)) == {RETURN}


def test_a_minute_in_which_nothing_was_tried() -> None:
    record = down()
    attempts = [attempt for attempt in record.attempts if attempt.at != 4100.0]
    assert wrong(dataclasses.replace(record, attempts=attempts)).keys() == {TRIED}


def test_what_an_absence_loses() -> None:
    found = wrong(without(down(), "UP", GONE))
    assert set(found) == {ONCE}
    assert len(found[ONCE]) == 1


@pytest.mark.parametrize("mode", ["slow-banner", "slow-reply"])
def test_a_smart_host_that_was_never_slow(mode: str) -> None:
    record = slow()
    events = [event for event in record.events if event.get("mode") != mode]
    assert set(wrong(dataclasses.replace(record, events=events))) == {MET}


def test_an_hour_in_which_nothing_failed() -> None:
    events = [event for event in slow().events if event["event"] != "taken"]
    assert set(wrong(dataclasses.replace(slow(), incidents=[], events=events))) == {MET}


def test_an_absence_that_nobody_met() -> None:
    assert set(wrong(dataclasses.replace(down(), attempts=[]))) == {MET}
    early = with_mail(down(), mail(3000.0, "DOWN", STAYS, ADMIN, 2000.0))
    assert MET in wrong(early)


@pytest.mark.parametrize("test", [BEFORE, STAYS, GONE])
def test_an_absence_without_each_kind_of_incident(test: str) -> None:
    record = down()
    incidents = [incident for incident in record.incidents if incident.test != test]
    assert MET in wrong(dataclasses.replace(record, incidents=incidents))
