"""What an operator orders in words, and what is written of it (R9)."""

from __future__ import annotations

import datetime
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmonitor.config.problems import Problems
from dmonitor.config.silences import load_silences, read_term
from dmonitor.core.model import Test
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
    order = silence.order([*words.split(), "rack", "move"])
    end = report.moment(order.until)
    assert end == until and order.line == f"until {until} rack move"
    day, offset = until[:10], until[19:].replace(":", "")
    assert terminal.day_with_offset(end) == f"{day} {until[11:19]} {offset}"


@pytest.fixture
def sunday(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make it 03:30 in Berlin on Sunday, 2026-11-29."""
    moment = datetime.datetime.fromisoformat("2026-11-29T03:30:00+01:00").timestamp()
    monkeypatch.setattr(time, "time", lambda: moment)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), ""),
        (("1h30m",), "until 2026-11-29T05:00:00+01:00"),
        (("1h", "30m", "rack", "move,", "jo"), "until 2026-11-29T05:00:00+01:00 rack move, jo"),
        (("1h 30m", "rack move, jo"), "until 2026-11-29T05:00:00+01:00 rack move, jo"),
        (("for", "90min", "a\nb\x1b[31m"), "until 2026-11-29T05:00:00+01:00 a b\\x1b[31m"),
        (("until", "18:00"), "until 2026-11-29T18:00:00+01:00"),
        (("until", "2026-12-24", "8:00", "x"), "until 2026-12-24T08:00:00+01:00 x"),
        (("2026-12-24T18:00",), "until 2026-12-24T18:00:00+01:00"),
        (("every", "sun", "03:00-04:00", "backup"), "every sun 03:00-04:00 backup"),
        (("every sun 03:00-04:00",), "every sun 03:00-04:00"),
        (("until", "up", "jo: disk"), "until up jo: disk"),
    ],
)
@pytest.mark.usefixtures("berlin", "sunday")
def test_what_is_ordered_is_a_line(words: tuple[str, ...], line: str) -> None:
    ordered = silence.order(words)
    assert ordered.line == line
    if line:
        term = read_term(line)
        assert term.until == ordered.until and term.is_up == line.startswith("until up")


@pytest.mark.parametrize(
    "words", ["tomorrow", "rack move", "until", "until tomorrow", "every", "every day", "off now"]
)
def test_what_is_not_understood_is_refused(words: str) -> None:
    with pytest.raises(silence.Refused):
        silence.order(words.split())


def test_what_is_written(tmp_path: Path) -> None:
    """Rounds are not root's, so they can read it, whatever the umask; and `every` lines stay."""
    file = tmp_path / "silence.d/www.example.com/http"
    subject = "www.example.com/http"
    for line, text in (
        ("", ""),
        ("until 2040-01-01T00:00:00+00:00 a", "until 2040-01-01T00:00:00+00:00 a\n"),
        ("every sun 03:00-04:00 b", "until 2040-01-01T00:00:00+00:00 a\nevery sun 03:00-04:00 b\n"),
        (
            "until 2041-01-01T00:00:00+00:00",
            "every sun 03:00-04:00 b\nuntil 2041-01-01T00:00:00+00:00\n",
        ),
        ("", ""),
    ):
        before = os.umask(0o077)
        try:
            silence.say(str(tmp_path), subject, line)
        finally:
            os.umask(before)
        assert file.read_text() == text
        assert stat.S_IMODE(file.stat().st_mode) == 0o644
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o755
        assert os.listdir(file.parent) == ["http"]
    assert silence.lift(str(tmp_path), "www.example.com/") == [str(file)]
    assert os.listdir(tmp_path / "silence.d") == []


def test_a_silence_that_lasts_is_ended_only_by_a_new_end(tmp_path: Path) -> None:
    """Neither hours nor an acknowledgement say that somebody is to be mailed before."""
    host = tmp_path / "silence.d/www.example.com"
    end, hours = "until 2040-01-01 move", "every sun 03:00-04:00"
    for line in (end, hours, "until up by anna on oslo"):
        silence.say(str(tmp_path), "www.example.com", line)
    assert host.read_text().splitlines() == [end, hours, "until up by anna on oslo"]
    silence.say(str(tmp_path), "www.example.com", "until 2041-01-01 later")
    assert host.read_text().splitlines() == [hours, "until 2041-01-01 later"]
    silence.say(str(tmp_path), "www.example.com", "")
    for line in (hours, "until up by anna on oslo"):
        with pytest.raises(silence.Refused, match="silenced until that is lifted"):
            silence.say(str(tmp_path), "www.example.com", line)
    assert host.read_text() == ""


def test_a_host_is_named_with_and_without_a_slash(tmp_path: Path) -> None:
    silence.say(str(tmp_path), "www.example.com/", "")
    assert (tmp_path / "silence.d/www.example.com").is_file()


def test_a_silence_that_has_ended_is_in_nobodys_way(tmp_path: Path) -> None:
    host = tmp_path / "silence.d/www.example.com"
    host.parent.mkdir()
    host.write_text("until 2001-01-01\nuntil 2002-01-01 moved\n")
    silence.say(str(tmp_path), "www.example.com/http", "")
    assert (host / "http").is_file()
    assert silence.lift(str(tmp_path), "www.example.com/http")
    host.write_text("until up by anna on oslo\n")
    os.utime(host, (time.time() - 601.0, time.time() - 601.0))
    silence.say(str(tmp_path), "www.example.com/http", "until up by jo on oslo")
    assert silence.lift(str(tmp_path), "www.example.com/http")
    for lasts in ("until 2001-01-01\nevery sun 03:00-04:00\n", "# moved\n"):
        host.write_text(lasts)
        with pytest.raises(silence.Refused, match="is silenced as a whole already"):
            silence.say(str(tmp_path), "www.example.com/http", "")


def test_an_acknowledgement_is_in_no_silences_way(tmp_path: Path) -> None:
    """Neither that of a test for a silence of the host, nor that of the host for one of a test."""
    directory, up = str(tmp_path), "until up by anna on oslo"
    silences = tmp_path / "silence.d"

    def read() -> list[tuple[str, str, bool]]:
        found = load_silences(directory, Problems())
        return [(file.host, file.name, file.silence(time.time()) is not None) for file in found]

    silence.say(directory, "web/http", up)
    silence.say(directory, "web", "until 2050-01-01")
    assert read() == [("web", "", True), ("web", "http", False)]
    assert (silences / "web/.all").read_text() == "until 2050-01-01\n"
    assert len(silence.lift(directory, "web")) == 2 and not list(silences.iterdir())
    silence.say(directory, "web", up)
    silence.say(directory, "web/http", "until 2050-01-01")
    assert read() == [("web", "", False), ("web", "http", True)]
    silence.say(directory, "web", "until 2051-01-01")
    assert (silences / "web/.all").read_text() == "until 2051-01-01\n"


def test_the_silence_of_a_host_beside_those_of_its_tests_is_looked_at(tmp_path: Path) -> None:
    host = tmp_path / "silence.d/web"
    host.mkdir(parents=True)
    (host / ".all").write_text("for ever\n")
    problems = Problems()
    (file,) = load_silences(str(tmp_path), problems, {Test("wbe", "http"): {}})
    assert (file.host, file.name, file.silence(time.time())) == ("web", "", None)
    texts = [problem.statement.replace(f"{host}/", "") for problem in problems]
    assert texts[0] == ".all: silences nothing: no such host in hosts.d; did you mean wbe?"
    assert texts[1].startswith(".all:1: 'for ever' is no silence")
    (host / ".all").unlink()
    (host / ".all").symlink_to("nowhere")
    problems = Problems()
    assert load_silences(str(tmp_path), problems) == []
    assert "dangling link to nowhere" in problems[0].text
