"""The tests on the page: what needs somebody large and first, what is up in one line.

Pure: facts of `report` in, HTML out.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from dmonitor.base import names
from dmonitor.core.durations import Trend
from dmonitor.operator import page_pictures, report, terminal
from dmonitor.operator.availability import Days
from dmonitor.operator.page_words import cut, escape, kind, since, state_of, time
from dmonitor.operator.report import Facts

DAYS = 90  # of history in the bar
_LARGE = 20  # tests that need somebody and are shown large
_FEW_TESTS = 200  # up to so many have a line of _FINE points, more have _COARSE
_FINE, _COARSE = 48, 16
_WHY = "<code>dmonitor why HOST/TEST</code>"
_TEXT_SHOWN = 600  # characters of a plugin's text
_TEXT_OF_LINE = 60  # the same, in a line


class Past(NamedTuple):
    """What is known of the time before, by the test's name."""

    days: Mapping[str, Days] = MappingProxyType({})
    trends: Mapping[str, Trend] = MappingProxyType({})


NO_PAST = Past()


def urgent_tests(status: Facts) -> list[Facts]:
    """Return the tests that need somebody, what is down first."""
    down = [test for test in status["tests"] if kind(test["state"]) == "down"]
    return down + [test for test in status["tests"] if kind(test["state"]) == "odd"]


class Rows:
    """Renders tests: one that is up as a line, one that needs somebody large."""

    def __init__(self, status: Facts, past: Past, evidence: Mapping[str, str]) -> None:
        self._now = status["now"]
        self._past = past
        self.evidence = evidence
        self._points = _FINE if len(status["tests"]) <= _FEW_TESTS else _COARSE

    def line(self, test: Facts, *, whole_name: bool = False) -> str:
        """Return a test as one line, which unfolds if there is something to explain."""
        name = escape(test["test"] if whole_name else test["name"])
        marks = self._marks(test)
        pictures = self._pictures(test, with_line=not whole_name)
        cells = f'{state_of(test)}<span class="name">{name}{marks}</span>{pictures}'
        if whole_name and kind(test["state"]) != "up":
            text = f"{self._since(test)} {cut(test['text'], _TEXT_OF_LINE)}"
            cells += f'<span class="text">{text}</span>'
        inside = self._inside(test)
        if not inside:
            return f'<li><div class="row">{cells}</div></li>'
        summary = f'<summary class="row">{cells}</summary>'
        return f"<li><details>{summary}{inside}</details></li>"

    def large(self, test: Facts) -> str:
        """Return a test that needs somebody: what it is, since when, and what is seen of it."""
        name = escape(test["test"])
        words = [f"<h3>{state_of(test)} {name}</h3>"]
        if test["since"]:
            words.append(f"<p>{self._since(test)}</p>")
        if test["text"]:
            words.append(f'<p class="text">{cut(test["text"], _TEXT_SHOWN)}</p>')
        if test["acknowledged"]:
            words.append(f"<p>{self._acknowledged(test)}</p>")
        if test["behind"]:
            words.append(f"<p>{escape(terminal.behind_words(test))}</p>")
        for silence in test["silences"]:
            words.append(f"<p>{escape(f'silenced {terminal.silence_words(silence)}')}</p>")
        pictures = self._pictures(test)
        if pictures:
            words.append(f'<div class="row">{pictures}</div>')
        inside = self._evidence(test)
        if inside:
            words.append(f"<details>{inside[0]}{inside[1]}</details>")
        looks = kind(test["state"])
        return (
            f'<article id="{_anchor(test["test"])}" class="box {looks}">{"".join(words)}</article>'
        )

    def _since(self, test: Facts) -> str:
        return since(test["since"], self._now) if test["since"] else ""

    def _acknowledged(self, test: Facts) -> str:
        words = f"acknowledged {since(test['acknowledged'], self._now)}"
        if test["acknowledgement"]:
            words += f": {escape(test['acknowledgement'])}"
        return words

    def _marks(self, test: Facts) -> str:
        if test["silences"]:
            return ' <span class="soft">silenced</span>'
        return ""

    def _pictures(self, test: Facts, *, with_line: bool = True) -> str:
        """Return the bar of days with the share of time, and the line with the response time."""
        days, trend = self._past.days.get(test["test"]), self._past.trends.get(test["test"])
        cells = ""
        if days:
            cells += (
                f'{page_pictures.bar(days)}<span class="share">{page_pictures.share(days)}</span>'
            )
        if trend and with_line:
            cells += page_pictures.line(trend, self._points)
        if test["duration"] is not None:
            cells += f'<span class="took">{names.duration(test["duration"])}</span>'
        return cells

    def _inside(self, test: Facts) -> str:
        """Return what is folded into the line of a test."""
        words = []
        if test["since"]:
            words.append(f"<p>{escape(report.state_words(test))} {self._since(test)}.</p>")
        days = self._past.days.get(test["test"])
        if days:
            words.append(f"<p>{page_pictures.days_words(days)}.</p>")
        for silence in test["silences"]:
            words.append(f"<p>{escape(f'silenced {terminal.silence_words(silence)}')}</p>")
        look = self._look(test)
        evidence = self._evidence(test)
        if not evidence and not look and not test["silences"]:
            return ""
        return "".join([*words, look, evidence[1] if evidence else ""])

    def _look(self, test: Facts) -> str:
        """Return what the last look saw of a test that is looked at seldom."""
        if test["look_age"] is None:
            return ""
        look = escape(f"{test['here']}, {names.span(test['look_age'])} ago:")
        return f'<p><span class="soft">{look}</span> {escape(test["text"])}</p>'

    def _evidence(self, test: Facts) -> tuple[str, str] | None:
        """Return a summary, and who saw what; None if there is no room or no evidence."""
        table = self.evidence.get(test["test"], "")
        if not table:
            return None
        when = ""
        if test.get("evidence_at"):
            when = f", {time(test['evidence_at'], self._now)}"
        return f"<summary>who saw what{when}</summary>", table


