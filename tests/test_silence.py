"""When a silence ends that an operator orders in words (R9)."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator

import pytest

from dmonitor.operator import report, silence, terminal


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be in a zone whose clocks are set back from 03:00 to 02:00 on 2026-10-25, at 01:00 UTC."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("now", "words", "until"),
    [
        ("2026-10-25T02:15:00+02:00", "until 02:30", "2026-10-25T02:30:00+02:00"),
        ("2026-10-25T02:45:00+02:00", "until 02:30", "2026-10-25T02:30:00+01:00"),
        ("2026-10-25T02:45:00+01:00", "until 02:30", "2026-10-26T02:30:00+01:00"),
        ("2026-10-24T12:00:00+02:00", "until 02:30", "2026-10-25T02:30:00+02:00"),
        ("2026-10-25T02:45:00+02:00", "until 2026-10-25T02:30", "2026-10-25T02:30:00+01:00"),
        ("2026-10-25T02:45:00+02:00", "until 2026-10-25T02:50", "2026-10-25T02:50:00+02:00"),
        ("2026-10-25T02:45:00+02:00", "until 18:00", "2026-10-25T18:00:00+01:00"),
        # A time that is left out when the clocks are set forward is an hour later.
        ("2026-03-29T01:30:00+01:00", "until 02:30", "2026-03-29T03:30:00+02:00"),
    ],
)
@pytest.mark.usefixtures("berlin")
def test_a_silence_ends_the_next_time_that_the_clock_shows(
    monkeypatch: pytest.MonkeyPatch, now: str, words: str, until: str
) -> None:
    moment = datetime.datetime.fromisoformat(now).timestamp()
    monkeypatch.setattr(time, "time", lambda: moment)
    end = report.moment(silence.end(words))
    assert end == until
    day, offset = until[:10], until[19:].replace(":", "")
    assert terminal.day_with_offset(end) == f"{day} {until[11:19]} {offset}"
