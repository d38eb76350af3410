"""How an operator writes durations, moments and hours of the week."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Iterator

import pytest

from dmonitor.config import silences, times
from dmonitor.core import hours
from dmonitor.core.hours import Hours
from dmonitor.operator import silence


@pytest.fixture
def berlin() -> Iterator[None]:
    """Set a time zone whose clocks are set forward on 2026-03-29 and back on 2026-10-25."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "CET-1CEST,M3.5.0,M10.5.0/3"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


def at(text: str, fold: int = 0) -> float:
    return datetime.datetime.fromisoformat(text).replace(fold=fold).timestamp()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1m", 60),
        ("90min", 5400),
        ("90 min", 5400),
        ("6h", 21600),
        ("1h30m", 5400),
        ("1h 30min", 5400),
        ("1d12h", 129600),
    ],
)
def test_durations(text: str, seconds: int) -> None:
    assert times.read_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "h", "0h", "06h", "1", "1.5h", "-1h", "1h30", "1 w", "1h,2m", "1h\n", "²h"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="30min, 6h, 1d or 1h30m"):
        times.read_duration(text)


@pytest.mark.parametrize(("text", "meant"), [("1h30", "1h30m"), ("-2h", "2h"), ("90", "90m")])
def test_what_is_nearly_a_duration(text: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"^'{text}' is no duration; did you mean {meant}\\?"):
        times.read_duration(text)


@pytest.mark.parametrize("clock", ["6:00", "06:00", "6:00:00", "06:00:00"])
def test_an_end_is_read_alike_wherever_it_stands(clock: str, berlin: None) -> None:
    """In a file, and typed."""
    expected = at("2037-12-24T06:00")
    for words in (f"2037-12-24T{clock} x y", f"2037-12-24 {clock} x y"):
        assert times.read_end(words.split(), 0.0) == (expected, ["x", "y"])
        term = silences.read_term(f"until {words}")
        assert (term.until, term.reason) == (expected, "x y")
        assert silence.order(["until", *words.split()]).until == expected
    assert times.read_moment(clock, at("2026-11-29T05:00")) == at("2026-11-29T06:00")


def test_a_duration_out_of_range_is_told_the_range() -> None:
    read = times.duration("10min", "1d")
    assert (read("10m"), read("24h")) == (600, 86400)
    for text in ("9min", "1d1m"):
        with pytest.raises(ValueError, match="not a time from 10min to 1d, such as 6h or 1h30m"):
            read(text)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("08:00-20:00", Hours(480, 1200, (0, 1, 2, 3, 4, 5, 6))),
        ("8:00-20:00 mon-fri", Hours(480, 1200, (0, 1, 2, 3, 4))),
        ("sun 03:00-04:00", Hours(180, 240, (6,))),
        ("sat-mon WED 22:00-06:00", Hours(1320, 360, (0, 2, 5, 6))),
        ("00:00-24:00 sat sat", Hours(0, 1440, (5,))),
    ],
)
def test_hours(words: str, expected: Hours) -> None:
    assert hours.read_hours(words.split()) == expected


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("", "'' is no hours; write 08:00-20:00, or"),
        ("mon-fri", "'mon-fri' is no hours; write 08:00-20:00, or"),
        ("01:00-02:00 03:00-04:00", "'01:00-02:00 03:00-04:00' is no hours; write"),
        ("08:00 mon", "'08:00' is no hours; write 08:00-20:00"),
        ("08:00-20:60", "'20:60' is no time of day; write 00:00 to 24:00"),
        ("08:00-24:01", "'24:01' is no time of day"),
        ("24:00-08:00", "'24:00-08:00' is no time at all"),
        ("08:00-08:00", "'08:00-08:00' is no time at all"),
        ("08:00-20:00 weekdays", "'weekdays' is no day"),
        ("08:00-20:00 mon-", "'mon-' is no day"),
        ("08:00-20:00 mon-xxx", "'mon-xxx' is no day"),
    ],
)
def test_what_are_no_hours(words: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        hours.read_hours(words.split())


def test_hours_of_a_day(berlin: None) -> None:
    office = hours.read_hours(["08:00-20:00", "mon-fri"])
    friday, monday = "2026-11-27T", "2026-11-30T"
    assert office.ends(at(f"{friday}07:59:59")) is None
    assert office.ends(at(f"{friday}08:00")) == at(f"{friday}20:00")
    assert office.ends(at(f"{friday}19:59:59")) == at(f"{friday}20:00")
    assert office.ends(at(f"{friday}20:00")) is None
    assert office.next_beginning(at(f"{friday}08:00")) == at(f"{monday}08:00")
    assert office.next_beginning(at(f"{friday}07:59")) == at(f"{friday}08:00")


def test_hours_past_midnight_belong_to_the_day_on_which_they_begin(berlin: None) -> None:
    night = hours.read_hours(["22:00-06:00", "fri"])
    assert night.ends(at("2026-11-27T05:00")) is None  # Thursday's night
    assert night.ends(at("2026-11-28T05:59")) == at("2026-11-28T06:00")
    assert night.ends(at("2026-11-28T23:00")) is None
    all_day = hours.read_hours(["00:00-24:00", "sat"])
    assert all_day.ends(at("2026-11-28T00:00")) == at("2026-11-29T00:00")
    assert all_day.ends(at("2026-11-29T00:00")) is None


def test_hours_when_the_clocks_are_changed(berlin: None) -> None:
    early = hours.read_hours(["02:00-03:30"])
    # On 29 March there is no 02:00 to 03:00, and on 25 October it comes twice.
    assert early.next_beginning(at("2026-03-29T01:00")) == at("2026-03-29T03:00")
    assert early.ends(at("2026-03-29T03:15")) == at("2026-03-29T03:30")
    october = at("2026-10-25T03:30")
    assert early.ends(at("2026-10-25T02:00")) == october
    assert early.ends(at("2026-10-25T02:00", fold=1)) == october
    assert october - at("2026-10-25T02:00") == 9000