def _anchor(test: str) -> str:
    """Return an id that is the same for no other test."""
    characters = [
        character if character.isalnum() else f"_{ord(character):x}" for character in test
    ]
    return "t-" + "".join(characters)


def tests_section(status: Facts, rows: Rows) -> str:
    """Return the tests: those that need somebody, then those that are up, by host; nodes last."""
    urgent = urgent_tests(status)
    parts = []
    if urgent:
        title = "Not up"
        if kind(urgent[-1]["state"]) == "down":
            title = "Down"
        elif kind(urgent[0]["state"]) == "odd":
            title = "Not clear"
        parts.append(f"<section><h2>{title}</h2>")
        parts += [rows.large(test) for test in urgent[:_LARGE]]
        if len(urgent) > _LARGE:
            lines = [rows.line(test, whole_name=True) for test in urgent[_LARGE:]]
            parts.append(f"<ul>{''.join(lines)}</ul>")
        parts.append("</section>")
    hosts: dict[str, list[Facts]] = {}
    for test in status["tests"]:
        if kind(test["state"]) == "up":
            hosts.setdefault(test["host"], []).append(test)
    if hosts:
        parts.append(f"<section><h2>Up</h2>{_LEGEND}")
    for host in sorted(hosts, key=lambda host: (host == names.NODE, host)):
        title = "The nodes, as tests" if host == names.NODE else escape(host)
        tests = sorted(hosts[host], key=lambda test: str(test["name"]))
        lines = [rows.line(test) for test in tests]
        parts.append(f"<h3>{title}</h3><ul>{''.join(lines)}</ul>")
    if hosts:
        parts.append("</section>")
    if not status["tests"]:
        parts.append("<p>No test is configured.</p>")
    if not all(rows.evidence.values()):
        parts.append(f"<p>There is no room here for who saw what of the other tests: {_WHY}.</p>")
    return "\n".join(parts)


_LEGEND = (
    f'<p class="soft">The bar is {DAYS} days, today at the right; a high mark is a day with an'
    " incident, a thin line a day that is not known. Then: the share of time that the test was up;"
    " 24 hours of how long looks took; and how long the last one took.</p>"
)
